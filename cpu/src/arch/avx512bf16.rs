//! AVX-512 with the BF16 dot product: one instruction multiplies 32 pairs and adds them to 16 lanes.
//!
//! `vdpbf16ps` adds the product of the odd elements to the lane first, then that of the even ones,
//! each step rounded to nearest, which is the order of the pair dots in `dot.rs`; so results equal
//! those of the other instances, except that it treats subnormal inputs as zero and flushes subnormal
//! results. E4M3 values lie far above that range in bfloat16.

use std::arch::x86_64::*;

use half::bf16;
use quern_backend::{KvFormat, quant::fp8::E4M3};

use super::{AttendEntry, KernelEntries, avx512::Avx512};
use crate::{
    attention::{self, Brain, E4m3, E5m2, Pairs, Partition, Words},
    dot::{ActivationLayout, Dot},
    gemm::{self, Gemm},
    lanes::Lanes,
    throughput::ACCUMULATORS,
};

/// bfloat16 weights and inputs, multiplied as they are.
pub(crate) struct Bf16Native;

impl Dot<Avx512> for Bf16Native {
    const STEP: usize = 32;
    const WEIGHT_BYTES: usize = 64;
    const BLOCK_STEPS: usize = 0;
    const LAYOUT: ActivationLayout = ActivationLayout::Bf16;
    type Weights = __m512bh;

    #[inline(always)]
    unsafe fn load(_: Avx512, from: *const u8) -> __m512bh {
        // SAFETY: by this function's contract, and both are 512 bits without invalid values.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn dot(lanes: Avx512, acc: __m512, weights: __m512bh, x: *const u8) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe { _mm512_dpbf16_ps(acc, weights, Self::load(lanes, x)) }
    }
}

/// E4M3 bytes, made bfloat16 in registers.
pub(crate) struct Fp8Native;

/// The bfloat16 of magnitudes of 8 bits by their low five, where moving bits does not give them: those below the
/// normal ones, and the last, which are not numbers.
type Rare = [u16; 32];

static RARE_E4M3: Rare = {
    let mut table = [0; 32];
    let mut byte = 0;
    while byte < 8 {
        table[byte] = (E4M3[byte].to_bits() >> 16) as u16;
        byte += 1;
    }
    table[31] = (E4M3[127].to_bits() >> 16) as u16;
    table
};

static RARE_E5M2: Rare = {
    let mut table = [0; 32];
    let mut byte = 0;
    while byte < 4 {
        table[byte] = ((byte as f32 / 65536.0).to_bits() >> 16) as u16;
        byte += 1;
    }
    table[28] = (f32::INFINITY.to_bits() >> 16) as u16;
    let mut byte = 29;
    while byte < 32 {
        table[byte] = (f32::NAN.to_bits() >> 16) as u16;
        byte += 1;
    }
    table
};

/// 32 bytes of a sign, an exponent and a mantissa of `MANTISSA` bits as bfloat16, in order; the magnitudes from
/// `LAST` on are not numbers.
///
/// Normal magnitudes move up and change their bias. A table of all 128 magnitudes needs two permutations of three
/// instructions each and held products of one token to 41 % of what memory allows.
///
/// # Safety
/// `from` is readable for 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn expand<const MANTISSA: u32, const LAST: i16>(from: *const u8, table: &Rare) -> __m512i {
    let (bias, smallest) = ((1i16 << (6 - MANTISSA)) - 1, 1i16 << MANTISSA);
    // SAFETY: by this function's contract.
    let codes = _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(from.cast()) });
    let magnitudes = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f));
    let moved = if MANTISSA == 3 { _mm512_slli_epi16::<4>(magnitudes) } else { _mm512_slli_epi16::<5>(magnitudes) };
    let normal = _mm512_add_epi16(moved, _mm512_set1_epi16((127 - bias) << 7));
    // Less the smallest normal one, those below wrap around to the top, where the last are already.
    let less = _mm512_sub_epi16(magnitudes, _mm512_set1_epi16(smallest));
    let rare = _mm512_cmpge_epu16_mask(less, _mm512_set1_epi16(LAST - smallest));
    // SAFETY: a table of 64 bytes.
    let table = unsafe { _mm512_loadu_si512(table.as_ptr().cast()) };
    let magnitudes = _mm512_mask_permutexvar_epi16(normal, rare, codes, table);
    let sign = _mm512_and_si512(_mm512_slli_epi16::<8>(codes), _mm512_set1_epi16(i16::MIN));
    _mm512_or_si512(magnitudes, sign)
}

/// 32 E4M3 bytes as bfloat16.
///
/// # Safety
/// `from` is readable for 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn expand_e4m3(from: *const u8) -> __m512i {
    // SAFETY: by this function's contract.
    unsafe { expand::<3, 127>(from, &RARE_E4M3) }
}

impl Dot<Avx512> for Fp8Native {
    const STEP: usize = 32;
    const WEIGHT_BYTES: usize = 32;
    const BLOCK_STEPS: usize = 4;
    const LAYOUT: ActivationLayout = ActivationLayout::Bf16;
    type Weights = __m512bh;

