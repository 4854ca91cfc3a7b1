//! Kernels that go through a row once: SiLU, the weighted sum of experts, the largest logit.

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]

use crate::lanes::{LANES, Lanes, exp, largest, load_first, store_first};

/// `out = silu(gate) * up`, `silu(x) = x / (1 + e^-x)`; three rows of one length.
///
/// # Safety
/// The CPU has the features of `L`, and the slices have one length.
#[inline(always)]
pub(crate) unsafe fn silu_mul<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "{} gates, {} ups", gate.len(), up.len());
    let one = L::splat(1.0);
    for i in (0..out.len()).step_by(LANES) {
        let n = out.len() - i;
        let g = load_first::<L>(gate.as_ptr().add(i), n);
        let u = load_first::<L>(up.as_ptr().add(i), n);
        let silu = L::div(g, L::add(one, exp::<L>(L::sub(L::splat(0.0), g))));
        store_first::<L>(out.as_mut_ptr().add(i), n, L::mul(silu, u));
    }
}

/// `out = Σ_i weights[i] * terms[i]`, added in this order from zero; term `i` is the `out.len()` values
/// from `i * stride + column` on.
///
/// # Safety
/// The CPU has the features of `L`, and `terms` holds `out.len()` values from each `i * stride + column` on.
#[inline(always)]
pub(crate) unsafe fn weighted_sum<L: Lanes>(
    weights: &[f32],
    terms: &[f32],
    stride: usize,
    column: usize,
    out: &mut [f32],
) {
    assert!(column + out.len() <= stride && weights.len() * stride <= terms.len(), "{} terms", weights.len());
    for i in (0..out.len()).step_by(LANES) {
        let n = out.len() - i;
        let mut sum = L::splat(0.0);
        for (k, &weight) in weights.iter().enumerate() {
            sum = L::fma(L::splat(weight), load_first::<L>(terms.as_ptr().add(k * stride + column + i), n), sum);
        }
        store_first::<L>(out.as_mut_ptr().add(i), n, sum);
    }
}

/// The largest value if all are finite.
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(crate) unsafe fn peak<L: Lanes>(values: &[f32]) -> Option<f32> {
    let zero = L::splat(0.0);
    let mut top = [L::splat(f32::NEG_INFINITY); 4];
    // Infinity and NaN times zero are NaN, and stay it.
    let mut fault = [zero; 4];
    let blocks = values.chunks_exact(4 * LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for j in 0..4 {
            let v = L::load(block.as_ptr().add(j * LANES));
            top[j] = L::max(v, top[j]);
            fault[j] = L::fma(v, zero, fault[j]);
        }
    }
    let fault = L::sum(L::add(L::add(fault[0], fault[1]), L::add(fault[2], fault[3])));
    let top = largest::<L>(L::max(L::max(top[0], top[1]), L::max(top[2], top[3])));
    let finite = fault == 0.0 && rest.iter().all(|v| v.is_finite());
    finite.then(|| rest.iter().copied().fold(top, f32::max))
}
