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

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]
#![allow(clippy::needless_range_loop, reason = "indices name the tile's tokens in several arrays at once")]

use std::marker::PhantomData;

use crate::{
    gemm::Gemm,
    int_lanes::{Dot4, IntLanes},
    int8::{FLOATS, RECORD, RECORD_BYTES, SCALE, SUMS},
    lanes::{LANES, LINE, store_first},
    panels::Panels,
    panels::format::{BLOCK, Codes, STEP, STEPS, Scales},
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
    /// The CPU has the features of `L`, and `panel` is readable for its outer scales and their codes, and each of
    /// `x` for as many columns.
    unsafe fn tile<const T: usize>(panel: Panel, x: [*const u8; T]) -> [L::F; T];
}

/// All rows and tokens of `task` in tiles of up to `T` tokens.
///
/// Tokens are the outer loop: a tile's inputs stay in the first-level cache while the unit's weights come
/// from the second.
///
/// # Safety
/// The CPU has the features of `L`, and `task` has passed `Gemm::check`.
#[inline(always)]
pub(crate) unsafe fn run<L: IntLanes, K: Tile<L>, const T: usize>(task: &Gemm<'_, Panels>) {
    let tokens = task.x_rows.len();
    let mut done = 0;
    while done < tokens {
        done += match tokens - done {
            left if left >= T => tokens_at::<L, K, T>(task, done),
            left if left >= 4 && T > 4 => tokens_at::<L, K, 4>(task, done),
            left if left >= 2 && T > 2 => tokens_at::<L, K, 2>(task, done),
            _ => tokens_at::<L, K, 1>(task, done),
        };
    }
}

/// All rows of `task` times the `T` tokens from `first` on; returns `T`.
///
/// # Safety
/// The CPU has the features of `L`, and `task` has passed `Gemm::check` and has `first + T` tokens.
#[inline(always)]
unsafe fn tokens_at<L: IntLanes, K: Tile<L>, const T: usize>(task: &Gemm<'_, Panels>, first: usize) -> usize {
    let (matrix, rows) = (task.matrix, &task.rows);
    let shape = matrix.shape();
    let x: [*const u8; T] =
        std::array::from_fn(|t| task.x.values.as_ptr().add(task.x_rows[first + t] as usize * task.x.stride).cast());
    let out: [*mut f32; T] = std::array::from_fn(|t| {
        task.out.as_ptr().add(task.out_rows[first + t] as usize * task.out_stride + task.out_column)
    });
    for row in rows.clone().step_by(LANES) {
        let scales = matrix.bytes().as_ptr().add(row / LANES * shape.bytes);
        let outers = matrix.cols() / (BLOCK * K::BLOCKS);
        let sums = K::tile(Panel { scales, codes: scales.add(shape.scales), outers }, x);
        for t in 0..T {
            store_first::<L>(out[t].add(row - rows.start), rows.end - row, sums[t]);
        }
    }
    T
}

/// Inputs are records of `int8.rs`.
pub(crate) struct Integers<D, C, S>(PhantomData<(D, C, S)>);

impl<L: IntLanes, D: Dot4<L>, C: Codes, S: Scales> Tile<L> for Integers<D, C, S> {
    const BLOCKS: usize = S::BLOCKS;

    #[inline(always)]
    unsafe fn tile<const T: usize>(panel: Panel, x: [*const u8; T]) -> [L::F; T] {
        integers::<L, D, C, S, T>(panel, x)
    }
}

/// Inputs are f32 in order.
pub(crate) struct Expanded<C, S>(PhantomData<(C, S)>);

impl<L: IntLanes, C: Codes, S: Scales> Tile<L> for Expanded<C, S> {
    const BLOCKS: usize = S::BLOCKS;

    #[inline(always)]
    unsafe fn tile<const T: usize>(panel: Panel, x: [*const u8; T]) -> [L::F; T] {
        expanded::<L, C, S, T>(panel, x)
    }
}

/// What an integer sum begins with; `sum` points at the negative sum of the inputs that it will meet.
///
/// # Safety
/// The CPU has the features of `L`, and `sum` is readable for 4 bytes.
#[inline(always)]
pub(crate) unsafe fn start<L: IntLanes, D: Dot4<L>, C: Codes>(sum: *const u8) -> L::I {
    if C::OFFSET > 0 { D::start(L::splat_word(sum), C::OFFSET.trailing_zeros()) } else { L::zero() }
}

/// One step of 16 rows and one token.
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(crate) unsafe fn dot<L: IntLanes, D: Dot4<L>, C: Codes>(acc: L::I, w: L::B, x: L::I) -> L::I {
    if C::WIDE { D::dot::<true>(acc, w, x) } else { D::dot::<false>(acc, w, x) }
}

