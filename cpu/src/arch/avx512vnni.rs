//! AVX-512 with the 8-bit dot product: one instruction multiplies 64 pairs and adds them to 16 lanes.

use std::arch::{asm, x86_64::*};

use quern_backend::QuantFormat;

use super::{KernelEntries, PanelEntry, avx512::Avx512};
use crate::{
    gemm::Gemm,
    int_lanes::Dot4,
    lanes::Lanes,
    panels::{
        Panels,
        direct::{self, Integers},
        format::{Codes, Scales, panel_format},
        staged,
    },
    throughput,
};

/// `vpdpbusd` on 512 bits.
pub(super) struct Avx512Vnni;

impl Dot4<Avx512> for Avx512Vnni {
    #[inline(always)]
    unsafe fn start(sum: __m512i, by: u32) -> __m512i {
        // SAFETY: the CPU has the features.
        unsafe { shift_left(sum, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: the CPU has the features.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
}

/// A shift hidden from the compiler, which would move that of a splat into a scalar register. A multiplication, as
/// in `avx2.rs`, would wait for the units of the dot products: it cost a Zen 4 a tenth of Q6_K's many tokens.
#[inline]
#[target_feature(enable = "avx512f")]
fn shift_left(sum: __m512i, by: __m512i) -> __m512i {
    let shifted;
    // SAFETY: one instruction between registers.
    unsafe {
        asm!("vpsllvd {}, {}, {}", lateout(zmm_reg) shifted, in(zmm_reg) sum, in(zmm_reg) by,
            options(pure, nomem, nostack, preserves_flags));
    }
    shifted
}

/// Tokens of a tile.
const TOKENS: usize = 8;

/// However many tokens, each tile unpacks in registers: a core that shifts and masks in other units than it
/// multiplies in does so for nothing, while what `staged.rs` stores has to be loaded again.
///
/// # Safety
/// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn panel_int8<C: Codes, S: Scales>(task: &Gemm<'_, Panels>) {
    // SAFETY: by this function's contract.
    unsafe { direct::run::<Avx512, Integers<Avx512Vnni, C, S>, TOKENS>(Avx512::new_unchecked(), task) }
}

fn panels_int8(format: QuantFormat) -> PanelEntry {
    panel_format!(format, panel_int8)
}

/// Many tokens in tiles of two panels.
///
/// # Safety
/// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn wide_panel_int8<C: Codes, S: Scales>(task: &Gemm<'_, Panels>) {
    // SAFETY: by this function's contract.
    unsafe {
        if task.x_rows.len() > TOKENS {
            staged::run::<Avx512, Avx512Vnni, C, S, 2, 6>(Avx512::new_unchecked(), task)
        } else {
            panel_int8::<C, S>(task)
        }
    }
}

fn wide_panels_int8(format: QuantFormat) -> PanelEntry {
    panel_format!(format, wide_panel_int8)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn int8_throughput(rounds: usize, x: f32) -> f32 {
    // SAFETY: the features are those that are enabled here.
    unsafe { throughput::int8_throughput::<Avx512, Avx512Vnni>(Avx512::new_unchecked(), rounds, x) }
}

/// The kernels of AVX-512 with these in place of its own.
pub(crate) const ENTRIES: KernelEntries = KernelEntries {
    panels_int8,
    wide_panels_int8: Some(wide_panels_int8),
    int8: "8-bit dot product",
    int8_throughput,
    ..super::avx512::ENTRIES
};
