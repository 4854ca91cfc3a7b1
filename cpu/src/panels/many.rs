//! Products of panels with many tokens: what one token pays for unpacking, here all share.
//!
//! A panel is walked in chunks of 256 columns. A chunk's codes are unpacked to bytes and its scales to f32
//! once, into the first-level cache, and each tile of `T` tokens meets them there:
//!
//! ```text
//! for each panel
//!   for each chunk of columns
//!     unpack            6 KiB
//!     for each tile     sums of 16 rows × T tokens in registers, between chunks in memory
//! ```
//!
//! The additions are those of `few.rs`, in the same order, so the bits are too: a sum that rests in
//! memory between chunks is the same f32. The chunk and a tile's inputs take a third of a first-level
//! cache of 32 KiB, the sums of all tokens a tenth.
//!
//! What did not pay: two panels at once, whose tiles share the splats of inputs. Their chunks of 512 columns
//! overflow the first-level cache, and their sums the registers: a seventh slower on Zen 4. More than 8
//! tokens a tile: as many pointers leave the general registers. Asking for a whole chunk ahead at once holds
//! up the loads that are needed now.

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]
#![allow(clippy::needless_range_loop, reason = "indices name the tile's panels and tokens in several arrays")]

use std::mem::MaybeUninit;

use crate::{
    bytes::{BYTES, Bytes, Dot4},
    gemm::Gemm,
    int8::{FLOATS, RECORD_BYTES, SCALE, SUMS},
    lanes::{LANES, LINE, store_first},
    panels::Panels,
    panels::few::{dot, part, start},
    panels::format::{BLOCK, Codes, STEP, STEPS, Scales},
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
#[inline(always)]
pub(crate) unsafe fn run<L: Bytes, D: Dot4<L>, C: Codes, S: Scales, const T: usize>(task: &Gemm<'_, Panels>) {
    let (matrix, rows) = (task.matrix, &task.rows);
    let shape = matrix.shape();
    let blocks = matrix.cols() / BLOCK;
    let mut chunk = [const { MaybeUninit::<Unpacked>::uninit() }; CHUNK];
    let mut sums = [[0.0f32; LANES]; TOKENS];
    for first in (0..task.x_rows.len()).step_by(TOKENS) {
        let tokens = TOKENS.min(task.x_rows.len() - first);
        for row in rows.clone().step_by(LANES) {
            let panel = matrix.bytes().as_ptr().add(row / LANES * shape.bytes);
            let out = |t: usize| {
                let row_of_out = task.out_rows[first + t] as usize * task.out_stride;
                task.out.as_ptr().wrapping_add(row_of_out + task.out_column + row - rows.start)
            };
            // Outputs lie far apart: their lines arrive while the sums are made.
            for t in 0..tokens {
                L::prefetch(out(t).cast());
            }
            sums.fill([0.0; LANES]);
            for start in (0..blocks).step_by(CHUNK) {
                let count = CHUNK.min(blocks - start);
                unpack::<L, C, S>(panel, shape.scales, start, count, chunk.as_mut_ptr().cast());
                let mut t = 0;
                while t < tokens {
                    let at = Place { task, token: first + t, start, count };
                    let (chunk, sums) = (chunk.as_ptr().cast(), sums.as_mut_ptr().add(t));
                    // A whole tile costs less than two small ones, whose chains wait for one another: what
                    // is left goes into the next larger tile, whose last tokens nobody looks at.
                    t += match tokens - t {
                        1 => tile::<L, D, C, S, 1>(&at, chunk, sums),
                        2 => tile::<L, D, C, S, 2>(&at, chunk, sums),
                        3..=4 if T > 4 => tile::<L, D, C, S, 4>(&at, chunk, sums),
                        _ => tile::<L, D, C, S, T>(&at, chunk, sums),
                    };
                }
            }
            for t in 0..tokens {
                store_first::<L>(out(t), rows.end - row, L::load(sums[t].as_ptr()));
            }
        }
    }
}

/// Blocks `start..start + count` of a panel, whose codes begin `scales` bytes after its scales.
#[inline(always)]
unsafe fn unpack<L: Bytes, C: Codes, S: Scales>(
    panel: *const u8,
    scales: usize,
    start: usize,
    count: usize,
    to: *mut Unpacked,
) {
    for b in 0..count {
        let block = start + b;
        let codes = panel.add(scales + block * C::BYTES);
        // The chunk after the next comes from memory while these are multiplied.
        for byte in (0..C::BYTES).step_by(LINE) {
            L::prefetch_far(codes.wrapping_add(2 * CHUNK * C::BYTES + byte));
        }
        for s in 0..STEPS {
            L::store_bytes((&raw mut (*to.add(b)).codes[s]).cast(), C::step::<L>(codes, s));
        }
        let scales = panel.add(block / S::BLOCKS * S::BYTES);
        let outer = S::outer::<L>(scales);
        for g in 0..S::GROUPS {
            let (scale, min) = S::group::<L>(scales, outer, block % S::BLOCKS * S::GROUPS + g);
            L::store((&raw mut (*to.add(b)).scales[g]).cast(), scale);
            if S::MINS {
                L::store((&raw mut (*to.add(b)).mins[g]).cast(), min);
            }
        }
    }
}

/// Where in a task a tile is.
struct Place<'a> {
    task: &'a Gemm<'a, Panels>,
    /// The first token.
    token: usize,
    /// The chunk's blocks.
    start: usize,
    count: usize,
}

