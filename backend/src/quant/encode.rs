//! From values to blocks: the scales of each group are fitted, not merely large enough.
//!
//! A group's integers follow from its scale by rounding; its best scale for given integers follows by
//! least squares. Both in turn from several starts, the best kept: k-means on a lattice, as the field
//! does it. The squared error of an element weighs more the larger the element, because large weights
//! meet every input just as small ones do, and a relative error of theirs costs more.
//!
//! Scales are rounded to what the block can store before the integers are chosen for the last time.

use half::f16;

/// Starts of a fit, as steps to widen (or narrow) the lattice by.
const STARTS: [f32; 11] = [-0.9, -0.7, -0.5, -0.3, -0.15, 0.0, 0.15, 0.3, 0.5, 0.7, 0.9];

/// 32 values as Q8_0.
pub(super) fn q8_0(values: &[f32], block: &mut [u8]) {
    let scale = store_half(&mut block[..2], largest(values).abs() / 127.0);
    for (byte, &x) in block[2..].iter_mut().zip(values) {
        *byte = nearest(x, scale, -127, 127) as u8;
    }
}

/// 32 values as Q4_0.
pub(super) fn q4_0(values: &[f32], block: &mut [u8]) {
    let scale = store_half(&mut block[..2], fit_scale(values, 8));
    let code = |x: f32| (nearest(x, scale, -8, 7) + 8) as u8;
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = code(values[i]) | code(values[i + 16]) << 4;
    }
}

/// 256 values as Q6_K.
pub(super) fn q6_k(values: &[f32], block: &mut [u8]) {
    let scales: Vec<f32> = values.chunks_exact(16).map(|group| fit_scale(group, 32)).collect();
    // The largest scale takes -128, which is one more than +127.
    let whole = store_half(&mut block[208..], largest(&scales) / -128.0);
    let mut codes = [0; 256];
    for (g, scale) in scales.iter().enumerate() {
        let stored = nearest(*scale, whole, -128, 127);
        block[192 + g] = stored as u8;
        for i in 16 * g..16 * g + 16 {
            codes[i] = (nearest(values[i], whole * stored as f32, -32, 31) + 32) as u8;
        }
    }
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        for l in 0..64 {
            block[64 * half + l] = codes[l] & 15 | codes[l + 64] << 4;
        }
        for l in 0..32 {
            let high = |run: usize| codes[l + 32 * run] >> 4 << (2 * run);
            block[128 + 32 * half + l] = high(0) | high(1) | high(2) | high(3);
        }
    }
}

/// 256 values as Q4_K.
pub(super) fn q4_k(values: &[f32], block: &mut [u8]) {
    let fits: Vec<(f32, f32)> = values.chunks_exact(32).map(|group| fit_scale_and_min(group, 15)).collect();
    let most = |f: fn(&(f32, f32)) -> f32| fits.iter().map(f).fold(0.0, f32::max);
    let scale = store_half(&mut block[0..2], most(|fit| fit.0) / 63.0);
    let min = store_half(&mut block[2..4], most(|fit| fit.1) / 63.0);
    let (fields, nibbles) = block[4..].split_at_mut(12);
    fields.fill(0);
    let mut codes = [0; 256];
    for (g, fit) in fits.iter().enumerate() {
        let (s, m) = (nearest(fit.0, scale, 0, 63), nearest(fit.1, min, 0, 63));
        let (step, below) = (scale * s as f32, min * m as f32);
        for i in 32 * g..32 * g + 32 {
            codes[i] = nearest(values[i] + below, step, 0, 15) as u8;
        }
        // See `k_quants::scales_and_mins`.
        let (s, m) = (s as u8, m as u8);
        if g < 4 {
            fields[g] |= s;
            fields[g + 4] |= m;
        } else {
            fields[g + 4] = s & 15 | m << 4;
            fields[g - 4] |= s >> 4 << 6;
            fields[g] |= m >> 4 << 6;
        }
    }
    for (bytes, codes) in nibbles.chunks_exact_mut(32).zip(codes.chunks_exact(64)) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[l] | codes[l + 32] << 4;
        }
    }
}

/// The value of the largest magnitude, with its sign.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |best: f32, &x| if x.abs() > best.abs() { x } else { best })
}

