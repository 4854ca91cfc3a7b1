//! [`Split`]: which part of a network each rank holds. Every rule of division is here.
//!
//! ```text
//! tp 4 ep 2      rank 0              rank 1              rank 2              rank 3
//! attention      heads 0             heads 1             heads 2             heads 3
//! dense MLP      inner 0             inner 1             inner 2             inner 3
//! experts        0..E/2, inner 0     0..E/2, inner 1     E/2..E, inner 0     E/2..E, inner 1
//! vocabulary     rows 0              rows 1              rows 2              rows 3
//! ```
//!
//! Norms and routers are on every rank. A projection whose rows are divided makes some of the outputs; one whose
//! columns are divided makes a part of every output's sum. The ranks add up those sums: 2 exchanges a layer.
//!
//! Sources: Shoeybi et al. 2019, "Megatron-LM"; SGLang's `tp_size` and `ep_size`, whose placement of experts this is.

use std::ops::Range;

use quern_backend::{HeadLayout, QuantFormat, Rank};

use crate::{
    config::ModelConfig,
    network::{MlpPart, NetworkSpec, Role, Shape, TensorSpec},
    shard::Shard,
    split_error::SplitError,
    weights::{LoadError, WeightSource},
};

/// Over how many ranks a network is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parallelism {
    /// Ranks.
    pub tp: usize,
    /// Groups of ranks, each of which holds a part of the experts; each rank of a group holds a part of each of them.
    pub ep: usize,
}

impl Parallelism {
    /// One rank holds everything.
    pub const NONE: Parallelism = Parallelism { tp: 1, ep: 1 };
}

/// What one rank holds of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    rank: Rank,
    ep: usize,
    /// Of the whole network.
    heads: HeadLayout,
    num_experts: usize,
    vocab: SplitAxis,
    mlp: Option<SplitAxis>,
    expert: Option<SplitAxis>,
}

/// A dimension that is divided at whole units.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SplitAxis {
    field: &'static str,
    len: usize,
    unit: usize,
    format: QuantFormat,
}

/// Columns that a kernel takes at once: parts begin at multiples of it where there are enough of them.
const KERNEL_COLUMNS: usize = 32;

/// Rows of the vocabulary that stay together, as in other engines.
const VOCABULARY_ROWS: usize = 64;

impl Split {
    /// The parts of all ranks, by index. `weights` holds the tensors of `network`, which `config` describes, as they are
    /// to be held: their encodings say where columns may be divided.
    ///
    /// # Errors
    /// If the network cannot be divided like this.
    pub fn ranks(
        parallelism: Parallelism,
        config: &ModelConfig,
        network: &NetworkSpec,
        weights: &dyn WeightSource,
    ) -> Result<Vec<Self>, SplitError> {
        let Parallelism { tp, ep } = parallelism;
        let HeadLayout { num_heads: heads, num_kv_heads: kv_heads, head_dim } = config.heads;
        if ep == 0 || !tp.is_multiple_of(ep) {
            return Err(SplitError::Groups { tp, ep });
        }
        if tp == 0 || !heads.is_multiple_of(tp) {
            return Err(SplitError::Heads { heads, tp });
        }
        if !kv_heads.is_multiple_of(tp) && !tp.is_multiple_of(kv_heads) {
            return Err(SplitError::KvHeads { kv_heads, tp });
        }
        let encoding = |role| match tp {
            // Nothing is divided, wherever it could be; and the encodings of a network are as many as its experts.
            1 => network.tensors().iter().any(|tensor| tensor.role == role).then_some(QuantFormat::F32),
            _ => coarsest(network, weights, role),
        };
        if let Some(format) = encoding(Role::AttentionOutput) {
            let (width, unit) = (heads / tp * head_dim, unit(format));
            if tp > 1 && !width.is_multiple_of(unit) {
                return Err(SplitError::HeadBlocks { tp, width, unit, format });
            }
        }
        let num_experts = config.moe.map_or(0, |moe| moe.num_experts);
        if !num_experts.is_multiple_of(ep) {
            return Err(SplitError::Experts { experts: num_experts, ep });
        }
        let mlp = encoding(Role::Mlp(MlpPart::Down));
        let mlp =
            mlp.map(|format| SplitAxis::new("intermediate_size", config.intermediate, format, tp, None)).transpose()?;
        let expert = encoding(Role::Expert(MlpPart::Down)).zip(config.moe);
        let expert = expert.map(|(format, moe)| {
            let whole = num_experts.is_multiple_of(tp).then_some(tp);
            SplitAxis::new("moe_intermediate_size", moe.inner, format, tp / ep, whole)
        });
        let expert = expert.transpose()?;
        let vocab = SplitAxis::vocabulary(config.vocab_size, tp);
        let part = |index| Self {
            rank: Rank { index, count: tp },
            ep,
            heads: config.heads,
            num_experts,
            vocab: vocab.clone(),
            mlp: mlp.clone(),
            expert: expert.clone(),
        };
        Ok((0..tp).map(part).collect())
    }

