//! [`Quantised`]: weights of another source, encoded as they are asked for.

use std::sync::Arc;

use quern_backend::{PackedMatrix, QuantFormat, SharedBytes};

use super::{LoadError, QuantRecipe, WeightSource, fill::filled};
use crate::{
    network::{NetworkSpec, Shape, TensorSpec},
    shard::Shard,
};

/// The network of `source` by a recipe. Nothing is kept: matrices are encoded when a layer loads them,
/// by all the machine's cores, so that memory holds the result and the layer that is being made.
pub struct Quantised<'a> {
    source: &'a dyn WeightSource,
    recipe: QuantRecipe,
    num_layers: usize,
    num_bytes: u64,
    formats: Vec<QuantFormat>,
}

impl<'a> Quantised<'a> {
    /// `source` holds the tensors of `network`.
    pub fn new(source: &'a dyn WeightSource, recipe: QuantRecipe, network: &NetworkSpec) -> Self {
        let num_layers = network.num_layers();
        let mut quantised = Self { source, recipe, num_layers, num_bytes: 0, formats: Vec::new() };
        for tensor in network.tensors() {
            quantised.num_bytes += match tensor.shape {
                // What cannot be counted cannot be loaded either, which says why.
                Shape::Matrix(..) => quantised.part_bytes(tensor, &Shard::whole(tensor)).unwrap_or_default(),
                Shape::Vector(len) => 4 * len as u64,
            };
            if let Shape::Matrix(..) = tensor.shape {
                for format in quantised.formats(tensor) {
                    if !quantised.formats.contains(&format) {
                        quantised.formats.push(format);
                    }
                }
            }
        }
        quantised
    }

    /// The encodings of all its matrices, in the order in which they occur.
    pub fn all_formats(&self) -> &[QuantFormat] {
        &self.formats
    }

    fn format(&self, tensor: &TensorSpec) -> Option<QuantFormat> {
        self.recipe.format(tensor.role, tensor.layer, tensor.matrix().1, self.num_layers)
    }
}

impl WeightSource for Quantised<'_> {
    /// Blocks lie within rows, so that those of a part are those of the whole.
    fn parts(&self, tensor: &TensorSpec, shard: &Shard) -> Result<Vec<PackedMatrix>, LoadError> {
        let stored = self.source.parts(tensor, shard)?;
        match self.format(tensor) {
            Some(format) => Ok(encoded(&stored, format)),
            None => Ok(stored),
        }
    }

    fn formats(&self, tensor: &TensorSpec) -> Vec<QuantFormat> {
        self.format(tensor).map_or_else(|| self.source.formats(tensor), |format| vec![format])
    }

    fn part_bytes(&self, tensor: &TensorSpec, shard: &Shard) -> Result<u64, LoadError> {
        let rows = (shard.experts.len() * shard.rows.len()) as u64;
        match self.format(tensor) {
            Some(format) => Ok(rows * format.held_row_bytes(shard.cols.len()) as u64),
            None => self.source.part_bytes(tensor, shard),
        }
    }

    fn vector(&self, tensor: &TensorSpec) -> Result<Vec<f32>, LoadError> {
        self.source.vector(tensor)
    }

    fn num_bytes(&self) -> u64 {
        self.num_bytes
    }
}

/// Each matrix in blocks of `format`, all made side by side by the machine's cores.
///
/// # Panics
/// If the format is not made of blocks that can be written, or a row not a whole number of them.
pub fn encoded(matrices: &[PackedMatrix], format: QuantFormat) -> Vec<PackedMatrix> {
    let shapes: Vec<_> = matrices.iter().map(|matrix| (matrix.rows(), format.row_bytes(matrix.cols()))).collect();
    let blocks = format.blocks().expect("a format made of blocks");
    let encode = blocks.encode.expect("a format that can be written");
    let buffers = filled(&shapes, |index, first, bytes| {
        let matrix = &matrices[index];
        let mut values = vec![0.0; matrix.cols()];
        for (row, bytes) in bytes.chunks_exact_mut(shapes[index].1).enumerate() {
            matrix.decode_row(first + row, &mut values);
            let runs = values.chunks_exact(blocks.elements).zip(bytes.chunks_exact_mut(blocks.bytes));
            runs.for_each(|(values, block)| encode(values, block));
        }
    });
    let packed = |(matrix, bytes): (&PackedMatrix, Vec<u8>)| {
        PackedMatrix::plain(format, matrix.rows(), matrix.cols(), SharedBytes::new(Arc::new(bytes)))
    };
    matrices.iter().zip(buffers).map(packed).collect()
}
