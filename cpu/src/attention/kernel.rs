//! Attention over pages: kernels for one partition of positions.
//!
//! Naively, for one query: scores `s_p = q · k_p * scale`, weights `e^(s_p - max) / Σ`, output
//! `Σ weight_p * v_p`. Here positions are walked in partitions of [`PARTITION`], **cut at fixed positions
//! counted from the sequence's first**, each with a maximum, a sum and an unnormalised output of its own
//! ([`attend`]), which are then folded in order of position ([`fold`]; Milakov & Gimelshein 2018, "Online
//! normalizer calculation for softmax"). A query's result therefore depends on its position and on the keys
//! up to it, not on chunks, pages, other sequences or threads: whether one worker folds as it goes or many
//! leave their partitions for a later fold, the bits are the same.
//!
//! A partition is walked in blocks of [`BLOCK`] positions. What pages store becomes f32 once a block, in
//! the first-level cache, and all queries of the unit meet it there:
//!
//! ```text
//! scores   [feature][position]   positions in the lanes, a chain over features: no lanes to sum
//! values   [position][feature]   features in the lanes, a chain over positions
//! ```
//!
//! Both are tiles of some queries times two vectors, as a product of matrices has them. With the heads
//! of one group as queries even a single row makes a full tile; it meets each key and value once, so that
//! what pages store goes from registers straight into its sums. Where the CPU multiplies bfloat16 in
//! pairs, a word of two neighbours takes the place of an f32 (`pairs.rs`).

#![allow(clippy::needless_range_loop, reason = "indices name the tile's queries and vectors in several arrays")]

use std::marker::PhantomData;

use super::element::{Columns, Element, FEATURES, VECTORS};
use crate::{
    int_lanes::IntLanes,
    lanes::{LANES, LINE, Lanes, exp, largest, nearest_bf16},
};

/// Positions of a partition: keys and values of one head of 128 in bf16 are 128 KiB, which stay in the
/// second-level cache for all queries that meet them.
pub(crate) const PARTITION: usize = 256;

/// Positions of a block: with a head of 128, 16 KiB as f32.
pub(crate) const BLOCK: usize = 2 * LANES;

/// Words of a partial result: the unnormalised output, then the maximum and the sum.
pub(crate) const fn partial_words(padded_dim: usize) -> usize {
    padded_dim + LANES
}

/// Some rows' groups of heads against one partition.
pub(crate) struct Partition<'a> {
    /// Where the key of each position lies that the last row sees; 1 to [`PARTITION`] positions.
    pub(crate) keys: &'a [*const u8],
    /// The same for values.
    pub(crate) values: &'a [*const u8],
    /// Keys that are read next, a block of them at most: they are asked for while the last values are weighed.
    pub(crate) behind: &'a [*const u8],
    /// Bytes of one of them.
    pub(crate) head_bytes: usize,
    /// How many of the positions, from the first, each row does not see: less than it has `visible`. Zeros without a
    /// window.
    pub(crate) hidden: &'a [usize],
    /// The end of the positions that each row sees: at least 1, and no less than the row before.
    pub(crate) visible: &'a [usize],
    /// `[rows, group, dim]`, in words of [`Element::STEP`] features.
    pub(crate) queries: &'a [f32],
    /// Whether weights are rounded to bfloat16, as the queries were, before they meet values.
    pub(crate) rounded: bool,
    /// Features of a head, padded to whole [`FEATURES`].
    pub(crate) dim: usize,
    /// Multiplies scores.
    pub(crate) scale: f32,
    /// Working space, [`block_words`].
    pub(crate) block: &'a mut [f32],
    /// Working space, `[rows, group, PARTITION]`.
    pub(crate) scores: &'a mut [f32],
    /// `[rows, group, partial_words(dim)]`.
    pub(crate) partials: &'a mut [f32],
}

/// Words of a block as f32.
pub(crate) const fn block_words(dim: usize) -> usize {
    BLOCK * dim
}

/// Call `$tile::<…, N>(lanes, task, at, …)` for tiles of up to `$most` items until `$range` is done.
macro_rules! in_tiles {
    ($range:expr, $most:ident, $call:ident :: <$($type:ident,)+ _> ($lanes:expr, $task:expr, $($argument:expr),*)) => {{
        let (mut at, end) = ($range.start, $range.end);
        while at < end {
            at += match end - at {
                left if left >= $most => $call::<$($type,)+ $most>($lanes, $task, at, $($argument),*),
                left if left >= 4 && $most > 4 => $call::<$($type,)+ 4>($lanes, $task, at, $($argument),*),
                left if left >= 2 && $most > 2 => $call::<$($type,)+ 2>($lanes, $task, at, $($argument),*),
                _ => $call::<$($type,)+ 1>($lanes, $task, at, $($argument),*),
            };
        }
    }};
}

