//! [`Linear`]: `y = x · wᵀ`, one matrix or several merged into one.

use std::sync::Arc;

use quern_backend::Backend;

use super::LoadContext;
use crate::{network::TensorSpec, weights::LoadError};

/// A projection without bias.
pub struct Linear<B: Backend> {
    weight: Arc<B::Weight>,
}

impl<B: Backend> Linear<B> {
    /// The matrices of `tensors`, which share their input features, as one: their outputs lie side by side.
    ///
    /// # Errors
    /// If a matrix cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>, tensors: &[&TensorSpec]) -> Result<Self, LoadError> {
        let parts: Result<Vec<_>, _> = tensors.iter().map(|tensor| cx.weights.matrix(tensor)).collect();
        Ok(Self { weight: Arc::new(cx.uploader.borrow_mut().weight(&parts?)?) })
    }

    /// The same matrix under another role: a tied head is the embedding.
    pub fn share(&self) -> Self {
        Self { weight: Arc::clone(&self.weight) }
    }

    /// `out = x · wᵀ`.
    pub fn forward(&self, backend: &B, x: &B::Buffer, out: &mut B::Buffer) {
        backend.linear(x, &self.weight, out);
    }

    /// `out[i] = w[token i of the step]`: the matrix as an embedding table.
    pub fn embed(&self, backend: &B, step: &B::Step, out: &mut B::Buffer) {
        backend.embed(&self.weight, step, out);
    }
}
