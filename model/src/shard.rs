//! [`Shard`]: the part of a tensor that one rank holds.

use std::ops::Range;

use crate::network::{Shape, TensorSpec};

/// Rows and columns of some of the matrices of a [`TensorSpec`], or a range of a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Of the tensor's `count` matrices.
    pub experts: Range<usize>,
    /// Rows of each; elements of a vector.
    pub rows: Range<usize>,
    /// Columns of each; of a vector the only one.
    pub cols: Range<usize>,
}

impl Shard {
    /// All of it.
    pub fn whole(tensor: &TensorSpec) -> Self {
        let (rows, cols) = match tensor.shape {
            Shape::Matrix(rows, cols) => (rows, cols),
            Shape::Vector(len) => (len, 1),
        };
        Self { experts: 0..tensor.count, rows: 0..rows, cols: 0..cols }
    }
}
