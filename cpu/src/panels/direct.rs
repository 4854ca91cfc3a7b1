//! Products of panels unpacked in registers: the order of additions of all of them, and the loop that keeps up with
//! memory.
//!
//! Naively, `out[t][r] = Σ_k w[r][k] * x[t][k]`. Here the 16 lanes are 16 rows, and columns are walked in
//! order: per block of 32 columns the integers are multiplied and summed exactly, made f32, scaled by
//! the weights' scale and the inputs', and added to one chain a row. **Every (row, token) pair is
//! computed in exactly this way whatever surrounds it**; a tile of `T` tokens only shares the loads and
//! the unpacking of one panel. Nothing is left to sum across lanes.
//!
//! ```text
//! chain += x.scale * (w.scale * (Σ code * x − OFFSET * Σ x) − w.min * Σ x)        for each block
//! ```
//!
//! Integer sums begin at `−OFFSET * Σ x`, which the inputs bring along, so the offset costs a shift.
//!
//! With f32 inputs ([`Expanded`]) each weight is expanded to the value that the file gives it and one
//! multiply-add a column follows: slow, exact, for `Precision::F32` and for tests.

#![allow(clippy::needless_range_loop, reason = "indices name the tile's tokens in several arrays at once")]

use std::marker::PhantomData;

use crate::{
    gemm::Gemm,
    int_lanes::{Dot4, IntLanes},
    int8::{BLOCK, FLOATS, RECORD, RECORD_BYTES, SCALE, SUMS},
    lanes::{LANES, LINE, store_first},
    panels::Panels,
    panels::format::{Codes, STEP, STEPS, Scales},
};

/// How far ahead memory is asked for, into the second-level cache: the hardware's own prefetching stops at
/// each 4 KiB page, and the first-level cache has too few places for what is on its way. On Zen 4 a lone
/// token's experts go from 19 to 28 GB/s against asking 4 KiB ahead for the first-level cache; half as far is
/// slower, twice as far not quicker.
const AHEAD: usize = 8192;

/// One panel as a kernel sees it.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    scales: *const u8,
    codes: *const u8,
    /// Outer scales along a row.
    outers: usize,
}

/// One panel times some tokens: what the loops below are written for.
pub(crate) trait Tile<L: IntLanes> {
    /// Blocks of 32 columns that share their outer scales.
    const BLOCKS: usize;

    /// The 16 rows' products with `T` tokens.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `panel` is readable for its outer scales and their codes, and each of
    /// `x` for as many columns.
    unsafe fn tile<const T: usize>(lanes: L, panel: Panel, x: [*const u8; T]) -> [L::F; T];
}

/// All rows and tokens of `task` in tiles of up to `T` tokens.
///
/// Tokens are the outer loop: a tile's inputs stay in the first-level cache while the unit's weights come
/// from the second.
///
/// # Safety
/// The CPU has the features of `K`, and `task` has passed `Gemm::check`.
#[inline(always)]
pub(crate) unsafe fn run<L: IntLanes, K: Tile<L>, const T: usize>(lanes: L, task: &Gemm<'_, Panels>) {
    let tokens = task.x_rows.len();
    let mut done = 0;
    while done < tokens {
        // SAFETY: by this function's contract, and so many tokens are left.
        done += unsafe {
            match tokens - done {
                left if left >= T => tokens_at::<L, K, T>(lanes, task, done),
                left if left >= 4 && T > 4 => tokens_at::<L, K, 4>(lanes, task, done),
                left if left >= 2 && T > 2 => tokens_at::<L, K, 2>(lanes, task, done),
                _ => tokens_at::<L, K, 1>(lanes, task, done),
            }
        };
    }
}

