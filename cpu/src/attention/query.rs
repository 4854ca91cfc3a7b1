//! [`QueryLayout`]: how queries lie in memory, to meet keys in each of the formats.

use crate::lanes::{round_to_bf16, to_bf16};

/// How queries lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryLayout {
    /// f32 as they come.
    F32,
    /// f32 that are bfloat16; weights are rounded alike.
    Bf16InF32,
    /// bfloat16, two features in a word; weights are rounded alike.
    Bf16Pairs,
}

impl QueryLayout {
    /// Words of a query of `dim` features.
    pub(crate) fn words(self, dim: usize) -> usize {
        if self == QueryLayout::Bf16Pairs { dim / 2 } else { dim }
    }

    /// Write a query, zeros behind it.
    pub(crate) fn lay_out(self, query: &[f32], words: &mut [f32]) {
        words.fill(0.0);
        match self {
            QueryLayout::F32 => words[..query.len()].copy_from_slice(query),
            QueryLayout::Bf16InF32 => words.iter_mut().zip(query).for_each(|(word, &x)| *word = round_to_bf16(x)),
            QueryLayout::Bf16Pairs => {
                for (word, pair) in words.iter_mut().zip(query.chunks(2)) {
                    let odd = pair.get(1).map_or(0, |&x| to_bf16(x));
                    *word = f32::from_bits(u32::from(to_bf16(pair[0])) | u32::from(odd) << 16);
                }
            }
        }
    }
}
