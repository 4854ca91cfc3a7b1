//! [`Usage`]: how many tokens a request took.

use serde::Serialize;
use serde_json::Value;

/// OpenAI's usage, with SGLang's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Tokens of the outputs.
    pub completion_tokens: usize,
    /// Of the prompts.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Always 0: Qwen3-Coder does not think aloud.
    pub reasoning_tokens: usize,
    /// Always null, as in SGLang.
    pub completion_tokens_details: (),
}

/// How the prompt's tokens were come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens that were not computed because the prefix cache had them.
    pub cached_tokens: usize,
}

impl Usage {
    /// From counts.
    pub fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            ..Self::default()
        }
    }
}

/// What every OpenAI answer carries beside.
pub fn metadata(weight_version: &str) -> Value {
    serde_json::json!({ "weight_version": weight_version })
}
