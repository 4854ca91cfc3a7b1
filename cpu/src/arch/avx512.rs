//! Sixteen lanes as one 512-bit register. Needs AVX-512 F, BW, DQ and VL, and F16C and AVX2 with them.

use std::arch::x86_64::*;

use super::{
    KernelEntries,
    avx2::{load_e4m3_as_f16, load_e4m3_halves, load_upper_halves},
};
use crate::{
    int_lanes::{Dot4, IntLanes},
    lanes::{LANES, Lanes},
};

/// One 512-bit register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Lanes for Avx512 {
    type F = __m512;

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(codes))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const u8) -> (Self::F, Self::F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd))
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(self, from: *const u8) -> (Self::F, Self::F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let (even, odd) = load_e4m3_halves(from);
            let scale = self.splat(256.0);
            (self.mul(_mm512_cvtph_ps(even), scale), self.mul(_mm512_cvtph_ps(odd), scale))
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { self.mul(_mm512_cvtph_ps(load_e4m3_as_f16(from)), self.splat(256.0)) }
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, from: *const u8) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_cvtph_ps(load_upper_halves(from)) }
    }

    /// Pairs of lanes, pairs of pairs, then quarters of registers in two rounds.
    #[inline(always)]
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES] {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut fours = rows;
            for i in [0, 4, 8, 12] {
                let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
                let [low, more_low] = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)];
                let [high, more_high] = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)];
                fours[i] = _mm512_shuffle_ps::<0x44>(low, more_low);
                fours[i + 1] = _mm512_shuffle_ps::<0xee>(low, more_low);
                fours[i + 2] = _mm512_shuffle_ps::<0x44>(high, more_high);
                fours[i + 3] = _mm512_shuffle_ps::<0xee>(high, more_high);
            }
            let mut out = fours;
            for j in 0..4 {
                let [a, b, c, d] = [fours[j], fours[j + 4], fours[j + 8], fours[j + 12]];
                let [first, more_first] = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
                let [last, more_last] = [_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d)];
                out[j] = _mm512_shuffle_f32x4::<0x88>(first, more_first);
                out[j + 4] = _mm512_shuffle_f32x4::<0xdd>(first, more_first);
                out[j + 8] = _mm512_shuffle_f32x4::<0x88>(last, more_last);
                out[j + 12] = _mm512_shuffle_f32x4::<0xdd>(last, more_last);
            }
            out
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, v: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        // SAFETY: every address may be asked for.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(self, from: *const u8) {
        // SAFETY: every address may be asked for.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }

    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        // SAFETY: `self` shows the features.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

/// Each byte shifted right by `by`, bits of its neighbour above it left in.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shift_right(b: __m512i, by: u32) -> __m512i {
    match by {
        0 => b,
        1 => _mm512_srli_epi16::<1>(b),
        2 => _mm512_srli_epi16::<2>(b),
        3 => _mm512_srli_epi16::<3>(b),
        4 => _mm512_srli_epi16::<4>(b),
        5 => _mm512_srli_epi16::<5>(b),
        6 => _mm512_srli_epi16::<6>(b),
        _ => _mm512_srli_epi16::<7>(b),
    }
}

/// Each byte shifted left by `by`, bits of its neighbour below it left in.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shift_left(b: __m512i, by: u32) -> __m512i {
    match by {
        0 => b,
        1 => _mm512_slli_epi16::<1>(b),
        2 => _mm512_slli_epi16::<2>(b),
        3 => _mm512_slli_epi16::<3>(b),
        4 => _mm512_slli_epi16::<4>(b),
        5 => _mm512_slli_epi16::<5>(b),
        6 => _mm512_slli_epi16::<6>(b),
        _ => _mm512_slli_epi16::<7>(b),
    }
}

impl IntLanes for Avx512 {
    type B = __m512i;
    type I = __m512i;

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> __m512i {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, b: __m512i) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_storeu_si512(to.cast(), b) }
    }

    #[inline(always)]
    fn right(self, b: __m512i, by: u32, mask: u8) -> __m512i {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_and_si512(shift_right(b, by), _mm512_set1_epi8(mask as i8)) }
    }

    #[inline(always)]
    fn left(self, b: __m512i, by: u32, mask: u8) -> __m512i {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_and_si512(shift_left(b, by), _mm512_set1_epi8(mask as i8)) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: __m512i) -> __m512i {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), codes) }
    }

    #[inline(always)]
    fn byte(self, b: __m512i, at: u32) -> __m512 {
        // SAFETY: `self` shows the features.
        unsafe {
            let shifted = _mm512_srl_epi32(b, _mm_cvtsi32_si128(8 * at as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)))
        }
    }

    #[inline(always)]
    unsafe fn splat_word(self, from: *const u8) -> __m512i {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn to_f32(self, i: __m512i) -> __m512 {
        // SAFETY: `self` shows the features.
        unsafe { _mm512_cvtepi32_ps(i) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512 {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
}

impl Dot4<Avx512> for Avx512 {
    /// See `avx2.rs`.
    #[inline(always)]
    unsafe fn start(sum: __m512i, by: u32) -> __m512i {
        // SAFETY: the CPU has the features.
        unsafe { _mm512_madd_epi16(sum, _mm512_set1_epi32(1 << by)) }
    }

    /// See `avx2.rs`.
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the CPU has the features.
        unsafe {
            let ones = _mm512_set1_epi16(1);
            if WIDE {
                let eighth = _mm512_set1_epi8(i8::MIN);
                let high = _mm512_maddubs_epi16(_mm512_and_si512(w, eighth), x);
                let low = _mm512_maddubs_epi16(_mm512_andnot_si512(eighth, w), x);
                let sums = _mm512_add_epi32(_mm512_madd_epi16(high, ones), _mm512_madd_epi16(low, ones));
                _mm512_add_epi32(acc, sums)
            } else {
                _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), ones))
            }
        }
    }
}

super::entries!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")] Avx512,
    gemm: [4, 5], scaled: [4, 3], panels: [Avx512, "16-bit pairs", 8], attention: 8
);

/// The kernels of this instance.
pub(crate) const ENTRIES: KernelEntries = entries();
