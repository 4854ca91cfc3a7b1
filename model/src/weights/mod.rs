//! Where a network's weights come from: mapped checkpoint files, random numbers, or either of them quantised.

pub mod dummy;
pub mod error;
mod files;
mod fill;
pub mod mapping;
pub mod quantised;
pub mod recipe;
pub mod safetensors;
pub mod scan;

pub use error::{LoadError, Remedy, TensorProblem};
pub(crate) use fill::filled;
pub use quantised::Quantised;
pub use recipe::QuantRecipe;

use quern_backend::PackedMatrix;

use crate::network::TensorSpec;

/// A source of the tensors of a network's description.
pub trait WeightSource: Send + Sync {
    /// All matrices of `tensor`, in the encoding they are stored in: each expert's, or one.
    ///
    /// # Errors
    /// If one cannot be read.
    fn matrices(&self, tensor: &TensorSpec) -> Result<Vec<PackedMatrix>, LoadError>;

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

    /// Bytes of all matrices of `tensor`. Sources that make them when asked override this.
    ///
    /// # Errors
    /// If one cannot be read.
    fn matrix_bytes(&self, tensor: &TensorSpec) -> Result<u64, LoadError> {
        Ok(self.matrices(tensor)?.iter().map(|matrix| matrix.num_bytes() as u64).sum())
    }

    /// Bytes of all weights as stored.
    fn num_bytes(&self) -> u64;
}
