//! Matrix products: `linear`, and `moe` behind `route`.

use std::ops::Range;

use super::{
    Grid, ROWS, Rng,
    bounds::{close, input_errors, product_bounds, same},
    fixtures::{filled, matrix, upload},
};
use crate::{
    Backend, PackedMatrix, Precision, RefBackend,
    reference::{project, silu},
};

/// Rows of which one expert gets more than a unit of work or a tile holds.
const MANY_MOE_ROWS: usize = 120;

/// Rows that backends cut into several units of work or tiles.
const MANY_ROWS: [usize; 2] = [49, 100];

pub(super) fn linear<B: Backend>(backend: &B, grid: &Grid<'_>, rng: &mut Rng) {
    let reference = RefBackend;
    let shapes: [(&[usize], usize); 8] = [
        (&[1], 1),
        (&[7], 31),
        (&[16, 3], 64),
        (&[33], 127),
        (&[130], 128),
        (&[64, 1, 17], 129),
        (&[5], 257),
        (&[96, 96], 320),
    ];
    for &format in grid.weights {
        for (parts, cols) in shapes {
            let cols = cols.next_multiple_of(format.block_elements());
            let parts: Vec<_> = parts.iter().map(|&rows| matrix(rng, format, rows, cols)).collect();
            let out_cols: usize = parts.iter().map(PackedMatrix::rows).sum();
            let (weight, ref_weight) = (upload(backend, &parts), upload(&reference, &parts));
            // Ragged in every direction.
            let many = if parts.len() == 3 { &MANY_ROWS[..] } else { &[] };
            for &rows in ROWS.iter().chain(many) {
                let what = format!("linear, {format}, {rows} × {cols} → {out_cols}");
                let values = rng.values(rows * cols);
                let (x, mut out) = (filled(backend, cols, &values), backend.alloc(rows, out_cols));
                let (ref_x, mut ref_out) = (filled(&reference, cols, &values), reference.alloc(rows, out_cols));
                backend.linear(&x, &weight, &mut out);
                reference.linear(&ref_x, &ref_weight, &mut ref_out);
                let (got, want) = (backend.read(&out), reference.read(&ref_out));
                let bounds: Vec<f32> = values
                    .chunks(cols)
                    .flat_map(|x| product_bounds(&parts, x, &input_errors(grid.precision, format, x)))
                    .collect();
                close(&what, out_cols, &got, &want, |i| bounds[i]);
                for row in [0, rows / 2, rows - 1] {
                    let alone = filled(backend, cols, &values[row * cols..(row + 1) * cols]);
                    backend.linear(&alone, &weight, &mut out);
                    let batched = &got[row * out_cols..(row + 1) * out_cols];
                    same(&format!("{what}: row {row} alone"), out_cols, &backend.read(&out), batched);
                }
            }
        }
    }
}

