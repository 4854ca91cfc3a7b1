//! [`Experts`]: the mixture-of-experts network of a sparse layer.

use quern_backend::Backend;

use super::{Linear, LoadContext};
use crate::{
    config::MoeConfig,
    network::{MlpPart, Role},
    weights::LoadError,
};

/// A router and the experts it chooses from.
pub struct Experts<B: Backend> {
    gate: Linear<B>,
    experts: B::Experts,
    renormalise: bool,
}

/// The buffers a sparse layer works in.
pub struct ExpertsBuffers<B: Backend> {
    /// `[tokens, experts]`.
    pub logits: B::Buffer,
    /// `[tokens, top_k]`.
    pub routing: B::Routing,
}

impl<B: Backend> Experts<B> {
    /// Those of `layer`.
    ///
    /// # Errors
    /// If a weight cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>, layer: usize, moe: &MoeConfig) -> Result<Self, LoadError> {
        let all = |part| cx.matrices(cx.tensor(layer, Role::Expert(part)));
        let first = cx.split.shard(cx.tensor(layer, Role::Expert(MlpPart::Gate))).experts.start;
        let (gates, ups, downs) = (all(MlpPart::Gate)?, all(MlpPart::Up)?, all(MlpPart::Down)?);
        Ok(Self {
            gate: Linear::load(cx, &[cx.tensor(layer, Role::Router)])?,
            experts: cx.uploader.borrow_mut().experts(first, &gates, &ups, &downs)?,
            renormalise: moe.renormalise,
        })
    }

    /// `out = Σ weight · expert(x)` over each token's chosen experts.
    pub fn forward(&self, b: &B, x: &B::Buffer, s: &mut ExpertsBuffers<B>, out: &mut B::Buffer) {
        self.gate.forward(b, x, &mut s.logits);
        b.route(&s.logits, self.renormalise, &mut s.routing);
        b.moe(x, &s.routing, &self.experts, out);
        b.all_reduce(out);
    }
}
