//! [`Network`]: the published numbers of the two models, and what a share of one weighs.

use clap::ValueEnum;

use super::cookbook::Size;

/// Rows and columns that share a scale in an FP8 checkpoint.
pub const FP8_BLOCK: u64 = 128;

/// Weights that share a scale in a 4-bit checkpoint: 16 bytes of them and an f16 scale.
pub const FOUR_BIT_BLOCK: u64 = 32;
const FOUR_BIT_BLOCK_BYTES: u64 = 18;

/// Rows of the embedding are padded to a multiple of this times the ranks.
const VOCAB_PADDING: u64 = 64;

/// How the matrices of attention and experts are stored. Embedding, head, norms and routers stay BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// Two bytes a weight.
    Bf16,
    /// One byte, and a float32 scale for each block of 128 × 128.
    Fp8,
    /// 4.5 bits: blocks of 32 with an f16 scale.
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
        let expert = 2 * matrix(weights, inner, self.hidden) + matrix(weights, self.hidden, inner);
        let q_rows = self.heads * self.head_dim / tp;
        let kv_rows = self.kv_heads_per_rank(tp) * self.head_dim;
        let attention = matrix(weights, q_rows, self.hidden)
            + 2 * matrix(weights, kv_rows, self.hidden)
            + matrix(weights, self.hidden, q_rows);
        let plain = |count: u64| 2 * count;
        let norms = plain(2 * self.hidden + 2 * self.head_dim);
        let router = plain(self.experts * self.hidden);
        let layer = attention + norms + router + self.experts / ep * expert;
        let vocab = self.vocab.next_multiple_of(VOCAB_PADDING * tp) / tp;
        self.layers * layer + plain(2 * vocab * self.hidden) + plain(self.hidden)
    }
}

/// Bytes of a matrix of `rows` × `cols`.
fn matrix(weights: Weights, rows: u64, cols: u64) -> u64 {
    match weights {
        Weights::Bf16 => rows * cols * 2,
        Weights::Fp8 => rows * cols + rows.div_ceil(FP8_BLOCK) * cols.div_ceil(FP8_BLOCK) * 4,
        Weights::FourBit => rows * cols.div_ceil(FOUR_BIT_BLOCK) * FOUR_BIT_BLOCK_BYTES,
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
