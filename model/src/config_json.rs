//! `config.json`, read: a [`ModelConfig`] out of the fields of a file and what a user lays over them.

mod quantization;
mod rope;

use std::path::Path;

use quern_backend::{DType, HeadLayout};
use serde_json::{Map, Value};

use crate::{
    architecture::Architecture,
    config::{ConfigError, Fields, ModelConfig, MoeConfig, shown, token_ids},
    family,
    json_file::read_object,
};

/// Most layers, and most experts of one: the tensors of a network are listed by name before anything is
/// read, and a config must not make that list as long as it likes.
const MAX_LAYERS: usize = 1024;
/// See [`MAX_LAYERS`].
const MAX_EXPERTS: usize = 2048;

impl ModelConfig {
    /// Read `dir/config.json`, with what ModelOpt says of quantisation in a file of its own, and `overrides` laid over
    /// it.
    ///
    /// # Errors
    /// If the file is no JSON object, or a field is wrong or not supported.
    pub fn open(dir: &Path, overrides: Option<&Map<String, Value>>) -> Result<Self, ConfigError> {
        let mut object = read_object(&dir.join("config.json"))?;
        quantization::add_modelopt(dir, &mut object);
        Self::overridden(object, overrides.unwrap_or(&Map::new()))
    }

    /// Interpret `object` with `overrides` laid over it: objects are merged key by key, other values replaced, and
    /// what says positions in one spelling counts against what the file says in another.
    ///
    /// # Errors
    /// If a field is wrong or not supported.
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
    ///
    /// # Errors
    /// If a field is wrong or not supported.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, ConfigError> {
        let mut object = object.clone();
        rope::fold(&mut object)?;
        let object = &object;
        let fields = Fields(object);
        let architecture = architecture(&fields)?;
        family::check(architecture, &fields)?;

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
        let dtype = dtype(&fields)?;
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
            dtype,
            quantization: quantization::read(&fields, dtype)?,
        })
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
