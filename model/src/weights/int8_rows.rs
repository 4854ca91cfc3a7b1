//! [`Int8Rows`]: signed bytes with a binary32 for each row, as bitsandbytes stores them (LLM.int8()), written each by itself
//! in the type that it makes of them.
//!
//! ```text
//! weight          signed bytes, [rows, cols]
//! SCB             the largest magnitude of each row, F32
//! weight_format   0: rows one behind the other
//! ```
//!
//! A number is `q * SCB / 127`. A block's scale would be a binary16, which is no `SCB / 127`. Source:
//! `int8_vectorwise_dequant` in `bitsandbytes/functional.py`.

use std::ops::Range;

use quern_backend::{DType, QuantFormat};

use super::{int_groups::put_numbers, tensor::Tensor};

/// What bitsandbytes multiplies by: 1 / 127 as a binary32.
const PER_STEP: f32 = 7.874_016e-3;

/// A matrix of such bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int8Rows<'a> {
    pub(super) cols: usize,
    /// The type that the numbers are rounded to.
    pub(super) dtype: DType,
    pub(super) codes: &'a Tensor,
    pub(super) scales: &'a Tensor,
}

impl Int8Rows<'_> {
    /// What the matrix is written in.
    pub(super) fn format(&self) -> QuantFormat {
        QuantFormat::plain(self.dtype)
    }

    /// Columns `cols` of the rows from `first` on, as many as `out` holds.
    pub(super) fn fill(&self, first: usize, cols: &Range<usize>, out: &mut [u8]) {
        let (codes, scales) = (&*self.codes.bytes, self.scales.bytes.as_chunks().0);
        let mut values = vec![0.0; cols.len()];
        for (row, out) in (first..).zip(out.chunks_exact_mut(self.format().row_bytes(cols.len()))) {
            let scale = f32::from_le_bytes(scales[row]);
            let codes = &codes[row * self.cols..][cols.clone()];
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = f32::from(code as i8) * scale * PER_STEP;
            }
            put_numbers(self.format(), &values, out);
        }
    }
}
