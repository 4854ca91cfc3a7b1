//! From values to blocks: the scales of each group are fitted, not merely large enough.
//!
//! A group's integers follow from its scale by rounding; its best scale for given integers follows by
//! least squares. Both in turn from several starts, the best kept: k-means on a lattice, as the field
//! does it. The squared error of an element weighs more the larger the element, because large weights
//! meet every input just as small ones do, and a relative error of theirs costs more.
//!
//! Scales are rounded to what the block can store before the integers are chosen for the last time.
//!
//! All weights of a network pass through here while a user waits, so the loops are written for vectors of
//! any width, without asking for one:
//! - The starts lie side by side, one to a lane. Their sums are made in one order on every machine, and none
//!   goes across lanes or waits for the one before. Lanes of elements instead took twice as long.
//! - A group is divided by its largest magnitude first, so that f32 is wide enough for every sum.
//! - Rounding is an addition and a subtraction ([`rounded`]), division a product with the inverse.
//! - Nothing branches on which start is the better one.
//!
//! What did not pay, as RMS error over uniform, normal, heavy-tailed, shifted and a trained network's values: eleven
//! starts for eight gain 0.06 % at most, a third round 0.4 % of Q4_K and nothing else for 40 % more time. Five starts
//! lose up to 0.4 %, one round up to 1.2 % of Q4_K.

use half::f16;

/// Starts of a fit. Two vectors of the narrowest machine, one of the next.
const LANES: usize = 8;

/// One number for each start.
type BlockLanes = [f32; LANES];

/// How many steps more (or fewer) than it has the lattice spans the largest value with, at the start.
const STARTS: BlockLanes = [-0.9, -0.6, -0.3, -0.1, 0.1, 0.3, 0.6, 0.9];

/// The same for short groups on a fine lattice: cutting off their largest value by a step or two costs less than a
/// coarser lattice for all (Q6_K: 0.6 to 1.6 % of the error). Q4_0 would lose as much.
const FINE_STARTS: BlockLanes = [-3.2, -2.4, -1.7, -1.0, -0.5, 0.0, 0.4, 0.8];

/// Times that each start's scale is fitted.
const ROUNDS: usize = 2;

/// 1.5 · 2²³: a sum with it has no bits behind the point, and its lowest bits are the integer.
const ROUNDER: f32 = 12_582_912.0;

/// A group whose values are all smaller is zeros: binary16 has no scale that small, and the inverse of
/// anything larger is finite.
const LEAST: f32 = 1e-20;

/// 32 values as Q8_0.
pub(super) fn q8_0(values: &[f32], block: &mut [u8]) {
    let values: &[f32; 32] = whole(values);
    let scale = store_half(&mut block[..2], Extremes::of(values).peak().abs() / 127.0);
    let codes = codes(values, 0.0, scale, -127.0, 127.0);
    block[2..].copy_from_slice(&codes);
}

/// 32 values as Q4_0.
pub(super) fn q4_0(values: &[f32], block: &mut [u8]) {
    let values: &[f32; 32] = whole(values);
    let scale = store_half(&mut block[..2], fit_scale(values, 8.0, &STARTS));
    let codes = codes(values, 0.0, scale, -8.0, 7.0).map(|code| code.wrapping_add(8));
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = codes[i] | codes[i + 16] << 4;
    }
}

