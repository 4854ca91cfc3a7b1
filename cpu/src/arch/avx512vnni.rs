//! AVX-512 with the 8-bit dot product: one instruction multiplies 64 pairs and adds them to 16 lanes.

use std::arch::x86_64::*;

use quern_backend::QuantFormat;

use super::{Entries, PanelEntry, avx512::Avx512};
use crate::{
    bytes::Dot4,
    gemm::Gemm,
    panels::{
        Panels,
        format::{Codes, Scales, panel_format},
        many,
    },
};

/// `vpdpbusd` on 512 bits.
pub(super) struct Vnni;

impl Dot4<Avx512> for Vnni {
    /// See `avx2.rs`.
    #[inline(always)]
    unsafe fn start(sum: __m512i, by: u32) -> __m512i {
        _mm512_dpwssd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(1 << by), sum)
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, w, x)
    }
}

super::panel_entries!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    Avx512,
    Vnni,
    8
);

/// Many tokens in tiles of two panels.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn wide_panel_int8<C: Codes, S: Scales>(task: &Gemm<'_, Panels>) {
    if task.x_rows.len() > 8 { many::run::<Avx512, Vnni, C, S, 2, 6>(task) } else { panel_int8::<C, S>(task) }
}

fn wide_panels_int8(format: QuantFormat) -> PanelEntry {
    panel_format!(format, wide_panel_int8)
}

/// The kernels of AVX-512 with these in place of its own.
pub(crate) const ENTRIES: Entries = Entries {
    panels_int8,
    wide_panels_int8: Some(wide_panels_int8),
    int8: "8-bit dot product",
    int8_chains,
    ..super::avx512::ENTRIES
};
