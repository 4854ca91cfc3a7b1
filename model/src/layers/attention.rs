//! [`Attention`]: grouped-query attention with normalised, rotated queries and keys.

use quern_backend::{Backend, HeadLayout, PagedBatch};

use super::{Linear, Loading, RmsNorm};
use crate::weights::LoadError;

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
    /// The modules below `name` (`model.layers.N.self_attn`).
    pub fn load(from: &Loading<'_, B>, name: &str) -> Result<Self, LoadError> {
        let (config, heads) = (from.config, from.config.heads);
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|part| format!("{name}.{part}"));
        let merged = [(q.as_str(), heads.q_dim()), (k.as_str(), heads.kv_dim()), (v.as_str(), heads.kv_dim())];
        Ok(Self {
            heads,
            qkv_proj: Linear::load_merged(from, &merged, config.hidden)?,
            q_norm: RmsNorm::load(from, &format!("{name}.q_norm"), heads.head_dim)?,
            k_norm: RmsNorm::load(from, &format!("{name}.k_norm"), heads.head_dim)?,
            o_proj: Linear::load(from, &format!("{name}.o_proj"), config.hidden, heads.q_dim())?,
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
