//! Rotations that are stretched for long contexts, under llama.cpp's keys: read and written.
//!
//! Its converter copies what config.json says under these keys. What it makes of them itself, for this network,
//! is YaRN's own temperature times `attn_factor`; files say there what [`YarnConfig::attention_factor`] is as a
//! multiple of that. `yarn_attn_factor` holds config.json's `attention_factor` as it is, or 1 where it is not set.

use serde_json::{Value, json};

use super::{GgufFile, GgufValue};
use crate::{
    config::{YarnConfig, yarn_temperature},
    weights::TensorProblem,
};

/// `rope_scaling` in the words of config.json, `None` where positions are not stretched.
pub(crate) fn read(file: &GgufFile, architecture: &str) -> Result<Option<Value>, TensorProblem> {
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    let number = |name: &str| file.number(&key(name));
    let kind = file.metadata().get(&key("type"));
    // 0 is no factor.
    let factor = number("factor")?.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    let attn_factor = number("attn_factor")?.unwrap_or(1.0);
    match kind.map(|kind| (kind, kind.as_str())) {
        Some((_, Some("yarn"))) => {}
        Some((_, Some("none"))) => return plain(file, &key("attn_factor"), attn_factor),
        // A factor alone is linear scaling.
        None | Some((_, Some("linear"))) => {
            plain(file, &key("factor"), factor)?;
            return plain(file, &key("attn_factor"), attn_factor);
        }
        Some((kind, _)) => return Err(file.wrong(&key("type"), "none or yarn", kind.shown())),
    }
    // How much of the ramp there is; what is below 0 leaves it to the program.
    if let Some(found) = number("yarn_ext_factor")?.filter(|&found| found >= 0.0 && found != 1.0) {
        return Err(file.wrong(&key("yarn_ext_factor"), "1", found));
    }
    if let Some(found) = number("yarn_log_multiplier")?.filter(|&found| found != 0.0) {
        return Err(file.wrong(&key("yarn_log_multiplier"), "0", found));
    }
    let mut scaling = json!({ "rope_type": "yarn", "factor": factor });
    for (theirs, ours) in [
        ("original_context_length", "original_max_position_embeddings"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(value) = number(theirs)? {
            scaling[ours] = json!(value);
        }
    }
    let stated = number("yarn_attn_factor")?.filter(|&stated| stated != 1.0);
    if stated.is_some() || attn_factor != 1.0 {
        let value = stated.unwrap_or_else(|| yarn_temperature(factor, 1.0)) * attn_factor;
        scaling["attention_factor"] = json!(value);
    }
    Ok(Some(scaling))
}

/// Positions are not stretched if `found` says so.
fn plain(file: &GgufFile, key: &str, found: f64) -> Result<Option<Value>, TensorProblem> {
    if found != 1.0 { Err(file.wrong(key, "1, since only yarn stretches positions", found)) } else { Ok(None) }
}

/// The keys behind `{architecture}.` that say `yarn`, whose bounds must be whole dimensions.
pub(crate) fn written(yarn: &YarnConfig) -> Vec<(&'static str, GgufValue)> {
    let mut list = vec![
        ("rope.scaling.type", GgufValue::Text("yarn".into())),
        ("rope.scaling.factor", GgufValue::Float(yarn.factor)),
        ("rope.scaling.original_context_length", GgufValue::Unsigned(yarn.original_context as u64)),
        ("rope.scaling.yarn_beta_fast", GgufValue::Float(yarn.beta_fast)),
        ("rope.scaling.yarn_beta_slow", GgufValue::Float(yarn.beta_slow)),
    ];
    let attn_factor = yarn.attention_factor / yarn_temperature(yarn.factor, 1.0);
    if attn_factor != 1.0 {
        list.push(("rope.scaling.attn_factor", GgufValue::Float(attn_factor)));
    }
    list
}
