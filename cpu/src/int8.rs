//! Inputs as 8-bit integers: what meets the codes of a panel.
//!
//! Each row is cut into blocks of 32 columns that share a scale, the largest magnitude of the block over
//! 127, so an input is off by at most a 254th of the largest input near it. A block is one cache line:
//!
//! ```text
//! word   0 … 7      8       9               10, 11              12           13, 14         15
//!        32 bytes   scale   −sum (i32)      −sums of halves     −sum (f32)   −sums (f32)    0
//! ```
//!
//! The sums are of the integers; the offset of codes and the minimums of groups multiply them.

/// Columns of a block of inputs, and of a block of a panel's codes.
pub(crate) const BLOCK: usize = 32;

/// f32 words of a block.
pub(crate) const RECORD: usize = 16;

/// Bytes of a block.
pub(crate) const RECORD_BYTES: usize = 4 * RECORD;

/// Where the scale lies, in words.
pub(crate) const SCALE: usize = 8;

/// Where the sums lie: the whole block's, then those of its halves; integers, then the same as f32.
pub(crate) const SUMS: usize = 9;

/// From an integer sum to the same as f32.
pub(crate) const FLOATS: usize = 3;

/// Adding and subtracting it rounds magnitudes below 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// Write `x`, whole blocks, as records to `out`.
///
/// A block with an infinity or a NaN has the scale NaN: what it meets is NaN, as in f32.
#[inline(always)]
pub(crate) fn quantise(x: &[f32], out: &mut [f32]) {
    for (x, record) in x.chunks_exact(BLOCK).zip(out.chunks_exact_mut(RECORD)) {
        let mut magnitudes = [0.0f32; 8];
        // Zero unless something is not finite: infinity times zero is NaN.
        let mut faults = [0.0f32; 8];
        for part in x.chunks_exact(8) {
            for i in 0..8 {
                let magnitude = part[i].abs();
                magnitudes[i] = if magnitude > magnitudes[i] { magnitude } else { magnitudes[i] };
                faults[i] += part[i] * 0.0;
            }
        }
        let largest = magnitudes.into_iter().fold(0.0f32, |a, b| if b > a { b } else { a });
        let fault: f32 = faults.iter().sum();
        let scale = largest / 127.0 + fault;
        // Where even the scale would be subnormal, the block is as good as zero.
        let inverse = if scale >= f32::MIN_POSITIVE { 127.0 / largest } else { 0.0 };
        let mut sums = [0i32; 2];
        for (half, x) in x.chunks_exact(BLOCK / 2).enumerate() {
            let mut quants = [0i32; BLOCK / 2];
            for (quant, &x) in quants.iter_mut().zip(x) {
                // The integer lies in the lowest bits of the rounded sum.
                let bits = (x * inverse + ROUND).to_bits() as i32;
                *quant = bits.wrapping_sub(ROUND.to_bits() as i32);
            }
            sums[half] = quants.iter().fold(0, |sum, q| sum.wrapping_sub(*q));
            for (word, quants) in record[half * 4..half * 4 + 4].iter_mut().zip(quants.chunks_exact(4)) {
                let bytes = [quants[0] as u8, quants[1] as u8, quants[2] as u8, quants[3] as u8];
                *word = f32::from_bits(u32::from_le_bytes(bytes));
            }
        }
        record[SCALE] = scale;
        for (i, sum) in [sums[0].wrapping_add(sums[1]), sums[0], sums[1]].into_iter().enumerate() {
            record[SUMS + i] = f32::from_bits(sum as u32);
            record[SUMS + FLOATS + i] = sum as f32;
        }
        record[RECORD - 1] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use quern_backend::conformance::Rng;

    use super::*;

    fn records(x: &[f32]) -> Vec<[f32; RECORD]> {
        let mut out = vec![f32::NAN; x.len() / BLOCK * RECORD];
        quantise(x, &mut out);
        out.chunks_exact(RECORD).map(|record| record.try_into().unwrap()).collect()
    }

    fn quants(record: &[f32; RECORD]) -> Vec<i8> {
        record[..8].iter().flat_map(|word| word.to_bits().to_le_bytes()).map(|byte| byte as i8).collect()
    }

    #[test]
    fn values_come_back_within_half_a_step_and_sums_are_exact() {
        let mut rng = Rng(5);
        for exponent in [-100, -30, 0, 30, 120] {
            let x: Vec<f32> = rng.values(8 * BLOCK).iter().map(|v| v * 2f32.powi(exponent)).collect();
            for (x, record) in x.chunks(BLOCK).zip(records(&x)) {
                let (quants, scale) = (quants(&record), record[SCALE]);
                for (x, &quant) in x.iter().zip(&quants) {
                    assert!((x - scale * f32::from(quant)).abs() <= scale * 0.5001, "{quant} × {scale} for {x}");
                }
                let sum = |quants: &[i8]| -quants.iter().map(|&q| i32::from(q)).sum::<i32>();
                let want = [sum(&quants), sum(&quants[..16]), sum(&quants[16..])];
                for i in 0..3 {
                    assert_eq!(record[SUMS + i].to_bits() as i32, want[i]);
                    assert_eq!(record[SUMS + FLOATS + i], want[i] as f32);
                }
            }
        }
    }

    #[test]
    fn zeros_and_dust_are_zero_and_faults_show() {
        for x in [[0.0; BLOCK], [1e-44; BLOCK]] {
            assert_eq!(quants(&records(&x)[0]), [0; BLOCK]);
        }
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; BLOCK];
            x[17] = fault;
            assert!(records(&x)[0][SCALE].is_nan(), "{fault}");
        }
    }
}
