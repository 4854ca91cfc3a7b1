//! [`StepCost`]: the least that a step of a network has to read and to compute, whatever computes it.

use std::ops::{Add, AddAssign};

use quern_backend::KvFormat;

use crate::{
    ForwardBatch,
    checkpoint::Checkpoint,
    network::{Role, Shape},
    shard::Shard,
    weights::{LoadError, WeightSource},
};

/// What the steps of one network are charged: bytes by what must be read, operations by what is multiplied.
/// Everything small beside that (norms, activations, the embedding's row) is left out. All zero for a model
/// that is no network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// Matrices that every step reads: attention, dense feed-forward networks, routers.
    dense: Matrices,
    /// All experts of all layers.
    experts: Matrices,
    /// The matrix that makes the logits.
    head: Matrices,
    num_experts: usize,
    top_k: usize,
    /// Bytes of one token's keys and values.
    kv_bytes: u64,
    /// Operations for one token that looks at one position, over all layers.
    pair_ops: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Matrices {
    bytes: u64,
    params: u64,
}

/// What a step is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Tokens computed.
    pub tokens: usize,
    /// Rows of logits.
    pub sampled: usize,
    /// Positions whose keys and values are read, over all sequences.
    pub kv_tokens: usize,
    /// Pairs of a token and a position that it looks at.
    pub pairs: u64,
}

/// Bytes and operations. Floating-point, because they are added up for as long as a server runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes read.
    pub bytes: f64,
    /// Multiplications and additions, two each pair.
    pub ops: f64,
}

impl StepShape {
    /// The last `tokens` of a sequence that holds `context` tokens with them, `sampled` of them with logits.
    pub fn sequence(tokens: usize, context: usize, sampled: usize) -> Self {
        let (q, k) = (tokens as u64, context as u64);
        Self { tokens, sampled, kv_tokens: context, pairs: q * k - q * q.saturating_sub(1) / 2 }
    }

    /// `count` of them side by side.
    pub fn times(self, count: usize) -> Self {
        Self {
            tokens: self.tokens * count,
            sampled: self.sampled * count,
            kv_tokens: self.kv_tokens * count,
            pairs: self.pairs * count as u64,
        }
    }
}

impl Add for StepShape {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            sampled: self.sampled + other.sampled,
            kv_tokens: self.kv_tokens + other.kv_tokens,
            pairs: self.pairs + other.pairs,
        }
    }
}

impl From<&ForwardBatch> for StepShape {
    fn from(batch: &ForwardBatch) -> Self {
        let spans = batch.paged.spans.iter().map(|span| Self::sequence(span.q_len, span.kv_len, 0));
        Self { sampled: batch.logit_rows.len(), ..spans.fold(Self::default(), Add::add) }
    }
}

impl Work {
    /// The least time it takes where `bytes_per_s` are read and `ops_per_s` computed, the two side by side.
    pub fn least_s(self, bytes_per_s: f64, ops_per_s: f64) -> f64 {
        (self.bytes / bytes_per_s).max(self.ops / ops_per_s)
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.ops += other.ops;
    }
}

impl StepCost {
    /// The network of `checkpoint`, its matrices as they are held once loaded.
    ///
    /// # Errors
    /// If a matrix is missing.
    pub fn of(checkpoint: &Checkpoint, kv_format: KvFormat) -> Result<Self, LoadError> {
        let (config, network) = (checkpoint.config(), checkpoint.network());
        let quantised = checkpoint.quantised_weights();
        let weights = quantised.as_ref().map_or(checkpoint.weights(), |weights| weights as &dyn WeightSource);
        let moe = config.moe.as_ref();
        let mut cost = Self {
            num_experts: moe.map_or(0, |moe| moe.num_experts),
            top_k: moe.map_or(0, |moe| moe.top_k),
            kv_bytes: config.kv_bytes_per_token(kv_format),
            pair_ops: u64::try_from(network.pair_ops()).unwrap_or(u64::MAX),
            ..Self::default()
        };
        for tensor in network.tensors() {
            let part = match (tensor.role, tensor.shape) {
                (_, Shape::Vector(_)) | (Role::Embedding, _) => continue,
                (Role::Head | Role::TiedEmbedding, _) => &mut cost.head,
                (Role::Expert(_), _) => &mut cost.experts,
                _ => &mut cost.dense,
            };
            part.bytes += weights.part_bytes(tensor, &Shard::whole(tensor))?;
            part.params += tensor.params() as u64;
        }
        Ok(cost)
    }

