//! [`Architecture`]: the networks that are supported, by the names of config.json and of llama.cpp.

use std::fmt;

/// A network that is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Mixture-of-experts layers, dense ones where the config says so.
    Qwen3Moe,
    /// Dense layers only.
    Qwen3,
    /// Dense layers whose queries, keys and values have biases: Qwen2.5-Coder's network.
    Qwen2,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 3] = [Architecture::Qwen2, Architecture::Qwen3, Architecture::Qwen3Moe];

    /// Its name under `architectures` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Qwen3Moe => "Qwen3MoeForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    /// Its `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Qwen3Moe => "qwen3_moe",
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen2 => "qwen2",
        }
    }

    /// llama.cpp's name: `general.architecture`, and what its other keys begin with.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Architecture::Qwen3Moe => "qwen3moe",
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen2 => "qwen2",
        }
    }

    /// Whether some of its layers may be sparse.
    pub(crate) fn has_experts(self) -> bool {
        matches!(self, Architecture::Qwen3Moe)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
