//! [`Collective`]: what the ranks of a network do together, and [`tree`], the order in which their sums are added.

use std::ops::Range;

/// One of `count` equal workers, each of which holds a part of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rank {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Rank {
    /// The only rank of a network that is not divided.
    pub const SOLO: Rank = Rank { index: 0, count: 1 };

    /// Its share of `n` things in a row: shares differ by one at most.
    pub fn share(self, n: usize) -> Range<usize> {
        n * self.index / self.count..n * (self.index + 1) / self.count
    }
}

/// The exchange between ranks, on the host's floats.
///
/// Every rank calls the same operations in the same order with the same lengths. A call returns when this rank's part
/// is done, not when everybody's is. Calls of one rank come from one thread at a time, except
/// [`poison`](Self::poison), which any thread may call while the others wait.
///
/// After an error nothing can be exchanged until [`reset`](Self::reset): every call returns the first error again.
pub trait Collective: Send + Sync {
    /// This rank.
    fn rank(&self) -> Rank;

    /// `values` becomes the sum over all ranks of their `values`, added as [`tree`] adds: the bits depend on the parts
    /// and the number of ranks only, not on the transport, the length or the placement of the ranks.
    ///
    /// # Errors
    /// If a rank is lost or has called [`poison`](Self::poison); `values` mean nothing then.
    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Lost>;

    /// On rank 0 `all` becomes the rows of all ranks side by side; on the others it is left alone and may be empty.
    ///
    /// `widths`: the columns of each rank, 0 allowed. `own`: `[rows, widths[rank]]`; `all`: `[rows, Σ widths]`.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce).
    fn gather(&self, own: &[f32], widths: &[usize], all: &mut [f32]) -> Result<(), Lost>;

    /// `values` becomes those of rank 0, on all ranks.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce).
    fn broadcast(&self, values: &mut [f32]) -> Result<(), Lost>;

    /// This rank cannot go on with the step: everybody who waits, or will, gets `cause` as an error. The first call
    /// counts.
    fn poison(&self, cause: &str);

    /// Begin again after an error. Called by every rank, each when it has left the failed step; no rank may exchange
    /// before all have called it.
    ///
    /// # Errors
    /// If the error was for good ([`Lost::gone`]).
    fn reset(&self) -> Result<(), Lost>;
}

/// A rank that does not take part any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank} {cause}")]
pub struct Lost {
    /// Which one.
    pub rank: usize,
    /// What became of it, as the rest of a sentence: "has been silent for 3 s".
    pub cause: String,
    /// Whether it is gone for good. Otherwise it failed in this step only, and the next one may succeed.
    pub gone: bool,
}

/// Where [`tree`] divides `count` parts: the lower branch is the largest power of two below `count`.
///
/// So the parts of 2ⁿ neighbours that start at a multiple of 2ⁿ are a branch of their own. It can be summed on its own
/// (the ranks of a host, the slices of a rank) without a change of bits.
///
/// # Panics
/// If there are fewer than two.
pub fn branch(count: usize) -> usize {
    assert!(count >= 2, "{count} parts have no branches");
    count.next_power_of_two() / 2
}

/// `sum[i] = Σ parts[r][i]`, added as a binary tree over the parts: **the** order of sums over ranks.
///
/// ```text
/// 8 parts: ((0+1)+(2+3)) + ((4+5)+(6+7))      3 parts: (0+1)+2      6 parts: ((0+1)+(2+3)) + (4+5)
/// ```
///
/// Each element is added by itself, so the sum of a row does not depend on the rows beside it.
///
/// # Panics
/// If there are no parts, or one has another length than `sum`.
pub fn tree(parts: &[&[f32]], sum: &mut [f32]) {
    assert!(!parts.is_empty(), "a sum of no parts");
    for part in parts {
        assert_eq!(part.len(), sum.len(), "a part and the sum differ in length");
    }
    for (index, block) in sum.chunks_mut(BLOCK).enumerate() {
        add(parts, index * BLOCK, block);
    }
}

/// Floats of a block of [`tree`]: the branches of one fit the first-level cache on the stack.
const BLOCK: usize = 512;

/// `sum = Σ parts[r][start..]`, for at most [`BLOCK`] elements.
fn add(parts: &[&[f32]], start: usize, sum: &mut [f32]) {
    let end = start + sum.len();
    match parts {
        [] => unreachable!("a branch has at least one part"),
        [one] => sum.copy_from_slice(&one[start..end]),
        [a, b] => {
            for ((sum, a), b) in sum.iter_mut().zip(&a[start..end]).zip(&b[start..end]) {
                *sum = a + b;
            }
        }
        _ => {
            let (low, high) = parts.split_at(branch(parts.len()));
            let mut other = [0.0; BLOCK];
            let other = &mut other[..sum.len()];
            add(low, start, sum);
            add(high, start, other);
            for (sum, other) in sum.iter_mut().zip(other) {
                *sum += *other;
            }
        }
    }
}

