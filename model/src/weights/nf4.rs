//! [`Nf4`]: numbers of 4 bits that choose one of sixteen (NF4, FP4), as bitsandbytes stores them, written each by itself
//! in the type that bitsandbytes makes of them.
//!
//! ```text
//! weight                                   two numbers a byte, the first in its high bits, rows one behind the other
//! weight.quant_map                         the sixteen
//! weight.absmax                            a factor for each block of 64 numbers: F32, or where it is nested U8, places in
//! weight.nested_quant_map, .nested_absmax  256 numbers, and a factor for each 256 of them
//! weight.quant_state.bitsandbytes__nf4     JSON: sizes of blocks, what is added to nested factors, the type; or …__fp4
//! ```
//!
//! The sixteen are no integers, and no blocks hold such numbers. Source: `bitsandbytes/functional.py`.

use std::ops::Range;

use quern_backend::{DType, QuantFormat};
use serde_json::{Map, Value};

use super::{
    TensorProblem,
    int_groups::put_numbers,
    tensor::{Named, Tensor, floats},
};

/// A matrix of such numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nf4<'a> {
    pub(super) cols: usize,
    /// The type that the numbers are rounded to.
    pub(super) dtype: DType,
    pub(super) codes: &'a Tensor,
    pub(super) map: &'a Tensor,
    pub(super) factors: &'a Tensor,
    pub(super) nested: Option<NestedFactors<'a>>,
    pub(super) state: Named<'a>,
    /// `nf4` or `fp4`, which the state must say too.
    pub(super) kind: &'static str,
}

/// Where factors are places in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct NestedFactors<'a> {
    pub(super) map: &'a Tensor,
    pub(super) factors: &'a Tensor,
}

/// Numbers that share a factor.
pub(super) const BLOCK: usize = 64;

/// Factors that share one.
pub(super) const NESTED_BLOCK: usize = 256;

impl Nf4<'_> {
    /// What the matrix is written in.
    pub(super) fn format(&self) -> QuantFormat {
        QuantFormat::plain(self.dtype)
    }

    /// What is wrong with its state.
    pub(super) fn problem(&self) -> Option<TensorProblem> {
        self.offset().err()
    }

    /// What is added to nested factors, by the state, which must say what is taken for granted here.
    fn offset(&self) -> Result<f32, TensorProblem> {
        let (name, tensor) = self.state;
        let wrong = |expected: &str, found: String| Err(TensorProblem::tensor(&tensor.file, name, expected, found));
        let Ok(state) = serde_json::from_slice::<Map<String, Value>>(&tensor.bytes) else {
            return wrong("a JSON object", format!("{} bytes of something else", tensor.bytes.len()));
        };
        let shown = |field: &str| state.get(field).map_or_else(|| "nothing".to_owned(), Value::to_string);
        let dtype = match self.dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        let nested = [("nested_blocksize", Value::from(NESTED_BLOCK)), ("nested_dtype", "float32".into())];
        let common = [("blocksize", Value::from(BLOCK)), ("quant_type", self.kind.into()), ("dtype", dtype.into())];
        let wanted = common.into_iter().chain(nested.into_iter().filter(|_| self.nested.is_some()));
        for (field, value) in wanted {
            if state.get(field) != Some(&value) {
                return wrong(&format!("`{field}`: {value}"), shown(field));
            }
        }
        if self.nested.is_none() {
            return Ok(0.0);
        }
        match state.get("nested_offset").and_then(Value::as_f64).map(|offset| offset as f32) {
            Some(offset) if offset.is_finite() => Ok(offset),
            _ => wrong("`nested_offset`: a number", shown("nested_offset")),
        }
    }

    /// Columns `cols` of the rows from `first` on, as many as `out` holds.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub(super) fn fill(&self, first: usize, cols: &Range<usize>, out: &mut [u8]) -> Result<(), TensorProblem> {
        let (offset, map, factors) = (self.offset()?, floats(self.map), Factors::of(self));
        let (codes, mut values) = (&*self.codes.bytes, vec![0.0; cols.len()]);
        for (row, out) in (first..).zip(out.chunks_exact_mut(self.format().row_bytes(cols.len()))) {
            for (col, value) in cols.clone().zip(&mut values) {
                let index = row * self.cols + col;
                let byte = codes[index / 2];
                let code = if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                *value = map[usize::from(code)] * factors.at(index / BLOCK, offset);
            }
            put_numbers(self.format(), &values, out);
        }
        Ok(())
    }
}

/// The factors of blocks, at hand.
enum Factors<'a> {
    Plain(Vec<f32>),
    Nested { places: &'a [u8], map: Vec<f32>, factors: Vec<f32> },
}

impl<'a> Factors<'a> {
    fn of(matrix: &Nf4<'a>) -> Self {
        match matrix.nested {
            None => Self::Plain(floats(matrix.factors)),
            Some(nested) => {
                Self::Nested { places: &matrix.factors.bytes, map: floats(nested.map), factors: floats(nested.factors) }
            }
        }
    }

    fn at(&self, block: usize, offset: f32) -> f32 {
        match self {
            Self::Plain(factors) => factors[block],
            Self::Nested { places, map, factors } => {
                map[usize::from(places[block])] * factors[block / NESTED_BLOCK] + offset
            }
        }
    }
}
