//! Where a network's weights come from: mapped checkpoint files, random numbers, or either of them quantised.

pub mod dummy;
pub mod error;
mod files;
mod fill;
pub(crate) mod lfs;
pub mod manifest;
pub mod mapping;
pub mod quantised;
pub mod recipe;
pub mod safetensors;
pub mod scan;

pub use error::{LoadError, Problem, Remedy};
pub(crate) use fill::filled;
pub use quantised::Quantised;
pub use recipe::Recipe;

use quern_backend::PackedMatrix;

/// A source of weights. Modules are named as in the checkpoint, without the final `.weight`.
pub trait Weights: Send + Sync {
    /// The matrix of module `name`, `[rows, cols]`, in the encoding it is stored in.
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<PackedMatrix, LoadError>;

    /// The matrices of modules `names`, all of `[rows, cols]`. Sources that make them override this, so that many
    /// small ones keep all cores busy.
    fn matrices(&self, names: &[String], rows: usize, cols: usize) -> Result<Vec<PackedMatrix>, LoadError> {
        names.iter().map(|name| self.matrix(name, rows, cols)).collect()
    }

    /// The vector of module `name`, `[len]`, as f32.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError>;

    /// Bytes of that matrix. Sources that make it when asked override this.
    fn matrix_bytes(&self, name: &str, rows: usize, cols: usize) -> Result<u64, LoadError> {
        Ok(self.matrix(name, rows, cols)?.num_bytes() as u64)
    }

    /// Bytes of all weights as stored.
    fn num_bytes(&self) -> u64;
}
