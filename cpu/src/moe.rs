//! Mixture of experts: tokens grouped by expert, so that each expert's weights are read once a step.
//!
//! A *slot* is one (token, choice) pair whose expert is here, counted by token, then choice. Slots grouped by expert
//! stand in *places*. One parallel region computes all experts, a second one adds up:
//!
//! ```text
//! gate, up, SiLU   (expert, rows of inner,  its places) ─▶ inner[place]    x[token of place]
//! down             (expert, rows of hidden, its places) ─▶ products[slot]  inner[place]
//! ─ barrier
//! sum              (token, columns)                     ─▶ out[token]      products[its slots, in order]
//! ```
//!
//! Between the first two there is no barrier: down waits for the places that it reads, up to 48 of one expert, while
//! others are still being made. Whoever made the last rows of them prepares them for down.
//!
//! The last pass adds in the routing's order, whatever the grouping was. An expert without slots costs a
//! look at a counter. Slots of experts that another rank has get no place and no product.

use std::ops::Range;

use quern_backend::{PackedMatrix, UploadError};

use crate::{
    buffer::{Buffer, Routing},
    gemm::Gemm,
    kernels::Kernels,
    latch::Latches,
    matrix::{Cut, Matrix},
    memory::{AlignedVec, DisjointMut},
    panels::PackedWeightCache,
    pool::Pool,
    product::{PreparedInputs, ProductUnit, UNIT_TOKENS, cut_matrix, is_small},
};

/// Elements of products that the caller sums sooner than a second worker wakes.
const SMALL_SUM: usize = 32 << 10;

/// Experts of a layer.
#[derive(Debug)]
pub struct Experts {
    /// Which of the routing's the first is.
    first: usize,
    gate: Vec<Matrix>,
    up: Vec<Matrix>,
    down: Vec<Matrix>,
    inner: usize,
    hidden: usize,
}

impl Experts {
    pub(crate) fn new(
        pool: &Pool,
        mut file: Option<&mut PackedWeightCache>,
        (first, [gate, up, down]): (usize, [&[PackedMatrix]; 3]),
    ) -> Result<Self, UploadError> {
        assert!(!gate.is_empty() && gate.len() == up.len() && up.len() == down.len(), "three matrices an expert");
        let (inner, hidden) = (gate[0].rows(), gate[0].cols());
        let shaped =
            |m: &PackedMatrix, rows, cols| assert_eq!((m.rows(), m.cols()), (rows, cols), "shape of an expert");
        gate.iter().chain(up).for_each(|m| shaped(m, inner, hidden));
        down.iter().for_each(|m| shaped(m, hidden, inner));
        let mut take = |matrices| Matrix::take(pool, file.as_deref_mut(), matrices);
        Ok(Self { first, gate: take(gate)?, up: take(up)?, down: take(down)?, inner, hidden })
    }
}

/// Working space of one worker.
#[derive(Debug)]
struct GateUp {
    gate: AlignedVec,
    up: AlignedVec,
}

/// Working space of [`moe`].
#[derive(Debug)]
pub(crate) struct MoeScratch {
    inputs: PreparedInputs,
    inner_inputs: PreparedInputs,
    /// `[places, inner]`.
    inner: AlignedVec,
    /// `[slots, hidden]`.
    products: AlignedVec,
    /// Weight of each of the rows of `products`.
    weights: Vec<f32>,
    /// Where each token's products begin; one more than tokens.
    sums: Vec<usize>,
    /// Gate and up.
    units: Vec<ProductUnit>,
    down_units: Vec<ProductUnit>,
    /// One before the places of each unit, by the first of them.
    latches: Latches,
    /// Where each expert's slots begin in `slots`; one more than experts.
    starts: Vec<usize>,
    /// Slots by expert, in order of token within one.
    slots: Vec<u32>,
    /// Token of each of `slots`.
    tokens: Vec<u32>,
    /// 0, 1, 2, …
    identity: Vec<u32>,
    worker_scratch: Vec<GateUp>,
}

