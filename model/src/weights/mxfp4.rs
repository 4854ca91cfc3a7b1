//! [`Mxfp4`]: E2M1 numbers that share a power of two by 32, as compressed-tensors and MLX store them, written as the
//! blocks of GGUF that mean the same.
//!
//! Stored: a byte for each two columns, the first in its low bits, and a byte of exponent (E8M0, 2^(e - 127)) for each
//! 32 columns in a tensor of its own. A block has the exponent first, then columns 0 to 15 in the low bits of its bytes
//! and 16 to 31 in the high ones.

use std::ops::Range;

use super::{
    TensorProblem,
    int_groups::{BLOCK, block_indices, nibbles},
    tensor::Tensor,
};

/// Bytes of a block.
const BYTES: usize = 1 + BLOCK / 2;

/// The exponent that stands for no number.
const NAN: u8 = 255;

/// A matrix of E2M1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mxfp4<'a> {
    pub(super) cols: usize,
    /// `[rows, cols / 2]` bytes.
    pub(super) codes: &'a Tensor,
    /// `[rows, cols / 32]` bytes.
    pub(super) exponents: &'a Tensor,
    /// The name of the latter.
    pub(super) exponents_name: &'a str,
}

impl Mxfp4<'_> {
    /// Columns `cols` of the rows from `first` on, as many as `out` holds. The columns are whole blocks.
    ///
    /// # Errors
    /// At an exponent that stands for no number.
    pub(super) fn fill(&self, first: usize, cols: &Range<usize>, out: &mut [u8]) -> Result<(), TensorProblem> {
        for (index, out) in block_indices(first, cols, self.cols, BLOCK).zip(out.chunks_exact_mut(BYTES)) {
            let exponent = self.exponents.bytes[index];
            if exponent == NAN {
                let found = format!("a value that is no number at element {index}");
                let expected = "exponents below 255";
                let problem = TensorProblem::tensor(&self.exponents.file, self.exponents_name, expected, found);
                return Err(problem.broken());
            }
            let stored = &self.codes.bytes[index * (BLOCK / 2)..][..BLOCK / 2];
            let mut codes = [0; BLOCK];
            for (pair, byte) in codes.chunks_exact_mut(2).zip(stored) {
                (pair[0], pair[1]) = (byte & 15, byte >> 4);
            }
            out[0] = exponent;
            nibbles(&codes, &mut out[1..]);
        }
        Ok(())
    }
}
