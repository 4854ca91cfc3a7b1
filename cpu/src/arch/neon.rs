//! Sixteen lanes as four 128-bit registers. NEON is part of every 64-bit Arm CPU.

use std::arch::aarch64::*;

use half::f16;
use quern_backend::quant::fp8::E4M3;

use super::KernelEntries;
use crate::{
    int_lanes::{Dot4, IntLanes},
    lanes::{LANES, Lanes},
};

/// Four 128-bit registers.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

type F = [float32x4_t; 4];

#[inline]
#[target_feature(enable = "neon")]
fn widen(codes: uint16x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshll_n_u16::<16>(codes))
}

impl Lanes for Neon {
    type F = F;

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))] }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
            vst1q_f32(to.add(8), v[2]);
            vst1q_f32(to.add(12), v[3]);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let (low, high) = (vld1q_u16(from), vld1q_u16(from.add(8)));
            [widen(vget_low_u16(low)), widen(vget_high_u16(low)), widen(vget_low_u16(high)), widen(vget_high_u16(high))]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        // The conversion instruction works on a type that stable Rust does not have yet.
        self.load_array(&codes.map(|c| f16::from_bits(c).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const u8) -> (F, F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let upper = vdupq_n_u32(0xffff_0000);
            let mut even = self.splat(0.0);
            let mut odd = even;
            for i in 0..4 {
                let pairs = vreinterpretq_u32_u8(vld1q_u8(from.add(16 * i)));
                even[i] = vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs));
                odd[i] = vreinterpretq_f32_u32(vandq_u32(pairs, upper));
            }
            (even, odd)
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(self, from: *const u8) -> (F, F) {
        // SAFETY: by this function's contract.
        let pairs = unsafe { from.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        (self.load_array(&pairs.map(|p| E4M3[p[0] as usize])), self.load_array(&pairs.map(|p| E4M3[p[1] as usize])))
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        self.load_array(&codes.map(|b| E4M3[b as usize]))
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, from: *const u8) -> F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        self.load_array(&codes.map(|b| f16::from_le_bytes([0, b]).to_f32()))
    }

    #[inline(always)]
    fn transpose(self, rows: [F; LANES]) -> [F; LANES] {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut out = rows;
            for i in 0..4 {
                for j in 0..4 {
                    // Four rows and four columns: pairs of lanes, then pairs of pairs.
                    let [a, b, c, d] = [0, 1, 2, 3].map(|k| rows[4 * i + k][j]);
                    let [even, odd] = [vtrn1q_f32(a, b), vtrn2q_f32(a, b)].map(|v| vreinterpretq_f64_f32(v));
                    let [more_even, more_odd] = [vtrn1q_f32(c, d), vtrn2q_f32(c, d)].map(|v| vreinterpretq_f64_f32(v));
                    out[4 * j][i] = vreinterpretq_f32_f64(vtrn1q_f64(even, more_even));
                    out[4 * j + 1][i] = vreinterpretq_f32_f64(vtrn1q_f64(odd, more_odd));
                    out[4 * j + 2][i] = vreinterpretq_f32_f64(vtrn2q_f64(even, more_even));
                    out[4 * j + 3][i] = vreinterpretq_f32_f64(vtrn2q_f64(odd, more_odd));
                }
            }
            out
        }
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])] }
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1]), vsubq_f32(a[2], b[2]), vsubq_f32(a[3], b[3])] }
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])] }
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vdivq_f32(a[0], b[0]), vdivq_f32(a[1], b[1]), vdivq_f32(a[2], b[2]), vdivq_f32(a[3], b[3])] }
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe {
            [
                vfmaq_f32(c[0], a[0], b[0]),
                vfmaq_f32(c[1], a[1], b[1]),
                vfmaq_f32(c[2], a[2], b[2]),
                vfmaq_f32(c[3], a[3], b[3]),
            ]
        }
    }

    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut out = b;
            for i in 0..4 {
                out[i] = vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]);
            }
            out
        }
    }

    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut out = b;
            for i in 0..4 {
                out[i] = vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]);
            }
            out
        }
    }

    #[inline(always)]
    fn round(self, v: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vrndnq_f32(v[0]), vrndnq_f32(v[1]), vrndnq_f32(v[2]), vrndnq_f32(v[3])] }
    }

    #[inline(always)]
    fn pow2(self, n: F) -> F {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut out = n;
            for i in 0..4 {
                let biased = vaddq_s32(vcvtnq_s32_f32(n[i]), vdupq_n_s32(127));
                out[i] = vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased));
            }
            out
        }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn prefetch_far(self, _: *const u8) {}

    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        // SAFETY: `self` shows the features.
        unsafe {
            let eight = [vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3])];
            let four = vaddq_f32(eight[0], eight[1]);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}