/// What a rank of several computes with: columns and rows from the midst of a matrix, and some experts of a layer.
///
/// Parts of `moe` over ranges of experts add up to the whole: rows whose experts are all in one range have its very
/// bits there, and zeros in the others.
pub(super) fn parts<B: Backend>(backend: &B, grid: &Grid<'_>, rng: &mut Rng) {
    let reference = RefBackend;
    for &format in grid.weights {
        // Formats of one element are cut within blocks of fp8, at a kernel's steps and at the matrix's own end.
        let (step, ends): (usize, &[usize]) = match format.block_elements() {
            1 => (32, &[1, 3, 4, 9, 13]),
            block => (block, &[1, 2, 3]),
        };
        let last = ends[ends.len() - 1] * step;
        // A ragged end, where rows need not be whole blocks.
        let cols = if format.block_elements() == 1 { last - 7 } else { last };
        let whole = matrix(rng, format, 150, cols);
        for pair in ends.windows(2) {
            let (rows, cols) = (37..120, pair[0] * step..(pair[1] * step).min(cols));
            let part = whole.part(rows, cols.clone());
            let what = format!("linear, {format}, columns {cols:?} of a matrix");
            for tokens in [1, 5, 49] {
                let values = rng.values(tokens * cols.len());
                let (x, ref_x) = (filled(backend, cols.len(), &values), filled(&reference, cols.len(), &values));
                let (mut out, mut ref_out) = (backend.alloc(tokens, part.rows()), reference.alloc(tokens, part.rows()));
                backend.linear(&x, &upload(backend, std::slice::from_ref(&part)), &mut out);
                reference.linear(&ref_x, &upload(&reference, std::slice::from_ref(&part)), &mut ref_out);
                let bound = |x: &[f32]| {
                    product_bounds(std::slice::from_ref(&part), x, &input_errors(grid.precision, format, x))
                };
                let bounds: Vec<f32> = values.chunks(cols.len()).flat_map(bound).collect();
                close(&what, part.rows(), &backend.read(&out), &reference.read(&ref_out), |i| bounds[i]);
            }
        }
        let [hidden, inner] = [96, 40].map(|n: usize| n.next_multiple_of(format.block_elements()));
        let mut all = |rows, cols| -> Vec<_> { (0..8).map(|_| matrix(rng, format, rows, cols)).collect() };
        let weights = [all(inner, hidden), all(inner, hidden), all(hidden, inner)];
        let x: Vec<f32> = rng.values(9 * hidden).iter().map(|v| v * 0.1).collect();
        // Row `i` prefers the experts below 4 where `i` is even, and those from 4 on where it is odd.
        let preferred = |i: usize| if (i / 8).is_multiple_of(2) == (i % 8 < 4) { 9.0 } else { 0.0 };
        let logits: Vec<f32> = (0..9 * 8).map(|i| preferred(i) + rng.value()).collect();
        let of = |range: Range<usize>| {
            let here = weights.each_ref().map(|matrices| &matrices[range.clone()]);
            moe_over(backend, (range.start, here), (8, 3), true, &x, &logits)
        };
        let (whole, halves) = (of(0..8), [of(0..4), of(4..8)]);
        for (row, whole) in whole.chunks(hidden).enumerate() {
            let [here, elsewhere] = [row % 2, 1 - row % 2].map(|half| &halves[half][row * hidden..][..hidden]);
            same(&format!("moe, {format}, row {row} where its experts are"), hidden, here, whole);
            assert!(elsewhere.iter().all(|&y| y == 0.0), "moe, {format}, row {row} where none of its experts is");
        }
    }
}

pub(super) fn route_and_moe<B: Backend>(backend: &B, grid: &Grid<'_>, rng: &mut Rng) {
    let shapes = [(4, 1, 16, 8), (8, 3, 96, 40), (16, 4, 130, 65), (1, 1, 64, 129)];
    for &format in grid.weights {
        // What surrounds the products is the same for all formats; those of blocks have larger matrices.
        let blocks = format.blocks().is_some();
        let shapes = if blocks { &shapes[1..2] } else { &shapes[..] };
        for &(num_experts, top_k, hidden, inner) in shapes {
            let [hidden, inner] = [hidden, inner].map(|n: usize| n.next_multiple_of(format.block_elements()));
            for &renormalise in if blocks { &[true][..] } else { &[true, false] } {
                let mut all = |rows, cols| -> Vec<PackedMatrix> {
                    (0..num_experts).map(|_| matrix(rng, format, rows, cols)).collect()
                };
                let weights = [all(inner, hidden), all(inner, hidden), all(hidden, inner)];
                let few = if blocks { &[1, 3, 17][..] } else { &ROWS };
                for &rows in few.iter().chain(&[MANY_MOE_ROWS]) {
                    let what =
                        format!("moe, {format}, {rows} rows, {num_experts} experts top {top_k}, {hidden} × {inner}");
                    let x: Vec<f32> = rng.values(rows * hidden).iter().map(|v| v * 0.1).collect();
                    // Skewed, so that some experts get many tokens and some none; ties go to the lower index.
                    let logits: Vec<f32> =
                        (0..rows * num_experts).map(|i| rng.value() * 3.0 - (i % num_experts) as f32 * 0.5).collect();
                    let got = moe_of(backend, &weights, top_k, renormalise, &x, &logits);
                    // The reference takes one row as it takes many, and its time.
                    let looked_at =
                        if rows > ROWS[ROWS.len() - 1] { vec![0, rows / 2, rows - 1] } else { (0..rows).collect() };
                    for row in looked_at {
                        let x = &x[row * hidden..(row + 1) * hidden];
                        let logits = &logits[row * num_experts..(row + 1) * num_experts];
                        let got = &got[row * hidden..(row + 1) * hidden];
                        let what = format!("{what}: row {row}");
                        let want = moe_of(&RefBackend, &weights, top_k, renormalise, x, logits);
                        let mut routing = RefBackend.alloc_routing(1, top_k);
                        RefBackend.route(&filled(&RefBackend, num_experts, logits), renormalise, &mut routing);
                        let bounds = moe_bounds(&weights, &RefBackend::routing_rows(&routing)[0], x, grid.precision);
                        close(&what, hidden, got, &want, |i| bounds[i]);
                        if row + 1 == rows {
                            let alone = moe_of(backend, &weights, top_k, renormalise, x, logits);
                            same(&format!("{what} alone"), hidden, &alone, got);
                        }
                    }
                }
            }
        }
    }
}