/// The partial result of each query, in tiles of up to `Q` queries.
///
/// # Safety
/// The CPU has the features of `E`, and `task` is consistent: its slices have the sizes that their documentation
/// names, and each of its heads is readable for `dim` features.
#[inline(always)]
pub(crate) unsafe fn attend<L: IntLanes, E: Element<L>, const Q: usize>(lanes: L, task: &mut Partition<'_>) {
    let (dim, rows, count) = (task.dim, task.visible.len(), task.keys.len());
    let group = task.queries.len() / (dim / E::STEP) / rows;
    let queries = rows * group;
    assert!((1..=PARTITION).contains(&count) && task.values.len() == count, "{count} positions");
    assert!(task.visible.is_sorted() && task.visible[0] >= 1 && task.visible[rows - 1] == count, "{count} positions");
    assert!(task.hidden.len() == rows && task.hidden.iter().zip(task.visible).all(|(h, v)| h < v), "{count} positions");
    assert!(dim.is_multiple_of(FEATURES) && task.block.len() >= block_words(dim), "room for a block");
    assert!(task.scores.len() >= queries * PARTITION, "room for scores");
    assert!(task.partials.len() >= queries * partial_words(dim), "room for {queries} partial results");

    // What meets one row's tile and nothing else need not lie in memory as f32 first.
    let direct = rows == 1 && queries <= Q;
    for start in (0..count).step_by(BLOCK) {
        let next = if start + BLOCK < count { &task.keys[start + BLOCK..] } else { task.values };
        let mut ahead = Ahead::of(next, task.head_bytes);
        if direct {
            // SAFETY: by this function's contract, and tiles hold no more than all queries.
            unsafe { in_tiles!(0..queries, Q, scores_of_keys::<L, E, _>(lanes, task, start, &mut ahead)) };
            continue;
        }
        for half in 0..BLOCK / LANES {
            // SAFETY: there is room for a block, asserted above; the rest is this function's contract.
            unsafe {
                let mut columns = Stored(task.block.as_mut_ptr().add(half * LANES));
                turn_over::<L, E>(lanes, &task.keys[start..], half, dim, &mut columns);
            }
        }
        let first = task.visible.partition_point(|&visible| visible <= start) * group;
        // SAFETY: by this function's contract; the block holds these keys.
        unsafe { in_tiles!(first..queries, Q, scores_at::<L, E, _>(lanes, task, start, &mut ahead)) };
    }

    for query in 0..queries {
        // SAFETY: by this function's contract.
        unsafe { weights::<L, E>(lanes, task, query, task.hidden[query / group], task.visible[query / group]) };
    }

    for start in (0..count).step_by(BLOCK) {
        let next = if start + BLOCK < count { &task.values[start + BLOCK..] } else { task.behind };
        let mut ahead = Ahead::of(next, task.head_bytes);
        if direct {
            let end = count.min(start + BLOCK);
            // SAFETY: by this function's contract, and tiles hold no more than all queries.
            unsafe { in_tiles!(0..queries, Q, weigh::<L, E, _>(lanes, task, (start, end), true, &mut ahead)) };
            continue;
        }
        let heads = &task.values[start..count.min(start + BLOCK)];
        for k in 0..heads.len().div_ceil(E::STEP) {
            for d in (0..dim).step_by(FEATURES) {
                // SAFETY: by this function's contract.
                let row = unsafe { E::row(lanes, heads, k, d) };
                for i in 0..VECTORS {
                    // SAFETY: there is room for a block, asserted above.
                    unsafe { lanes.store(task.block.as_mut_ptr().add(k * dim + d + i * LANES), row[i]) };
                }
            }
        }
        for row in task.visible.partition_point(|&visible| visible <= start)..rows {
            let end = task.visible[row].min(start + BLOCK);
            let queries = row * group..(row + 1) * group;
            // SAFETY: by this function's contract; the block holds these values.
            unsafe { in_tiles!(queries, Q, weigh::<L, E, _>(lanes, task, (start, end), false, &mut ahead)) };
        }
    }
}

/// The cache lines of the next block, asked for one by one between multiplications: memory takes only so
/// many questions at once, and a product of registers asks none.
struct Ahead<'a> {
    heads: &'a [*const u8],
    bytes: usize,
    /// Where in the first of `heads` the next line is.
    byte: usize,
}

