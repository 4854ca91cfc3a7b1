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
    /// What is loaded of the matrices of `tensors`, which share their input features, as one: their outputs lie side by
    /// side.
    ///
    /// # Errors
    /// If a matrix cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>, tensors: &[&TensorSpec]) -> Result<Self, LoadError> {
        let mut parts = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            parts.extend(cx.matrices(tensor)?);
        }
        Ok(Self { weight: Arc::new(cx.uploader.borrow_mut().weight(&parts)?) })
    }

    /// The same matrix under another role: a tied head is the embedding.
    pub fn share(&self) -> Self {
        Self { weight: Arc::clone(&self.weight) }
    }

    /// `out = x · wᵀ`.
    pub fn forward(&self, backend: &B, x: &B::Buffer, out: &mut B::Buffer) {
        backend.linear(x, &self.weight, out);
    }

    /// The same where some input features are loaded, summed with what the others make.
    pub fn forward_reduced(&self, backend: &B, x: &B::Buffer, out: &mut B::Buffer) {
        backend.linear(x, &self.weight, out);
        backend.all_reduce(out);
    }

    /// The matrix.
    pub fn weight(&self) -> &B::Weight {
        &self.weight
    }
}