impl IntLanes for Neon {
    type B = [uint8x16_t; 4];
    type I = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))] }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, b: Self::B) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            for i in 0..4 {
                vst1q_u8(to.add(16 * i), b[i]);
            }
        }
    }

    #[inline(always)]
    fn right(self, mut b: Self::B, by: u32, mask: u8) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe {
            for b in &mut b {
                *b = vandq_u8(vshlq_u8(*b, vdupq_n_s8(-(by as i8))), vdupq_n_u8(mask));
            }
            b
        }
    }

    #[inline(always)]
    fn left(self, mut b: Self::B, by: u32, mask: u8) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe {
            for b in &mut b {
                *b = vandq_u8(vshlq_u8(*b, vdupq_n_s8(by as i8)), vdupq_n_u8(mask));
            }
            b
        }
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1]), vorrq_u8(a[2], b[2]), vorrq_u8(a[3], b[3])] }
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: Self::B) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            [
                vqtbl1q_u8(table, codes[0]),
                vqtbl1q_u8(table, codes[1]),
                vqtbl1q_u8(table, codes[2]),
                vqtbl1q_u8(table, codes[3]),
            ]
        }
    }

    #[inline(always)]
    fn byte(self, b: Self::B, at: u32) -> F {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut bytes = self.splat(0.0);
            for i in 0..4 {
                let shifted = vshlq_u32(vreinterpretq_u32_u8(b[i]), vdupq_n_s32(-8 * at as i32));
                bytes[i] = vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(255)));
            }
            bytes
        }
    }

    #[inline(always)]
    unsafe fn splat_word(self, from: *const u8) -> Self::I {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [vdupq_n_s32(from.cast::<i32>().read_unaligned()); 4] }
    }

    #[inline(always)]
    fn zero(self) -> Self::I {
        // SAFETY: `self` shows the features.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn to_f32(self, i: Self::I) -> F {
        // SAFETY: `self` shows the features.
        unsafe { [vcvtq_f32_s32(i[0]), vcvtq_f32_s32(i[1]), vcvtq_f32_s32(i[2]), vcvtq_f32_s32(i[3])] }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let bytes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
            self.to_f32([
                vmovl_s16(vget_low_s16(low)),
                vmovl_s16(vget_high_s16(low)),
                vmovl_s16(vget_low_s16(high)),
                vmovl_s16(vget_high_s16(high)),
            ])
        }
    }
}

/// The four products of each group of signed bytes: widened to 16 bits, then added in pairs twice.
#[inline]
#[target_feature(enable = "neon")]
fn dot_quarter(w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    let high = vpaddlq_s16(vmull_s8(vget_high_s8(w), vget_high_s8(x)));
    vpaddq_s32(low, high)
}

impl Dot4<Neon> for Neon {
    #[inline(always)]
    unsafe fn start(sum: [int32x4_t; 4], by: u32) -> [int32x4_t; 4] {
        // SAFETY: the CPU has the features.
        unsafe {
            let by = vdupq_n_s32(by as i32);
            [vshlq_s32(sum[0], by), vshlq_s32(sum[1], by), vshlq_s32(sum[2], by), vshlq_s32(sum[3], by)]
        }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(mut acc: [int32x4_t; 4], w: [uint8x16_t; 4], x: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: the CPU has the features.
        unsafe {
            for i in 0..4 {
                let x = vreinterpretq_s8_s32(x[i]);
                let low = if WIDE { vandq_u8(w[i], vdupq_n_u8(127)) } else { w[i] };
                acc[i] = vaddq_s32(acc[i], dot_quarter(vreinterpretq_s8_u8(low), x));
                if WIDE {
                    // As a signed byte the eighth bit is -128.
                    let eighth = vandq_u8(w[i], vdupq_n_u8(128));
                    acc[i] = vsubq_s32(acc[i], dot_quarter(vreinterpretq_s8_u8(eighth), x));
                }
            }
            acc
        }
    }
}

super::entries!(
    #[target_feature(enable = "neon")] Neon,
    gemm: [2, 2], scaled: [2, 1], panels: [Neon, "16-bit pairs", 2], attention: 2
);

/// The kernels of this instance.
pub(crate) const ENTRIES: KernelEntries = entries();