    /// Which rank's it is.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// What it holds of `tensor`.
    pub fn shard(&self, tensor: &TensorSpec) -> Shard {
        let whole = Shard::whole(tensor);
        let (queries, keys) = self.head_ranges();
        let features = |heads: Range<usize>| heads.start * self.heads.head_dim..heads.end * self.heads.head_dim;
        match tensor.role {
            Role::Embedding | Role::TiedEmbedding | Role::Head => Shard { rows: self.vocab.share(self.rank), ..whole },
            Role::Query | Role::QueryBias => Shard { rows: features(queries), ..whole },
            Role::Key | Role::KeyBias | Role::Value | Role::ValueBias => Shard { rows: features(keys), ..whole },
            Role::AttentionOutput => Shard { cols: features(queries), ..whole },
            Role::Mlp(MlpPart::Gate | MlpPart::Up) => Shard { rows: self.mlp_features(), ..whole },
            Role::Mlp(MlpPart::Down) => Shard { cols: self.mlp_features(), ..whole },
            Role::Expert(MlpPart::Gate | MlpPart::Up) => {
                Shard { experts: self.experts(), rows: self.expert_features(), ..whole }
            }
            Role::Expert(MlpPart::Down) => Shard { experts: self.experts(), cols: self.expert_features(), ..whole },
            Role::FinalNorm | Role::AttentionNorm | Role::QueryNorm | Role::KeyNorm | Role::MlpNorm | Role::Router => {
                whole
            }
        }
    }

    /// `config` with this rank's heads and dense inner features in place of the network's: the widths of its
    /// activations and pages.
    pub fn narrowed(&self, config: &ModelConfig) -> ModelConfig {
        let (queries, keys) = self.head_ranges();
        let heads = HeadLayout { num_heads: queries.len(), num_kv_heads: keys.len(), ..config.heads };
        let intermediate = self.mlp.as_ref().map_or(config.intermediate, |_| self.mlp_features().len());
        ModelConfig { heads, intermediate, ..config.clone() }
    }

    /// Columns of the logits that each rank makes, by rank.
    pub fn logit_widths(&self) -> Vec<usize> {
        (0..self.rank.count).map(|index| self.vocab.share(Rank { index, ..self.rank }).len()).collect()
    }

    /// Bytes of its matrices.
    ///
    /// # Errors
    /// If a tensor is missing.
    pub fn matrix_bytes(&self, network: &NetworkSpec, weights: &dyn WeightSource) -> Result<u64, LoadError> {
        let matrices = network.tensors().iter().filter(|tensor| matches!(tensor.shape, Shape::Matrix(..)));
        matrices.map(|tensor| weights.part_bytes(tensor, &self.shard(tensor))).sum()
    }