impl MoeScratch {
    pub(crate) fn new(workers: usize) -> Self {
        let room = || AlignedVec::zeroed(Cut::MOST_ROWS * UNIT_TOKENS);
        Self {
            inputs: PreparedInputs::default(),
            inner_inputs: PreparedInputs::default(),
            inner: AlignedVec::default(),
            products: AlignedVec::default(),
            weights: Vec::new(),
            sums: Vec::new(),
            units: Vec::new(),
            down_units: Vec::new(),
            latches: Latches::default(),
            starts: Vec::new(),
            slots: Vec::new(),
            tokens: Vec::new(),
            identity: (0..UNIT_TOKENS as u32).collect(),
            worker_scratch: (0..workers).map(|_| GateUp { gate: room(), up: room() }).collect(),
        }
    }

    /// Counting sort of the slots by expert, of those whose experts are here.
    fn group(&mut self, routing: &Routing, first: usize, experts: usize) {
        let Self { starts, slots, tokens, weights, sums, .. } = self;
        let here = |expert: u32| (expert as usize).checked_sub(first).filter(|&expert| expert < experts);
        starts.clear();
        starts.resize(experts + 1, 0);
        for expert in routing.experts().iter().filter_map(|&expert| here(expert)) {
            starts[expert + 1] += 1;
        }
        for e in 0..experts {
            starts[e + 1] += starts[e];
        }
        slots.resize(starts[experts], 0);
        tokens.resize(slots.len(), 0);
        weights.clear();
        sums.clear();
        for (token, choices) in routing.experts().chunks_exact(routing.top_k()).enumerate() {
            sums.push(weights.len());
            for (choice, &expert) in choices.iter().enumerate() {
                let Some(expert) = here(expert) else { continue };
                // `starts` serves as the place of each expert's next slot; put right below.
                let at = &mut starts[expert];
                slots[*at] = weights.len() as u32;
                tokens[*at] = token as u32;
                *at += 1;
                weights.push(routing.weights()[token * routing.top_k() + choice]);
            }
        }
        sums.push(weights.len());
        starts.rotate_right(1);
        starts[0] = 0;
    }

    /// The place of one expert's slots.
    fn slots_of(starts: &[usize], expert: usize) -> Range<usize> {
        starts[expert]..starts[expert + 1]
    }
}

