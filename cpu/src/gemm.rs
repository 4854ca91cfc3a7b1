//! Products with mapped weights: the one loop over plain encodings and fp8, instruction sets and batch sizes.
//!
//! Naively, `out[t][r] = Σ_k w[r][k] * x[t][k]`. Here 16 lanes run along `k`, one chain of additions a
//! lane, and the lanes are summed at the end in one fixed tree. **Every (row, token) pair is computed in
//! exactly this way whatever surrounds it**, so a token's result has the same bits alone and in a batch.
//! A tile only decides which pairs share their loads: `R` rows of weights meet `T` tokens in `R × T`
//! accumulators. With block scales each block is summed by itself and then added, scaled, to a second
//! set of accumulators.
//!
//! What did not pay: several chains for one pair in the single-token case. Four rows at once hide the
//! latency just as well and keep the order.

#![allow(clippy::needless_range_loop, reason = "indices name the tile's rows and tokens in several arrays at once")]

use std::ops::Range;

use quern_backend::PackedMatrix;

use crate::{
    dot::Dot,
    lanes::{LANES, LINE, Lanes},
    memory::DisjointMut,
};

/// Rows of inputs as a kernel wants them (`dot::ActivationLayout`).
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// All rows, one after the other.
    pub(crate) values: &'a [f32],
    /// f32 words of a row.
    pub(crate) stride: usize,
}

/// One unit of work: some rows of a matrix times some tokens. `M` is how the matrix lies in memory; `Gemm::check` is in
/// `matrix.rs`, which knows both ways.
pub(crate) struct Gemm<'a, M = PackedMatrix> {
    pub(crate) matrix: &'a M,
    /// Rows of the matrix.
    pub(crate) rows: Range<usize>,
    pub(crate) x: Inputs<'a>,
    /// Row of `x` of each token.
    pub(crate) x_rows: &'a [u32],
    /// `[_, out_stride]`.
    pub(crate) out: DisjointMut<'a, f32>,
    pub(crate) out_stride: usize,
    /// Row of `out` of each token.
    pub(crate) out_rows: &'a [u32],
    /// Column of `out` that takes the first of `rows`.
    pub(crate) out_column: usize,
}

