//! RMS norm with the residual's addition, and rotation of a head behind its RMS norm or its bias.

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]

use crate::lanes::{LANES, Lanes, load_first, store_first};

/// `1 / sqrt(mean of squares + eps)`. Sixteen chains and one tree, so the order depends on the length
/// alone.
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
unsafe fn inverse_rms<L: Lanes>(values: &[f32], eps: f32) -> f32 {
    let mut squares = L::splat(0.0);
    for i in (0..values.len()).step_by(LANES) {
        let v = load_first::<L>(values.as_ptr().add(i), values.len() - i);
        squares = L::fma(v, v, squares);
    }
    1.0 / (L::sum(squares) / values.len() as f32 + eps).sqrt()
}

/// `residual += delta; out = residual / rms(residual) * gain`; rows of one length.
///
/// # Safety
/// The CPU has the features of `L`, and the slices have one length.
#[inline(always)]
pub(crate) unsafe fn add_rms_norm<L: Lanes>(
    residual: &mut [f32],
    delta: &[f32],
    gain: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let cols = residual.len();
    assert!(delta.len() == cols && gain.len() == cols && out.len() == cols, "rows of {cols}");
    for i in (0..cols).step_by(LANES) {
        let sum = L::add(
            load_first::<L>(residual.as_ptr().add(i), cols - i),
            load_first::<L>(delta.as_ptr().add(i), cols - i),
        );
        store_first::<L>(residual.as_mut_ptr().add(i), cols - i, sum);
    }
    let scale = L::splat(inverse_rms::<L>(residual, eps));
    for i in (0..cols).step_by(LANES) {
        let v = L::mul(load_first::<L>(residual.as_ptr().add(i), cols - i), scale);
        let v = L::mul(v, load_first::<L>(gain.as_ptr().add(i), cols - i));
        store_first::<L>(out.as_mut_ptr().add(i), cols - i, v);
    }
}

/// Normalise one head, then rotate the pairs `(i, i + dim / 2)`. `rotation`: `dim / 2` cosines, then as
/// many sines.
///
/// # Safety
/// The CPU has the features of `L`, and `gain` and `rotation` are as long as `head`.
#[inline(always)]
pub(crate) unsafe fn norm_rope<L: Lanes>(head: &mut [f32], gain: &[f32], eps: f32, rotation: &[f32]) {
    let dim = head.len();
    assert!(dim.is_multiple_of(2) && gain.len() == dim && rotation.len() == dim, "a head of {dim}");
    let scale = L::splat(inverse_rms::<L>(head, eps));
    let half = dim / 2;
    let (head, gain, rotation) = (head.as_mut_ptr(), gain.as_ptr(), rotation.as_ptr());
    for i in (0..half).step_by(LANES) {
        let n = half - i;
        let normed =
            |at: usize| L::mul(L::mul(load_first::<L>(head.add(at), n), scale), load_first::<L>(gain.add(at), n));
        let (a, b) = (normed(i), normed(half + i));
        let (cos, sin) = (load_first::<L>(rotation.add(i), n), load_first::<L>(rotation.add(half + i), n));
        store_first::<L>(head.add(i), n, L::sub(L::mul(a, cos), L::mul(b, sin)));
        store_first::<L>(head.add(half + i), n, L::add(L::mul(b, cos), L::mul(a, sin)));
    }
}

/// Add `bias` to one head, then rotate it likewise. A head, its bias and its rotation have one length.
///
/// # Safety
/// The CPU has the features of `L`, and `bias` and `rotation` are as long as `head`.
#[inline(always)]
pub(crate) unsafe fn bias_rope<L: Lanes>(head: &mut [f32], bias: &[f32], rotation: &[f32]) {
    let dim = head.len();
    assert!(dim.is_multiple_of(2) && bias.len() == dim && rotation.len() == dim, "a head of {dim}");
    let half = dim / 2;
    let (head, bias, rotation) = (head.as_mut_ptr(), bias.as_ptr(), rotation.as_ptr());
    for i in (0..half).step_by(LANES) {
        let n = half - i;
        let biased = |at: usize| L::add(load_first::<L>(head.add(at), n), load_first::<L>(bias.add(at), n));
        let (a, b) = (biased(i), biased(half + i));
        let (cos, sin) = (load_first::<L>(rotation.add(i), n), load_first::<L>(rotation.add(half + i), n));
        store_first::<L>(head.add(i), n, L::sub(L::mul(a, cos), L::mul(b, sin)));
        store_first::<L>(head.add(half + i), n, L::add(L::mul(b, cos), L::mul(a, sin)));
    }
}
