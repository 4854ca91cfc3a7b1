//! The sizes of attention: [`HeadLayout`], the [`AttentionSpec`] of one layer, and the [`KvSpec`] of all their pages.

use crate::KvFormat;

/// Sizes of the attention heads of one layer.
///
/// A row of `qkv` is `num_heads` query heads, then `num_kv_heads` key heads, then as many value heads,
/// each `head_dim` wide. Query head `h` reads KV head `h / (num_heads / num_kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Features of one head; even.
    pub head_dim: usize,
}

impl HeadLayout {
    /// Features of all query heads: also the width of attention's output.
    pub fn q_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Features of all key heads (as many as of all value heads).
    pub fn kv_dim(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Features of a `qkv` row.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }

    /// What the `index`-th head behind the queries of a `qkv` row is, and of which KV head.
    pub fn stored_head(&self, index: usize) -> (KeyOrValue, usize) {
        match index.checked_sub(self.num_kv_heads) {
            None => (KeyOrValue::Key, index),
            Some(head) => (KeyOrValue::Value, head),
        }
    }
}

/// The two things that a page holds for each of its slots and heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrValue {
    /// What queries are compared with.
    Key,
    /// What is added up.
    Value,
}

/// Which attention one layer computes. Fixed when the network is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// The layer, from 0: its pages are read and written.
    pub layer: usize,
    /// Its heads; those of the pages.
    pub heads: HeadLayout,
    /// Multiplies `q · k` before the softmax.
    pub scale: f32,
    /// Most positions that a row sees, its own included (a sliding window); `None`: all up to its own. At least 1.
    pub window: Option<usize>,
}

impl AttentionSpec {
    /// Attention to all earlier positions, scores divided by `sqrt(head_dim)`.
    ///
    /// Source: Vaswani et al. 2017, "Attention Is All You Need", §3.2.1.
    pub fn causal(layer: usize, heads: HeadLayout) -> Self {
        Self { layer, heads, scale: 1.0 / (heads.head_dim as f32).sqrt(), window: None }
    }
}

/// Size of the paged memory for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Layers, each with its own pages.
    pub num_layers: usize,
    /// Heads of a layer.
    pub heads: HeadLayout,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of the pool; page indices are below it.
    pub num_pages: usize,
    /// How a head's key or value is stored.
    pub format: KvFormat,
}