/// A block's part after its group `g`, whose integer sum is `acc`; `sum` points at the negative sum of the
/// inputs as f32.
///
/// # Safety
/// The CPU has the features of `L`, and `sum` is readable for 4 bytes.
#[inline(always)]
pub(crate) unsafe fn part<L: IntLanes, S: Scales>(
    g: usize,
    part: L::F,
    acc: L::I,
    (scale, min): (L::F, L::F),
    sum: *const u8,
) -> L::F {
    let products = L::to_f32(acc);
    match (S::MINS, g) {
        (false, 0) => L::mul(products, scale),
        (false, _) => L::fma(products, scale, part),
        (true, 0) => L::fma(products, scale, L::mul(min, L::splat(*sum.cast::<f32>()))),
        (true, _) => L::fma(products, scale, L::fma(min, L::splat(*sum.cast::<f32>()), part)),
    }
}

/// # Safety
/// The CPU has the features of `L`, and `panel` is readable for its outer scales and their codes, and each of `x`
/// for as many columns.
#[inline(always)]
unsafe fn integers<L: IntLanes, D: Dot4<L>, C: Codes, S: Scales, const T: usize>(
    panel: Panel,
    x: [*const u8; T],
) -> [L::F; T] {
    let mut sums = [L::splat(0.0); T];
    // A block's share of the panel, scales included: codes and scales come from memory as one stream.
    let share = C::BYTES + S::BYTES / S::BLOCKS;
    for o in 0..panel.outers {
        let scales = panel.scales.add(o * S::BYTES);
        let outer = S::outer::<L>(scales);
        for b in 0..S::BLOCKS {
            let block = o * S::BLOCKS + b;
            let codes = panel.codes.add(block * C::BYTES);
            for byte in (0..share).step_by(LINE) {
                L::prefetch_far(panel.scales.wrapping_add(AHEAD + block * share + byte));
            }
            let record = block * RECORD_BYTES;
            let mut parts = [L::splat(0.0); T];
            for g in 0..S::GROUPS {
                let (scale, min) = S::group::<L>(scales, outer, b * S::GROUPS + g);
                // The sums of the whole block, or of its halves.
                let at = SUMS + if S::GROUPS == 1 { 0 } else { 1 + g };
                let mut acc = [L::zero(); T];
                for t in 0..T {
                    acc[t] = start::<L, D, C>(x[t].add(record + 4 * at));
                }
                for s in g * STEPS / S::GROUPS..(g + 1) * STEPS / S::GROUPS {
                    let w = C::step::<L>(codes, s);
                    for t in 0..T {
                        acc[t] = dot::<L, D, C>(acc[t], w, L::splat_word(x[t].add(record + STEP * s)));
                    }
                }
                for t in 0..T {
                    let sum = x[t].add(record + 4 * (at + FLOATS));
                    parts[t] = part::<L, S>(g, parts[t], acc[t], (scale, min), sum);
                }
            }
            for t in 0..T {
                sums[t] = L::fma(parts[t], L::splat(*x[t].add(record + 4 * SCALE).cast::<f32>()), sums[t]);
            }
        }
    }
    sums
}

/// # Safety
/// The CPU has the features of `L`, and `panel` is readable for its outer scales and their codes, and each of `x`
/// for as many columns.
#[inline(always)]
unsafe fn expanded<L: IntLanes, C: Codes, S: Scales, const T: usize>(panel: Panel, x: [*const u8; T]) -> [L::F; T] {
    let mut sums = [L::splat(0.0); T];
    let offset = L::splat(C::OFFSET as f32);
    for o in 0..panel.outers {
        let scales = panel.scales.add(o * S::BYTES);
        let outer = S::outer::<L>(scales);
        for b in 0..S::BLOCKS {
            let block = o * S::BLOCKS + b;
            let codes = panel.codes.add(block * C::BYTES);
            for s in 0..STEPS {
                let (scale, min) = S::group::<L>(scales, outer, b * S::GROUPS + s * S::GROUPS / STEPS);
                let w = C::step::<L>(codes, s);
                for k in 0..STEP {
                    // As `Block::values` rounds.
                    let quant = L::sub(L::byte(w, k as u32), offset);
                    let value = L::sub(L::mul(scale, quant), min);
                    for t in 0..T {
                        let x = *x[t].cast::<f32>().add(block * BLOCK + STEP * s + k);
                        sums[t] = L::fma(value, L::splat(x), sums[t]);
                    }
                }
            }
        }
    }
    sums
}

// A record and a plain block of inputs begin on whole words of the same rows.
const _: () = assert!(RECORD_BYTES == RECORD * size_of::<f32>());
