//! [`ModelCard`]: the facts about the model that the API reports and needs, as plain data.

/// A model that is served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelCard {
    /// As asked for: a directory, a hub id, or a name.
    pub path: String,
    /// The directory or hub id of its tokenizer, as asked for.
    pub tokenizer_path: String,
    /// Where its weights come from: `safetensors`, `gguf` or `dummy`.
    pub load_format: &'static str,
    /// What computes it, `cpu`.
    pub device: &'static str,
    /// The name that `config.json` gives its architecture: `Qwen3MoeForCausalLM`.
    pub architecture: String,
    /// `model_type` of `config.json`: `qwen3_moe`.
    pub model_type: &'static str,
    /// The name that llama.cpp gives its family: `qwen3moe`.
    pub family: &'static str,
    /// Tokens that a request may name; the tokenizer may spell fewer.
    pub vocab_size: usize,
    /// Tokens that end an output by the model's files.
    pub eos_token_ids: Vec<u32>,
    /// Its parameters, all experts counted.
    pub parameters: u64,
    /// Bytes of its weights as they are held.
    pub weight_bytes: u64,
    /// The encoding of most of them, if it has a name.
    pub encoding: Option<String>,
    /// What its authors recommend.
    pub recommended: Recommended,
}

/// Sampling that a model's authors recommend; what they leave open is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recommended {
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Candidates kept.
    pub top_k: Option<u32>,
    /// Share of the likeliest token below which candidates are dropped.
    pub min_p: Option<f32>,
    /// Multiplicative penalty of repeated tokens.
    pub repetition_penalty: Option<f32>,
}
