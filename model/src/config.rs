//! `config.json`: what the network is.

mod fields;
mod json;
mod quantization;
mod rope;

use std::{fmt, path::Path};

use quern_backend::{DType, HeadLayout, KvFormat};
use serde_json::{Map, Value};

use self::{fields::shown, json::MAX_FILE_BYTES};
pub(crate) use self::{
    fields::{Fields, token_ids},
    json::read_object,
};
pub use crate::architecture::Architecture;
use crate::{foreign::Foreign, network::NetworkSpec};

/// Most layers, and most experts of one: the tensors of a network are listed by name before anything is
/// read, and a config must not make that list as long as it likes.
const MAX_LAYERS: usize = 1024;
/// See [`MAX_LAYERS`].
const MAX_EXPERTS: usize = 2048;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {cause}")]
    Io {
        /// Path.
        file: String,
        /// The operating system's words.
        cause: std::io::Error,
    },
    /// The file is larger than any config.
    #[error("{file} has {bytes} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge {
        /// Path.
        file: String,
        /// Its size.
        bytes: u64,
    },
    /// Not JSON, or not an object.
    #[error("{file} is not a JSON object: {cause}")]
    Json {
        /// Path.
        file: String,
        /// The parser's words, with line and column.
        cause: String,
    },
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
    /// The checkpoint announces FP8 blocks of 128 × 128.
    pub fp8: bool,
    /// Modules that stay unquantised in an FP8 checkpoint.
    pub modules_to_not_convert: Vec<String>,
}

impl ModelConfig {
    /// Read `dir/config.json`, with `overrides` laid over it.
    pub fn open(dir: &Path, overrides: Option<&Map<String, Value>>) -> Result<Self, ConfigError> {
        let object = read_object(&dir.join("config.json"))?;
        Self::overridden(object, overrides.unwrap_or(&Map::new()))
    }

    /// Interpret `object` with `overrides` laid over it: objects are merged key by key, other values replaced, and
    /// what says positions in one spelling counts against what the file says in another.
    pub fn overridden(mut object: Map<String, Value>, overrides: &Map<String, Value>) -> Result<Self, ConfigError> {
        if overrides.is_empty() {
            return Self::from_json(&object);
        }
        let mut overrides = overrides.clone();
        rope::fold(&mut object)?;
        rope::fold(&mut overrides)?;
        rope::lay_over(&mut object, &mut overrides);
        merge(&mut object, overrides);
        Self::from_json(&object)
    }

    /// Interpret the fields of a `config.json`.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut object = object.clone();
        rope::fold(&mut object)?;
        let object = &object;
        let fields = Fields(object);
        let architecture = architecture(&fields)?;
        architecture.check(&fields)?;

        let hidden = fields.size("hidden_size")?;
        let num_heads = fields.size("num_attention_heads")?;
        let num_kv_heads = fields.size_or("num_key_value_heads", num_heads)?;
        let head_dim = match object.get("head_dim") {
            None | Some(Value::Null) => hidden / num_heads,
            Some(_) => fields.size("head_dim")?,
        };
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(fields.wrong("head_dim", format!("{head_dim}"), "an even number of at least 2"));
        }
        if num_heads % num_kv_heads != 0 {
            return Err(fields.wrong("num_key_value_heads", num_kv_heads, format!("a divisor of {num_heads} heads")));
        }
        let num_layers = fields.size("num_hidden_layers")?;
        if num_layers > MAX_LAYERS {
            return Err(fields.wrong("num_hidden_layers", num_layers, format!("at most {MAX_LAYERS}")));
        }
        let (moe, sparse_layers) =
            if architecture.has_experts() { moe(&fields, num_layers)? } else { (None, vec![false; num_layers]) };
        let needs_dense = sparse_layers.contains(&false);
        let max_position_embeddings = fields.size("max_position_embeddings")?;
        let (fp8, modules_to_not_convert) = quantization::read(&fields)?;
        Ok(Self {
            architecture,
            num_layers,
            hidden,
            heads: HeadLayout { num_heads, num_kv_heads, head_dim },
            intermediate: if needs_dense { fields.size("intermediate_size")? } else { 0 },
            moe,
            sparse_layers,
            vocab_size: fields.size("vocab_size")?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            rms_norm_eps: fields.number("rms_norm_eps", 1e-6)? as f32,
            rope: rope::read(&fields, max_position_embeddings)?,
            max_position_embeddings,
            eos_token_ids: token_ids(object.get("eos_token_id"), "eos_token_id")?,
            dtype: dtype(&fields)?,
            fp8,
            modules_to_not_convert,
        })
    }

    /// Every tensor of the network.
    pub fn network(&self) -> NetworkSpec {
        self.architecture.network(self)
    }

    /// Bytes of keys and values of one token over all layers.
    pub fn kv_bytes_per_token(&self, format: KvFormat) -> u64 {
        let head = format.head_bytes(self.heads.head_dim) as u128;
        let bytes = (self.num_layers as u128 * 2 * self.heads.num_kv_heads as u128).saturating_mul(head);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether the module `name` (without `.weight`) stays unquantised in an FP8 checkpoint.
    pub fn keeps_unquantised(&self, name: &str) -> bool {
        self.modules_to_not_convert.iter().any(|m| m == name)
    }
}

