//! [`Backend`]: which server, by which of its interfaces.

mod body;
mod chunk;

pub use body::BodyOptions;
pub use chunk::{Chunk, Piece};

use clap::ValueEnum;

/// Which server, by which of its interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// SGLang's own `/generate`, which Quern serves too
    #[value(alias = "sglang-native", alias = "quern")]
    Sglang,
    /// SGLang's `/v1/completions`
    SglangOai,
    /// SGLang's `/v1/chat/completions`
    SglangOaiChat,
    /// vLLM's `/v1/completions`
    Vllm,
    /// vLLM's `/v1/chat/completions`
    VllmChat,
    /// LMDeploy's `/v1/completions`
    Lmdeploy,
    /// LMDeploy's `/v1/chat/completions`
    LmdeployChat,
    /// `/v1/completions` of llama.cpp's server
    #[value(name = "llama.cpp", alias = "llama-cpp")]
    LlamaCpp,
    /// `/v1/chat/completions` of llama.cpp's server
    #[value(name = "llama.cpp-chat", alias = "llama-cpp-chat")]
    LlamaCppChat,
    /// Anthropic's `/v1/messages`
    Anthropic,
}

/// The form of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `/generate`: each chunk repeats all text so far.
    Generate,
    /// OpenAI's completions of a prompt.
    Completions,
    /// OpenAI's chat completions.
    Chat,
    /// Anthropic's messages.
    Messages,
}

impl Backend {
    /// The name on the command line and in results.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no backend is skipped").get_name().to_owned()
    }

    /// The form of its requests and answers.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Sglang => Protocol::Generate,
            Self::SglangOai | Self::Vllm | Self::Lmdeploy | Self::LlamaCpp => Protocol::Completions,
            Self::SglangOaiChat | Self::VllmChat | Self::LmdeployChat | Self::LlamaCppChat => Protocol::Chat,
            Self::Anthropic => Protocol::Messages,
        }
    }

    /// Where its server listens unless told otherwise.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Vllm => 8000,
            Self::Lmdeploy => 23333,
            Self::LlamaCpp | Self::LlamaCppChat => 8080,
            _ => 30000,
        }
    }

    /// Whether `/server_info` and `/flush_cache` are there to be asked.
    pub fn is_sglang(self) -> bool {
        matches!(self, Self::Sglang | Self::SglangOai | Self::SglangOaiChat)
    }

    /// Whether `/tokenize` and `/detokenize` speak llama.cpp's dialect.
    pub fn is_llama_cpp(self) -> bool {
        matches!(self, Self::LlamaCpp | Self::LlamaCppChat)
    }
}

impl Protocol {
    /// The path that generates.
    pub fn path(self) -> &'static str {
        match self {
            Self::Generate => "/generate",
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
        }
    }
}
