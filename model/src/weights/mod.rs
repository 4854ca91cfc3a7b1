//! Where a network's weights come from: mapped checkpoint files, random numbers, or either of them quantised.

mod contents;
#[cfg(target_os = "linux")]
pub mod cut_file;
pub mod dummy;
pub mod error;
mod files;
mod fill;
mod int8_rows;
mod int_groups;
pub mod mapping;
mod mxfp4;
mod nf4;
mod nvfp4;
pub mod quantised;
pub mod recipe;
pub mod safetensors;
pub mod scan;
mod stacked;
mod stored;
mod tensor;
mod transcoded;

pub use error::{LoadError, Remedy, TensorProblem};
pub(crate) use fill::filled;
pub use quantised::Quantised;
pub use recipe::QuantRecipe;

use quern_backend::{PackedMatrix, QuantFormat};

use crate::{network::TensorSpec, shard::Shard};

/// A source of the tensors of a network's description.
pub trait WeightSource: Send + Sync {
    /// The `shard` of `tensor`, in the encoding it is stored in: each expert's matrix, or one. Columns are whole blocks
    /// of each of the tensor's [`formats`](Self::formats).
    ///
    /// # Errors
    /// If a matrix is missing.
    fn parts(&self, tensor: &TensorSpec, shard: &Shard) -> Result<Vec<PackedMatrix>, LoadError>;

    /// The encodings of the matrices of `tensor`, each once; those that are missing have none.
    fn formats(&self, tensor: &TensorSpec) -> Vec<QuantFormat>;

    /// All matrices of `tensor`.
    ///
    /// # Errors
    /// If one is missing.
    fn matrices(&self, tensor: &TensorSpec) -> Result<Vec<PackedMatrix>, LoadError> {
        self.parts(tensor, &Shard::whole(tensor))
    }

    /// The matrix of a `tensor` that is no expert's.
    ///
    /// # Errors
    /// If it cannot be read.
    fn matrix(&self, tensor: &TensorSpec) -> Result<PackedMatrix, LoadError> {
        let mut matrices = self.matrices(tensor)?;
        assert_eq!(matrices.len(), 1, "{:?} of layer {:?}", tensor.role, tensor.layer);
        Ok(matrices.remove(0))
    }

    /// The vector `tensor`, as f32.
    ///
    /// # Errors
    /// If it cannot be read.
    fn vector(&self, tensor: &TensorSpec) -> Result<Vec<f32>, LoadError>;

    /// Bytes of the `shard` of the matrices of `tensor` once loaded. Sources that make them when asked override this.
    ///
    /// # Errors
    /// If one is missing.
    fn part_bytes(&self, tensor: &TensorSpec, shard: &Shard) -> Result<u64, LoadError> {
        Ok(self.parts(tensor, shard)?.iter().map(|matrix| matrix.held_bytes() as u64).sum())
    }

    /// Bytes of all weights once loaded.
    fn num_bytes(&self) -> u64;
}
