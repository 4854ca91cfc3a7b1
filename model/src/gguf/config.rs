//! A file's metadata in the words of `config.json`.

use serde_json::{Map, Value, json};

use super::{GgufFile, GgufValue, TensorInfo, rope};
use crate::{architecture::Architecture, weights::TensorProblem};

/// llama.cpp's key behind the architecture's name, and `config.json`'s.
const NUMBERS: [(&str, &str); 12] = [
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("context_length", "max_position_embeddings"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
];

/// The network that `file` describes; `find` finds a tensor by its name.
pub(super) fn config<'a>(
    file: &GgufFile,
    find: impl Fn(&str) -> Option<&'a TensorInfo>,
) -> Result<Map<String, Value>, TensorProblem> {
    let metadata = file.metadata();
    let shown = |value: Option<&GgufValue>| value.map_or_else(|| "nothing".to_owned(), GgufValue::shown);
    let text = |key: &str| metadata.get(key).and_then(GgufValue::as_str);
    kind(file)?;
    let key = "general.architecture";
    let known = Architecture::ALL.into_iter().find(|known| Some(known.gguf_name()) == text(key));
    let architecture = known.ok_or_else(|| {
        let list = Architecture::ALL.map(Architecture::gguf_name).join(", ");
        let problem = file.wrong(key, format!("one of {list}"), shown(metadata.get(key)));
        problem.mended_by("Only these networks are served; a Qwen3-Coder-30B-A3B file is of the last.")
    })?;
    let prefix = architecture.gguf_name();
    let mut config = Map::new();
    config.insert("architectures".into(), json!([architecture.name()]));
    for (theirs, ours) in NUMBERS {
        let key = format!("{prefix}.{theirs}");
        let value = match metadata.get(&key) {
            None => continue,
            Some(value @ GgufValue::Float(_)) => json!(value.as_f64()),
            Some(value) => match value.as_u64() {
                Some(number) => json!(number),
                None => return Err(file.wrong(&key, "a number", value.shown())),
            },
        };
        config.insert(ours.into(), value);
    }
    // llama.cpp knows no other way for this network.
    config.insert("norm_topk_prob".into(), json!(true));
    config.insert("tie_word_embeddings".into(), json!(find("output.weight").is_none()));
    // Rows of the embedding: the list of tokens may be padded to it or not.
    if let Some(&[_, rows]) = find("token_embd.weight").map(|tensor| tensor.dims.as_slice()) {
        config.insert("vocab_size".into(), json!(rows));
    }
    let stored = find("blk.0.attn_q.weight").map(|tensor| tensor.format.to_string());
    let dtype = match stored.as_deref() {
        Some("f32") => "float32",
        Some("f16") => "float16",
        _ => "bfloat16",
    };
    config.insert("torch_dtype".into(), json!(dtype));
    config.insert("eos_token_id".into(), json!(end_tokens(file)));
    if let Some(scaling) = rope::read(file, prefix)? {
        config.insert("rope_scaling".into(), scaling);
    }
    neutral(file, prefix)?;
    Ok(config)
}

/// Refuse files that hold no model: adapters, importance matrices, projectors of images.
fn kind(file: &GgufFile) -> Result<(), TensorProblem> {
    let key = "general.type";
    let kind = file.metadata().get(key).and_then(GgufValue::as_str);
    let remedy = match kind {
        None | Some("model") => return Ok(()),
        Some("adapter") => {
            "An adapter (LoRA) is no model by itself: merge it into the model it was trained on (llama.cpp's \
             llama-export-lora) and serve the result."
        }
        Some("imatrix") => "An importance matrix only helps to quantise a model: give the file of the model itself.",
        Some("mmproj") => "A projector of images is a part of another model; this server reads text.",
        Some(_) => "Give the file of a model.",
    };
    let found = kind.map_or_else(String::new, |kind| format!("{kind:?}"));
    Err(file.wrong(key, "\"model\"", found).mended_by(remedy))
}

/// Keys behind the architecture's name that would make it another computation, and the values that leave it as it is.
const NEUTRAL: [(&str, &[f64]); 24] = [
    ("expert_gating_func", &[0.0, SOFTMAX]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("expert_weights_norm", &[1.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_shared_feed_forward_length", &[0.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_used_count", &[0.0, 1.0]),
    ("expert_group_scale", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("interleave_moe_layer_step", &[0.0, 1.0]),
    ("moe_every_n_layers", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
    ("attention.sliding_window", &[0.0]),
    ("attention.causal", &[1.0]),
    ("attention.scale", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("rope.scale_linear", &[0.0, 1.0]),
    ("use_parallel_residual", &[0.0]),
];

/// llama.cpp's number of the softmax over experts.
const SOFTMAX: f64 = 1.0;

/// Refuse values that ask for what this network does not do; llama.cpp would compute something else with them.
fn neutral(file: &GgufFile, prefix: &str) -> Result<(), TensorProblem> {
    let value = |key: &str| file.metadata().get(key);
    let number = |value: &GgufValue| match value {
        GgufValue::Bool(flag) => Some(f64::from(u8::from(*flag))),
        other => other.as_f64(),
    };
    let remedy = "The file asks for a computation that is not supported for this network; take one that llama.cpp's \
                  converter wrote.";
    for (name, values) in NEUTRAL {
        let key = format!("{prefix}.{name}");
        let Some(found) = value(&key) else { continue };
        if !number(found).is_some_and(|found| values.contains(&found)) {
            let expected: Vec<String> = values.iter().map(ToString::to_string).collect();
            return Err(file.wrong(&key, expected.join(" or "), found.shown()).mended_by(remedy));
        }
    }
    // All of a head is rotated, and values are as long as keys.
    let head = value(&format!("{prefix}.attention.key_length")).and_then(GgufValue::as_u64);
    for name in ["rope.dimension_count", "attention.value_length"] {
        let key = format!("{prefix}.{name}");
        if let (Some(found), Some(head)) = (value(&key), head)
            && found.as_u64() != Some(head)
        {
            let expected = format!("{head}, as attention.key_length");
            return Err(file.wrong(&key, expected, found.shown()).mended_by(remedy));
        }
    }
    Ok(())
}

/// Tokens that end an answer: those that the file names, and those of Qwen's that llama.cpp knows by their
/// spelling, since files name only one of the two.
fn end_tokens(file: &GgufFile) -> Vec<u64> {
    let metadata = file.metadata();
    let named = ["eos_token_id", "eot_token_id"].map(|key| metadata.get(&format!("tokenizer.ggml.{key}")));
    let mut ids: Vec<u64> = named.into_iter().flatten().filter_map(GgufValue::as_u64).collect();
    let tokens = metadata.get("tokenizer.ggml.tokens").and_then(GgufValue::as_array).unwrap_or_default();
    for (id, token) in tokens.iter().enumerate() {
        if matches!(token.as_str(), Some("<|im_end|>" | "<|endoftext|>")) && !ids.contains(&(id as u64)) {
            ids.push(id as u64);
        }
    }
    ids
}