impl<'a> Ahead<'a> {
    /// The first [`BLOCK`] of `heads`.
    fn of(heads: &'a [*const u8], bytes: usize) -> Self {
        Self { heads: &heads[..heads.len().min(BLOCK)], bytes, byte: 0 }
    }

    /// Ask for `lines`, as far as there are some left.
    #[inline(always)]
    fn ask<L: Lanes>(&mut self, lanes: L, lines: usize) {
        for _ in 0..lines {
            if let [head, rest @ ..] = self.heads {
                lanes.prefetch_far(head.wrapping_add(self.byte));
                self.byte += LINE;
                if self.byte >= self.bytes {
                    (self.heads, self.byte) = (rest, 0);
                }
            }
        }
    }
}

/// The features of 16 of `keys`, the first or the second half of a block. Past the end the last key is read
/// again; nobody reads its scores.
///
/// # Safety
/// The CPU has the features of `E`, each of `keys`, at least one, is readable for `dim` features, and `to` has room
/// for them.
#[inline(always)]
unsafe fn turn_over<L: IntLanes, E: Element<L>>(
    lanes: L,
    keys: &[*const u8],
    half: usize,
    dim: usize,
    to: &mut impl Columns<L>,
) {
    let mut heads = [std::ptr::null(); LANES];
    for p in 0..LANES {
        heads[p] = keys[(half * LANES + p).min(keys.len() - 1)];
    }
    for d in (0..dim).step_by(FEATURES) {
        // SAFETY: by this function's contract.
        unsafe { E::columns(lanes, heads, d, to) };
    }
}

/// Half of a block in memory, `[step of features][position]`.
struct Stored(*mut f32);

impl<L: IntLanes> Columns<L> for Stored {
    #[inline(always)]
    unsafe fn take(&mut self, lanes: L, k: usize, column: L::F) {
        // SAFETY: by this function's contract.
        unsafe { lanes.store(self.0.add(k * BLOCK), column) };
    }
}

/// Scores of half a block, made as its features come.
struct HalfBlockScores<'a, 'b, L: IntLanes, E, const Q: usize> {
    queries: [*const f32; Q],
    sums: [L::F; Q],
    ahead: &'a mut Ahead<'b>,
    element: PhantomData<E>,
}

impl<L: IntLanes, E: Element<L>, const Q: usize> Columns<L> for HalfBlockScores<'_, '_, L, E, Q> {
    #[inline(always)]
    unsafe fn take(&mut self, lanes: L, k: usize, column: L::F) {
        self.ahead.ask(lanes, E::STEP);
        for q in 0..Q {
            // SAFETY: by this function's contract; queries have as many steps as keys.
            self.sums[q] = unsafe { E::add(lanes, self.sums[q], column, self.queries[q].add(k)) };
        }
    }
}

/// Where rows of [`VECTORS`] vectors come from.
trait RowSource<L: IntLanes> {
    /// Row `k`.
    ///
    /// # Safety
    /// Row `k` is readable, and the CPU has the features of the element whose rows these are.
    unsafe fn row(&self, lanes: L, k: usize) -> [L::F; VECTORS];
}

/// Rows in memory, `stride` apart.
struct RowBlock {
    start: *const f32,
    stride: usize,
}

impl<L: IntLanes> RowSource<L> for RowBlock {
    #[inline(always)]
    unsafe fn row(&self, lanes: L, k: usize) -> [L::F; VECTORS] {
        // SAFETY: by this function's contract.
        unsafe {
            let row = self.start.add(k * self.stride);
            [lanes.load(row), lanes.load(row.add(LANES))]
        }
    }
}

/// Features from `d` on of heads as they are stored.
struct Heads<'a, E> {
    heads: &'a [*const u8],
    d: usize,
    element: PhantomData<E>,
}

impl<L: IntLanes, E: Element<L>> RowSource<L> for Heads<'_, E> {
    #[inline(always)]
    unsafe fn row(&self, lanes: L, k: usize) -> [L::F; VECTORS] {
        // SAFETY: by this function's contract.
        unsafe { E::row(lanes, self.heads, k, self.d) }
    }
}