/// All rows of `task` times the `T` tokens from `first` on; returns `T`.
///
/// # Safety
/// The CPU has the features of `K`, and `task` has passed `Gemm::check` and has `first + T` tokens.
#[inline(always)]
unsafe fn tokens_at<L: IntLanes, K: Tile<L>, const T: usize>(lanes: L, task: &Gemm<'_, Panels>, first: usize) -> usize {
    let (matrix, rows) = (task.matrix, &task.rows);
    let shape = matrix.shape();
    // SAFETY: `Gemm::check` found the rows of each token within the inputs and the outputs.
    let x: [*const u8; T] = std::array::from_fn(|t| unsafe {
        task.x.values.as_ptr().add(task.x_rows[first + t] as usize * task.x.stride).cast()
    });
    // SAFETY: as above.
    let out: [*mut f32; T] = std::array::from_fn(|t| unsafe {
        task.out.as_ptr().add(task.out_rows[first + t] as usize * task.out_stride + task.out_column)
    });
    for row in rows.clone().step_by(LANES) {
        let outers = matrix.cols() / (BLOCK * K::BLOCKS);
        // SAFETY: `Gemm::check` found the rows within the matrix, whose panels have this shape.
        let sums = unsafe {
            let scales = matrix.bytes().as_ptr().add(row / LANES * shape.bytes);
            K::tile(lanes, Panel { scales, codes: scales.add(shape.scales), outers }, x)
        };
        for t in 0..T {
            // SAFETY: `Gemm::check` found the columns of these rows within the outputs, which are this task's alone.
            let out = unsafe { std::slice::from_raw_parts_mut(out[t].add(row - rows.start), rows.end - row) };
            store_first(lanes, out, sums[t]);
        }
    }
    T
}

/// Inputs are records of `int8.rs`.
pub(crate) struct Integers<D, C, S>(PhantomData<(D, C, S)>);

impl<L: IntLanes, D: Dot4<L>, C: Codes, S: Scales> Tile<L> for Integers<D, C, S> {
    const BLOCKS: usize = S::BLOCKS;

    #[inline(always)]
    unsafe fn tile<const T: usize>(lanes: L, panel: Panel, x: [*const u8; T]) -> [L::F; T] {
        // SAFETY: by this function's contract.
        unsafe { integers::<L, D, C, S, T>(lanes, panel, x) }
    }
}

/// Inputs are f32 in order.
pub(crate) struct Expanded<C, S>(PhantomData<(C, S)>);

impl<L: IntLanes, C: Codes, S: Scales> Tile<L> for Expanded<C, S> {
    const BLOCKS: usize = S::BLOCKS;

    #[inline(always)]
    unsafe fn tile<const T: usize>(lanes: L, panel: Panel, x: [*const u8; T]) -> [L::F; T] {
        // SAFETY: by this function's contract.
        unsafe { expanded::<L, C, S, T>(lanes, panel, x) }
    }
}

/// What an integer sum begins with; `sum` points at the negative sum of the inputs that it will meet.
///
/// # Safety
/// The CPU has the features of `D`, and `sum` is readable for 4 bytes.
#[inline(always)]
pub(crate) unsafe fn start<L: IntLanes, D: Dot4<L>, C: Codes>(lanes: L, sum: *const u8) -> L::I {
    if C::OFFSET > 0 {
        // SAFETY: by this function's contract.
        unsafe { D::start(lanes.splat_word(sum), C::OFFSET.trailing_zeros()) }
    } else {
        lanes.zero()
    }
}

/// One step of 16 rows and one token.
///
/// # Safety
/// The CPU has the features of `D`.
#[inline(always)]
pub(crate) unsafe fn dot<L: IntLanes, D: Dot4<L>, C: Codes>(acc: L::I, w: L::B, x: L::I) -> L::I {
    // SAFETY: by this function's contract.
    unsafe { if C::WIDE { D::dot::<true>(acc, w, x) } else { D::dot::<false>(acc, w, x) } }
}

/// A block's part after its group `g`, whose integer sum is `acc`; `sum` points at the negative sum of the
/// inputs as f32.
///
/// # Safety
/// `sum` is readable for 4 bytes.
#[inline(always)]
pub(crate) unsafe fn part<L: IntLanes, S: Scales>(
    lanes: L,
    g: usize,
    part: L::F,
    acc: L::I,
    (scale, min): (L::F, L::F),
    sum: *const u8,
) -> L::F {
    let products = lanes.to_f32(acc);
    // SAFETY: by this function's contract.
    let sum = || lanes.splat(unsafe { *sum.cast::<f32>() });
    match (S::MINS, g) {
        (false, 0) => lanes.mul(products, scale),
        (false, _) => lanes.fma(products, scale, part),
        (true, 0) => lanes.fma(products, scale, lanes.mul(min, sum())),
        (true, _) => lanes.fma(products, scale, lanes.fma(min, sum(), part)),
    }
}

