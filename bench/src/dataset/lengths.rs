//! Random lengths, as SGLang's client draws them.

use crate::random::NumpyRandom;

/// `count` lengths from `full * ratio` (at least 1) to `full`, both inclusive.
///
/// A `full` of 0 counts as 1: NumPy would refuse the empty range.
pub(super) fn random_lengths(full: usize, ratio: f64, count: usize, numpy: &mut NumpyRandom) -> Vec<usize> {
    let shortest = ((full as f64 * ratio) as u64).max(1);
    let longest = (full as u64).max(shortest);
    numpy.randint(shortest, longest + 1, count).into_iter().map(|length| length as usize).collect()
}
