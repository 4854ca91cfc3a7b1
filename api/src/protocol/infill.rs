//! Wire types of `/infill` and `/completion`, llama.cpp's.

use serde::{Deserialize, Serialize};

use super::scalar::Int;

/// What a request says beside its sampling. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "llama.cpp's names")]
pub struct InfillFields {
    pub input_prefix: Option<String>,
    pub input_suffix: Option<String>,
    pub input_extra: Option<Vec<ExtraFile>>,
    pub n_predict: Option<Int>,
    pub repeat_penalty: Option<f64>,
    pub seed: Option<Int>,
    pub stream: Option<bool>,
    /// Once a line has been written, stop this many milliseconds after the first word; not above 0: never.
    pub t_max_predict_ms: Option<Int>,
    /// What of the last piece is wanted, `a/b` for `b` within `a`; empty: all.
    pub response_fields: Option<Vec<String>>,
    pub model: Option<String>,
}

/// Another file that the model is to know of.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "llama.cpp's names")]
pub struct ExtraFile {
    pub filename: Option<String>,
    pub text: Option<String>,
}

/// An answer, whole or one piece of a stream.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "llama.cpp's names")]
pub struct InfillPiece<'a> {
    pub content: String,
    pub stop: bool,
    pub id_slot: i64,
    pub model: &'a str,
    pub tokens_predicted: usize,
    pub tokens_evaluated: usize,
    #[serde(flatten)]
    pub end: Option<InfillEnd>,
}

/// What the last piece says beside.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "llama.cpp's names")]
pub struct InfillEnd {
    pub stop_type: &'static str,
    pub stopping_word: String,
    pub tokens_cached: usize,
    pub truncated: bool,
    pub timings: Timings,
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "llama.cpp's names")]
pub struct Timings {
    pub cache_n: usize,
    pub prompt_n: usize,
    pub prompt_ms: f64,
    pub prompt_per_token_ms: f64,
    pub prompt_per_second: f64,
    pub predicted_n: usize,
    pub predicted_ms: f64,
    pub predicted_per_token_ms: f64,
    pub predicted_per_second: f64,
}