/// Write `scale` as binary16, within what is finite there; returns what was written.
fn store_half(bytes: &mut [u8], scale: f32) -> f32 {
    let half = f16::from_f32(scale.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    bytes.copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// The integer of `low..=high` nearest to `x / step`, 0 (or what is nearest to it) for a step of 0.
fn nearest(x: f32, step: f32, low: i32, high: i32) -> i32 {
    let steps = if step == 0.0 { 0.0 } else { x / step };
    (steps.round_ties_even() as i32).clamp(low, high)
}

/// The step of the lattice `-n..n` that is nearest to `values`; negative where the largest is positive,
/// since the lattice reaches further down.
fn fit_scale(values: &[f32], n: i32) -> f32 {
    let peak = largest(values);
    if peak == 0.0 {
        return 0.0;
    }
    let (mut best, mut best_gain) = (0.0, -1.0);
    for start in STARTS {
        let mut step = -peak / (n as f32 + start);
        for _ in 0..2 {
            let (mut xq, mut qq) = (0.0f64, 0.0f64);
            for &x in values {
                let q = f64::from(nearest(x, step, -n, n - 1));
                let weight = f64::from(x) * f64::from(x);
                xq += weight * f64::from(x) * q;
                qq += weight * q * q;
            }
            // What the weighted squared error loses by these integers at their best step.
            if qq > 0.0 && xq * xq / qq > best_gain {
                best_gain = xq * xq / qq;
                best = (xq / qq) as f32;
            }
            step = if qq > 0.0 { (xq / qq) as f32 } else { step };
        }
    }
    best
}

/// Step `s` and minimum `m`, neither negative, for which `s * (0..=n) - m` is nearest to `values`.
fn fit_scale_and_min(values: &[f32], n: i32) -> (f32, f32) {
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        return (0.0, -low);
    }
    let mean = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
    let weights: Vec<f64> = values.iter().map(|x| f64::from(mean.sqrt() + x.abs())).collect();
    // Kept where all elements get one code, through which there is no single line.
    let (mut best, mut least) = (((high - low) / n as f32, -low), f64::INFINITY);
    for start in STARTS {
        let (mut s, mut m) = ((high - low) / (n as f32 + start), -low);
        for _ in 0..2 {
            let codes: Vec<f64> = values.iter().map(|&x| f64::from(nearest(x + m, s, 0, n))).collect();
            // The line through (code, value) by weighted least squares.
            let [mut w, mut q, mut x, mut qq, mut qx] = [0.0f64; 5];
            for ((&weight, &code), &value) in weights.iter().zip(&codes).zip(values) {
                let value = f64::from(value);
                w += weight;
                q += weight * code;
                x += weight * value;
                qq += weight * code * code;
                qx += weight * code * value;
            }
            let determinant = w * qq - q * q;
            if determinant <= 0.0 {
                break;
            }
            let (mut step, mut min) = ((w * qx - q * x) / determinant, (q * qx - qq * x) / determinant);
            if min < 0.0 {
                (step, min) = (qx / qq, 0.0);
            }
            let error = |((&weight, &code), &value): ((&f64, &f64), &f32)| {
                let off = step * code - min - f64::from(value);
                weight * off * off
            };
            let error: f64 = weights.iter().zip(&codes).zip(values).map(error).sum();
            if step > 0.0 && error < least {
                (best, least) = ((step as f32, min as f32), error);
            }
            (s, m) = (step as f32, min as f32);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use crate::{QuantFormat, conformance::Rng, quant::Block};

    const FORMATS: [QuantFormat; 4] = [QuantFormat::Q8_0, QuantFormat::Q4_0, QuantFormat::Q4K, QuantFormat::Q6K];

    fn round_trip(format: QuantFormat, values: &[f32]) -> Vec<f32> {
        let blocks = format.blocks().unwrap();
        let (mut bytes, mut out) = (vec![0; blocks.bytes], vec![0.0; values.len()]);
        let mut block = Block::ZERO;
        for (values, out) in values.chunks_exact(blocks.elements).zip(out.chunks_exact_mut(blocks.elements)) {
            blocks.encode.unwrap()(values, &mut bytes);
            (blocks.unpack)(&bytes, &mut block);
            block.values(blocks.group, out);
        }
        out
    }

    fn rms(values: impl Iterator<Item = f32>) -> f32 {
        let (sum, count) = values.fold((0.0, 0), |(sum, count), x| (sum + x * x, count + 1));
        (sum / count as f32).sqrt()
    }

    /// Rounding to a lattice of step `s` has an error of `s / √12`. Values spread evenly over [-1, 1) leave
    /// a fit little to gain: steps of 2 / (levels - 1), and scales of groups that are integers themselves
    /// cost a little more.
    #[test]
    fn even_values_are_as_near_as_the_lattice_is_fine() {
        let values = Rng(1).values(64 << 8);
        for (format, levels) in FORMATS.into_iter().zip([255.0, 16.0, 16.0, 64.0]) {
            let error = rms(round_trip(format, &values).iter().zip(&values).map(|(a, b)| a - b));
            let bound = 1.1 * 2.0 / (levels - 1.0) / 12f32.sqrt();
            assert!(error < bound, "{format}: {error} is over {bound}");
        }
    }

    /// A lattice as wide as the largest value is what one gets without a fit.
    #[test]
    fn a_fit_is_better_than_a_lattice_as_wide_as_the_largest_value() {
        let mut rng = Rng(2);
        let values: Vec<f32> = (0..64 << 8).map(|_| (0..6).map(|_| rng.value()).sum()).collect();
        let wide = |group: usize, n: f32| {
            rms(values.chunks_exact(group).flat_map(|group| {
                let step = super::largest(group) / -n;
                group.iter().map(move |&x| ((x / step).round().clamp(-n, n - 1.0)) * step - x)
            }))
        };
        for (format, group, n) in
            [(QuantFormat::Q4_0, 32, 8.0), (QuantFormat::Q6K, 16, 32.0), (QuantFormat::Q4K, 32, 8.0)]
        {
            let error = rms(round_trip(format, &values).iter().zip(&values).map(|(a, b)| a - b));
            assert!(error < wide(group, n), "{format}: {error} is over {}", wide(group, n));
        }
    }

    #[test]
    fn zeros_stay_zeros_and_extremes_stay_finite() {
        for format in FORMATS {
            assert_eq!(round_trip(format, &[0.0; 256]), [0.0; 256], "{format}");
            for extreme in [1e-30, 1e30, f32::MAX] {
                let mut values = [extreme; 256];
                values.iter_mut().step_by(3).for_each(|x| *x = -extreme);
                assert!(round_trip(format, &values).iter().all(|x| x.is_finite()), "{format}, {extreme}");
            }
            let even = vec![0.5; 256];
            for value in round_trip(format, &even) {
                assert!((value - 0.5).abs() < 0.01, "{format}: {value} for 0.5 throughout");
            }
        }
    }
}
