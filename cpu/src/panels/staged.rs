//! Products of panels with many tokens: unpacked once to the first-level cache, and shared.
//!
//! `P` panels are walked in chunks of 256 columns. A chunk's codes are unpacked to bytes and its scales to f32
//! once, into the first-level cache, and each tile of `T` tokens meets them there:
//!
//! ```text
//! for each P panels
//!   for each chunk of columns
//!     unpack            P × 6 KiB
//!     for each tile     sums of P × 16 rows × T tokens in registers, between chunks in memory
//! ```
//!
//! The additions are those of `direct.rs`, in the same order, so the bits are too: a sum that rests in
//! memory between chunks is the same f32. With two panels a splat of inputs serves two products. That pays
//! where a core multiplies as many vectors a cycle as it loads, so that one load a product is too many: with
//! Q4_K and qkv_proj a Xeon reached 50 % of its peak with two panels (of 512 columns) and 38 with one.
//!
//! Not everyone comes here: a Zen 4 with AVX-512 loads twice as many vectors as it multiplies, and shifts and masks
//! beside both. There `direct.rs`, which unpacks again for every tile, takes 5 to 20 % less time.
//!
//! What did not pay: more than 8 tokens a tile, as many pointers leave the general registers. Asking for a
//! whole chunk ahead at once holds up the loads that are needed now. Chunks as the outer loop, so that a
//! chunk of all tokens' inputs stays in the first-level cache: sums have to leave it instead.

#![allow(clippy::needless_range_loop, reason = "indices name the tile's panels and tokens in several arrays")]

use std::mem::MaybeUninit;

use crate::{
    gemm::Gemm,
    int_lanes::{BYTES, Dot4, IntLanes},
    int8::{BLOCK, FLOATS, RECORD_BYTES, SCALE, SUMS},
    lanes::{LANES, LINE, store_first},
    panels::Panels,
    panels::direct::{dot, part, start},
    panels::format::{Codes, STEP, STEPS, Scales},
};

/// Blocks of a chunk: a multiple of those that share outer scales.
const CHUNK: usize = 8;

/// Tokens whose sums are kept at a time: a multiple of every tile, so that none reaches past it.
const TOKENS: usize = 48;

/// A block of a panel, unpacked.
#[repr(C, align(64))]
struct Unpacked {
    /// Codes of each step.
    codes: [[u8; BYTES]; STEPS],
    /// Scales of each group.
    scales: [[f32; LANES]; 2],
    /// Minimums of each group.
    mins: [[f32; LANES]; 2],
}

