//! [`Experts`]: the mixture-of-experts network of a sparse layer.

use quern_backend::Backend;

use super::{Linear, Loading};
use crate::{config::MoeConfig, weights::LoadError};

/// A router and the experts it chooses from.
pub struct Experts<B: Backend> {
    gate: Linear<B>,
    experts: B::Experts,
    renormalise: bool,
}

/// The buffers a sparse layer works in.
pub struct ExpertsScratch<B: Backend> {
    /// `[tokens, experts]`.
    pub logits: B::Buffer,
    /// `[tokens, top_k]`.
    pub routing: B::Routing,
}

impl<B: Backend> Experts<B> {
    /// The modules below `name` (`model.layers.N.mlp`): `gate`, and `experts.E.{gate,up,down}_proj`.
    pub fn load(from: &Loading<'_, B>, name: &str, moe: &MoeConfig) -> Result<Self, LoadError> {
        let hidden = from.config.hidden;
        let all = |part: &str, rows: usize, cols: usize| {
            let names: Vec<_> = (0..moe.num_experts).map(|e| format!("{name}.experts.{e}.{part}")).collect();
            from.weights.matrices(&names, rows, cols)
        };
        let gates = all("gate_proj", moe.inner, hidden)?;
        let ups = all("up_proj", moe.inner, hidden)?;
        let downs = all("down_proj", hidden, moe.inner)?;
        Ok(Self {
            gate: Linear::load(from, &format!("{name}.gate"), moe.num_experts, hidden)?,
            experts: from.backend.upload_experts(&gates, &ups, &downs)?,
            renormalise: moe.renormalise,
        })
    }

    /// `out = Σ weight · expert(x)` over each token's chosen experts.
    pub fn forward(&self, b: &B, x: &B::Buffer, s: &mut ExpertsScratch<B>, out: &mut B::Buffer) {
        self.gate.forward(b, x, &mut s.logits);
        b.route(&s.logits, self.renormalise, &mut s.routing);
        b.moe(x, &s.routing, &self.experts, out);
    }
}
