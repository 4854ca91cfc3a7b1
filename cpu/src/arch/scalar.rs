//! Sixteen lanes as an array: the twin that defines the others, and the instance for CPUs without
//! any of them.

use half::f16;
use quern_backend::quant::fp8::E4M3;

use super::KernelEntries;
use crate::{
    int_lanes::{BYTES, Dot4, IntLanes},
    lanes::{LANES, Lanes},
};

/// An array and plain loops.
#[derive(Clone, Copy)]
pub(crate) struct Scalar(());

impl Lanes for Scalar {
    type F = [f32; LANES];

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: by this function's contract.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::F) {
        // SAFETY: by this function's contract.
        unsafe { to.cast::<Self::F>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        codes.map(|c| f32::from_bits(u32::from(c) << 16))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        codes.map(|c| f16::from_bits(c).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const u8) -> (Self::F, Self::F) {
        // SAFETY: by this function's contract.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        (pairs.map(|p| f32::from_bits(p << 16)), pairs.map(|p| f32::from_bits(p & 0xffff_0000)))
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(self, from: *const u8) -> (Self::F, Self::F) {
        // SAFETY: by this function's contract.
        let pairs = unsafe { from.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        (pairs.map(|p| E4M3[p[0] as usize]), pairs.map(|p| E4M3[p[1] as usize]))
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> Self::F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        codes.map(|b| E4M3[b as usize])
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, from: *const u8) -> Self::F {
        // SAFETY: by this function's contract.
        let codes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        codes.map(|b| f16::from_le_bytes([0, b]).to_f32())
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES] {
        std::array::from_fn(|j| std::array::from_fn(|i| rows[i][j]))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn round(self, v: Self::F) -> Self::F {
        v.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn prefetch_far(self, _: *const u8) {}

    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

impl IntLanes for Scalar {
    type B = [u8; BYTES];
    type I = [i32; LANES];

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        // SAFETY: by this function's contract.
        unsafe { from.cast::<Self::B>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, b: Self::B) {
        // SAFETY: by this function's contract.
        unsafe { to.cast::<Self::B>().write_unaligned(b) }
    }

    #[inline(always)]
    fn right(self, b: Self::B, by: u32, mask: u8) -> Self::B {
        b.map(|b| b >> by & mask)
    }

    #[inline(always)]
    fn left(self, b: Self::B, by: u32, mask: u8) -> Self::B {
        b.map(|b| b << by & mask)
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: Self::B) -> Self::B {
        codes.map(|code| table[usize::from(code & 15)])
    }

    #[inline(always)]
    fn byte(self, b: Self::B, at: u32) -> Self::F {
        std::array::from_fn(|i| f32::from(b[4 * i + at as usize]))
    }

    #[inline(always)]
    unsafe fn splat_word(self, from: *const u8) -> Self::I {
        // SAFETY: by this function's contract.
        unsafe { [from.cast::<i32>().read_unaligned(); LANES] }
    }

    #[inline(always)]
    fn zero(self) -> Self::I {
        [0; LANES]
    }

    #[inline(always)]
    fn to_f32(self, i: Self::I) -> Self::F {
        i.map(|i| i as f32)
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: by this function's contract.
        let bytes = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        bytes.map(f32::from)
    }
}

impl Dot4<Scalar> for Scalar {
    #[inline(always)]
    unsafe fn start(sum: [i32; LANES], by: u32) -> [i32; LANES] {
        sum.map(|sum| sum << by)
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: [i32; LANES], w: [u8; BYTES], x: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| {
            let x = x[i].to_le_bytes();
            (0..4).fold(acc[i], |acc, k| acc + i32::from(w[4 * i + k]) * i32::from(x[k] as i8))
        })
    }
}

super::entries!(Scalar, gemm: [2, 2], scaled: [2, 2], panels: [Scalar, "i32", 4], attention: 2);

/// The kernels of this instance.
pub(crate) const ENTRIES: KernelEntries = entries();

/// The same for CPUs that multiply and add in one instruction; elsewhere `mul_add` is a library call
/// that gives the same bits.
#[cfg(target_arch = "x86_64")]
pub(crate) mod fused {
    use super::{KernelEntries, Scalar};

    crate::arch::entries!(#[target_feature(enable = "fma")] Scalar, gemm: [2, 2], scaled: [2, 2], panels: [Scalar, "i32", 4], attention: 2);

    /// The kernels of this instance.
    pub(crate) const ENTRIES: KernelEntries = entries();
}