/// All rows and tokens of `task`, whose inputs are records of `int8.rs`, in tiles of up to `T` tokens.
///
/// # Safety
/// The CPU has the features of `D`, and `task` has passed `Gemm::check`.
#[inline(always)]
pub(crate) unsafe fn run<L: IntLanes, D: Dot4<L>, C: Codes, S: Scales, const P: usize, const T: usize>(
    lanes: L,
    task: &Gemm<'_, Panels>,
) {
    let (matrix, rows) = (task.matrix, &task.rows);
    let shape = matrix.shape();
    let blocks = matrix.cols() / BLOCK;
    let mut chunk = [const { [const { MaybeUninit::<Unpacked>::uninit() }; CHUNK] }; P];
    let mut sums = [[[0.0f32; LANES]; P]; TOKENS];
    for first in (0..task.x_rows.len()).step_by(TOKENS) {
        let tokens = TOKENS.min(task.x_rows.len() - first);
        for row in rows.clone().step_by(P * LANES) {
            // Past the end the last panel is computed again and dropped.
            let last = (rows.end - 1) / LANES;
            // SAFETY: `Gemm::check` found the rows within the matrix, whose panels have this shape.
            let panels: [*const u8; P] = std::array::from_fn(|p| unsafe {
                matrix.bytes().as_ptr().add((row / LANES + p).min(last) * shape.bytes)
            });
            let out = |t: usize| {
                let row_of_out = task.out_rows[first + t] as usize * task.out_stride;
                task.out.as_ptr().wrapping_add(row_of_out + task.out_column + row - rows.start)
            };
            // Outputs lie far apart: their lines arrive while the sums are made.
            for t in 0..tokens {
                lanes.prefetch(out(t).cast());
            }
            sums.fill([[0.0; LANES]; P]);
            for start in (0..blocks).step_by(CHUNK) {
                let count = CHUNK.min(blocks - start);
                for p in 0..P {
                    let to = chunk[p].as_mut_ptr().cast();
                    // SAFETY: a panel has all blocks of its rows, and a chunk has room for these.
                    unsafe { unpack::<L, C, S>(lanes, panels[p], shape.scales, start, count, to) };
                }
                let chunk: [*const Unpacked; P] = std::array::from_fn(|p| chunk[p].as_ptr().cast());
                let mut t = 0;
                while t < tokens {
                    let at = TilePosition { task, token: first + t, start, count };
                    // A whole tile costs less than two small ones, whose chains wait for one another: what
                    // is left goes into the next larger tile, whose last tokens nobody looks at.
                    //
                    // SAFETY: the blocks of the chunk are unpacked, and there is room for the sums of whole tiles.
                    t += unsafe {
                        let sums = sums.as_mut_ptr().add(t);
                        match tokens - t {
                            1 => tile::<L, D, C, S, P, 1>(lanes, &at, chunk, sums),
                            2 => tile::<L, D, C, S, P, 2>(lanes, &at, chunk, sums),
                            3..=4 if T > 4 => tile::<L, D, C, S, P, 4>(lanes, &at, chunk, sums),
                            _ => tile::<L, D, C, S, P, T>(lanes, &at, chunk, sums),
                        }
                    };
                }
            }
            for t in 0..tokens {
                for p in 0..P.min((rows.end - row).div_ceil(LANES)) {
                    let at = p * LANES;
                    // SAFETY: `Gemm::check` found the columns of these rows within the outputs, which are this task's
                    // alone.
                    let out = unsafe { std::slice::from_raw_parts_mut(out(t).add(at), rows.end - row - at) };
                    store_first(lanes, out, lanes.load_array(&sums[t][p]));
                }
            }
        }
    }
}

/// Blocks `start..start + count` of a panel, whose codes begin `scales` bytes after its scales.
///
/// # Safety
/// `panel` is readable for these blocks and their scales, and `to` is writable for `count` blocks.
#[inline(always)]
unsafe fn unpack<L: IntLanes, C: Codes, S: Scales>(
    lanes: L,
    panel: *const u8,
    scales: usize,
    start: usize,
    count: usize,
    to: *mut Unpacked,
) {
    for b in 0..count {
        let block = start + b;
        // SAFETY: by this function's contract, as all that is read and written below.
        let (to, codes) = unsafe { (to.add(b), panel.add(scales + block * C::BYTES)) };
        // The chunk after the next comes from memory while these are multiplied.
        for byte in (0..C::BYTES).step_by(LINE) {
            lanes.prefetch_far(codes.wrapping_add(2 * CHUNK * C::BYTES + byte));
        }
        for s in 0..STEPS {
            // SAFETY: as above.
            unsafe { lanes.store_bytes((&raw mut (*to).codes[s]).cast(), C::step(lanes, codes, s)) };
        }
        // SAFETY: as above.
        unsafe {
            let scales = panel.add(block / S::BLOCKS * S::BYTES);
            let outer = S::outer(lanes, scales);
            for g in 0..S::GROUPS {
                let (scale, min) = S::group(lanes, scales, outer, block % S::BLOCKS * S::GROUPS + g);
                lanes.store((&raw mut (*to).scales[g]).cast(), scale);
                if S::MINS {
                    lanes.store((&raw mut (*to).mins[g]).cast(), min);
                }
            }
        }
    }
}

/// Where in a task a tile is.
struct TilePosition<'a> {
    task: &'a Gemm<'a, Panels>,
    /// The first token.
    token: usize,
    /// The chunk's blocks.
    start: usize,
    count: usize,
}