/// A chunk times `T` tokens, added to `sums`; returns `T`. Past the end the last token is met again.
#[inline(always)]
unsafe fn tile<L: Bytes, D: Dot4<L>, C: Codes, S: Scales, const T: usize>(
    at: &Place<'_>,
    chunk: *const Unpacked,
    sums: *mut [f32; LANES],
) -> usize {
    let task = at.task;
    let x: [*const u8; T] = std::array::from_fn(|t| {
        let token = (at.token + t).min(task.x_rows.len() - 1);
        let row = task.x.values.as_ptr().add(task.x_rows[token] as usize * task.x.stride);
        row.cast::<u8>().add(at.start * RECORD_BYTES)
    });
    let mut chains = [L::splat(0.0); T];
    for t in 0..T {
        chains[t] = L::load((*sums.add(t)).as_ptr());
    }
    for b in 0..at.count {
        // By pointer: with an array the compiler knows the most blocks there are and writes the loop out, 6 %
        // slower.
        let block = chunk.add(b);
        let record = b * RECORD_BYTES;
        let mut parts = [L::splat(0.0); T];
        for g in 0..S::GROUPS {
            // The sums of the whole block, or of its halves.
            let sums = record + 4 * (SUMS + if S::GROUPS == 1 { 0 } else { 1 + g });
            let mut acc = [L::zero(); T];
            for t in 0..T {
                acc[t] = start::<L, D, C>(x[t].add(sums));
            }
            for s in g * STEPS / S::GROUPS..(g + 1) * STEPS / S::GROUPS {
                let w = L::load_bytes((*block).codes[s].as_ptr());
                for t in 0..T {
                    acc[t] = dot::<L, D, C>(acc[t], w, L::splat_word(x[t].add(record + STEP * s)));
                }
            }
            let scale = L::load((*block).scales[g].as_ptr());
            let min = if S::MINS { L::load((*block).mins[g].as_ptr()) } else { scale };
            for t in 0..T {
                parts[t] = part::<L, S>(g, parts[t], acc[t], (scale, min), x[t].add(sums + 4 * FLOATS));
            }
        }
        for t in 0..T {
            let scale = L::splat(*x[t].add(record + 4 * SCALE).cast::<f32>());
            chains[t] = L::fma(parts[t], scale, chains[t]);
        }
    }
    for t in 0..T {
        L::store((*sums.add(t)).as_mut_ptr(), chains[t]);
    }
    T
}

const _: () = assert!(CHUNK.is_multiple_of(8), "a chunk cuts no outer scale");
