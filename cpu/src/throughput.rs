//! Loops that do nothing but multiply and add, for `machine_peaks.rs` to time.

use crate::{
    int_lanes::{BYTES, Dot4, IntLanes},
    lanes::Lanes,
};

/// Independent chains: two instructions a cycle of latency four to six, with room.
pub(crate) const ACCUMULATORS: usize = 16;

/// [`ACCUMULATORS`] chains of `rounds` multiply-adds of `x * x`.
#[inline(always)]
pub(crate) fn fma_throughput<L: Lanes>(lanes: L, rounds: usize, x: f32) -> f32 {
    let x = lanes.splat(x);
    let mut sums = [lanes.splat(0.0); ACCUMULATORS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = lanes.fma(x, x, *sum);
        }
    }
    lanes.sum(sums.into_iter().fold(lanes.splat(0.0), |a, b| lanes.add(a, b)))
}

/// [`ACCUMULATORS`] chains of `rounds` integer dot products of codes below 128, from `x` made an integer.
///
/// # Safety
/// The CPU has the features of `D`.
#[inline(always)]
pub(crate) unsafe fn int8_throughput<L: IntLanes, D: Dot4<L>>(lanes: L, rounds: usize, x: f32) -> f32 {
    let (codes, inputs) = ([x as u8; BYTES], [x as u8; 4]);
    // SAFETY: arrays of as many bytes.
    let (w, x) = unsafe { (lanes.load_bytes(codes.as_ptr()), lanes.splat_word(inputs.as_ptr())) };
    let mut sums = [lanes.zero(); ACCUMULATORS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: by this function's contract.
            *sum = unsafe { D::dot::<false>(*sum, w, x) };
        }
    }
    lanes.sum(sums.into_iter().fold(lanes.splat(0.0), |a, b| lanes.add(a, lanes.to_f32(b))))
}
