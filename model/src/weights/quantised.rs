//! [`Quantised`]: weights of another source, encoded as they are asked for.

use std::{num::NonZeroUsize, sync::Arc, thread};

use quern_backend::{PackedMatrix, QuantFormat, SharedBytes};

use super::{
    LoadError, Recipe, Weights,
    manifest::{self, Shape},
};
use crate::config::ModelConfig;

/// The network of `source` by a recipe. Nothing is kept: a matrix is encoded when a layer loads it, by all
/// the machine's cores, so that memory holds the result and the layer that is being made.
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
        let matrix = self.source.matrix(name, rows, cols)?;
        Ok(match self.format(name, cols) {
            Some(format) => encoded(&matrix, format),
            None => matrix,
        })
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

/// `matrix` in blocks of `format`, its rows shared among the machine's cores.
///
/// # Panics
/// If `format` is not made of blocks that can be written, or a row not a whole number of them.
pub fn encoded(matrix: &PackedMatrix, format: QuantFormat) -> PackedMatrix {
    let encode = format.blocks().and_then(|blocks| blocks.encode).expect("a format that can be written");
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let row_bytes = format.row_bytes(cols);
    let mut bytes = vec![0; rows * row_bytes];
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = rows.div_ceil(threads).max(1);
    thread::scope(|scope| {
        for (part, bytes) in bytes.chunks_mut(share * row_bytes).enumerate() {
            scope.spawn(move || {
                let mut values = vec![0.0; cols];
                for (row, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                    matrix.decode_row(part * share + row, &mut values);
                    let blocks = values.chunks_exact(format.block_elements());
                    blocks.zip(bytes.chunks_exact_mut(format.block_bytes())).for_each(|(x, block)| encode(x, block));
                }
            });
        }
    });
    PackedMatrix::plain(format, rows, cols, SharedBytes::new(Arc::new(bytes)))
}