/// 256 values as Q6_K.
pub(super) fn q6_k(values: &[f32], block: &mut [u8]) {
    let groups = values.as_chunks::<16>().0;
    let mut scales = [0.0; 16];
    scales.iter_mut().zip(groups).for_each(|(scale, group)| *scale = fit_scale(group, 32.0, &FINE_STARTS));
    // The largest scale takes -128, which is one more than +127.
    let scale = store_half(&mut block[208..], Extremes::of(&scales).peak() / -128.0);
    let mut all = [0; 256];
    let stored = codes(&scales, 0.0, scale, -128.0, 127.0);
    block[192..208].copy_from_slice(&stored);
    for ((group, stored), out) in groups.iter().zip(stored).zip(all.as_chunks_mut::<16>().0) {
        let step = scale * f32::from(stored as i8);
        *out = codes(group, 0.0, step, -32.0, 31.0).map(|code| code.wrapping_add(32));
    }
    for (half, codes) in all.as_chunks::<128>().0.iter().enumerate() {
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
    let groups = values.as_chunks::<32>().0;
    let (mut scales, mut mins) = ([0.0; 8], [0.0; 8]);
    for (g, group) in groups.iter().enumerate() {
        (scales[g], mins[g]) = fit_scale_and_min(group, 15.0);
    }
    let scale = store_half(&mut block[0..2], Extremes::of(&scales).high / 63.0);
    let min = store_half(&mut block[2..4], Extremes::of(&mins).high / 63.0);
    let (fields, nibbles) = block[4..].split_at_mut(12);
    fields.fill(0);
    let (steps, belows) = (codes(&scales, 0.0, scale, 0.0, 63.0), codes(&mins, 0.0, min, 0.0, 63.0));
    let mut all = [0; 256];
    for ((g, group), out) in groups.iter().enumerate().zip(all.as_chunks_mut::<32>().0) {
        let (s, m) = (steps[g], belows[g]);
        *out = codes(group, min * f32::from(m), scale * f32::from(s), 0.0, 15.0);
        // See `k_quants::scales_and_mins`.
        if g < 4 {
            fields[g] |= s;
            fields[g + 4] |= m;
        } else {
            fields[g + 4] = s & 15 | m << 4;
            fields[g - 4] |= s >> 4 << 6;
            fields[g] |= m >> 4 << 6;
        }
    }
    for (bytes, codes) in nibbles.as_chunks_mut::<32>().0.iter_mut().zip(all.as_chunks::<64>().0) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[l] | codes[l + 32] << 4;
        }
    }
}

/// As many values as a block has.
fn whole<const N: usize>(values: &[f32]) -> &[f32; N] {
    values.try_into().expect("a block is encoded from as many values as it has")
}

/// Write `scale` as binary16, within what is finite there; returns what was written.
fn store_half(bytes: &mut [u8], scale: f32) -> f32 {
    let half = f16::from_f32(scale.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    bytes.copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// `x` to the nearest integer, ties to even; `x` is smaller than 2²².
fn rounded(x: f32) -> f32 {
    x + ROUNDER - ROUNDER
}

/// The integers of `low..=high` nearest to `(x + below) / step`, in two's complement; what is nearest to 0 for
/// a step of 0.
fn codes<const N: usize>(values: &[f32; N], below: f32, step: f32, low: f32, high: f32) -> [u8; N] {
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    values.map(|x| (((x + below) * inverse).clamp(low, high) + ROUNDER).to_bits() as u8)
}

/// The ends of the interval that holds a group and 0.
#[derive(Clone, Copy)]
struct Extremes {
    low: f32,
    high: f32,
}

impl Extremes {
    fn of<const N: usize>(values: &[f32; N]) -> Self {
        let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
        for values in values.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let x = values[lane];
                low[lane] = if x < low[lane] { x } else { low[lane] };
                high[lane] = if x > high[lane] { x } else { high[lane] };
            }
        }
        Self { low: low.into_iter().fold(0.0, f32::min), high: high.into_iter().fold(0.0, f32::max) }
    }

    /// The value of the largest magnitude, with its sign.
    fn peak(self) -> f32 {
        if self.high > -self.low { self.high } else { self.low }
    }
}

/// The sum of `values`, the same on every machine.
fn sum<const N: usize>(values: [f32; N]) -> f32 {
    let mut lanes = [0.0; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] += values[lane];
        }
    }
    lanes.iter().sum()
}

/// The first of the lanes that hold the largest number.
fn best_of(gains: BlockLanes) -> usize {
    (1..LANES).fold(0, |best, lane| if gains[lane] > gains[best] { lane } else { best })
}

/// The step of the lattice `-n..n` that is nearest to `values`; negative where the largest is positive,
/// since the lattice reaches further down.
fn fit_scale<const N: usize>(values: &[f32; N], n: f32, starts: &BlockLanes) -> f32 {
    let peak = Extremes::of(values).peak();
    if peak.abs() < LEAST {
        return 0.0;
    }
    // The largest becomes -1, and the step positive.
    let inverse = -1.0 / peak;
    let values = values.map(|x| x * inverse);
    let (mut best, mut gains) = ([0.0; LANES], [0.0; LANES]);
    let mut inverses = starts.map(|start| n + start);
    for _ in 0..ROUNDS {
        let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
        for x in values {
            let weight = x * x;
            for lane in 0..LANES {
                let q = rounded((x * inverses[lane]).clamp(-n, n - 1.0));
                let weighted = weight * q;
                xq[lane] += weighted * x;
                qq[lane] += weighted * q;
            }
        }
        for lane in 0..LANES {
            // What the weighted squared error loses by these integers at their best step.
            let step = xq[lane] / qq[lane];
            let gain = step * xq[lane];
            let better = gain > gains[lane];
            best[lane] = if better { step } else { best[lane] };
            gains[lane] = if better { gain } else { gains[lane] };
            inverses[lane] = 1.0 / step;
        }
    }
    best[best_of(gains)] * -peak
}

