//! [`Network`]: the published numbers of the two models, and what a share of one weighs.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use clap::ValueEnum;
use quern_model::{Checkpoint, GenerationConfig, ModelConfig, Parallelism, Split, SplitError, weights::QuantRecipe};
use serde_json::json;

use super::cookbook::Size;

/// Rows and columns that share a scale in an FP8 checkpoint.
pub const FP8_BLOCK: u64 = 128;

/// How the matrices of attention and experts are stored, the largest first. Routers and norms stay BF16; so do embedding and head
/// but for 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Weights {
    /// Two bytes a weight.
    Bf16,
    /// One byte, and a float32 scale for each block of 128 × 128.
    Fp8,
    /// `--quantization q4_k_m`: 5 bits in memory, made from a BF16 checkpoint as it is loaded.
    #[value(name = "4bit")]
    FourBit,
}

impl Weights {
    /// Its name.
    pub fn title(self) -> &'static str {
        match self {
            Weights::Bf16 => "BF16",
            Weights::Fp8 => "FP8",
            Weights::FourBit => "4-bit",
        }
    }
}

/// What `config.json` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// What each rank holds, and the bytes of the fullest one's weights.
    ///
    /// # Errors
    /// If the network cannot be divided like this.
    pub fn divided(&self, weights: Weights, split: Parallelism) -> Result<(Vec<Split>, u64), SplitError> {
        /// Known answers: the page asks for each a dozen times.
        type Known = HashMap<(Network, Weights, Parallelism), Result<(Vec<Split>, u64), SplitError>>;
        static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        known.entry((*self, weights, split)).or_insert_with(|| self.divide(weights, split)).clone()
    }

    fn divide(&self, weights: Weights, split: Parallelism) -> Result<(Vec<Split>, u64), SplitError> {
        let recipe = (weights == Weights::FourBit).then_some(QuantRecipe::Q4KM);
        let config = self.model_config(weights == Weights::Fp8);
        let checkpoint = Checkpoint::dummy(config, GenerationConfig::default()).quantised(recipe);
        let parts = checkpoint.split(split)?;
        let bytes = |part: &Split| checkpoint.part_bytes(part).expect("random weights lack no tensor");
        let fullest = parts.iter().map(bytes).max().expect("a rank at least");
        Ok((parts, fullest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: Size, weights: Weights, tp: usize, ep: usize) -> u64 {
        Network::of(size).divided(weights, Parallelism { tp, ep }).unwrap().1
    }

    #[test]
    fn the_published_checkpoints_weigh_what_their_index_says() {
        // `metadata.total_size` of the 30B's model.safetensors.index.json; the 480B is named after its weights.
        assert_eq!(bytes(Size::B30, Weights::Bf16, 1, 1), 61_064_245_248);
        assert_eq!(bytes(Size::B480, Weights::Bf16, 1, 1) / 1_000_000_000, 960);
        // 4.8 bits of 30.5 billion weights, and 4 bytes more for each 256 of the 25.4 billion that are in Q4_K.
        assert_eq!(bytes(Size::B30, Weights::FourBit, 1, 1) / 100_000_000, 189);
    }

    #[test]
    fn ranks_share_the_experts_and_hold_scarce_heads_twice() {
        let network = Network::of(Size::B30);
        let whole = bytes(Size::B30, Weights::Bf16, 1, 1);
        for (tp, ep) in [(2, 1), (2, 2), (4, 2), (8, 4)] {
            let (part, tp) = (bytes(Size::B30, Weights::Bf16, tp, ep), tp as u64);
            assert!(part > whole / tp && part < whole / tp * 102 / 100, "tp {tp} ep {ep}: {part}");
        }
        assert_eq!(network.kv_bytes_per_token(1), 98_304);
        assert_eq!(network.kv_bytes_per_token(4), network.kv_bytes_per_token(8));
    }
}
