//! AVX2 with the 8-bit dot product on 256 bits (AVX-VNNI).

use std::arch::x86_64::*;

use super::{KernelEntries, avx2::Avx2};
use crate::int_lanes::Dot4;

/// `vpdpbusd` on 256 bits.
struct AvxVnni;

impl Dot4<Avx2> for AvxVnni {
    #[inline(always)]
    unsafe fn start(sum: [__m256i; 2], by: u32) -> [__m256i; 2] {
        // SAFETY: the CPU has the features.
        unsafe { <Avx2 as Dot4<Avx2>>::start(sum, by) }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: [__m256i; 2], w: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the CPU has the features.
        unsafe { [_mm256_dpbusd_avx_epi32(acc[0], w[0], x[0]), _mm256_dpbusd_avx_epi32(acc[1], w[1], x[1])] }
    }
}

super::panel_entries!(
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    Avx2,
    AvxVnni,
    4
);

/// The kernels of AVX2 with these in place of its own.
pub(crate) const ENTRIES: KernelEntries =
    KernelEntries { panels_int8, int8: "8-bit dot product", int8_throughput, ..super::avx2::ENTRIES };
