//! How far results may be off, and comparing them.

use crate::{KvFormat, PackedMatrix, Precision, QuantFormat};

/// How far each input of a product with `format` may be off.
pub fn input_errors(precision: Precision, format: QuantFormat, x: &[f32]) -> Vec<f32> {
    match (precision, format) {
        (Precision::F32, _) | (_, QuantFormat::F32 | QuantFormat::F16) => vec![0.0; x.len()],
        (_, QuantFormat::BF16 | QuantFormat::Fp8Block128) => x.iter().map(|x| x.abs() / 256.0).collect(),
        _ => {
            let largest = |x: &[f32]| x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            // A little over half a step: the step itself is rounded.
            x.chunks(32).flat_map(|x| vec![largest(x) * 0.5001 / 127.0; x.len()]).collect()
        }
    }
}

/// `got` against `want`, element by element, with a bound for each.
pub(super) fn close(what: &str, cols: usize, got: &[f32], want: &[f32], bound: impl Fn(usize) -> f32) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (row, col, bound) = (i / cols, i % cols, bound(i));
        assert!((g - w).abs() <= bound, "{what}, row {row}, col {col}: {g} for {w}, allowed ±{bound:e}");
    }
}

/// Bit by bit.
pub(super) fn same(what: &str, cols: usize, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits(), "{what}, row {}, col {}: {g:?} is not {w:?}", i / cols, i % cols);
    }
}

/// The bound for `matrix · x`, for each output; `errors` are those of `x`.
pub(super) fn product_bounds(parts: &[PackedMatrix], x: &[f32], errors: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; parts[0].cols()];
    let mut bounds = Vec::new();
    for part in parts {
        for r in 0..part.rows() {
            part.decode_row(r, &mut row);
            let sum: f32 = row.iter().zip(x).map(|(w, x)| (w * x).abs()).sum();
            let off: f32 = row.iter().zip(errors).map(|(w, error)| w.abs() * error).sum();
            // One rounding more: an fp8 block's scale, which may meet the weight or the sum.
            bounds.push(sum * (x.len() + 1) as f32 * f32::EPSILON + off + 1e-30);
        }
    }
    bounds
}

/// How far attention over values within ±1 may be off where its queries and weights are rounded.
pub fn attention_error(precision: Precision, format: KvFormat, head_dim: usize) -> f32 {
    if precision == Precision::F32 || !format.is_in_bf16() {
        return 0.0;
    }
    // Half a unit of bfloat16, 2^-9, of each query: √head_dim times that in a score, a relative error of its weight
    // as of the sum it is divided by. Then the weight's own.
    (2.0 * (head_dim as f32).sqrt() + 2.0) / 512.0
}