/// `all[row] = parts[0][row] ++ parts[1][row] ++ …`: what [`Collective::gather`] leaves on rank 0.
///
/// `parts[r]`: `[rows, widths[r]]`; `all`: `[rows, Σ widths]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn side_by_side(parts: &[&[f32]], widths: &[usize], all: &mut [f32]) {
    assert_eq!(parts.len(), widths.len(), "parts and their widths differ in number");
    let total: usize = widths.iter().sum();
    if total == 0 {
        assert!(all.is_empty(), "{} floats for rows without columns", all.len());
        return;
    }
    assert_eq!(all.len() % total, 0, "{} floats are not rows of {total}", all.len());
    let rows = all.len() / total;
    let mut column = 0;
    for (part, &width) in parts.iter().zip(widths) {
        assert_eq!(part.len(), rows * width, "a part is not {rows} rows of {width}");
        if width > 0 {
            for (all, own) in all.chunks_exact_mut(total).zip(part.chunks_exact(width)) {
                all[column..column + width].copy_from_slice(own);
            }
        }
        column += width;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition of [`tree`] for one element.
    fn scalar(parts: &[f32]) -> f32 {
        match parts {
            [one] => *one,
            _ => {
                let (low, high) = parts.split_at(branch(parts.len()));
                scalar(low) + scalar(high)
            }
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn sum(parts: &[Vec<f32>]) -> Vec<f32> {
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        let mut sum = vec![f32::NAN; parts[0].len()];
        tree(&parts, &mut sum);
        sum
    }

    /// 1 to 9 parts of equal length, of values whose sums depend on the order.
    fn parts() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let value = (-1.0_f32..1.0, -20_i32..20).prop_map(|(mantissa, exponent)| mantissa * (exponent as f32).exp2());
        (1_usize..10, 0_usize..1200).prop_flat_map(move |(count, length)| {
            prop::collection::vec(prop::collection::vec(value.clone(), length), count)
        })
    }

    #[test]
    fn the_lower_branch_is_the_largest_power_of_two_below() {
        let branches: Vec<usize> = (2..=9).map(branch).collect();
        assert_eq!(branches, [1, 2, 2, 4, 4, 4, 4, 8]);
    }

    #[test]
    fn the_order_is_that_of_the_drawing() {
        let (large, small) = (2_f32.powi(24), 1.0);
        // 2²⁴ + 1 is 2²⁴ in f32: only the tree's order keeps both ones.
        assert_eq!(sum(&[vec![small], vec![small], vec![large]]), [large + 2.0]);
        assert_eq!(sum(&[vec![large], vec![small], vec![small]]), [large]);
        assert_eq!(sum(&[vec![large], vec![-large], vec![small], vec![small]]), [2.0]);
    }

    proptest! {
        #[test]
        fn a_sum_is_the_scalar_tree_of_each_element(parts in parts()) {
            let expected: Vec<f32> = (0..parts[0].len())
                .map(|at| scalar(&parts.iter().map(|part| part[at]).collect::<Vec<_>>()))
                .collect();
            prop_assert_eq!(bits(&sum(&parts)), bits(&expected));
        }

        #[test]
        fn whole_branches_may_be_summed_on_their_own(parts in parts(), log in 0_u32..4) {
            let hosts: Vec<Vec<f32>> = parts.chunks(1 << log).map(sum).collect();
            prop_assert_eq!(bits(&sum(&hosts)), bits(&sum(&parts)));
        }

        #[test]
        fn a_row_alone_has_the_bits_of_a_row_among_others(parts in parts(), start in 0_usize..1200, end in 0_usize..1200) {
            let length = parts[0].len();
            let range = start.min(end).min(length)..end.max(start).min(length);
            let alone: Vec<Vec<f32>> = parts.iter().map(|part| part[range.clone()].to_vec()).collect();
            prop_assert_eq!(bits(&sum(&alone)), bits(&sum(&parts)[range]));
        }

        #[test]
        fn rows_stand_side_by_side(widths in prop::collection::vec(0_usize..5, 1..6), rows in 0_usize..4) {
            // Each float says where it belongs.
            let total: usize = widths.iter().sum();
            let mut first = 0;
            let parts: Vec<Vec<f32>> = widths.iter().map(|&width| {
                let columns = first..first + width;
                first += width;
                (0..rows).flat_map(|row| columns.clone().map(move |column| (row * total + column) as f32)).collect()
            }).collect();
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            let mut all = vec![f32::NAN; rows * total];
            side_by_side(&parts, &widths, &mut all);
            prop_assert_eq!(all, (0..rows * total).map(|at| at as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn parts_of_unequal_length_are_refused() {
        tree(&[&[1.0], &[1.0, 2.0]], &mut [0.0]);
    }

    #[test]
    fn a_loss_is_told_as_a_sentence() {
        let lost = Lost { rank: 5, cause: "(10.0.0.2) is gone".into(), gone: true };
        assert_eq!(lost.to_string(), "rank 5 (10.0.0.2) is gone");
    }
}