impl<'a, M> Gemm<'a, M> {
    /// The same work, its matrix seen as what it is.
    pub(crate) fn of<N>(&self, matrix: &'a N) -> Gemm<'a, N> {
        Gemm {
            matrix,
            rows: self.rows.clone(),
            x: self.x,
            x_rows: self.x_rows,
            out: self.out,
            out_stride: self.out_stride,
            out_rows: self.out_rows,
            out_column: self.out_column,
        }
    }
}

/// All rows and tokens of `task` in tiles of `R × T`.
///
/// Tokens are the outer loop: a tile's inputs stay in the first-level cache while the unit's weights
/// come from the second.
///
/// # Safety
/// The CPU has the features of `D`, and `task` has passed `Gemm::check`.
#[inline(always)]
pub(crate) unsafe fn run<L: Lanes, D: Dot<L>, const R: usize, const T: usize>(lanes: L, task: &Gemm<'_>) {
    let tokens = task.x_rows.len();
    let mut done = 0;
    while done < tokens {
        let left = tokens - done;
        // SAFETY: by this function's contract, and so many tokens are left.
        done += unsafe {
            match left {
                _ if left >= T => tokens_at::<L, D, R, T>(lanes, task, done),
                _ if left >= 4 && T > 4 => tokens_at::<L, D, R, 4>(lanes, task, done),
                _ if left >= 3 && T > 3 => tokens_at::<L, D, R, 3>(lanes, task, done),
                _ if left >= 2 && T > 2 => tokens_at::<L, D, R, 2>(lanes, task, done),
                // One token leaves registers for more rows: more streams from memory at once.
                _ => tokens_at::<L, D, 4, 1>(lanes, task, done),
            }
        };
    }
}

/// All rows of `task` times the `T` tokens from `first` on; returns `T`.
///
/// # Safety
/// The CPU has the features of `D`, and `task` has passed `Gemm::check` and has `first + T` tokens.
#[inline(always)]
unsafe fn tokens_at<L: Lanes, D: Dot<L>, const R: usize, const T: usize>(
    lanes: L,
    task: &Gemm<'_>,
    first: usize,
) -> usize {
    let matrix = task.matrix;
    let stride = matrix.stride();
    let weights = matrix.span().as_ptr();
    // Steps of the first block that lie before the first column.
    let before = matrix.scale_origin() / D::STEP;
    // SAFETY: `Gemm::check` found the rows of each token within the inputs and the outputs.
    let x: [*const u8; T] = std::array::from_fn(|t| unsafe {
        task.x.values.as_ptr().add(task.x_rows[first + t] as usize * task.x.stride).cast()
    });
    // SAFETY: as above.
    let out: [*mut f32; T] = std::array::from_fn(|t| unsafe {
        task.out.as_ptr().add(task.out_rows[first + t] as usize * task.out_stride + task.out_column)
    });
    for row in task.rows.clone().step_by(R) {
        // Past the end the last row is computed again and dropped: cheaper than kernels for each rest.
        let rows: [usize; R] = std::array::from_fn(|r| (row + r).min(task.rows.end - 1));
        // SAFETY: `Gemm::check` found the rows within the matrix.
        let w = rows.map(|r| unsafe { weights.add(r * stride) });
        let scales = rows.map(|r| {
            if D::BLOCK_STEPS > 0 {
                matrix.row_scales(r).map_or(std::ptr::null(), <[f32]>::as_ptr)
            } else {
                std::ptr::null()
            }
        });
        // SAFETY: each row has its columns, its scales and, as `Gemm::check` found, inputs padded to whole steps.
        let sums = unsafe { tile::<L, D, R, T>(lanes, &w, R * stride, (&scales, before), &x, matrix.cols()) };
        for r in 0..R.min(task.rows.end - row) {
            for t in 0..T {
                // SAFETY: `Gemm::check` found the columns of these rows within the outputs.
                unsafe { out[t].add(row - task.rows.start + r).write(lanes.sum(sums[r][t])) };
            }
        }
    }
    T
}

/// `R × T` dots of `cols` columns, as unsummed lanes. `next` bytes after the weights are those that follow. The first
/// of each row's `scales` holds for `before` steps less than a block.
///
/// With one token the time is memory's. The hardware asks ahead within 4 KiB pages, and a row of fp8 is half
/// a page: it would stop before it has begun. So the next rows are asked for here, each at the same column.
///
/// # Safety
/// The CPU has the features of `D`, each row of `w` is readable for `cols` columns and each of the inputs for as
/// many, padded to whole steps, and each of `scales` for the blocks of those columns.
#[inline(always)]
unsafe fn tile<L: Lanes, D: Dot<L>, const R: usize, const T: usize>(
    lanes: L,
    w: &[*const u8; R],
    next: usize,
    (scales, before): (&[*const f32; R], usize),
    x: &[*const u8; T],
    cols: usize,
) -> [[L::F; T]; R] {
    // Bytes of a step of inputs: the layouts differ only in the element's size.
    let x_bytes = D::LAYOUT.row_bytes(32) / (32 / D::STEP);
    let steps = cols / D::STEP;
    let rest = cols % D::STEP;
    let mut sums = [[lanes.splat(0.0); T]; R];
    if D::BLOCK_STEPS == 0 {
        for s in 0..steps {
            ask_for::<L, R, T>(lanes, w, s * D::WEIGHT_BYTES + next, D::WEIGHT_BYTES);
            // SAFETY: by this function's contract.
            unsafe { step::<L, D, R, T>(lanes, &mut sums, w, s * D::WEIGHT_BYTES, x, s * x_bytes) };
        }
        if rest > 0 {
            // SAFETY: by this function's contract.
            unsafe { last_step::<L, D, R, T>(lanes, &mut sums, w, steps * D::WEIGHT_BYTES, rest, x, steps * x_bytes) };
        }
        return sums;
    }
    let blocks = (before * D::STEP + cols).div_ceil(D::BLOCK_STEPS * D::STEP);
    for block in 0..blocks {
        let mut part = [[lanes.splat(0.0); T]; R];
        let start = (block * D::BLOCK_STEPS).saturating_sub(before);
        let end = (block + 1) * D::BLOCK_STEPS - before;
        if start + D::BLOCK_STEPS == end && end <= steps {
            ask_for::<L, R, T>(lanes, w, start * D::WEIGHT_BYTES + next, D::BLOCK_STEPS * D::WEIGHT_BYTES);
            // A whole block, with a bound the compiler can unroll.
            for s in 0..D::BLOCK_STEPS {
                // SAFETY: by this function's contract.
                unsafe {
                    step::<L, D, R, T>(lanes, &mut part, w, (start + s) * D::WEIGHT_BYTES, x, (start + s) * x_bytes)
                };
            }
        } else {
            for s in start..end.min(steps) {
                // SAFETY: by this function's contract.
                unsafe { step::<L, D, R, T>(lanes, &mut part, w, s * D::WEIGHT_BYTES, x, s * x_bytes) };
            }
            if rest > 0 && end > steps {
                // SAFETY: by this function's contract.
                unsafe {
                    last_step::<L, D, R, T>(lanes, &mut part, w, steps * D::WEIGHT_BYTES, rest, x, steps * x_bytes)
                };
            }
        }
        for r in 0..R {
            // SAFETY: by this function's contract.
            let scale = lanes.splat(unsafe { *scales[r].add(block) });
            for t in 0..T {
                sums[r][t] = lanes.fma(part[r][t], scale, sums[r][t]);
            }
        }
    }
    sums
}

/// `bytes` from `at` on of each row, if there is one token.
#[inline(always)]
fn ask_for<L: Lanes, const R: usize, const T: usize>(lanes: L, w: &[*const u8; R], at: usize, bytes: usize) {
    if T == 1 {
        for r in 0..R {
            for line in (0..bytes).step_by(LINE) {
                lanes.prefetch_far(w[r].wrapping_add(at + line));
            }
        }
    }
}

/// # Safety
/// The CPU has the features of `D`, and rows and inputs are readable for the step.
#[inline(always)]
unsafe fn step<L: Lanes, D: Dot<L>, const R: usize, const T: usize>(
    lanes: L,
    sums: &mut [[L::F; T]; R],
    w: &[*const u8; R],
    w_at: usize,
    x: &[*const u8; T],
    x_at: usize,
) {
    for r in 0..R {
        // SAFETY: by this function's contract.
        let weights = unsafe { D::load(lanes, w[r].add(w_at)) };
        for t in 0..T {
            // SAFETY: as above.
            sums[r][t] = unsafe { D::dot(lanes, sums[r][t], weights, x[t].add(x_at)) };
        }
    }
}

/// The `rest` columns behind the last whole step, zeros behind them. (Inputs are padded already.)
///
/// # Safety
/// The CPU has the features of `D`, and rows are readable for `rest` columns, inputs for a step.
#[inline(always)]
unsafe fn last_step<L: Lanes, D: Dot<L>, const R: usize, const T: usize>(
    lanes: L,
    sums: &mut [[L::F; T]; R],
    w: &[*const u8; R],
    w_at: usize,
    rest: usize,
    x: &[*const u8; T],
    x_at: usize,
) {
    let mut padded = [[0u8; 4 * LANES]; R];
    let bytes = rest * D::WEIGHT_BYTES / D::STEP;
    for r in 0..R {
        // SAFETY: by this function's contract, and `rest` columns are less than a step.
        unsafe { std::ptr::copy_nonoverlapping(w[r].add(w_at), padded[r].as_mut_ptr(), bytes) };
    }
    let w = std::array::from_fn(|r| padded[r].as_ptr());
    // SAFETY: a padded row is at least a step.
    unsafe { step::<L, D, R, T>(lanes, sums, &w, 0, x, x_at) };
}
