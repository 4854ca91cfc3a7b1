//! [`measure`]: what this machine can do at best, with the backend's own threads.

use std::{hint::black_box, time::Instant};

use quern_backend::MachinePeaks;

use crate::{CpuBackend, lanes::LANES, memory::Region, throughput::ACCUMULATORS};

/// Rounds of one measurement: some milliseconds.
const ROUNDS: usize = 1 << 20;

/// Memory read by one measurement; far past any last-level cache of a machine this size.
pub(crate) const READ_BYTES: usize = 512 << 20;

/// Part of it that one worker reads in a piece: a millisecond or a few, long against the barrier behind it.
const READ_PIECE_BYTES: usize = 16 << 20;

/// Measure; half a second or so and half a GiB, in pieces of some milliseconds, between which `go_on` is asked. Each
/// figure is the best of five.
///
/// Returns `None` if the memory cannot be had, or where `go_on` says no.
pub(crate) fn measure(backend: &CpuBackend, go_on: &dyn Fn() -> bool) -> Option<MachinePeaks> {
    let workers = backend.pool.workers();
    let piece = (READ_PIECE_BYTES * workers).min(READ_BYTES);
    let mut memory = Region::zeroed(READ_BYTES)?;
    let words = memory.words();
    // Zeros as mapped are one shared page; written they are memory.
    for words in words.chunks_mut(READ_PIECE_BYTES / size_of::<f32>()) {
        go_on().then(|| words.fill(1.0))?;
    }
    let words = &*words;
    let timed = |f: &dyn Fn()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    let best = |seconds: &dyn Fn() -> Option<f64>| {
        (0..5).try_fold(f64::INFINITY, |best, _| seconds().map(|seconds| best.min(seconds)))
    };
    let read = best(&|| {
        let pieces = words.chunks(piece / size_of::<f32>()).map(|words| {
            let read = || {
                backend.pool.for_each(words.len(), 1 << 18, |_, range| {
                    black_box(backend.kernels.peak(&words[range]));
                });
            };
            go_on().then(|| timed(&read))
        });
        pieces.sum()
    })?;
    let flops = |entry: unsafe fn(usize, f32) -> f32, per_step: usize| {
        let compute = || {
            backend.pool.run(&|_| {
                // SAFETY: the entry is of the instruction set that detection chose.
                black_box(unsafe { entry(ROUNDS, black_box(1.0)) });
            });
        };
        let seconds = best(&|| go_on().then(|| timed(&compute)))?;
        Some((workers * ROUNDS * ACCUMULATORS * per_step) as f64 / seconds)
    };
    let (f32_throughput, bf16_throughput, int8_throughput) = backend.kernels.throughput_loops();
    Some(MachinePeaks {
        read_bytes_per_s: size_of_val(words) as f64 / read,
        f32_flops: flops(f32_throughput, 2 * LANES)?,
        bf16_flops: match bf16_throughput {
            Some(entry) => Some(flops(entry, 4 * LANES)?),
            None => None,
        },
        int8_ops: flops(int8_throughput, 8 * LANES)?,
    })
}
