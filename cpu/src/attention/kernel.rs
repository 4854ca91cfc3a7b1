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
//! The heads of a group share the loads of keys and values, four at a time.

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]
#![allow(clippy::needless_range_loop, reason = "indices name the tile's rows and tokens in several arrays at once")]

use half::bf16;

use crate::lanes::{LANES, Lanes, exp, largest};

/// Positions of a partition: keys and values of one head of 128 in bf16 are 128 KiB, which stay in the
/// second-level cache for all queries that meet them.
pub(crate) const PARTITION: usize = 256;

/// Queries whose scores are computed together.
pub(super) const QUERIES: usize = 4;

/// Room for scores: a tile of positions may write behind the last one.
pub(super) const SCORES: usize = PARTITION + LANES;

/// Words of a partial result: the unnormalised output, then the maximum and the sum.
pub(super) const fn partial_words(padded_dim: usize) -> usize {
    padded_dim + LANES
}

/// The queries of one row's group of heads against one partition.
pub(crate) struct Partition<'a> {
    /// Where each visible position's key lies, `dim` elements; 1 to [`PARTITION`] positions.
    pub(crate) keys: &'a [*const u8],
    /// The same for values.
    pub(crate) values: &'a [*const u8],
    /// `[group, dim]`.
    pub(crate) queries: &'a [f32],
    /// Features of a head, padded to whole vectors.
    pub(crate) dim: usize,
    /// `1 / sqrt(head_dim)`.
    pub(crate) scale: f32,
    /// Working space, `[4, SCORES]`.
    pub(crate) scores: &'a mut [f32],
    /// `[group, partial_words(dim)]`.
    pub(crate) partials: &'a mut [f32],
}

/// An element kernels can load.
pub(crate) trait Element: Copy {
    /// 16 of them. Contract: as in `lanes.rs`.
    unsafe fn load<L: Lanes>(from: *const Self) -> L::F;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::F {
        L::load(from)
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::F {
        L::load_bf16(from.cast())
    }
}

/// The partial result of each query of the group.
#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes, E: Element>(task: &mut Partition<'_>) {
    let group = task.queries.len() / task.dim;
    let count = task.keys.len();
    assert!((1..=PARTITION).contains(&count) && task.values.len() == count, "{count} positions");
    assert!(task.dim.is_multiple_of(LANES) && task.scores.len() >= QUERIES * SCORES, "room for scores");
    assert!(task.partials.len() >= group * partial_words(task.dim), "room for {group} partial results");
    let mut query = 0;
    while query < group {
        query += match group - query {
            1 => queries_at::<L, E, 1>(task, query),
            2 => queries_at::<L, E, 2>(task, query),
            3 => queries_at::<L, E, 3>(task, query),
            _ => queries_at::<L, E, QUERIES>(task, query),
        };
    }
}