/// # Safety
/// The CPU has the features of `D`, and `panel` is readable for its outer scales and their codes, and each of `x`
/// for as many columns.
#[inline(always)]
unsafe fn integers<L: IntLanes, D: Dot4<L>, C: Codes, S: Scales, const T: usize>(
    lanes: L,
    panel: Panel,
    x: [*const u8; T],
) -> [L::F; T] {
    let mut sums = [lanes.splat(0.0); T];
    // A block's share of the panel, scales included: codes and scales come from memory as one stream.
    let share = C::BYTES + S::BYTES / S::BLOCKS;
    for o in 0..panel.outers {
        // SAFETY: by this function's contract, as all that is read of the panel and of the inputs below.
        let scales = unsafe { panel.scales.add(o * S::BYTES) };
        // SAFETY: as above.
        let outer = unsafe { S::outer(lanes, scales) };
        for b in 0..S::BLOCKS {
            let block = o * S::BLOCKS + b;
            // SAFETY: as above.
            let codes = unsafe { panel.codes.add(block * C::BYTES) };
            for byte in (0..share).step_by(LINE) {
                lanes.prefetch_far(panel.scales.wrapping_add(AHEAD + block * share + byte));
            }
            let record = block * RECORD_BYTES;
            let mut parts = [lanes.splat(0.0); T];
            for g in 0..S::GROUPS {
                // SAFETY: as above.
                let (scale, min) = unsafe { S::group(lanes, scales, outer, b * S::GROUPS + g) };
                // The sums of the whole block, or of its halves.
                let at = SUMS + if S::GROUPS == 1 { 0 } else { 1 + g };
                let mut acc = [lanes.zero(); T];
                for t in 0..T {
                    // SAFETY: as above.
                    acc[t] = unsafe { start::<L, D, C>(lanes, x[t].add(record + 4 * at)) };
                }
                for s in g * STEPS / S::GROUPS..(g + 1) * STEPS / S::GROUPS {
                    // SAFETY: as above.
                    let w = unsafe { C::step(lanes, codes, s) };
                    for t in 0..T {
                        // SAFETY: as above.
                        acc[t] = unsafe { dot::<L, D, C>(acc[t], w, lanes.splat_word(x[t].add(record + STEP * s))) };
                    }
                }
                for t in 0..T {
                    // SAFETY: as above.
                    parts[t] = unsafe {
                        let sum = x[t].add(record + 4 * (at + FLOATS));
                        part::<L, S>(lanes, g, parts[t], acc[t], (scale, min), sum)
                    };
                }
            }
            for t in 0..T {
                // SAFETY: as above.
                let scale = unsafe { *x[t].add(record + 4 * SCALE).cast::<f32>() };
                sums[t] = lanes.fma(parts[t], lanes.splat(scale), sums[t]);
            }
        }
    }
    sums
}

/// # Safety
/// `panel` is readable for its outer scales and their codes, and each of `x` for as many columns.
#[inline(always)]
unsafe fn expanded<L: IntLanes, C: Codes, S: Scales, const T: usize>(
    lanes: L,
    panel: Panel,
    x: [*const u8; T],
) -> [L::F; T] {
    let mut sums = [lanes.splat(0.0); T];
    let offset = lanes.splat(C::OFFSET as f32);
    for o in 0..panel.outers {
        // SAFETY: by this function's contract, as all that is read of the panel and of the inputs below.
        let scales = unsafe { panel.scales.add(o * S::BYTES) };
        // SAFETY: as above.
        let outer = unsafe { S::outer(lanes, scales) };
        for b in 0..S::BLOCKS {
            let block = o * S::BLOCKS + b;
            // SAFETY: as above.
            let codes = unsafe { panel.codes.add(block * C::BYTES) };
            for s in 0..STEPS {
                // SAFETY: as above.
                let (scale, min) = unsafe { S::group(lanes, scales, outer, b * S::GROUPS + s * S::GROUPS / STEPS) };
                // SAFETY: as above.
                let w = unsafe { C::step(lanes, codes, s) };
                for k in 0..STEP {
                    // As `Block::values` rounds.
                    let quant = lanes.sub(lanes.byte(w, k as u32), offset);
                    let value = lanes.sub(lanes.mul(scale, quant), min);
                    for t in 0..T {
                        // SAFETY: as above.
                        let x = unsafe { *x[t].cast::<f32>().add(block * BLOCK + STEP * s + k) };
                        sums[t] = lanes.fma(value, lanes.splat(x), sums[t]);
                    }
                }
            }
        }
    }
    sums
}

// A record and a plain block of inputs begin on whole words of the same rows.
const _: () = assert!(RECORD_BYTES == RECORD * size_of::<f32>());
