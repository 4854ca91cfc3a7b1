//! [`SamplingFields`]: how to choose tokens, as any endpoint may spell it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::scalar::{Int, Texts};

/// The union of the names on all endpoints; each endpoint converts those it knows. `null` is absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the interface; crate::sampling says what each means")]
pub struct SamplingFields {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<Int>,
    pub min_p: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub logit_bias: Option<BTreeMap<String, f64>>,
    pub stop: Option<Texts>,
    pub stop_token_ids: Option<Vec<Int>>,
    pub stop_regex: Option<Texts>,
    pub ignore_eos: Option<bool>,
    pub no_stop_trim: Option<bool>,
    pub skip_special_tokens: Option<bool>,
    pub n: Option<Int>,
    pub json_schema: Option<Value>,
    pub regex: Option<String>,
    pub ebnf: Option<String>,
    pub structural_tag: Option<Value>,

    // vLLM's and llama.cpp's constraints.
    pub guided_json: Option<Value>,
    pub guided_json_object: Option<bool>,
    pub guided_regex: Option<String>,
    pub guided_choice: Option<Vec<String>>,
    pub guided_grammar: Option<String>,
    pub guided_whitespace_pattern: Option<String>,
    pub structured_outputs: Option<Value>,
    pub grammar: Option<String>,

    // OpenAI's endpoints.
    pub response_format: Option<Value>,
    pub max_tokens: Option<Int>,
    pub max_completion_tokens: Option<Int>,
    pub min_tokens: Option<Int>,
    pub seed: Option<Int>,

    // `/generate`.
    pub max_new_tokens: Option<Int>,
    pub min_new_tokens: Option<Int>,
    pub sampling_seed: Option<Int>,
    pub stream_interval: Option<Int>,
}

/// The keys of `/generate`'s `sampling_params`; any other is refused, as in SGLang.
pub const NATIVE_KEYS: &[&str] = &[
    "max_new_tokens",
    "min_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "stop_regex",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "no_stop_trim",
    "n",
    "json_schema",
    "regex",
    "ebnf",
    "structural_tag",
    "logit_bias",
    "custom_params",
    "sampling_seed",
    "stream_interval",
];
