//! [`RmsNorm`]: the gain of a root-mean-square norm.

use quern_backend::Backend;

use super::LoadContext;
use crate::{network::TensorSpec, weights::LoadError};

/// A norm's gain and epsilon.
pub struct RmsNorm<B: Backend> {
    /// One row.
    pub gain: B::Buffer,
    /// Added under the root.
    pub eps: f32,
}

impl<B: Backend> RmsNorm<B> {
    /// The norm whose gain `tensor` is.
    ///
    /// # Errors
    /// If the gain cannot be read.
    pub fn load(cx: &LoadContext<'_, B>, tensor: &TensorSpec) -> Result<Self, LoadError> {
        let values = cx.vector(tensor)?;
        let mut gain = cx.backend.alloc(1, values.len());
        cx.backend.write(&mut gain, &values);
        Ok(Self { gain, eps: cx.config.rms_norm_eps })
    }

    /// `residual += delta; out = norm(residual)`.
    pub fn forward(&self, backend: &B, residual: &mut B::Buffer, delta: &B::Buffer, out: &mut B::Buffer) {
        backend.add_rms_norm(residual, delta, &self.gain, self.eps, out);
    }
}
