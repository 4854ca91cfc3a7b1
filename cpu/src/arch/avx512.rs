//! Sixteen lanes as one 512-bit register. Needs AVX-512 F, BW, DQ and VL, and F16C and AVX2 with them.

use std::arch::x86_64::*;

use super::{Entries, avx2::load_e4m3_halves};
use crate::lanes::Lanes;

/// One 512-bit register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Lanes for Avx512 {
    type F = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        _mm512_set1_ps(x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        _mm512_loadu_ps(from)
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::F) {
        _mm512_storeu_ps(to, v);
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        let codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(codes))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self::F, Self::F) {
        let pairs = _mm512_loadu_si512(from.cast());
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd))
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(from: *const u8) -> (Self::F, Self::F) {
        let (even, odd) = load_e4m3_halves(from);
        let scale = Self::splat(256.0);
        (Self::mul(_mm512_cvtph_ps(even), scale), Self::mul(_mm512_cvtph_ps(odd), scale))
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        _mm512_add_ps(a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        _mm512_sub_ps(a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        _mm512_mul_ps(a, b)
    }

    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        _mm512_div_ps(a, b)
    }

    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        _mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        _mm512_max_ps(a, b)
    }

    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        _mm512_min_ps(a, b)
    }

    #[inline(always)]
    unsafe fn round(v: Self::F) -> Self::F {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)
    }

    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    }

    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

super::entries!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")] Avx512, gemm: [4, 5], scaled: [4, 3]);

/// The kernels of this instance.
pub(crate) const ENTRIES: Entries = entries();
