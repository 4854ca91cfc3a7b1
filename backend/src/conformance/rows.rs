//! What is done row by row: embedding, norms, rotation, gates, gathering.

use super::{
    Grid, ROWS, Rng,
    bounds::{close, same},
    fixtures::{filled, matrix, upload},
};
use crate::{Backend, ForwardBatch, HeadLayout, QuantFormat, RefBackend, SampleBatch};

pub(super) fn embed<B: Backend>(backend: &B, grid: &Grid<'_>, rng: &mut Rng) {
    for &format in grid.weights {
        let cols = 70usize.next_multiple_of(format.block_elements());
        let table = matrix(rng, format, 150, cols);
        let ids: Vec<u32> = (0..33).map(|_| rng.below(150) as u32).collect();
        let mut out = backend.alloc(33, cols);
        let batch = ForwardBatch { token_ids: ids.clone(), ..ForwardBatch::default() };
        let step = backend.begin(&batch, &SampleBatch::default());
        // All of it, and some tokens of its middle.
        for range in [0..150, 40..110].into_iter().take(if grid.parts { 2 } else { 1 }) {
            let part = table.part(range.clone(), 0..cols);
            backend.embed(&upload(backend, &[part]), range.start, &step, &mut out);
            let mut want = vec![0.0; cols * ids.len()];
            for (row, &id) in want.chunks_exact_mut(cols).zip(&ids).filter(|(_, id)| range.contains(&(**id as usize))) {
                table.decode_row(id as usize, row);
            }
            let mut got = backend.read(&out);
            if format == QuantFormat::Fp8Block128 && !grid.signed_zeros {
                // Adding 0 leaves every number as it is but -0.
                got.iter_mut().chain(&mut want).for_each(|x| *x += 0.0);
            }
            same(&format!("embed, {format}, tokens {range:?}"), cols, &got, &want);
        }
    }
}

/// What one rank alone exchanges with nobody.
pub(super) fn exchanges<B: Backend>(backend: &B, rng: &mut Rng) {
    let values = rng.values(3 * 70);
    let (mut buffer, mut out) = (filled(backend, 70, &values), backend.alloc(5, 70));
    backend.all_reduce(&mut buffer);
    same("all_reduce of one rank", 70, &backend.read(&buffer), &values);
    backend.gather(&buffer, &[70], &mut out);
    same("gather of one rank", 70, &backend.read(&out), &values);
}

pub(super) fn add_rms_norm<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for cols in [1, 7, 64, 129, 2048] {
        for rows in ROWS {
            let what = format!("add_rms_norm, {rows} × {cols}");
            let (residual, delta) = (rng.values(rows * cols), rng.values(rows * cols));
            let gain = rng.values(cols);
            let got = norm_of(backend, cols, &residual, &delta, &gain);
            let want = norm_of(&reference, cols, &residual, &delta, &gain);
            same(&format!("{what}: the residual"), cols, &got.0, &want.0);
            close(&what, cols, &got.1, &want.1, |i| want.1[i].abs() * cols as f32 * f32::EPSILON + 1e-6);
            let last = (rows - 1) * cols..;
            let alone = norm_of(backend, cols, &residual[last.clone()], &delta[last.clone()], &gain);
            same(&format!("{what}: the last row alone"), cols, &alone.1, &got.1[last]);
        }
    }
}

fn norm_of<B: Backend>(b: &B, cols: usize, residual: &[f32], delta: &[f32], gain: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut residual = filled(b, cols, residual);
    let (delta, gain, mut out) = (filled(b, cols, delta), filled(b, cols, gain), b.alloc(64, cols));
    b.add_rms_norm(&mut residual, &delta, &gain, 1e-6, &mut out);
    (b.read(&residual), b.read(&out))
}

pub(super) const HEADS: [HeadLayout; 6] = [
    HeadLayout { num_heads: 1, num_kv_heads: 1, head_dim: 2 },
    HeadLayout { num_heads: 4, num_kv_heads: 2, head_dim: 16 },
    HeadLayout { num_heads: 8, num_kv_heads: 1, head_dim: 32 },
    HeadLayout { num_heads: 6, num_kv_heads: 6, head_dim: 80 },
    HeadLayout { num_heads: 4, num_kv_heads: 1, head_dim: 64 },
    HeadLayout { num_heads: 16, num_kv_heads: 2, head_dim: 128 },
];

