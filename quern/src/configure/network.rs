//! [`Network`]: the published numbers of the two models, and what a share of one weighs.

use clap::ValueEnum;
use quern_backend::QuantFormat;
use quern_model::{ModelConfig, weights::Recipe};
use serde_json::json;

use super::cookbook::Size;

/// Rows and columns that share a scale in an FP8 checkpoint.
pub const FP8_BLOCK: u64 = 128;

/// Rows of the embedding are padded to a multiple of this times the ranks.
const VOCAB_PADDING: u64 = 64;

/// How the matrices of attention and experts are stored. Routers and norms stay BF16; so do embedding and head
/// but for 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// Two bytes a weight.
    Bf16,
    /// One byte, and a float32 scale for each block of 128 × 128.
    Fp8,
    /// `--quantization q4_k_m`: 4.8 bits, made from a BF16 checkpoint as it is loaded.
    #[value(name = "4bit")]
    FourBit,
}

/// How a network is cut: ranks in all, and the groups of ranks among which whole experts are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// `--tp`.
    pub tp: u64,
    /// `--ep`, a divisor of `tp`.
    pub ep: u64,
}

/// What `config.json` says.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields of config.json")]
pub struct Network {
    pub layers: u64,
    pub hidden: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub experts: u64,
    pub moe_inner: u64,
    pub vocab: u64,
    pub max_context: u64,
}

impl Network {
    /// The numbers of a published model.
    pub fn of(size: Size) -> Self {
        let shared = Self {
            layers: 48,
            hidden: 2048,
            heads: 32,
            kv_heads: 4,
            head_dim: 128,
            experts: 128,
            moe_inner: 768,
            vocab: 151_936,
            max_context: 262_144,
        };
        match size {
            Size::B30 => shared,
            Size::B480 => {
                Self { layers: 62, hidden: 6144, heads: 96, kv_heads: 8, experts: 160, moe_inner: 2560, ..shared }
            }
        }
    }

    /// The same in `config.json`'s words, for the networks that both models are.
    ///
    /// # Panics
    /// If the numbers are none that the loader takes; those of [`Network::of`] are.
    pub fn model_config(&self, fp8: bool) -> ModelConfig {
        let mut config = json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": self.vocab,
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim, "intermediate_size": self.hidden,
            "moe_intermediate_size": self.moe_inner, "num_experts": self.experts, "num_experts_per_tok": 8,
            "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [], "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "rope_theta": 1e7, "max_position_embeddings": self.max_context,
            "tie_word_embeddings": false, "attention_bias": false, "eos_token_id": 151_645, "torch_dtype": "bfloat16",
        });
        if fp8 {
            config["quantization_config"] = json!({
                "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                "weight_block_size": [FP8_BLOCK, FP8_BLOCK], "modules_to_not_convert": ["lm_head"],
            });
        }
        ModelConfig::from_json(config.as_object().expect("an object")).expect("a published network")
    }

    /// Key and value heads of one rank. Fewer heads than ranks are held twice or more.
    pub fn kv_heads_per_rank(&self, tp: u64) -> u64 {
        self.kv_heads.div_ceil(tp)
    }

    /// Bytes that one rank keeps of a token's keys and values, BF16.
    pub fn kv_bytes_per_token(&self, tp: u64) -> u64 {
        2 * self.layers * self.kv_heads_per_rank(tp) * self.head_dim * 2
    }

    /// Inner features of one expert on one rank: every expert of a group is cut among the group's ranks.
    ///
    /// `None` if they cannot be cut evenly.
    pub fn expert_inner(&self, split: Split) -> Option<u64> {
        let cuts = split.tp / split.ep;
        self.moe_inner.is_multiple_of(cuts).then(|| self.moe_inner / cuts)
    }

    /// Bytes of the weights of the fullest rank. `split` must be one that [`Network::expert_inner`] takes.
    pub fn weight_bytes(&self, weights: Weights, split: Split) -> u64 {
        let Split { tp, ep } = split;
        let inner = self.moe_inner / (tp / ep);
        let (q_rows, kv_rows) = (self.heads * self.head_dim / tp, self.kv_heads_per_rank(tp) * self.head_dim);
        let vocab = self.vocab.next_multiple_of(VOCAB_PADDING * tp) / tp;
        let layer = |layer: u64| {
            let bytes = |module: &str, rows: u64, cols: u64| {
                matrix(weights, &format!("model.layers.{layer}.{module}"), rows, cols, self.layers)
            };
            let attention = bytes("self_attn.q_proj", q_rows, self.hidden)
                + bytes("self_attn.k_proj", kv_rows, self.hidden)
                + bytes("self_attn.v_proj", kv_rows, self.hidden)
                + bytes("self_attn.o_proj", self.hidden, q_rows);
            let expert = bytes("mlp.experts.0.gate_proj", inner, self.hidden)
                + bytes("mlp.experts.0.up_proj", inner, self.hidden)
                + bytes("mlp.experts.0.down_proj", self.hidden, inner);
            let norms = norm(weights, 2 * self.hidden + 2 * self.head_dim);
            let router = plain(self.experts * self.hidden);
            attention + norms + router + self.experts / ep * expert
        };
        let ends = if weights == Weights::FourBit {
            matrix(weights, "model.embed_tokens", vocab, self.hidden, self.layers)
                + matrix(weights, HEAD, vocab, self.hidden, self.layers)
        } else {
            plain(2 * vocab * self.hidden)
        };
        // Only a mixture treats layers differently.
        let layers =
            if weights == Weights::FourBit { (0..self.layers).map(layer).sum() } else { self.layers * layer(0) };
        layers + ends + norm(weights, self.hidden)
    }
}