/// Lay `over` over `under`, key by key through objects in both.
fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

fn architecture(fields: &Fields<'_>) -> Result<Architecture, ConfigError> {
    let known = Architecture::ALL.map(Architecture::name).join(", ");
    let names = fields.present("architectures").and_then(Value::as_array).into_iter().flatten();
    // Some files name a class of their own beside the usual one; two of ours would not be one network.
    let mut found = Vec::new();
    for name in names.filter_map(Value::as_str) {
        found.extend(Architecture::ALL.into_iter().filter(|known| known.name() == name));
    }
    found.dedup();
    match found.as_slice() {
        [architecture] => Ok(*architecture),
        _ => Err(fields.unsupported("architectures", known)),
    }
}

fn moe(fields: &Fields<'_>, num_layers: usize) -> Result<(Option<MoeConfig>, Vec<bool>), ConfigError> {
    let num_experts = match fields.present("num_experts") {
        Some(_) => fields.size("num_experts")?,
        None => fields.size("num_local_experts")?,
    };
    if num_experts > MAX_EXPERTS {
        return Err(fields.wrong("num_experts", num_experts, format!("at most {MAX_EXPERTS}")));
    }
    let top_k = fields.size("num_experts_per_tok")?;
    if top_k > num_experts {
        return Err(fields.wrong("num_experts_per_tok", top_k, format!("at most num_experts = {num_experts}")));
    }
    let step = fields.size_or("decoder_sparse_step", 1)?;
    let dense: Vec<u64> = match fields.present("mlp_only_layers") {
        None => Vec::new(),
        Some(Value::Array(layers)) if layers.iter().all(Value::is_u64) => {
            layers.iter().filter_map(Value::as_u64).collect()
        }
        Some(value) => return Err(fields.wrong("mlp_only_layers", shown(value), "a list of layer indices")),
    };
    let sparse: Vec<bool> = (0..num_layers).map(|l| !dense.contains(&(l as u64)) && (l + 1) % step == 0).collect();
    let config = MoeConfig {
        num_experts,
        top_k,
        inner: fields.size("moe_intermediate_size")?,
        renormalise: fields.flag("norm_topk_prob", false)?,
    };
    Ok((sparse.contains(&true).then_some(config), sparse))
}

/// The scale of cosines and sines that goes with a context `factor` times as long: the paper's temperature,
/// 0.1 ln(s) + 1, of which `scale` is DeepSeek's multiplier where it gives one.
pub(crate) fn yarn_temperature(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

fn dtype(fields: &Fields<'_>) -> Result<DType, ConfigError> {
    let field = if fields.present("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
    match fields.present(field).map(|v| v.as_str().unwrap_or_default().trim_start_matches("torch.")) {
        // The weights' own, which are read as they are stored.
        None | Some("bfloat16" | "auto") => Ok(DType::BF16),
        Some("float16") => Ok(DType::F16),
        Some("float32") => Ok(DType::F32),
        Some(_) => Err(fields.unsupported(field, "bfloat16, float16, float32")),
    }
}