/// `sums[q] += Σ_k left[q][k] * right[k]` in the order of the element, for `count` rows of `right`.
///
/// # Safety
/// The CPU has the features of `E`, and each of `left` is readable for `count` steps, and so are the rows of
/// `right`.
#[inline(always)]
unsafe fn multiply<L: IntLanes, E: Element<L>, const Q: usize>(
    lanes: L,
    sums: &mut [[L::F; VECTORS]; Q],
    left: [*const f32; Q],
    right: &impl RowSource<L>,
    count: usize,
    ahead: &mut Ahead<'_>,
) {
    for i in 0..count {
        ahead.ask(lanes, E::STEP);
        let neighbour = i ^ 1;
        let k = if E::ODD_FIRST && neighbour < count { neighbour } else { i };
        // SAFETY: by this function's contract.
        let row = unsafe { right.row(lanes, k) };
        for q in 0..Q {
            for v in 0..VECTORS {
                // SAFETY: as above.
                sums[q][v] = unsafe { E::add(lanes, sums[q][v], row[v], left[q].add(k)) };
            }
        }
    }
}

/// The queries from `first` on.
///
/// # Safety
/// `task` has `first + Q` queries.
#[inline(always)]
unsafe fn queries_at<L: IntLanes, E: Element<L>, const Q: usize>(
    task: &Partition<'_>,
    first: usize,
) -> [*const f32; Q] {
    // SAFETY: by this function's contract.
    std::array::from_fn(|q| unsafe { task.queries.as_ptr().add((first + q) * (task.dim / E::STEP)) })
}

/// Scores of the block at `start` for the `Q` queries from `first` on, straight from its keys; returns `Q`.
///
/// # Safety
/// The CPU has the features of `E`, and `task` is consistent and has `first + Q` queries.
#[inline(always)]
unsafe fn scores_of_keys<L: IntLanes, E: Element<L>, const Q: usize>(
    lanes: L,
    task: &mut Partition<'_>,
    first: usize,
    start: usize,
    ahead: &mut Ahead<'_>,
) -> usize {
    for half in 0..BLOCK / LANES {
        // SAFETY: by this function's contract.
        let queries = unsafe { queries_at::<L, E, Q>(task, first) };
        let mut scores =
            HalfBlockScores::<L, E, Q> { queries, sums: [lanes.splat(0.0); Q], ahead, element: PhantomData };
        // SAFETY: as above; each query is read for the features of a key.
        unsafe { turn_over::<L, E>(lanes, &task.keys[start..], half, task.dim, &mut scores) };
        let sums = scores.sums;
        for q in 0..Q {
            // SAFETY: each query has room for the scores of a partition.
            unsafe {
                let to = task.scores.as_mut_ptr().add((first + q) * PARTITION + start + half * LANES);
                lanes.store(to, lanes.mul(sums[q], lanes.splat(task.scale)));
            }
        }
    }
    Q
}

/// Scores of the block at `start` for the `Q` queries from `first` on; returns `Q`.
///
/// # Safety
/// The CPU has the features of `E`, and `task` is consistent, has `first + Q` queries, and its block holds the keys
/// from `start` on.
#[inline(always)]
unsafe fn scores_at<L: IntLanes, E: Element<L>, const Q: usize>(
    lanes: L,
    task: &mut Partition<'_>,
    first: usize,
    start: usize,
    ahead: &mut Ahead<'_>,
) -> usize {
    let mut sums = [[lanes.splat(0.0); VECTORS]; Q];
    let block = RowBlock { start: task.block.as_ptr(), stride: BLOCK };
    // SAFETY: by this function's contract.
    unsafe {
        let queries = queries_at::<L, E, Q>(task, first);
        multiply::<L, E, Q>(lanes, &mut sums, queries, &block, task.dim / E::STEP, ahead);
    }
    for q in 0..Q {
        for i in 0..VECTORS {
            // SAFETY: each query has room for the scores of a partition.
            unsafe {
                let to = task.scores.as_mut_ptr().add((first + q) * PARTITION + start + i * LANES);
                lanes.store(to, lanes.mul(sums[q][i], lanes.splat(task.scale)));
            }
        }
    }
    Q
}

/// One query's scores become weights; its maximum and sum are written, its output begins with zeros.
///
/// # Safety
/// The CPU has the features of `E`, and `task` is consistent and has this query.
#[inline(always)]
unsafe fn weights<L: IntLanes, E: Element<L>>(
    lanes: L,
    task: &mut Partition<'_>,
    query: usize,
    hidden: usize,
    visible: usize,
) {
    // SAFETY: each query has room for the scores of a partition, whole vectors of it, and for a partial result.
    unsafe {
        let scores = task.scores.as_mut_ptr().add(query * PARTITION);
        let partial = task.partials.as_mut_ptr().add(query * partial_words(task.dim));
        // Minus infinity weighs nothing, so whole vectors can be summed.
        for p in (0..hidden).chain(visible..visible.next_multiple_of(LANES)) {
            scores.add(p).write(f32::NEG_INFINITY);
        }
        let mut top = lanes.splat(f32::NEG_INFINITY);
        for p in (0..visible).step_by(LANES) {
            top = lanes.max(lanes.load(scores.add(p)), top);
        }
        let top = largest(lanes, top);
        let mut sum = lanes.splat(0.0);
        for p in (0..visible).step_by(LANES) {
            let mut weight = exp(lanes, lanes.sub(lanes.load(scores.add(p)), lanes.splat(top)));
            if task.rounded {
                weight = nearest_bf16(lanes, weight);
            }
            E::put(lanes, scores, p, weight);
            sum = lanes.add(sum, weight);
        }
        for d in (0..task.dim).step_by(LANES) {
            lanes.store(partial.add(d), lanes.splat(0.0));
        }
        partial.add(task.dim).write(top);
        partial.add(task.dim + 1).write(lanes.sum(sum));
    }
}

