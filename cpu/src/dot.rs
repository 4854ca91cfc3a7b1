//! [`Dot`]: how one step of weights in some encoding meets one step of inputs.
//!
//! An encoding is an instance here (or in `arch`, where hardware multiplies it as it is) and a line in
//! `kernels.rs`; the loops of `gemm.rs` know none of them.

use crate::{
    int8::{BLOCK, RECORD_BYTES, quantise},
    lanes::{LANES, Lanes, round_to_bf16, to_bf16},
};

/// How inputs are laid out for a kernel, prepared once for all rows of weights that meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivationLayout {
    /// f32 in order.
    Plain,
    /// For each 32 columns: 16 f32 of even index, then 16 of odd index. Pairs of 16-bit weights come
    /// apart into the same two vectors with a shift and a mask.
    Split,
    /// As `Split`, each value rounded to bfloat16.
    SplitRounded,
    /// bfloat16 in order.
    Bf16,
    /// 8-bit integers in blocks of 32, see `int8.rs`.
    Int8,
}

impl ActivationLayout {
    /// All layouts, by index.
    pub(crate) const ALL: [ActivationLayout; 5] = [
        ActivationLayout::Plain,
        ActivationLayout::Split,
        ActivationLayout::SplitRounded,
        ActivationLayout::Bf16,
        ActivationLayout::Int8,
    ];

    /// Bytes of a prepared row: whole steps and whole cache lines.
    pub(crate) fn row_bytes(self, cols: usize) -> usize {
        let element = match self {
            ActivationLayout::Bf16 => 2,
            // An odd number of cache lines, so that rows do not meet in the same places of a cache.
            ActivationLayout::Int8 => return (cols.div_ceil(BLOCK) | 1) * RECORD_BYTES,
            _ => 4,
        };
        cols.next_multiple_of(32) * element
    }

    /// Write `x` in this layout to `out`, `row_bytes` of it as f32 words, zeros behind the last column.
    #[inline(always)]
    pub(crate) fn prepare(self, x: &[f32], out: &mut [f32]) {
        debug_assert_eq!(out.len() * 4, self.row_bytes(x.len()), "a prepared row of {} columns", x.len());
        match self {
            ActivationLayout::Plain => {
                out[..x.len()].copy_from_slice(x);
                out[x.len()..].fill(0.0);
            }
            ActivationLayout::Split => split(x, out, |v| v),
            ActivationLayout::SplitRounded => split(x, out, round_to_bf16),
            ActivationLayout::Bf16 => {
                let pair =
                    |even: f32, odd: f32| f32::from_bits(u32::from(to_bf16(even)) | u32::from(to_bf16(odd)) << 16);
                let pairs = x.chunks_exact(2);
                let last = pairs.remainder().first().map(|&v| pair(v, 0.0));
                let words = pairs.map(|p| pair(p[0], p[1])).chain(last).chain(std::iter::repeat(0.0));
                out.iter_mut().zip(words).for_each(|(o, w)| *o = w);
            }
            ActivationLayout::Int8 => quantise(x, out),
        }
    }
}

fn split(x: &[f32], out: &mut [f32], round: impl Fn(f32) -> f32) {
    let whole = x.chunks_exact(2 * LANES);
    let mut last = [0.0; 2 * LANES];
    last[..whole.remainder().len()].copy_from_slice(whole.remainder());
    for (block, out) in whole.chain([last.as_slice()]).zip(out.chunks_exact_mut(2 * LANES)) {
        let (even, odd) = out.split_at_mut(LANES);
        for i in 0..LANES {
            even[i] = round(block[2 * i]);
            odd[i] = round(block[2 * i + 1]);
        }
    }
}

/// One step along a row of weights.
pub(crate) trait Dot<L: Lanes> {
    /// Columns of a step.
    const STEP: usize;
    /// Stored bytes of a step.
    const WEIGHT_BYTES: usize;
    /// Steps that share a scale; 0 where there are no scales.
    const BLOCK_STEPS: usize;
    /// How the inputs must lie.
    const LAYOUT: ActivationLayout;
    /// The weights of a step, in registers.
    type Weights: Copy;

    /// The step at `from`, `WEIGHT_BYTES` of it.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for `WEIGHT_BYTES`.
    unsafe fn load(lanes: L, from: *const u8) -> Self::Weights;
    /// Add the products of a step to the 16 chains.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `x` is readable for a step of inputs in this layout.
    unsafe fn dot(lanes: L, acc: L::F, weights: Self::Weights, x: *const u8) -> L::F;
}

/// f32 weights.
pub(crate) struct F32;

impl<L: Lanes> Dot<L> for F32 {
    const STEP: usize = LANES;
    const WEIGHT_BYTES: usize = 4 * LANES;
    const BLOCK_STEPS: usize = 0;
    const LAYOUT: ActivationLayout = ActivationLayout::Plain;
    type Weights = L::F;

