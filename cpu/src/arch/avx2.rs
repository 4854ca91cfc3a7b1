//! Sixteen lanes as two 256-bit registers. Needs AVX2, FMA and F16C.

use std::arch::x86_64::*;

use super::KernelEntries;
use crate::{
    int_lanes::{Dot4, IntLanes},
    lanes::{LANES, Lanes},
};

/// Two 256-bit registers: lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Eight binary16 that hold an E4M3 value divided by 256, from words with the byte in the upper half.
///
/// E4M3 and binary16 differ by the exponent's bias (7 and 15), so a shift by one moves every value,
/// subnormals included, to 2^-8 of itself. NaN (all bits set) is made one again.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn e4m3_to_f16(words: __m256i) -> __m256i {
    let moved = _mm256_and_si256(_mm256_srai_epi16::<1>(words), _mm256_set1_epi16(0xbf80_u16 as i16));
    let all_ones = _mm256_set1_epi16(0x3f80);
    let nan = _mm256_cmpeq_epi16(_mm256_and_si256(moved, all_ones), all_ones);
    _mm256_or_si256(moved, _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn f16_to_f32(halves: __m256i) -> [__m256; 2] {
    [_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves))]
}

/// The 32 E4M3 bytes at `from` as binary16 divided by 256, even and odd ones.
///
/// # Safety
/// `from` is readable for 32 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_e4m3_halves(from: *const u8) -> (__m256i, __m256i) {
    // SAFETY: by this function's contract.
    let bytes = unsafe { _mm256_loadu_si256(from.cast()) };
    let even = _mm256_slli_epi16::<8>(bytes);
    let odd = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff00_u16 as i16));
    (e4m3_to_f16(even), e4m3_to_f16(odd))
}

/// The 16 bytes at `from`, each in the upper half of a word.
///
/// # Safety
/// `from` is readable for 16 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_upper_halves(from: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    let bytes = unsafe { _mm_loadu_si128(from.cast()) };
    _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(bytes))
}

/// The 16 E4M3 bytes at `from` as binary16 divided by 256.
///
/// # Safety
/// `from` is readable for 16 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_e4m3_as_f16(from: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    e4m3_to_f16(unsafe { load_upper_halves(from) })
}

/// Lane `j` of vector `i` becomes lane `i` of vector `j`: pairs of lanes, pairs of pairs, halves.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn transpose8(rows: [__m256; 8]) -> [__m256; 8] {
    let mut out = rows;
    for i in [0, 4] {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let [low, more_low] = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)];
        let [high, more_high] = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)];
        out[i] = _mm256_shuffle_ps::<0x44>(low, more_low);
        out[i + 1] = _mm256_shuffle_ps::<0xee>(low, more_low);
        out[i + 2] = _mm256_shuffle_ps::<0x44>(high, more_high);
        out[i + 3] = _mm256_shuffle_ps::<0xee>(high, more_high);
    }
    for j in 0..4 {
        (out[j], out[j + 4]) =
            (_mm256_permute2f128_ps::<0x20>(out[j], out[j + 4]), _mm256_permute2f128_ps::<0x31>(out[j], out[j + 4]));
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn bf16_to_f32(codes: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(codes)))
}

impl Lanes for Avx2 {
    type F = [__m256; 2];

