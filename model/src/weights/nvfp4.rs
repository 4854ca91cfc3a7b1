//! [`Nvfp4`]: E2M1 numbers that share an E4M3 by 16 and a binary32 by matrix, as ModelOpt and compressed-tensors store
//! them, written as the blocks of GGUF that mean the same.
//!
//! Stored: a byte for each two columns, the first in its low bits, an E4M3 for each 16 columns and one number in tensors
//! of their own. A block has the E4M3 of 64 columns first, then for each 16 of them columns 0 to 7 in the low bits of
//! bytes and 8 to 15 in the high ones. The number stays beside the blocks.

use std::ops::Range;

use super::{TensorProblem, int_groups::block_indices, tensor::Tensor};

/// Columns of a block.
pub(super) const BLOCK: usize = 64;

/// Columns that share an E4M3.
pub(super) const GROUP: usize = 16;

/// Bytes of the codes of a group.
const CODES: usize = GROUP / 2;

/// Groups of a block.
const GROUPS: usize = BLOCK / GROUP;

/// A matrix of E2M1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nvfp4<'a> {
    pub(super) cols: usize,
    /// `[rows, cols / 2]` bytes.
    pub(super) codes: &'a Tensor,
    /// `[rows, cols / 16]` E4M3.
    pub(super) scales: &'a Tensor,
    /// The name of the latter.
    pub(super) scales_name: &'a str,
    /// One number.
    pub(super) factor: &'a Tensor,
    /// Whether scales are divided by it: compressed-tensors.
    pub(super) divides: bool,
}

impl Nvfp4<'_> {
    /// What all numbers are multiplied by.
    pub(super) fn factor(&self) -> f32 {
        let number = self.factor.bytes.as_chunks().0.first().map_or(1.0, |bytes| f32::from_le_bytes(*bytes));
        if self.divides { 1.0 / number } else { number }
    }

    /// Columns `cols` of the rows from `first` on, as many as `out` holds. The columns are whole blocks.
    ///
    /// # Errors
    /// At a scale that is below zero or stands for no number.
    pub(super) fn fill(&self, first: usize, cols: &Range<usize>, out: &mut [u8]) -> Result<(), TensorProblem> {
        let (all_codes, all_scales) = (&*self.codes.bytes, &*self.scales.bytes);
        for (index, out) in block_indices(first, cols, self.cols, BLOCK).zip(out.chunks_exact_mut(GROUPS + BLOCK / 2)) {
            let (scales, codes) = out.split_at_mut(GROUPS);
            for (group, (scale, codes)) in (index * GROUPS..).zip(scales.iter_mut().zip(codes.chunks_exact_mut(CODES)))
            {
                *scale = self.scale(group, all_scales[group])?;
                let stored = &all_codes[group * CODES..][..CODES];
                // Two columns a byte, in order, to the columns of the first half and of the second.
                let (low, high) = stored.split_at(CODES / 2);
                for (pair, (low, high)) in codes.chunks_exact_mut(2).zip(low.iter().zip(high)) {
                    (pair[0], pair[1]) = (low & 15 | high << 4, low >> 4 | high & 0xf0);
                }
            }
        }
        Ok(())
    }

    /// The E4M3 `byte` of group `index` as a block has it: none is below zero; zero of either sign is zero.
    fn scale(&self, index: usize, byte: u8) -> Result<u8, TensorProblem> {
        let found = match byte {
            0..0x7f => return Ok(byte),
            0x80 => return Ok(0),
            0x7f | 0xff => "a value that is no number",
            _ => "a value below zero",
        };
        let found = format!("{found} at element {index}");
        let problem = TensorProblem::tensor(&self.scales.file, self.scales_name, "scales of zero or more", found);
        Err(problem.broken())
    }
}
