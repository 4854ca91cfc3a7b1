//! [`Attention`]: grouped-query attention with rotated queries and keys, which are normalised or have biases.

use quern_backend::{AttentionSpec, Backend};

use super::{LayerContext, Linear, LoadContext, RmsNorm};
use crate::{network::Role, weights::LoadError};

/// One layer's attention.
pub struct Attention<B: Backend> {
    spec: AttentionSpec,
    qkv_proj: Linear<B>,
    rope: HeadRope<B>,
    o_proj: Linear<B>,
}

/// What happens to queries and keys before attention, with their rotation.
enum HeadRope<B: Backend> {
    /// Each head is normalised.
    Normed { q_norm: RmsNorm<B>, k_norm: RmsNorm<B> },
    /// This row is added to queries, keys and values.
    Biased { bias: B::Buffer },
}

/// The buffers attention works in.
pub struct AttentionBuffers<B: Backend> {
    /// `[tokens, qkv_dim]`.
    pub qkv: B::Buffer,
    /// `[tokens, q_dim]`.
    pub context: B::Buffer,
}

impl<B: Backend> Attention<B> {
    /// That of `layer`.
    ///
    /// # Errors
    /// If a weight cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>, layer: usize) -> Result<Self, LoadError> {
        let tensor = |role| cx.tensor(layer, role);
        Ok(Self {
            spec: AttentionSpec::causal(layer, cx.config.heads),
            qkv_proj: Linear::load(cx, &[Role::Query, Role::Key, Role::Value].map(tensor))?,
            rope: HeadRope::load(cx, layer)?,
            o_proj: Linear::load(cx, &[tensor(Role::AttentionOutput)])?,
        })
    }

    /// `out = o_proj(attend(rope(q, k), v))`, normed or biased before; stores this step's keys and values in the layer's
    /// pages.
    pub fn forward(
        &self,
        cx: &mut LayerContext<'_, B>,
        x: &B::Buffer,
        s: &mut AttentionBuffers<B>,
        out: &mut B::Buffer,
    ) {
        let (b, heads) = (cx.backend, &self.spec.heads);
        self.qkv_proj.forward(b, x, &mut s.qkv);
        match &self.rope {
            HeadRope::Normed { q_norm, k_norm } => {
                b.qk_norm_rope(&mut s.qkv, heads, &q_norm.gain, &k_norm.gain, q_norm.eps, cx.rotation);
            }
            HeadRope::Biased { bias } => b.bias_rope(&mut s.qkv, heads, bias, cx.rotation),
        }
        b.attention(&s.qkv, &self.spec, cx.kv, cx.step, &mut s.context);
        self.o_proj.forward_reduced(b, &s.context, out);
    }
}

impl<B: Backend> HeadRope<B> {
    fn load(cx: &LoadContext<'_, B>, layer: usize) -> Result<Self, LoadError> {
        let tensor = |role| cx.tensor(layer, role);
        if !cx.network.has(layer, Role::QueryBias) {
            let norm = |role| RmsNorm::load(cx, tensor(role));
            return Ok(Self::Normed { q_norm: norm(Role::QueryNorm)?, k_norm: norm(Role::KeyNorm)? });
        }
        let mut values = Vec::new();
        for role in [Role::QueryBias, Role::KeyBias, Role::ValueBias] {
            values.extend(cx.vector(tensor(role))?);
        }
        let mut bias = cx.backend.alloc(1, values.len());
        cx.backend.write(&mut bias, &values);
        Ok(Self::Biased { bias })
    }
}