/// The `Q` queries from `first` on; returns `Q`.
#[inline(always)]
unsafe fn queries_at<L: Lanes, E: Element, const Q: usize>(task: &mut Partition<'_>, first: usize) -> usize {
    let (dim, count) = (task.dim, task.keys.len());
    let queries: [*const f32; Q] = std::array::from_fn(|q| task.queries.as_ptr().add((first + q) * dim));
    let scores: [*mut f32; Q] = std::array::from_fn(|q| task.scores.as_mut_ptr().add(q * SCORES));
    let partials: [*mut f32; Q] =
        std::array::from_fn(|q| task.partials.as_mut_ptr().add((first + q) * partial_words(dim)));

    const TILE: usize = 4;
    for position in (0..count).step_by(TILE) {
        // Past the end the last key is read again; its scores are overwritten below.
        let keys: [*const E; TILE] = std::array::from_fn(|p| task.keys[(position + p).min(count - 1)].cast());
        let mut sums = [[L::splat(0.0); TILE]; Q];
        for d in (0..dim).step_by(LANES) {
            let k: [L::F; TILE] = keys.map(|key| E::load::<L>(key.add(d)));
            for q in 0..Q {
                let x = L::load(queries[q].add(d));
                for p in 0..TILE {
                    sums[q][p] = L::fma(x, k[p], sums[q][p]);
                }
            }
        }
        for q in 0..Q {
            for p in 0..TILE {
                scores[q].add(position + p).write(L::sum(sums[q][p]) * task.scale);
            }
        }
    }

    for q in 0..Q {
        // Minus infinity weighs nothing, so whole vectors can be summed.
        for p in count..count.next_multiple_of(LANES) {
            scores[q].add(p).write(f32::NEG_INFINITY);
        }
        let mut top = L::splat(f32::NEG_INFINITY);
        for p in (0..count).step_by(LANES) {
            top = L::max(L::load(scores[q].add(p)), top);
        }
        let top = largest::<L>(top);
        let mut sum = L::splat(0.0);
        for p in (0..count).step_by(LANES) {
            let weight = exp::<L>(L::sub(L::load(scores[q].add(p)), L::splat(top)));
            L::store(scores[q].add(p), weight);
            sum = L::add(sum, weight);
        }
        partials[q].add(dim).write(top);
        partials[q].add(dim + 1).write(L::sum(sum));
    }

    let mut d = 0;
    while d < dim {
        if dim - d >= 4 * LANES {
            weigh::<L, E, Q, 4>(task.values, d, &scores, &partials);
            d += 4 * LANES;
        } else {
            weigh::<L, E, Q, 1>(task.values, d, &scores, &partials);
            d += LANES;
        }
    }
    Q
}

/// `Σ_p score_p * v_p` for `V` vectors of features from `d` on, positions in order.
#[inline(always)]
unsafe fn weigh<L: Lanes, E: Element, const Q: usize, const V: usize>(
    values: &[*const u8],
    d: usize,
    scores: &[*mut f32; Q],
    partials: &[*mut f32; Q],
) {
    let mut sums = [[L::splat(0.0); V]; Q];
    for (p, value) in values.iter().enumerate() {
        let value: *const E = value.cast();
        let v: [L::F; V] = std::array::from_fn(|i| E::load::<L>(value.add(d + i * LANES)));
        for q in 0..Q {
            let weight = L::splat(*scores[q].add(p));
            for i in 0..V {
                sums[q][i] = L::fma(weight, v[i], sums[q][i]);
            }
        }
    }
    for q in 0..Q {
        for i in 0..V {
            L::store(partials[q].add(d + i * LANES), sums[q][i]);
        }
    }
}

/// Add the partial result of the next partition to that of all earlier ones. A `state` that has seen none
/// is zeros with a maximum of minus infinity.
#[inline(always)]
pub(crate) unsafe fn fold<L: Lanes>(state: &mut [f32], partial: &[f32], dim: usize) {
    assert!(
        state.len() >= dim + 2 && partial.len() >= dim + 2 && dim.is_multiple_of(LANES),
        "partial results of {dim}"
    );
    let (old, new) = (state[dim], partial[dim]);
    let top = if old > new { old } else { new };
    // Through the vector's exponential, so that every instruction set rounds alike.
    let factor = |m: f32| exp::<L>(L::splat(m - top));
    let (keep, add) = (factor(old), factor(new));
    for d in (0..dim).step_by(LANES) {
        let kept = L::mul(L::load(state.as_ptr().add(d)), keep);
        L::store(state.as_mut_ptr().add(d), L::fma(L::load(partial.as_ptr().add(d)), add, kept));
    }
    let sums = L::fma(L::splat(partial[dim + 1]), add, L::mul(L::splat(state[dim + 1]), keep));
    let mut lanes = [0.0; LANES];
    L::store(lanes.as_mut_ptr(), sums);
    state[dim] = top;
    state[dim + 1] = lanes[0];
}