pub(super) fn qk_norm_rope<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for heads in HEADS {
        let (cols, dim) = (heads.qkv_dim(), heads.head_dim);
        let (q_gain, k_gain) = (rng.values(dim), rng.values(dim));
        for rows in ROWS {
            let what = format!("qk_norm_rope, {rows} rows, {heads:?}");
            let (qkv, rotation) = (rng.values(rows * cols), rng.values(rows * dim));
            let got = rope_of(backend, &heads, &qkv, &q_gain, &k_gain, &rotation);
            let want = rope_of(&reference, &heads, &qkv, &q_gain, &k_gain, &rotation);
            close(&what, cols, &got, &want, |_| dim as f32 * 8.0 * f32::EPSILON * (dim as f32).sqrt());
            let values_from = cols - heads.kv_dim();
            for row in 0..rows {
                let place = row * cols + values_from..(row + 1) * cols;
                same(&format!("{what}: values of row {row}"), cols, &got[place.clone()], &qkv[place]);
            }
            let last = (rows - 1) * cols;
            let alone = rope_of(backend, &heads, &qkv[last..], &q_gain, &k_gain, &rotation[(rows - 1) * dim..]);
            same(&format!("{what}: the last row alone"), cols, &alone, &got[last..]);
        }
    }
}

fn rope_of<B: Backend>(
    b: &B,
    heads: &HeadLayout,
    qkv: &[f32],
    q_gain: &[f32],
    k_gain: &[f32],
    rotation: &[f32],
) -> Vec<f32> {
    let mut qkv = filled(b, heads.qkv_dim(), qkv);
    let [q_gain, k_gain, rotation] = [q_gain, k_gain, rotation].map(|v| filled(b, heads.head_dim, v));
    b.qk_norm_rope(&mut qkv, heads, &q_gain, &k_gain, 1e-6, &rotation);
    b.read(&qkv)
}

pub(super) fn bias_rope<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for heads in HEADS {
        let (cols, dim) = (heads.qkv_dim(), heads.head_dim);
        let bias = rng.values(cols);
        for rows in ROWS {
            let what = format!("bias_rope, {rows} rows, {heads:?}");
            let (qkv, rotation) = (rng.values(rows * cols), rng.values(rows * dim));
            let got = biased(backend, &heads, &qkv, &bias, &rotation);
            let want = biased(&reference, &heads, &qkv, &bias, &rotation);
            // Two products of numbers below 2, and their sum.
            close(&what, cols, &got, &want, |_| 8.0 * f32::EPSILON);
            let last = (rows - 1) * cols;
            let alone = biased(backend, &heads, &qkv[last..], &bias, &rotation[(rows - 1) * dim..]);
            same(&format!("{what}: the last row alone"), cols, &alone, &got[last..]);
        }
    }
}

fn biased<B: Backend>(b: &B, heads: &HeadLayout, qkv: &[f32], bias: &[f32], rotation: &[f32]) -> Vec<f32> {
    let [mut qkv, bias] = [qkv, bias].map(|values| filled(b, heads.qkv_dim(), values));
    b.bias_rope(&mut qkv, heads, &bias, &filled(b, heads.head_dim, rotation));
    b.read(&qkv)
}

pub(super) fn silu_mul<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for inner in [1, 15, 64, 129] {
        for rows in ROWS {
            let what = format!("silu_mul, {rows} × {inner}");
            // Wide enough to see both tails of the sigmoid.
            let values: Vec<f32> = rng.values(rows * 2 * inner).iter().map(|x| x * 30.0).collect();
            let mut out = backend.alloc(rows, inner);
            let mut ref_out = reference.alloc(rows, inner);
            backend.silu_mul(&filled(backend, 2 * inner, &values), &mut out);
            reference.silu_mul(&filled(&reference, 2 * inner, &values), &mut ref_out);
            let (got, want) = (backend.read(&out), reference.read(&ref_out));
            close(&what, inner, &got, &want, |i| want[i].abs() * 64.0 * f32::EPSILON + 1e-30);
            let last = filled(backend, 2 * inner, &values[(rows - 1) * 2 * inner..]);
            backend.silu_mul(&last, &mut out);
            same(&format!("{what}: the last row alone"), inner, &backend.read(&out), &got[(rows - 1) * inner..]);
        }
    }
}

pub(super) fn gather_rows<B: Backend>(backend: &B, rng: &mut Rng) {
    let values = rng.values(9 * 37);
    let x = filled(backend, 37, &values);
    let mut out = backend.alloc(4, 37);
    let logit_rows = vec![8, 0, 3, 3, 5];
    let step = backend
        .begin(&ForwardBatch { logit_rows: logit_rows.clone(), ..ForwardBatch::default() }, &SampleBatch::default());
    for rows in [0..4, 1..3, 4..5] {
        backend.gather_rows(&x, &step, rows.clone(), &mut out);
        let want: Vec<f32> =
            logit_rows[rows.clone()].iter().flat_map(|&r| values[r * 37..(r + 1) * 37].to_vec()).collect();
        same(&format!("gather_rows, {rows:?}"), 37, &backend.read(&out), &want);
    }
}
