//! AVX-512 with the BF16 dot product: one instruction multiplies 32 pairs and adds them to 16 lanes.
//!
//! `vdpbf16ps` adds the product of the odd elements to the lane first, then that of the even ones,
//! each step rounded to nearest, which is the order of the pair dots in `dot.rs`; so results equal
//! those of the other instances, except that it treats subnormal inputs as zero and flushes subnormal
//! results. E4M3 values lie far above that range in bfloat16.

use std::arch::x86_64::*;

use quern_backend::quant::fp8::E4M3;

use super::{Entries, avx512::Avx512};
use crate::{
    attention::{self, Pairs, Partition, Words},
    dot::{Dot, Layout},
    gemm::{self, Gemm},
    roof::CHAINS,
};

/// bfloat16 weights and inputs, multiplied as they are.
pub(crate) struct Bf16Native;

impl Dot<Avx512> for Bf16Native {
    const STEP: usize = 32;
    const WEIGHT_BYTES: usize = 64;
    const BLOCK_STEPS: usize = 0;
    const LAYOUT: Layout = Layout::Bf16;
    type Weights = __m512bh;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512bh {
        // Both are 512 bits without invalid values.
        std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast()))
    }

    #[inline(always)]
    unsafe fn dot(acc: __m512, weights: __m512bh, x: *const u8) -> __m512 {
        _mm512_dpbf16_ps(acc, weights, Self::load(x))
    }
}

/// E4M3 bytes, made bfloat16 in registers.
pub(crate) struct Fp8Native;

/// The bfloat16 of E4M3 magnitudes by their low five bits, where moving bits does not give them: the eight
/// below the normal ones, and NaN.
static RARE: [u16; 32] = {
    let mut table = [0; 32];
    let mut byte = 0;
    while byte < 8 {
        table[byte] = (E4M3[byte].to_bits() >> 16) as u16;
        byte += 1;
    }
    table[31] = (E4M3[127].to_bits() >> 16) as u16;
    table
};

/// 32 E4M3 bytes as bfloat16, in order.
///
/// Both have a sign, an exponent and a mantissa, so normal magnitudes move up by 4 bits and change their
/// bias from 7 to 127. A table of all 128 magnitudes needs two permutations of three instructions each and
/// held products of one token to 41 % of what memory allows.
#[inline(always)]
unsafe fn expand_e4m3(from: *const u8) -> __m512i {
    let codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast()));
    let magnitudes = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
    let normal = _mm512_add_epi16(_mm512_slli_epi16::<4>(magnitudes), _mm512_set1_epi16(120 << 7));
    // Less 8, those below the normal ones wrap around to the top, where NaN, 127 less 8, is already.
    let less = _mm512_sub_epi16(magnitudes, _mm512_set1_epi16(8));
    let rare = _mm512_cmpge_epu16_mask(less, _mm512_set1_epi16(127 - 8));
    let table = _mm512_loadu_si512(RARE.as_ptr().cast());
    let magnitudes = _mm512_mask_permutexvar_epi16(normal, rare, codes, table);
    let sign = _mm512_and_si512(_mm512_slli_epi16::<8>(codes), _mm512_set1_epi16(i16::MIN));
    _mm512_or_si512(magnitudes, sign)
}

impl Dot<Avx512> for Fp8Native {
    const STEP: usize = 32;
    const WEIGHT_BYTES: usize = 32;
    const BLOCK_STEPS: usize = 4;
    const LAYOUT: Layout = Layout::Bf16;
    type Weights = __m512bh;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512bh {
        // Both are 512 bits without invalid values.
        std::mem::transmute::<__m512i, __m512bh>(expand_e4m3(from))
    }

    #[inline(always)]
    unsafe fn dot(acc: __m512, weights: __m512bh, x: *const u8) -> __m512 {
        Bf16Native::dot(acc, weights, x)
    }
}

/// # Safety
/// The CPU has the features named, and `task` was checked by `Kernels::gemm`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn gemm_bf16(task: &Gemm<'_>) {
    gemm::run::<Avx512, Bf16Native, 4, 6>(task);
}

/// # Safety
/// The CPU has the features named, and `task` was checked by `Kernels::gemm`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn gemm_fp8(task: &Gemm<'_>) {
    gemm::run::<Avx512, Fp8Native, 4, 3>(task);
}

/// # Safety
/// The CPU has the features named.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn native_chains(rounds: usize, x: f32) -> f32 {
    let pairs = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32((x.to_bits() | x.to_bits() >> 16) as i32));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    _mm512_reduce_add_ps(sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b)))
}

impl Pairs for Avx512 {
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // All are 512 bits without invalid values.
        let [a, b] = [a, b].map(|words| std::mem::transmute::<__m512, __m512bh>(words));
        _mm512_dpbf16_ps(sum, a, b)
    }

    #[inline(always)]
    unsafe fn interleave(even: *const u16, odd: *const u16) -> [__m512; 2] {
        let [even, odd] = [_mm512_loadu_si512(even.cast()), _mm512_loadu_si512(odd.cast())];
        let [first, last] = [_mm512_loadu_si512(FIRST.as_ptr().cast()), _mm512_loadu_si512(LAST.as_ptr().cast())];
        [
            _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, first, odd)),
            _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, last, odd)),
        ]
    }

    #[inline(always)]
    unsafe fn store_upper_halves(to: *mut u16, v: __m512) {
        let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(v)));
        _mm256_storeu_si256(to.cast(), halves);
    }
}

/// Sixteen from `from` on of 32 elements, each with its like among 32 others behind it.
const fn side_by_side(from: u16) -> [u16; 32] {
    let mut indices = [0; 32];
    let mut i = 0;
    while i < 16 {
        indices[2 * i] = from + i as u16;
        indices[2 * i + 1] = 32 + from + i as u16;
        i += 1;
    }
    indices
}

static FIRST: [u16; 32] = side_by_side(0);
static LAST: [u16; 32] = side_by_side(16);

/// # Safety
/// The CPU has the features named; the rest is the contract of `Kernels::attend`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn attend(partition: &mut Partition<'_>) {
    attention::attend::<Avx512, Words, 8>(partition);
}

/// The kernels of AVX-512 with VNNI, which every CPU with BF16 has, with these in place of its own.
pub(crate) const ENTRIES: Entries = Entries {
    native_bf16: Some(gemm_bf16),
    native_fp8: Some(gemm_fp8),
    native_attend: Some(attend),
    native_chains: Some(native_chains),
    ..super::avx512vnni::ENTRIES
};