    /// Sentences on dimensions of which some ranks get more than others, and so keep them waiting.
    pub fn notes(&self) -> Vec<String> {
        let tp = self.rank.count;
        let instead = match self.num_experts.is_multiple_of(tp) {
            true => format!(" ep_size = {tp} divides the experts instead."),
            false => String::new(),
        };
        let axes = [(&self.mlp, tp, ""), (&self.expert, tp / self.ep, instead.as_str())];
        let note = |(axis, parts, instead): (&Option<SplitAxis>, usize, &str)| {
            let axis = axis.as_ref()?;
            let shares = || (0..parts).map(|index| axis.share(Rank { index, count: parts }).len());
            let (least, most) = (shares().min()?, shares().max()?);
            let SplitAxis { field, len, unit, format } = axis;
            let slowest = (most * parts) as f64 / *len as f64;
            (least < most).then(|| {
                format!(
                    "{field} = {len} is divided over {parts} ranks at multiples of {unit} ({format}): a rank gets {least} \
                     to {most}, and the slowest does {slowest:.2} times the mean.{instead}"
                )
            })
        };
        axes.into_iter().filter_map(note).collect()
    }

    /// Query heads, and the KV heads that they read. More ranks than KV heads hold each of these several times.
    fn head_ranges(&self) -> (Range<usize>, Range<usize>) {
        let HeadLayout { num_heads, num_kv_heads, .. } = self.heads;
        let queries = self.rank.share(num_heads);
        let group = num_heads / num_kv_heads;
        let keys = queries.start / group..(queries.end - 1) / group + 1;
        (queries, keys)
    }

    fn mlp_features(&self) -> Range<usize> {
        self.mlp.as_ref().expect("the network has a dense layer").share(self.rank)
    }

    fn experts(&self) -> Range<usize> {
        let ranks = self.rank.count / self.ep;
        Rank { index: self.rank.index / ranks, count: self.ep }.share(self.num_experts)
    }

    fn expert_features(&self) -> Range<usize> {
        let count = self.rank.count / self.ep;
        self.expert.as_ref().expect("the network has experts").share(Rank { index: self.rank.index % count, count })
    }
}

impl SplitAxis {
    /// Inner features, which are the columns of a matrix in `format`, for `parts` ranks.
    fn new(
        field: &'static str,
        len: usize,
        format: QuantFormat,
        parts: usize,
        ep: Option<usize>,
    ) -> Result<Self, SplitError> {
        let unit = unit(format);
        let whole = unit.max(KERNEL_COLUMNS);
        let unit = if len.div_ceil(whole) >= parts { whole } else { unit };
        match len.div_ceil(unit) >= parts {
            true => Ok(Self { field, len, unit, format }),
            false => Err(SplitError::Blocks { field, len, unit, format, parts, ep }),
        }
    }

    /// The rows of the embedding and of the head, for `parts` ranks.
    fn vocabulary(len: usize, parts: usize) -> Self {
        let unit = if len.div_ceil(VOCABULARY_ROWS) >= parts { VOCABULARY_ROWS } else { 1 };
        Self { field: "vocab_size", len, unit, format: QuantFormat::F32 }
    }

    fn share(&self, rank: Rank) -> Range<usize> {
        let units = rank.share(self.len.div_ceil(self.unit));
        (units.start * self.unit).min(self.len)..(units.end * self.unit).min(self.len)
    }
}

/// The encoding of the tensors of this role that has the fewest places where columns may be divided.
fn coarsest(network: &NetworkSpec, weights: &dyn WeightSource, role: Role) -> Option<QuantFormat> {
    let tensors = network.tensors().iter().filter(|tensor| tensor.role == role);
    tensors.flat_map(|tensor| weights.formats(tensor)).max_by_key(|format| unit(*format))
}

/// Columns of this encoding that stay together: whole blocks, and whole steps of the kernels within the blocks of fp8.
fn unit(format: QuantFormat) -> usize {
    match format {
        QuantFormat::Fp8Block128 => KERNEL_COLUMNS,
        format => format.block_elements(),
    }
}
