//! RMS norm with the residual's addition, and rotation of a head behind its RMS norm or its bias.

use crate::lanes::{LANES, Lanes, load_first, store_first};

/// `1 / sqrt(mean of squares + eps)`. Sixteen chains and one tree, so the order depends on the length
/// alone.
#[inline(always)]
fn inverse_rms<L: Lanes>(lanes: L, values: &[f32], eps: f32) -> f32 {
    let mut squares = lanes.splat(0.0);
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        let v = lanes.load_array(vector);
        squares = lanes.fma(v, v, squares);
    }
    let v = load_first(lanes, rest);
    squares = lanes.fma(v, v, squares);
    1.0 / (lanes.sum(squares) / values.len() as f32 + eps).sqrt()
}

/// `residual += delta; out = residual / rms(residual) * gain`; rows of one length.
#[inline(always)]
pub(crate) fn add_rms_norm<L: Lanes>(
    lanes: L,
    residual: &mut [f32],
    delta: &[f32],
    gain: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let cols = residual.len();
    assert!(delta.len() == cols && gain.len() == cols && out.len() == cols, "rows of {cols}");
    let (sums, last_sum) = residual.as_chunks_mut::<LANES>();
    let (deltas, last_delta) = delta.as_chunks::<LANES>();
    for (sum, delta) in sums.iter_mut().zip(deltas) {
        lanes.store_array(sum, lanes.add(lanes.load_array(sum), lanes.load_array(delta)));
    }
    store_first(lanes, last_sum, lanes.add(load_first(lanes, last_sum), load_first(lanes, last_delta)));

    let scale = lanes.splat(inverse_rms(lanes, residual, eps));
    let (sums, last_sum) = residual.as_chunks::<LANES>();
    let (gains, last_gain) = gain.as_chunks::<LANES>();
    let (outs, last_out) = out.as_chunks_mut::<LANES>();
    for ((out, sum), gain) in outs.iter_mut().zip(sums).zip(gains) {
        lanes.store_array(out, lanes.mul(lanes.mul(lanes.load_array(sum), scale), lanes.load_array(gain)));
    }
    let last = lanes.mul(load_first(lanes, last_sum), scale);
    store_first(lanes, last_out, lanes.mul(last, load_first(lanes, last_gain)));
}

/// Normalise one head, then rotate the pairs `(i, i + dim / 2)`. `rotation`: `dim / 2` cosines, then as
/// many sines.
#[inline(always)]
pub(crate) fn norm_rope<L: Lanes>(lanes: L, head: &mut [f32], gain: &[f32], eps: f32, rotation: &[f32]) {
    let dim = head.len();
    assert!(dim.is_multiple_of(2) && gain.len() == dim && rotation.len() == dim, "a head of {dim}");
    let scale = lanes.splat(inverse_rms(lanes, head, eps));
    let (low, high) = head.split_at_mut(dim / 2);
    let (low_gain, high_gain) = gain.split_at(dim / 2);
    for i in (0..dim / 2).step_by(LANES) {
        let a = lanes.mul(lanes.mul(load_first(lanes, &low[i..]), scale), load_first(lanes, &low_gain[i..]));
        let b = lanes.mul(lanes.mul(load_first(lanes, &high[i..]), scale), load_first(lanes, &high_gain[i..]));
        rotate(lanes, (a, b), rotation, i, (low, high));
    }
}

/// Add `bias` to one head, then rotate it likewise. A head, its bias and its rotation have one length.
#[inline(always)]
pub(crate) fn bias_rope<L: Lanes>(lanes: L, head: &mut [f32], bias: &[f32], rotation: &[f32]) {
    let dim = head.len();
    assert!(dim.is_multiple_of(2) && bias.len() == dim && rotation.len() == dim, "a head of {dim}");
    let (low, high) = head.split_at_mut(dim / 2);
    let (low_bias, high_bias) = bias.split_at(dim / 2);
    for i in (0..dim / 2).step_by(LANES) {
        let a = lanes.add(load_first(lanes, &low[i..]), load_first(lanes, &low_bias[i..]));
        let b = lanes.add(load_first(lanes, &high[i..]), load_first(lanes, &high_bias[i..]));
        rotate(lanes, (a, b), rotation, i, (low, high));
    }
}

/// Write the pairs `(a, b)`, rotated, to the halves of a head from `i` on.
#[inline(always)]
fn rotate<L: Lanes>(lanes: L, (a, b): (L::F, L::F), rotation: &[f32], i: usize, (low, high): (&mut [f32], &mut [f32])) {
    let (cosines, sines) = rotation.split_at(rotation.len() / 2);
    let (cos, sin) = (load_first(lanes, &cosines[i..]), load_first(lanes, &sines[i..]));
    store_first(lanes, &mut low[i..], lanes.sub(lanes.mul(a, cos), lanes.mul(b, sin)));
    store_first(lanes, &mut high[i..], lanes.add(lanes.mul(b, cos), lanes.mul(a, sin)));
}