/// The matrix that makes the logits.
const HEAD: &str = "lm_head";

/// Bytes of `count` factors of norms; quantising on load makes them float32.
fn norm(weights: Weights, count: u64) -> u64 {
    if weights == Weights::FourBit { 4 * count } else { plain(count) }
}

/// Bytes of `count` numbers in BF16.
fn plain(count: u64) -> u64 {
    2 * count
}

/// Bytes of module `name`, of `rows` × `cols`, in a network of `layers`.
fn matrix(weights: Weights, name: &str, rows: u64, cols: u64, layers: u64) -> u64 {
    match weights {
        Weights::Bf16 => plain(rows * cols),
        Weights::Fp8 => rows * cols + rows.div_ceil(FP8_BLOCK) * cols.div_ceil(FP8_BLOCK) * 4,
        Weights::FourBit => {
            let format = Recipe::Q4KM.format(name, name == HEAD, cols as usize, layers as usize);
            rows * format.unwrap_or(QuantFormat::BF16).row_bytes(cols as usize) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Split = Split { tp: 1, ep: 1 };

    #[test]
    fn the_published_checkpoints_weigh_what_their_index_says() {
        // `metadata.total_size` of the 30B's model.safetensors.index.json; the 480B is named after its weights.
        assert_eq!(Network::of(Size::B30).weight_bytes(Weights::Bf16, WHOLE), 61_064_245_248);
        assert_eq!(Network::of(Size::B480).weight_bytes(Weights::Bf16, WHOLE) / 1_000_000_000, 960);
        // 4.8 bits of 30.5 billion weights.
        assert_eq!(Network::of(Size::B30).weight_bytes(Weights::FourBit, WHOLE) / 100_000_000, 185);
    }

    #[test]
    fn ranks_share_the_experts_and_hold_scarce_heads_twice() {
        let network = Network::of(Size::B30);
        let whole = network.weight_bytes(Weights::Bf16, WHOLE);
        for (tp, ep) in [(2, 1), (2, 2), (4, 2), (8, 4)] {
            let part = network.weight_bytes(Weights::Bf16, Split { tp, ep });
            assert!(part > whole / tp && part < whole / tp * 102 / 100, "tp {tp} ep {ep}: {part}");
        }
        assert_eq!(network.kv_bytes_per_token(1), 98_304);
        assert_eq!(network.kv_bytes_per_token(4), network.kv_bytes_per_token(8));
    }
}
