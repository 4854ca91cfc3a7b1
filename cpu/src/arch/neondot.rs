//! NEON with the 8-bit dot product (Armv8.2 and later): one instruction multiplies 16 pairs and adds them to 4
//! lanes.

use std::arch::{aarch64::*, asm};

use super::{KernelEntries, neon::Neon};
use crate::int_lanes::Dot4;

/// `sdot` on four registers.
struct Sdot;

/// `acc` and the four products of each group of signed bytes. Rust has the intrinsic only in nightly compilers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, w: uint8x16_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: one instruction between registers.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

impl Dot4<Neon> for Sdot {
    #[inline(always)]
    unsafe fn start(sum: [int32x4_t; 4], by: u32) -> [int32x4_t; 4] {
        // SAFETY: the CPU has the features.
        unsafe { <Neon as Dot4<Neon>>::start(sum, by) }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(mut acc: [int32x4_t; 4], w: [uint8x16_t; 4], x: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: the CPU has the features.
        unsafe {
            for i in 0..4 {
                if WIDE {
                    // As a signed byte the eighth bit is -128.
                    let eighth = vandq_u8(w[i], vdupq_n_u8(128));
                    acc[i] = sdot(acc[i], vandq_u8(w[i], vdupq_n_u8(127)), x[i]);
                    acc[i] = vsubq_s32(acc[i], sdot(vdupq_n_s32(0), eighth, x[i]));
                } else {
                    acc[i] = sdot(acc[i], w[i], x[i]);
                }
            }
            acc
        }
    }
}

super::panel_entries!(
    #[target_feature(enable = "neon,dotprod")]
    Neon,
    Sdot,
    2
);

/// The kernels of NEON with these in place of its own.
pub(crate) const ENTRIES: KernelEntries =
    KernelEntries { panels_int8, int8: "8-bit dot product", int8_throughput, ..super::neon::ENTRIES };
