//! Text on its way in and out: the model's chat template, its tokenizer, the incremental detokenizer,
//! stop strings and calls of tools.
//!
//! Pure functions and small state machines: no input or output but reading the model's own files, no
//! threads, and nothing known of sequences or requests.

#![forbid(unsafe_code)]

pub mod chat_template;
pub mod conversation;
pub mod detokenizer;
pub mod fim;
pub mod grammar;
pub mod json;
mod older_files;
mod regular_file;
pub mod rendered;
pub mod stop;
pub mod tokenizer;
pub mod tokenizer_config;
mod tokenizer_json;
pub mod tool;
pub mod vocabulary;

pub use chat_template::{ChatPrompt, ChatTemplate, TemplateError};
pub use detokenizer::Detokenizer;
pub use fim::{fim_context, fim_prompt, fim_tokens};
pub use grammar::{
    CallChoice, ConstraintError, GrammarFactory, GrammarMatcher, GrammarSpec, INPUT_GRAMMAR, JsonBlanks,
};
pub use rendered::Rendered;
pub use stop::{StopError, StopMatcher, StopStep, Stops};
pub use tokenizer::{Specials, Tokenizer};
pub use tokenizer_config::{TokenizerConfig, TokenizerError};
pub use tool::{ParsedMessage, ToolCall, ToolEvent, ToolFormat, ToolParser, ToolSchemas};
pub use vocabulary::Vocabulary;