/// A chunk of `P` panels times `T` tokens, added to `sums`; returns `T`. Past the end the last token is met
/// again.
///
/// # Safety
/// The CPU has the features of `D`, and each of `chunk` is readable for its blocks, `sums` is writable for `T`
/// tokens, and the task has passed `Gemm::check`.
#[inline(always)]
unsafe fn tile<L: IntLanes, D: Dot4<L>, C: Codes, S: Scales, const P: usize, const T: usize>(
    lanes: L,
    at: &TilePosition<'_>,
    chunk: [*const Unpacked; P],
    sums: *mut [[f32; LANES]; P],
) -> usize {
    let task = at.task;
    let x: [*const u8; T] = std::array::from_fn(|t| {
        let token = (at.token + t).min(task.x_rows.len() - 1);
        // SAFETY: `Gemm::check` found the rows of each token within the inputs.
        unsafe {
            let row = task.x.values.as_ptr().add(task.x_rows[token] as usize * task.x.stride);
            row.cast::<u8>().add(at.start * RECORD_BYTES)
        }
    });
    let mut chains = [[lanes.splat(0.0); T]; P];
    for p in 0..P {
        for t in 0..T {
            // SAFETY: by this function's contract, as all that is read and written below.
            chains[p][t] = unsafe { lanes.load_array(&(*sums.add(t))[p]) };
        }
    }
    for b in 0..at.count {
        let record = b * RECORD_BYTES;
        let mut parts = [[lanes.splat(0.0); T]; P];
        for g in 0..S::GROUPS {
            // The sums of the whole block, or of its halves.
            let sums = record + 4 * (SUMS + if S::GROUPS == 1 { 0 } else { 1 + g });
            let mut acc = [[lanes.zero(); T]; P];
            for t in 0..T {
                // SAFETY: as above.
                let start = unsafe { start::<L, D, C>(lanes, x[t].add(sums)) };
                for p in 0..P {
                    acc[p][t] = start;
                }
            }
            for s in g * STEPS / S::GROUPS..(g + 1) * STEPS / S::GROUPS {
                // SAFETY: as above.
                let mut w = [unsafe { lanes.load_bytes((*chunk[0].add(b)).codes[s].as_ptr()) }; P];
                for p in 1..P {
                    // SAFETY: as above.
                    w[p] = unsafe { lanes.load_bytes((*chunk[p].add(b)).codes[s].as_ptr()) };
                }
                for t in 0..T {
                    // SAFETY: as above.
                    let x = unsafe { lanes.splat_word(x[t].add(record + STEP * s)) };
                    for p in 0..P {
                        // SAFETY: as above.
                        acc[p][t] = unsafe { dot::<L, D, C>(acc[p][t], w[p], x) };
                    }
                }
            }
            for p in 0..P {
                // SAFETY: as above.
                let (scale, min) = unsafe {
                    let scale = lanes.load_array(&(*chunk[p].add(b)).scales[g]);
                    (scale, if S::MINS { lanes.load_array(&(*chunk[p].add(b)).mins[g]) } else { scale })
                };
                for t in 0..T {
                    // SAFETY: as above.
                    parts[p][t] = unsafe {
                        let sum = x[t].add(sums + 4 * FLOATS);
                        part::<L, S>(lanes, g, parts[p][t], acc[p][t], (scale, min), sum)
                    };
                }
            }
        }
        for t in 0..T {
            // SAFETY: as above.
            let scale = lanes.splat(unsafe { *x[t].add(record + 4 * SCALE).cast::<f32>() });
            for p in 0..P {
                chains[p][t] = lanes.fma(parts[p][t], scale, chains[p][t]);
            }
        }
    }
    for p in 0..P {
        for t in 0..T {
            // SAFETY: as above.
            unsafe { lanes.store((&raw mut (*sums.add(t))[p]).cast(), chains[p][t]) };
        }
    }
    T
}

const _: () = assert!(CHUNK.is_multiple_of(8), "a chunk cuts no outer scale");