    #[inline(always)]
    unsafe fn new_unchecked() -> Self {
        Self(())
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [bf16_to_f32(_mm_loadu_si128(from.cast())), bf16_to_f32(_mm_loadu_si128(from.add(8).cast()))] }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { f16_to_f32(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const u8) -> (Self::F, Self::F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let pairs = [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())];
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            (
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[0])),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[1])),
                ],
                [
                    _mm256_castsi256_ps(_mm256_and_si256(pairs[0], upper)),
                    _mm256_castsi256_ps(_mm256_and_si256(pairs[1], upper)),
                ],
            )
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(self, from: *const u8) -> (Self::F, Self::F) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let (even, odd) = load_e4m3_halves(from);
            let scale = self.splat(256.0);
            (self.mul(f16_to_f32(even), scale), self.mul(f16_to_f32(odd), scale))
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { self.mul(f16_to_f32(load_e4m3_as_f16(from)), self.splat(256.0)) }
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, from: *const u8) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { f16_to_f32(load_upper_halves(from)) }
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES] {
        // SAFETY: `self` shows the features.
        unsafe {
            let mut out = rows;
            for i in 0..2 {
                for j in 0..2 {
                    let square = transpose8(std::array::from_fn(|k| rows[8 * i + k][j]));
                    for k in 0..8 {
                        out[8 * j + k][i] = square[k];
                    }
                }
            }
            out
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn round(self, v: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            [_mm256_round_ps::<NEAREST>(v[0]), _mm256_round_ps::<NEAREST>(v[1])]
        }
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe {
            let half = |n| {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            };
            [half(n[0]), half(n[1])]
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
            let eight = _mm256_add_ps(v[0], v[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

/// Each byte shifted right by `by`, bits of its neighbour above it left in.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn shift_right(b: __m256i, by: u32) -> __m256i {
    match by {
        0 => b,
        1 => _mm256_srli_epi16::<1>(b),
        2 => _mm256_srli_epi16::<2>(b),
        3 => _mm256_srli_epi16::<3>(b),
        4 => _mm256_srli_epi16::<4>(b),
        5 => _mm256_srli_epi16::<5>(b),
        6 => _mm256_srli_epi16::<6>(b),
        _ => _mm256_srli_epi16::<7>(b),
    }
}

/// Each byte shifted left by `by`, bits of its neighbour below it left in.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn shift_left(b: __m256i, by: u32) -> __m256i {
    match by {
        0 => b,
        1 => _mm256_slli_epi16::<1>(b),
        2 => _mm256_slli_epi16::<2>(b),
        3 => _mm256_slli_epi16::<3>(b),
        4 => _mm256_slli_epi16::<4>(b),
        5 => _mm256_slli_epi16::<5>(b),
        6 => _mm256_slli_epi16::<6>(b),
        _ => _mm256_slli_epi16::<7>(b),
    }
}

impl IntLanes for Avx2 {
    type B = [__m256i; 2];
    type I = [__m256i; 2];

    #[inline(always)]
    unsafe fn load_bytes(self, from: *const u8) -> Self::B {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, b: Self::B) {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            _mm256_storeu_si256(to.cast(), b[0]);
            _mm256_storeu_si256(to.add(32).cast(), b[1]);
        }
    }

    #[inline(always)]
    fn right(self, b: Self::B, by: u32, mask: u8) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe {
            let mask = _mm256_set1_epi8(mask as i8);
            [_mm256_and_si256(shift_right(b[0], by), mask), _mm256_and_si256(shift_right(b[1], by), mask)]
        }
    }

    #[inline(always)]
    fn left(self, b: Self::B, by: u32, mask: u8) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe {
            let mask = _mm256_set1_epi8(mask as i8);
            [_mm256_and_si256(shift_left(b[0], by), mask), _mm256_and_si256(shift_left(b[1], by), mask)]
        }
    }

    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: Self::B) -> Self::B {
        // SAFETY: `self` shows the features.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, codes[0]), _mm256_shuffle_epi8(table, codes[1])]
        }
    }

    #[inline(always)]
    fn byte(self, b: Self::B, at: u32) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe {
            let (count, mask) = (_mm_cvtsi32_si128(8 * at as i32), _mm256_set1_epi32(255));
            [
                _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(b[0], count), mask)),
                _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(b[1], count), mask)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn splat_word(self, from: *const u8) -> Self::I {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe { [_mm256_set1_epi32(from.cast::<i32>().read_unaligned()); 2] }
    }

    #[inline(always)]
    fn zero(self) -> Self::I {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn to_f32(self, i: Self::I) -> Self::F {
        // SAFETY: `self` shows the features.
        unsafe { [_mm256_cvtepi32_ps(i[0]), _mm256_cvtepi32_ps(i[1])] }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: `self` shows the features, and the rest is this function's contract.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let upper = _mm_unpackhi_epi64(bytes, bytes);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(upper))]
        }
    }
}

/// `acc` and the four products of each group of bytes, in two steps: pairs to i16, those to i32. Pairs of
/// products with codes below 128 do not saturate; the eighth bit of wide codes takes a turn of its own.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dot_half<const WIDE: bool>(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    if WIDE {
        let eighth = _mm256_set1_epi8(i8::MIN);
        let high = _mm256_maddubs_epi16(_mm256_and_si256(w, eighth), x);
        let low = _mm256_maddubs_epi16(_mm256_andnot_si256(eighth, w), x);
        let sums = _mm256_add_epi32(_mm256_madd_epi16(high, ones), _mm256_madd_epi16(low, ones));
        _mm256_add_epi32(acc, sums)
    } else {
        _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones))
    }
}

impl Dot4<Avx2> for Avx2 {
    /// One multiplication of 16-bit pairs whose other halves are zero: a load that splats costs nothing
    /// here, while a shift after it would be moved into a scalar register, and splatted from there.
    #[inline(always)]
    unsafe fn start(sum: [__m256i; 2], by: u32) -> [__m256i; 2] {
        // SAFETY: the CPU has the features.
        unsafe {
            let factor = _mm256_set1_epi32(1 << by);
            [_mm256_madd_epi16(sum[0], factor), _mm256_madd_epi16(sum[1], factor)]
        }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: [__m256i; 2], w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the CPU has the features.
        unsafe { [dot_half::<WIDE>(acc[0], w[0], x[0]), dot_half::<WIDE>(acc[1], w[1], x[1])] }
    }
}

super::entries!(
    #[target_feature(enable = "avx2,fma,f16c")] Avx2,
    gemm: [2, 2], scaled: [2, 1], panels: [Avx2, "16-bit pairs", 4], attention: 2
);

/// The kernels of this instance.
pub(crate) const ENTRIES: KernelEntries = entries();
