//! [`Quantised`]: weights of another source, encoded as they are asked for.

use std::sync::Arc;

use quern_backend::{PackedMatrix, QuantFormat, SharedBytes};

use super::{
    LoadError, Recipe, Weights,
    fill::filled,
    manifest::{self, Shape},
};
use crate::config::ModelConfig;

/// The network of `source` by a recipe. Nothing is kept: matrices are encoded when a layer loads them,
/// by all the machine's cores, so that memory holds the result and the layer that is being made.
pub struct Quantised<'a> {
    source: &'a dyn Weights,
    recipe: Recipe,
    num_layers: usize,
    /// The module that makes the logits.
    head: &'static str,
    num_bytes: u64,
    formats: Vec<QuantFormat>,
}

impl<'a> Quantised<'a> {
    /// `source` holds the network that `config` describes.
    pub fn new(source: &'a dyn Weights, recipe: Recipe, config: &ModelConfig) -> Self {
        let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        let mut quantised =
            Self { source, recipe, num_layers: config.num_layers, head, num_bytes: 0, formats: Vec::new() };
        for module in manifest::modules(config) {
            quantised.num_bytes += match module.shape {
                Shape::Matrix(rows, cols) => {
                    let format = quantised.format(&module.name, cols);
                    let format = format.unwrap_or_else(|| QuantFormat::plain(config.dtype));
                    if !quantised.formats.contains(&format) {
                        quantised.formats.push(format);
                    }
                    rows as u64 * format.row_bytes(cols) as u64
                }
                Shape::Vector(len) => 4 * len as u64,
            };
        }
        quantised
    }

    /// The encodings of its matrices, in the order in which they occur.
    pub fn formats(&self) -> &[QuantFormat] {
        &self.formats
    }

    fn format(&self, name: &str, cols: usize) -> Option<QuantFormat> {
        self.recipe.format(name, name == self.head, cols, self.num_layers)
    }
}

impl Weights for Quantised<'_> {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<PackedMatrix, LoadError> {
        let mut one = self.matrices(&[name.to_owned()], rows, cols)?;
        Ok(one.pop().expect("as many matrices as names"))
    }

    fn matrices(&self, names: &[String], rows: usize, cols: usize) -> Result<Vec<PackedMatrix>, LoadError> {
        let mut matrices = self.source.matrices(names, rows, cols)?;
        let format = |index: usize| self.format(&names[index], cols);
        let (places, stored): (Vec<_>, Vec<_>) =
            matrices.iter().enumerate().filter_map(|(i, m)| Some((i, (m.clone(), format(i)?)))).unzip();
        for (place, matrix) in places.into_iter().zip(encoded(&stored)) {
            matrices[place] = matrix;
        }
        Ok(matrices)
    }

    fn matrix_bytes(&self, name: &str, rows: usize, cols: usize) -> Result<u64, LoadError> {
        match self.format(name, cols) {
            Some(format) => Ok(rows as u64 * format.row_bytes(cols) as u64),
            None => self.source.matrix_bytes(name, rows, cols),
        }
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.source.vector(name, len)
    }

    fn num_bytes(&self) -> u64 {
        self.num_bytes
    }
}

/// Each matrix in blocks of its format, all made side by side by the machine's cores.
///
/// # Panics
/// If a format is not made of blocks that can be written, or a row not a whole number of them.
pub fn encoded(matrices: &[(PackedMatrix, QuantFormat)]) -> Vec<PackedMatrix> {
    let row_bytes = |(matrix, format): &(PackedMatrix, QuantFormat)| format.row_bytes(matrix.cols());
    let shapes: Vec<_> = matrices.iter().map(|pair| (pair.0.rows(), row_bytes(pair))).collect();
    let buffers = filled(&shapes, |index, first, bytes| {
        let (matrix, format) = &matrices[index];
        let blocks = format.blocks().expect("a format made of blocks");
        let encode = blocks.encode.expect("a format that can be written");
        let mut values = vec![0.0; matrix.cols()];
        for (row, bytes) in bytes.chunks_exact_mut(shapes[index].1).enumerate() {
            matrix.decode_row(first + row, &mut values);
            let runs = values.chunks_exact(blocks.elements).zip(bytes.chunks_exact_mut(blocks.bytes));
            runs.for_each(|(values, block)| encode(values, block));
        }
    });
    let matrices = matrices.iter().zip(buffers);
    let packed = |((matrix, format), bytes): (&(PackedMatrix, QuantFormat), Vec<u8>)| {
        PackedMatrix::plain(*format, matrix.rows(), matrix.cols(), SharedBytes::new(Arc::new(bytes)))
    };
    matrices.map(packed).collect()
}