    #[inline(always)]
    unsafe fn load(_: Avx512, from: *const u8) -> __m512bh {
        // SAFETY: by this function's contract, and both are 512 bits without invalid values.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(expand_e4m3(from)) }
    }

    #[inline(always)]
    unsafe fn dot(lanes: Avx512, acc: __m512, weights: __m512bh, x: *const u8) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe { Bf16Native::dot(lanes, acc, weights, x) }
    }
}

/// # Safety
/// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn gemm_bf16(task: &Gemm<'_>) {
    // SAFETY: by this function's contract.
    unsafe { gemm::run::<Avx512, Bf16Native, 4, 6>(Avx512::new_unchecked(), task) }
}

/// # Safety
/// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(crate) unsafe fn gemm_fp8(task: &Gemm<'_>) {
    // SAFETY: by this function's contract.
    unsafe { gemm::run::<Avx512, Fp8Native, 4, 3>(Avx512::new_unchecked(), task) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
fn native_fma_throughput(rounds: usize, x: f32) -> f32 {
    let pairs = _mm512_set1_epi32((x.to_bits() | x.to_bits() >> 16) as i32);
    // SAFETY: both are 512 bits without invalid values.
    let pairs = unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) };
    let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    _mm512_reduce_add_ps(sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b)))
}

impl Pairs for Avx512 {
    #[inline(always)]
    unsafe fn dot_pairs(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: by this function's contract, and all are 512 bits without invalid values.
        unsafe {
            let [a, b] = [a, b].map(|words| std::mem::transmute::<__m512, __m512bh>(words));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }

    #[inline(always)]
    unsafe fn interleave(self, even: __m512, odd: __m512) -> [__m512; 2] {
        // SAFETY: by this function's contract, and both tables have 64 bytes.
        unsafe {
            let [even, odd] = [_mm512_castps_si512(even), _mm512_castps_si512(odd)];
            let [first, last] = [_mm512_loadu_si512(FIRST.as_ptr().cast()), _mm512_loadu_si512(LAST.as_ptr().cast())];
            [
                _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, first, odd)),
                _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, last, odd)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_e4m3_words(self, from: *const u8) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe { _mm512_castsi512_ps(expand_e4m3(from)) }
    }

    #[inline(always)]
    unsafe fn load_e5m2_words(self, from: *const u8) -> __m512 {
        // SAFETY: by this function's contract.
        unsafe { _mm512_castsi512_ps(expand::<2, 124>(from, &RARE_E5M2)) }
    }

    #[inline(always)]
    unsafe fn store_upper_halves(self, to: *mut u16, v: __m512) {
        // SAFETY: by this function's contract.
        unsafe {
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(v)));
            _mm256_storeu_si256(to.cast(), halves);
        }
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
/// The CPU has the features that are enabled here; the rest is the contract of `Kernels::attend`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn attend<B: Brain<Avx512>>(partition: &mut Partition<'_>) {
    // SAFETY: by this function's contract.
    unsafe { attention::attend::<Avx512, Words<B>, 8>(Avx512::new_unchecked(), partition) }
}

fn native_attend(format: KvFormat) -> Option<AttendEntry> {
    match format {
        KvFormat::BF16 => Some(attend::<bf16>),
        KvFormat::F8E4M3 => Some(attend::<E4m3>),
        KvFormat::F8E5M2 => Some(attend::<E5m2>),
        KvFormat::F32 | KvFormat::Q8_0 => None,
    }
}

/// The kernels of AVX-512 with VNNI, which every CPU with BF16 has, with these in place of its own.
pub(crate) const ENTRIES: KernelEntries = KernelEntries {
    native_bf16: Some(gemm_bf16),
    native_fp8: Some(gemm_fp8),
    native_attend,
    native_fma_throughput: Some(native_fma_throughput),
    ..super::avx512vnni::ENTRIES
};

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::{Isa, skip};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    fn expanded(from: &[u8; 32]) -> [[bf16; 32]; 2] {
        // SAFETY: the features are those that are enabled here, and both are 64 bytes without invalid values.
        unsafe {
            let lanes = Avx512::new_unchecked();
            [lanes.load_e4m3_words(from.as_ptr()), lanes.load_e5m2_words(from.as_ptr())]
                .map(|words| std::mem::transmute::<__m512, [bf16; 32]>(words))
        }
    }

    #[test]
    fn every_code_of_8_bits_is_the_same_number_in_bfloat16() {
        if !Isa::Avx512Bf16.is_available() {
            return skip::skip("this CPU has no AVX-512 BF16", "run it on one that has");
        }
        for first in (0..=255u8).step_by(32) {
            let codes: [u8; 32] = std::array::from_fn(|i| first + i as u8);
            // SAFETY: the CPU has the features.
            let [e4m3, e5m2] = unsafe { expanded(&codes) };
            for (i, code) in codes.into_iter().enumerate() {
                let same = |got: bf16, want: f32| got.to_f32() == want || got.is_nan() && want.is_nan();
                assert!(same(e4m3[i], E4M3[usize::from(code)]), "E4M3 {code:#x}: {}", e4m3[i]);
                assert!(same(e5m2[i], f16::from_le_bytes([0, code]).to_f32()), "E5M2 {code:#x}: {}", e5m2[i]);
            }
        }
    }
}
