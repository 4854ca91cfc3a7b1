//! [`ModelConfig`]: a network's numbers.

mod fields;
mod quantization;

use std::fmt;

use quern_backend::{DType, HeadLayout, KvFormat, QuantFormat};

pub(crate) use self::fields::{Fields, shown, token_ids};
pub use self::quantization::{Quantization, TensorLayout};
pub use crate::architecture::Architecture;
use crate::{foreign::Foreign, json_file::JsonFileError};

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is no JSON object.
    #[error(transparent)]
    File(#[from] JsonFileError),
    /// A field is missing, of the wrong type, or out of its range.
    #[error("config.json: `{field}` is {found}; expected {expected}")]
    Field {
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// A field of generation_config.json.
    #[error("generation_config.json: `{field}` is {found}; expected {expected}")]
    Generation {
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// Files of another program.
    #[error("config.json: {0}")]
    Foreign(#[from] Foreign),
    /// A field asks for something this crate does not implement.
    #[error("config.json: `{field}` = {value} is not supported; supported: {supported}")]
    Unsupported {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What would be.
        supported: String,
    },
}

/// The MLP of the sparse layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeConfig {
    /// Experts of a layer.
    pub num_experts: usize,
    /// Experts each token goes to.
    pub top_k: usize,
    /// Inner features of an expert.
    pub inner: usize,
    /// Scale the chosen experts' weights to sum 1.
    pub renormalise: bool,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric sequence of frequencies.
    pub theta: f64,
    /// Stretching for contexts longer than the trained one.
    pub yarn: Option<YarnConfig>,
}

impl fmt::Display for RopeConfig {
    /// For the log: `rotary, theta 10000000, stretched 4 times from 262144 tokens by YaRN (…)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rotary, theta {}", self.theta)?;
        match &self.yarn {
            None => f.write_str(", not stretched"),
            Some(yarn) => write!(
                f,
                ", stretched {} times from {} tokens by YaRN (attention factor {:.4}, beta {} to {})",
                yarn.factor, yarn.original_context, yarn.attention_factor, yarn.beta_fast, yarn.beta_slow
            ),
        }
    }
}

/// YaRN's numbers. Source: Peng et al. 2023, "YaRN: Efficient Context Window Extension".
#[derive(Clone, Debug, PartialEq)]
pub struct YarnConfig {
    /// How many times longer the context is made.
    pub factor: f64,
    /// The trained context, in tokens.
    pub original_context: f64,
    /// Rotations over the original context above which a dimension is left alone.
    pub beta_fast: f64,
    /// Rotations below which a dimension is fully interpolated.
    pub beta_slow: f64,
    /// Scale of the cosines and sines.
    pub attention_factor: f64,
    /// Round the bounds of the ramp to whole dimensions.
    pub truncate: bool,
}

/// A network's numbers.
///
/// ```
/// use std::path::Path;
///
/// use quern_backend::KvFormat;
/// use quern_model::{ModelConfig, config::Architecture};
///
/// let config = ModelConfig::open(Path::new("../models/quern-demo"), None)?;
/// let network = config.network();
/// assert_eq!(network.num_layers(), config.num_layers);
/// assert!(network.active_params() <= network.total_params());
/// println!("{}, {} B of keys and values a token", config.architecture, config.kv_bytes_per_token(KvFormat::BF16));
/// # assert!(Architecture::ALL.contains(&config.architecture));
/// # Ok::<(), quern_model::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which network.
    pub architecture: Architecture,
    /// Decoder layers.
    pub num_layers: usize,
    /// Features of the residual stream.
    pub hidden: usize,
    /// Attention heads; `head_dim` is the config's own, not `hidden / heads`.
    pub heads: HeadLayout,
    /// Inner features of a dense MLP.
    pub intermediate: usize,
    /// The sparse layers' MLP, if there are any.
    pub moe: Option<MoeConfig>,
    /// Whether each layer is sparse.
    pub sparse_layers: Vec<bool>,
    /// Rows of the embedding and of the language-model head.
    pub vocab_size: usize,
    /// The head uses the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// Added under the root of every RMS norm.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Tokens that end a sequence, from `eos_token_id`.
    pub eos_token_ids: Vec<u32>,
    /// The stored type that the config announces (`torch_dtype`).
    pub dtype: DType,
    /// What the checkpoint announces of quantised matrices; none of them if it announces nothing.
    pub quantization: Option<Quantization>,
}

impl ModelConfig {
    /// Bytes of keys and values of one token over all layers.
    pub fn kv_bytes_per_token(&self, format: KvFormat) -> u64 {
        let head = format.head_bytes(self.heads.head_dim) as u128;
        let bytes = (self.num_layers as u128 * 2 * self.heads.num_kv_heads as u128).saturating_mul(head);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether most matrices are in FP8.
    pub fn is_fp8(&self) -> bool {
        self.quantization.as_ref().is_some_and(|quantization| quantization.format == QuantFormat::Fp8Block128)
    }

    /// Whether the module `name` (without `.weight`) is said to stay unquantised in a quantised checkpoint.
    pub fn keeps_unquantised(&self, name: &str) -> bool {
        self.quantization.as_ref().is_some_and(|quantization| quantization.leaves(name))
    }
}

/// The scale of cosines and sines that goes with a context `factor` times as long: the paper's temperature,
/// 0.1 ln(s) + 1, of which `scale` is DeepSeek's multiplier where it gives one.
pub(crate) fn yarn_temperature(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}