/// The bound for one row of `moe`: the errors of both products before the gate pass through it, whose slope
/// is at most 1.1, and meet the errors of the product behind it.
fn moe_bounds(
    [gate, up, down]: &[Vec<PackedMatrix>; 3],
    routing: &[(usize, f32)],
    x: &[f32],
    precision: Precision,
) -> Vec<f32> {
    let format = gate[0].format();
    let errors = input_errors(precision, format, x);
    let mut bounds = vec![1e-6; x.len()];
    for &(e, weight) in routing {
        let off = |matrix: &PackedMatrix| product_bounds(std::slice::from_ref(matrix), x, &errors);
        let (gates, ups) = (project(&gate[e], x), project(&up[e], x));
        let (gates_off, ups_off) = (off(&gate[e]), off(&up[e]));
        let inner: Vec<f32> = gates.iter().zip(&ups).map(|(&g, &u)| silu(g) * u).collect();
        let inputs_off = input_errors(precision, format, &inner);
        let inner_off: Vec<f32> = (0..inner.len())
            .map(|i| {
                let gated = 1.1 * gates_off[i] * (ups[i].abs() + ups_off[i]) + silu(gates[i]).abs() * ups_off[i];
                // A hundredth more: where its largest is off, the step of 32 inputs is too.
                gated * 1.01 + inputs_off[i] + 64.0 * f32::EPSILON * inner[i].abs()
            })
            .collect();
        let down_off = product_bounds(std::slice::from_ref(&down[e]), &inner, &inner_off);
        bounds.iter_mut().zip(down_off).for_each(|(bound, off)| *bound += weight * off * 1.001);
    }
    bounds
}

fn moe_of<B: Backend>(
    b: &B,
    [gate, up, down]: &[Vec<PackedMatrix>; 3],
    top_k: usize,
    renormalise: bool,
    x: &[f32],
    logits: &[f32],
) -> Vec<f32> {
    moe_over(b, (0, [gate, up, down]), (gate.len(), top_k), renormalise, x, logits)
}

/// `moe` with those of `num_experts` that are here, from `first` on.
fn moe_over<B: Backend>(
    b: &B,
    (first, [gate, up, down]): (usize, [&[PackedMatrix]; 3]),
    (num_experts, top_k): (usize, usize),
    renormalise: bool,
    x: &[f32],
    logits: &[f32],
) -> Vec<f32> {
    let hidden = gate[0].cols();
    let rows = x.len() / hidden;
    let experts = b.uploader().experts(first, gate, up, down).unwrap_or_else(|e| panic!("{e}"));
    let (mut routing, mut out) = (b.alloc_routing(rows, top_k), b.alloc(rows, hidden));
    b.route(&filled(b, num_experts, logits), renormalise, &mut routing);
    b.moe(&filled(b, hidden, x), &routing, &experts, &mut out);
    b.read(&out)
}