/// Add the values of positions `start..end`, from the block or `direct` from the pages, to the `Q` queries from
/// `first` on; returns `Q`.
///
/// # Safety
/// The CPU has the features of `E`, and `task` is consistent and has `first + Q` queries, and unless `direct` its
/// block holds the values.
#[inline(always)]
unsafe fn weigh<L: IntLanes, E: Element<L>, const Q: usize>(
    lanes: L,
    task: &mut Partition<'_>,
    first: usize,
    (start, end): (usize, usize),
    direct: bool,
    ahead: &mut Ahead<'_>,
) -> usize {
    let dim = task.dim;
    // SAFETY: each query has room for the scores of a partition.
    let weights: [*const f32; Q] =
        std::array::from_fn(|q| unsafe { task.scores.as_ptr().add((first + q) * PARTITION + start / E::STEP) });
    // Once: each time that the slice is borrowed, earlier pointers into it lose their right to write.
    let partials = task.partials.as_mut_ptr();
    // SAFETY: each query has room for a partial result.
    let outputs: [*mut f32; Q] = std::array::from_fn(|q| unsafe { partials.add((first + q) * partial_words(dim)) });
    for d in (0..dim).step_by(VECTORS * LANES) {
        let mut sums = [[lanes.splat(0.0); VECTORS]; Q];
        for q in 0..Q {
            for i in 0..VECTORS {
                // SAFETY: a partial result has `dim` features.
                sums[q][i] = unsafe { lanes.load(outputs[q].add(d + i * LANES)) };
            }
        }
        let count = (end - start).div_ceil(E::STEP);
        if direct {
            let heads = Heads { heads: &task.values[start..end], d, element: PhantomData::<E> };
            // SAFETY: by this function's contract.
            unsafe { multiply::<L, E, Q>(lanes, &mut sums, weights, &heads, count, ahead) };
        } else {
            // SAFETY: by this function's contract.
            unsafe {
                let block = RowBlock { start: task.block.as_ptr().add(d), stride: dim };
                multiply::<L, E, Q>(lanes, &mut sums, weights, &block, count, ahead);
            }
        }
        for q in 0..Q {
            for i in 0..VECTORS {
                // SAFETY: as they were loaded.
                unsafe { lanes.store(outputs[q].add(d + i * LANES), sums[q][i]) };
            }
        }
    }
    Q
}

/// Add the partial result of the next partition to that of all earlier ones. A `state` that has seen none
/// is zeros with a maximum of minus infinity. Both have the words of a partial result of `dim` features.
#[inline(always)]
pub(crate) fn fold<L: Lanes>(lanes: L, state: &mut [f32], partial: &[f32], dim: usize) {
    assert!(
        state.len() >= dim + 2 && partial.len() >= dim + 2 && dim.is_multiple_of(LANES),
        "partial results of {dim}"
    );
    let (old, new) = (state[dim], partial[dim]);
    let top = if old > new { old } else { new };
    // Through the vector's exponential, so that every instruction set rounds alike.
    let (keep, add) = (exp(lanes, lanes.splat(old - top)), exp(lanes, lanes.splat(new - top)));
    let (features, _) = state[..dim].as_chunks_mut();
    let (more, _) = partial[..dim].as_chunks();
    for (features, more) in features.iter_mut().zip(more) {
        let kept = lanes.mul(lanes.load_array(features), keep);
        lanes.store_array(features, lanes.fma(lanes.load_array(more), add, kept));
    }
    let sums = lanes.fma(lanes.splat(partial[dim + 1]), add, lanes.mul(lanes.splat(state[dim + 1]), keep));
    let mut all = [0.0; LANES];
    lanes.store_array(&mut all, sums);
    state[dim] = top;
    state[dim + 1] = all[0];
}