    /// What a step takes. Routing is taken to be uniform, which touches the most experts:
    /// E·(1 − (1 − k/E)^tokens) of each layer's.
    pub fn step(&self, shape: StepShape) -> Work {
        let share = if self.num_experts == 0 { 0.0 } else { self.top_k as f64 / self.num_experts as f64 };
        let touched = 1.0 - (1.0 - share).powi(i32::try_from(shape.tokens).unwrap_or(i32::MAX));
        let head = if shape.sampled > 0 { self.head.bytes as f64 } else { 0.0 };
        let dense = if shape.tokens > 0 { self.dense.bytes as f64 } else { 0.0 };
        let kv = shape.kv_tokens as f64 * self.kv_bytes as f64;
        let params = self.dense.params as f64 + share * self.experts.params as f64;
        let products = shape.tokens as f64 * params + shape.sampled as f64 * self.head.params as f64;
        Work {
            bytes: dense + touched * self.experts.bytes as f64 + head + kv,
            ops: 2.0 * products + shape.pairs as f64 * self.pair_ops as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{GenerationConfig, ModelConfig, weights::QuantRecipe};

    /// Qwen3-Coder-30B-A3B.
    fn checkpoint() -> Checkpoint {
        let config = json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151_936,
            "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
            "head_dim": 128, "intermediate_size": 5472, "moe_intermediate_size": 768, "num_experts": 128,
            "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e7, "max_position_embeddings": 262_144,
            "tie_word_embeddings": false, "attention_bias": false, "torch_dtype": "bfloat16",
        });
        let config = ModelConfig::from_json(config.as_object().unwrap()).unwrap();
        Checkpoint::dummy(config, GenerationConfig::default())
    }

    #[test]
    fn a_token_of_30b_a3b_costs_what_was_counted_by_hand() {
        let one = StepShape::sequence(1, 1, 1);
        let bf16 = StepCost::of(&checkpoint(), KvFormat::BF16).unwrap();
        // Attention 906.0 M parameters, 8 experts 1,811.9 M, routers 12.6 M, head 311.2 M, each two bytes.
        let params = 48.0 * (2048.0 * 5120.0 + 4096.0 * 2048.0 + 128.0 * 2048.0 + 8.0 * 3.0 * 768.0 * 2048.0)
            + 151_936.0 * 2048.0;
        let work = bf16.step(one);
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        close(work.bytes, 2.0 * params + 98_304.0);
        close(work.ops, 2.0 * params + 4.0 * 4096.0 * 48.0);

        // The mixture of llama.cpp reads 1.92 GB with routers in f32, ours in bf16, and with norms. In memory a block of
        // 256 numbers in Q4_K has four bytes more: all of q, k, o, gate and up, and v and down of every other layer.
        let norms = 4.0 * (48.0 * (2.0 * 2048.0 + 2.0 * 128.0) + 2048.0);
        let experts = 8.0 * 768.0 * 2048.0;
        let q4_k = 48.0 * (2048.0 * 4608.0 + 4096.0 * 2048.0 + 2.0 * experts) + 24.0 * (512.0 * 2048.0 + experts);
        let mixed = StepCost::of(&checkpoint().quantised(Some(QuantRecipe::Q4KM)), KvFormat::BF16).unwrap();
        let wider = 4.0 * q4_k / 256.0;
        close(mixed.step(one).bytes, 1_919_596_544.0 + wider - 2.0 * 12_582_912.0 - norms + 98_304.0);
    }

    #[test]
    fn experts_are_read_once_a_step_and_positions_by_each_that_looks_at_them() {
        let cost = StepCost::of(&checkpoint(), KvFormat::BF16).unwrap();
        let [one, eight] = [1, 8].map(|batch| {
            let shape = StepShape::sequence(1, 100, 1).times(batch);
            assert_eq!(shape, (0..batch).fold(StepShape::default(), |sum, _| sum + StepShape::sequence(1, 100, 1)));
            cost.step(shape)
        });
        assert!(eight.bytes < 8.0 * one.bytes && eight.bytes > 2.0 * one.bytes);
        assert!((eight.ops - 8.0 * one.ops).abs() < 1.0);
        // 3 tokens after 4: they look at 5, 6 and 7 positions.
        assert_eq!(StepShape::sequence(3, 7, 1).pairs, 18);
        assert_eq!(cost.step(StepShape::default()), Work::default());
        assert_eq!(StepCost::default().step(StepShape::sequence(3, 7, 1)), Work::default());
    }
}