/// See [`quern_backend::Backend::moe`].
pub(crate) fn moe(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut MoeScratch,
    x: &Buffer,
    routing: &Routing,
    experts: &Experts,
    out: &mut Buffer,
) {
    let (inner, hidden) = (experts.inner, experts.hidden);
    assert_eq!(x.rows(), routing.rows(), "rows of the input and of the routing");
    assert!(x.cols() == hidden && out.cols() == hidden, "columns {} and {} of {hidden}", x.cols(), out.cols());
    out.set_rows(x.rows());
    let count = experts.gate.len();
    scratch.group(routing, experts.first, count);
    let MoeScratch {
        inputs,
        inner_inputs,
        inner: rows_inner,
        products,
        weights,
        sums,
        units,
        down_units,
        latches,
        starts,
        slots,
        tokens,
        identity,
        worker_scratch,
    } = scratch;
    let in_use = (0..count).filter(|&e| starts[e] < starts[e + 1]);
    let parts = in_use.clone().map(|e| (starts[e + 1] - starts[e]).div_ceil(UNIT_TOKENS)).sum();
    let share = (parts, pool.workers());

    let formats = in_use.clone().flat_map(|e| [experts.gate[e].format(), experts.up[e].format()]);
    inputs.prepare(kernels, pool, x.values(), hidden, formats);
    units.clear();
    down_units.clear();
    let (mut widest, mut widest_down) = (0, 0);
    for e in in_use.clone() {
        let slots = MoeScratch::slots_of(starts, e);
        let cut = experts.gate[e].cut().beside(experts.up[e].cut());
        widest = widest.max(cut.row_bytes);
        cut_matrix(units, e, (inner, cut), slots.clone(), share);
        let cut = experts.down[e].cut();
        widest_down = widest_down.max(cut.row_bytes);
        cut_matrix(down_units, e, (hidden, cut), slots, share);
    }
    latches.reset(slots.len());
    units.iter().for_each(|unit| latches.add(unit.token));
    let inner_rows = DisjointMut::new(rows_inner.at_least(slots.len() * inner));
    let room = inner_inputs.room(kernels, slots.len(), inner, in_use.map(|e| experts.down[e].format()));
    let products = products.at_least(slots.len() * hidden);
    {
        let (products, worker_scratch) = (DisjointMut::new(products), DisjointMut::new(worker_scratch));
        let (units, down_units, inputs, latches) = (&*units, &*down_units, &*inputs, &*latches);
        let gate_up = |worker: usize, index: usize| {
            let unit = &units[index];
            let places = unit.token..unit.token + unit.tokens;
            let make = || {
                // SAFETY: each worker has scratch of its own.
                let own = &mut unsafe { worker_scratch.part(worker..worker + 1) }[0];
                for (matrix, to) in [(&experts.gate, &mut own.gate), (&experts.up, &mut own.up)] {
                    let matrix = &matrix[unit.matrix];
                    let task = Gemm {
                        matrix,
                        rows: unit.row..unit.row + unit.rows,
                        x: inputs.inputs(kernels, matrix.format(), hidden),
                        x_rows: &tokens[places.clone()],
                        out: DisjointMut::new(to),
                        out_stride: unit.rows,
                        out_rows: &identity[..unit.tokens],
                        out_column: 0,
                    };
                    // SAFETY: the output is this worker's.
                    unsafe { kernels.gemm(&task) };
                }
                for (i, place) in places.clone().enumerate() {
                    let at = place * inner + unit.row;
                    // SAFETY: (place, rows of inner) is this unit's alone.
                    let out = unsafe { inner_rows.part(at..at + unit.rows) };
                    let here = i * unit.rows..(i + 1) * unit.rows;
                    kernels.silu_mul(&own.gate[here.clone()], &own.up[here], out);
                }
            };
            let prepare = || {
                let format = experts.down[unit.matrix].format();
                // SAFETY: all units of these places are done, and one worker is told so.
                unsafe {
                    let made = inner_rows.read(places.start * inner..places.end * inner);
                    room.prepare(kernels, format, places.clone(), made);
                }
            };
            latches.arrive(unit.token, make, prepare);
        };
        let down = |_: usize, index: usize| {
            let unit = &down_units[index];
            if !latches.wait(unit.token) {
                return;
            }
            let matrix = &experts.down[unit.matrix];
            let places = unit.token..unit.token + unit.tokens;
            let task = Gemm {
                matrix,
                rows: unit.row..unit.row + unit.rows,
                // SAFETY: the latch is open, so these places are prepared, and nobody writes them any more.
                x: unsafe { room.inputs(kernels, matrix.format(), places.clone()) },
                x_rows: &identity[..unit.tokens],
                out: products,
                out_stride: hidden,
                out_rows: &slots[places],
                out_column: unit.row,
            };
            // SAFETY: (slot, rows of hidden) is this unit's alone.
            unsafe { kernels.gemm(&task) };
        };
        let alone = is_small(units, widest) && is_small(down_units, widest_down);
        pool.two_rounds(alone, (units.len(), gate_up), (down_units.len(), down));
    }

    let products = &*products;
    let rows = x.rows();
    let grain = if products.len() <= SMALL_SUM { rows } else { 1 };
    let out = DisjointMut::new(out.values_mut());
    pool.for_each(rows, grain, |_, range| {
        for row in range {
            // SAFETY: each row is summed by one worker.
            let out = unsafe { out.part(row * hidden..(row + 1) * hidden) };
            let own = sums[row]..sums[row + 1];
            let products = &products[own.start * hidden..own.end * hidden];
            kernels.weighted_sum(&weights[own], products, hidden, 0, out);
        }
    });
}