    #[inline(always)]
    unsafe fn load(lanes: L, from: *const u8) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { lanes.load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(lanes: L, acc: L::F, weights: L::F, x: *const u8) -> L::F {
        // SAFETY: by this function's contract.
        lanes.fma(weights, unsafe { lanes.load(x.cast()) }, acc)
    }
}

/// binary16 weights, expanded to f32.
pub(crate) struct F16;

impl<L: Lanes> Dot<L> for F16 {
    const STEP: usize = LANES;
    const WEIGHT_BYTES: usize = 2 * LANES;
    const BLOCK_STEPS: usize = 0;
    const LAYOUT: ActivationLayout = ActivationLayout::Plain;
    type Weights = L::F;

    #[inline(always)]
    unsafe fn load(lanes: L, from: *const u8) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { lanes.load_f16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(lanes: L, acc: L::F, weights: L::F, x: *const u8) -> L::F {
        // SAFETY: by this function's contract.
        lanes.fma(weights, unsafe { lanes.load(x.cast()) }, acc)
    }
}

/// Odd columns first: the order of the hardware's bfloat16 dot product, see `arch/avx512bf16.rs`.
///
/// # Safety
/// `x` is readable for 32 f32.
#[inline(always)]
unsafe fn dot_pairs<L: Lanes>(lanes: L, acc: L::F, (even, odd): (L::F, L::F), x: *const u8) -> L::F {
    let x: *const f32 = x.cast();
    // SAFETY: by this function's contract.
    unsafe {
        // Each load beside its product: both at once would take registers from the accumulators.
        let acc = lanes.fma(odd, lanes.load(x.add(LANES)), acc);
        lanes.fma(even, lanes.load(x), acc)
    }
}

/// bfloat16 weights, expanded to f32.
pub(crate) struct Bf16;

impl<L: Lanes> Dot<L> for Bf16 {
    const STEP: usize = 2 * LANES;
    const WEIGHT_BYTES: usize = 4 * LANES;
    const BLOCK_STEPS: usize = 0;
    const LAYOUT: ActivationLayout = ActivationLayout::Split;
    type Weights = (L::F, L::F);

    #[inline(always)]
    unsafe fn load(lanes: L, from: *const u8) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        unsafe { lanes.load_bf16_pairs(from) }
    }

    #[inline(always)]
    unsafe fn dot(lanes: L, acc: L::F, weights: (L::F, L::F), x: *const u8) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { dot_pairs(lanes, acc, weights, x) }
    }
}

/// E4M3 weights with a scale for each 128 columns, expanded to f32.
pub(crate) struct Fp8;

impl<L: Lanes> Dot<L> for Fp8 {
    const STEP: usize = 2 * LANES;
    const WEIGHT_BYTES: usize = 2 * LANES;
    const BLOCK_STEPS: usize = 4;
    const LAYOUT: ActivationLayout = ActivationLayout::Split;
    type Weights = (L::F, L::F);

    #[inline(always)]
    unsafe fn load(lanes: L, from: *const u8) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        unsafe { lanes.load_e4m3_pairs(from) }
    }

    #[inline(always)]
    unsafe fn dot(lanes: L, acc: L::F, weights: (L::F, L::F), x: *const u8) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { dot_pairs(lanes, acc, weights, x) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_rows_hold_every_column_once_and_zeros_behind() {
        for cols in [1, 2, 15, 16, 31, 32, 33, 64, 77] {
            let x: Vec<f32> = (1..=cols).map(|v| v as f32).collect();
            let prepared = |layout: ActivationLayout| {
                let mut out = vec![f32::NAN; layout.row_bytes(cols) / 4];
                layout.prepare(&x, &mut out);
                out
            };
            let plain = prepared(ActivationLayout::Plain);
            assert_eq!(&plain[..cols], &x);
            assert!(plain[cols..].iter().all(|&v| v == 0.0));
            for (i, pair) in prepared(ActivationLayout::Bf16).iter().enumerate() {
                let bits = pair.to_bits();
                assert_eq!(f32::from_bits(bits << 16), plain[2 * i]);
                assert_eq!(f32::from_bits(bits & 0xffff_0000), plain[2 * i + 1]);
            }
            for (block, out) in plain.chunks(32).zip(prepared(ActivationLayout::Split).chunks(32)) {
                for i in 0..LANES {
                    assert_eq!((out[i], out[LANES + i]), (block[2 * i], block[2 * i + 1]));
                }
            }
        }
    }

    #[test]
    fn bfloat16_rounds_to_nearest_even() {
        for bits in (0..u32::MAX).step_by(if cfg!(miri) { 65_521 << 8 } else { 65_521 }) {
            let x = f32::from_bits(bits);
            let (ours, theirs) = (round_to_bf16(x), half::bf16::from_f32(x).to_f32());
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{bits:#x}: {ours} {theirs}");
        }
    }
}
