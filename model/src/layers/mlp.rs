//! [`Mlp`]: the gated feed-forward network of a dense layer.

use quern_backend::Backend;

use super::{Linear, LoadContext};
use crate::{
    network::{MlpPart, Role},
    weights::LoadError,
};

/// `down(silu(gate(x)) * up(x))`.
pub struct Mlp<B: Backend> {
    gate_up: Linear<B>,
    down: Linear<B>,
}

/// The buffers a dense layer works in.
pub struct MlpBuffers<B: Backend> {
    /// `[tokens, 2 * intermediate]`.
    pub gate_up: B::Buffer,
    /// `[tokens, intermediate]`.
    pub inner: B::Buffer,
}

impl<B: Backend> Mlp<B> {
    /// That of `layer`.
    ///
    /// # Errors
    /// If a weight cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>, layer: usize) -> Result<Self, LoadError> {
        let part = |part| cx.tensor(layer, Role::Mlp(part));
        Ok(Self {
            gate_up: Linear::load(cx, &[part(MlpPart::Gate), part(MlpPart::Up)])?,
            down: Linear::load(cx, &[part(MlpPart::Down)])?,
        })
    }

    /// `out = mlp(x)`.
    pub fn forward(&self, b: &B, x: &B::Buffer, s: &mut MlpBuffers<B>, out: &mut B::Buffer) {
        self.gate_up.forward(b, x, &mut s.gate_up);
        b.silu_mul(&s.gate_up, &mut s.inner);
        self.down.forward_reduced(b, &s.inner, out);
    }
}
