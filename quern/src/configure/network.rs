//! [`Network`]: the published numbers of the two models, and what a share of one weighs.

use clap::ValueEnum;
use quern_backend::QuantFormat;
use quern_model::{
    ModelConfig, Role, TensorSpec,
    network::{MlpPart, Shape},
    weights::QuantRecipe,
};
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
        let network = self.model_config(weights == Weights::Fp8).network();
        network.tensors().iter().map(|tensor| self.tensor_bytes(tensor, weights, split)).sum()
    }

    /// Bytes of the part of `tensor` that the fullest rank holds.
    fn tensor_bytes(&self, tensor: &TensorSpec, weights: Weights, Split { tp, ep }: Split) -> u64 {
        let (rows, cols) = match tensor.shape {
            Shape::Matrix(rows, cols) => (rows as u64, cols as u64),
            // Quantising on load makes norms float32.
            Shape::Vector(len) => return if weights == Weights::FourBit { 4 } else { 2 } * len as u64,
        };
        let inner = self.moe_inner / (tp / ep);
        let (rows, cols) = match tensor.role {
            role if role.is_embedding() || role.is_head() => (rows.next_multiple_of(VOCAB_PADDING * tp) / tp, cols),
            Role::Query => (rows / tp, cols),
            Role::Key | Role::Value => (self.kv_heads_per_rank(tp) * self.head_dim, cols),
            Role::AttentionOutput => (rows, cols / tp),
            Role::Expert(MlpPart::Gate | MlpPart::Up) => (inner, cols),
            Role::Expert(MlpPart::Down) => (rows, inner),
            _ => (rows, cols),
        };
        let count = if matches!(tensor.role, Role::Expert(_)) { tensor.count as u64 / ep } else { 1 };
        let stays = tensor.role.is_embedding() || tensor.role.is_head() || tensor.role == Role::Router;
        let format = match weights {
            Weights::Fp8 if !stays => {
                return count * (rows * cols + rows.div_ceil(FP8_BLOCK) * cols.div_ceil(FP8_BLOCK) * 4);
            }
            Weights::FourBit => {
                QuantRecipe::Q4KM.format(tensor.role, tensor.layer, cols as usize, self.layers as usize)
            }
            Weights::Bf16 | Weights::Fp8 => None,
        };
        count * rows * format.unwrap_or(QuantFormat::BF16).row_bytes(cols as usize) as u64
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
