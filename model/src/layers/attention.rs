//! [`Attention`]: grouped-query attention with normalised, rotated queries and keys.

use quern_backend::{Backend, HeadLayout, PagedBatch};

use super::{Linear, Loading, RmsNorm};
use crate::{network::Role, weights::LoadError};

/// One layer's attention.
pub struct Attention<B: Backend> {
    heads: HeadLayout,
    qkv_proj: Linear<B>,
    q_norm: RmsNorm<B>,
    k_norm: RmsNorm<B>,
    o_proj: Linear<B>,
}

/// The buffers attention works in.
pub struct AttentionScratch<B: Backend> {
    /// `[tokens, qkv_dim]`.
    pub qkv: B::Buffer,
    /// `[tokens, q_dim]`.
    pub context: B::Buffer,
}

impl<B: Backend> Attention<B> {
    /// That of `layer`.
    pub fn load(from: &Loading<'_, B>, layer: usize) -> Result<Self, LoadError> {
        let tensor = |role| from.tensor(layer, role);
        Ok(Self {
            heads: from.config.heads,
            qkv_proj: Linear::load(from, &[Role::Query, Role::Key, Role::Value].map(tensor))?,
            q_norm: RmsNorm::load(from, tensor(Role::QueryNorm))?,
            k_norm: RmsNorm::load(from, tensor(Role::KeyNorm))?,
            o_proj: Linear::load(from, &[tensor(Role::AttentionOutput)])?,
        })
    }

    /// `out = o_proj(attend(rope(norm(q, k)), v))`; stores this step's keys and values in `layer`'s pages.
    #[expect(clippy::too_many_arguments, reason = "one box of the diagram, each input its own thing")]
    pub fn forward(
        &self,
        b: &B,
        x: &B::Buffer,
        rotation: &B::Buffer,
        batch: &PagedBatch,
        layer: usize,
        kv: &mut B::KvCache,
        s: &mut AttentionScratch<B>,
        out: &mut B::Buffer,
    ) {
        self.qkv_proj.forward(b, x, &mut s.qkv);
        b.qk_norm_rope(&mut s.qkv, &self.heads, &self.q_norm.gain, &self.k_norm.gain, self.q_norm.eps, rotation);
        b.attention(&s.qkv, &self.heads, kv, layer, batch, &mut s.context);
        self.o_proj.forward(b, &s.context, out);
    }
}