/// Step `s` and minimum `m`, neither negative, for which `s * (0..=n) - m` is nearest to `values`.
fn fit_scale_and_min<const N: usize>(values: &[f32; N], n: f32) -> (f32, f32) {
    let span = Extremes::of(values);
    let magnitude = span.peak().abs();
    if magnitude < LEAST {
        return (0.0, 0.0);
    }
    let inverse = 1.0 / magnitude;
    let values = values.map(|x| x * inverse);
    let low = span.low * inverse;
    let high = values.into_iter().fold(f32::NEG_INFINITY, |high, x| if x > high { x } else { high });
    if high <= low {
        return (0.0, -span.low);
    }
    let rms = (sum(values.map(|x| x * x)) / N as f32).sqrt();
    let weights = values.map(|x| rms + x.abs());
    let (w, x) = (sum(weights), sum(std::array::from_fn::<_, N, _>(|i| weights[i] * values[i])));
    // Kept where all elements get one code, through which there is no single line.
    let (mut best_steps, mut best_mins, mut gains) = ([(high - low) / n; LANES], [-low; LANES], [0.0; LANES]);
    let (mut steps, mut mins) = (STARTS.map(|start| (high - low) / (n + start)), [-low; LANES]);
    for _ in 0..ROUNDS {
        let inverses = steps.map(|step| 1.0 / step);
        let (mut q, mut qq, mut qx) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (x, weight) in values.iter().zip(weights) {
            for lane in 0..LANES {
                let code = rounded(((x + mins[lane]) * inverses[lane]).clamp(0.0, n));
                let weighted = weight * code;
                q[lane] += weighted;
                qq[lane] += weighted * code;
                qx[lane] += weighted * x;
            }
        }
        for lane in 0..LANES {
            let (q, qq, qx) = (q[lane], qq[lane], qx[lane]);
            // The line through (code, value) by weighted least squares; through 0 if it ends up above.
            let determinant = w * qq - q * q;
            let min = (q * qx - qq * x) / determinant;
            let step = if min < 0.0 { qx / qq } else { (w * qx - q * x) / determinant };
            let min = if min < 0.0 { 0.0 } else { min };
            let gain = step * qx - min * x;
            // False for what came of a division by 0.
            let line = determinant > 0.0 && step > 0.0;
            let better = line && gain > gains[lane];
            best_steps[lane] = if better { step } else { best_steps[lane] };
            best_mins[lane] = if better { min } else { best_mins[lane] };
            gains[lane] = if better { gain } else { gains[lane] };
            steps[lane] = if line { step } else { steps[lane] };
            mins[lane] = if line { min } else { mins[lane] };
        }
    }
    let lane = best_of(gains);
    (best_steps[lane] * magnitude, best_mins[lane] * magnitude)
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
                let largest = group.iter().fold(0.0, |best: f32, &x| if x.abs() > best.abs() { x } else { best });
                let step = largest / -n;
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

    /// One order of additions: neither the width of vectors nor the compiler's choice shows in a file.
    #[test]
    fn blocks_are_the_same_bytes_on_every_machine() {
        let values = Rng(3).values(64 << 8);
        let found = FORMATS.map(|format| {
            let blocks = format.blocks().unwrap();
            let mut bytes = vec![0; blocks.bytes];
            values.chunks_exact(blocks.elements).fold(0xcbf2_9ce4_8422_2325u64, |hash, values| {
                blocks.encode.unwrap()(values, &mut bytes);
                bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
            })
        });
        assert_eq!(found, [0x304e_ed29_3d7b_604a, 0x9ca1_a8a9_713b_6535, 0x8217_101c_134b_99c1, 0xd37d_40dc_5dda_9079]);
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
