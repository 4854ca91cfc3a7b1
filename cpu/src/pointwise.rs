//! Kernels that go through a row once: SiLU, the weighted sum of experts, the largest logit.

use crate::lanes::{LANES, Lanes, exp, largest, load_first, store_first};

/// `out = silu(gate) * up`, `silu(x) = x / (1 + e^-x)`; three rows of one length.
#[inline(always)]
pub(crate) fn silu_mul<L: Lanes>(lanes: L, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "{} gates, {} ups", gate.len(), up.len());
    let (gates, last_gate) = gate.as_chunks::<LANES>();
    let (ups, last_up) = up.as_chunks::<LANES>();
    let (outs, last_out) = out.as_chunks_mut::<LANES>();
    for ((out, gate), up) in outs.iter_mut().zip(gates).zip(ups) {
        lanes.store_array(out, gated(lanes, lanes.load_array(gate), lanes.load_array(up)));
    }
    store_first(lanes, last_out, gated(lanes, load_first(lanes, last_gate), load_first(lanes, last_up)));
}

/// `silu(gate) * up`.
#[inline(always)]
fn gated<L: Lanes>(lanes: L, gate: L::F, up: L::F) -> L::F {
    let silu = lanes.div(gate, lanes.add(lanes.splat(1.0), exp(lanes, lanes.sub(lanes.splat(0.0), gate))));
    lanes.mul(silu, up)
}

/// `out = Σ_i weights[i] * terms[i]`, added in this order from zero; term `i` is the `out.len()` values
/// from `i * stride + column` on.
#[inline(always)]
pub(crate) fn weighted_sum<L: Lanes>(
    lanes: L,
    weights: &[f32],
    terms: &[f32],
    stride: usize,
    column: usize,
    out: &mut [f32],
) {
    assert!(column + out.len() <= stride && weights.len() * stride <= terms.len(), "{} terms", weights.len());
    for (part, out) in out.chunks_mut(LANES).enumerate() {
        let mut sum = lanes.splat(0.0);
        for (k, &weight) in weights.iter().enumerate() {
            let term = &terms[k * stride + column + part * LANES..][..out.len()];
            sum = lanes.fma(lanes.splat(weight), load_first(lanes, term), sum);
        }
        store_first(lanes, out, sum);
    }
}

/// The largest value if all are finite.
#[inline(always)]
pub(crate) fn peak<L: Lanes>(lanes: L, values: &[f32]) -> Option<f32> {
    let zero = lanes.splat(0.0);
    let mut top = [lanes.splat(f32::NEG_INFINITY); 4];
    // Infinity and NaN times zero are NaN, and stay it.
    let mut fault = [zero; 4];
    let (vectors, _) = values.as_chunks::<LANES>();
    let (blocks, _) = vectors.as_chunks::<4>();
    let rest = &values[4 * LANES * blocks.len()..];
    for block in blocks {
        for j in 0..4 {
            let v = lanes.load_array(&block[j]);
            top[j] = lanes.max(v, top[j]);
            fault[j] = lanes.fma(v, zero, fault[j]);
        }
    }
    let fault = lanes.sum(lanes.add(lanes.add(fault[0], fault[1]), lanes.add(fault[2], fault[3])));
    let top = largest(lanes, lanes.max(lanes.max(top[0], top[1]), lanes.max(top[2], top[3])));
    let finite = fault == 0.0 && rest.iter().all(|v| v.is_finite());
    finite.then(|| rest.iter().copied().fold(top, f32::max))
}
