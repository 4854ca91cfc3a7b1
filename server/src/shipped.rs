//! The model inside this program, served when no other is named.
//!
//! Its weights are random (always the same), so that everything but the sense of the answers can be tried
//! without a download: the files below are configuration, tokenizer and template only.

/// Its name.
pub const NAME: &str = "quern-dummy";

/// `config.json`.
pub const CONFIG: &[u8] = include_bytes!("../../models/quern-dummy/config.json");
/// `generation_config.json`.
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../../models/quern-dummy/generation_config.json");
/// `tokenizer.json`.
pub const TOKENIZER: &[u8] = include_bytes!("../../models/quern-dummy/tokenizer.json");
/// `tokenizer_config.json`.
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../models/quern-dummy/tokenizer_config.json");
/// `chat_template.jinja`.
pub const CHAT_TEMPLATE: &str = include_str!("../../models/quern-dummy/chat_template.jinja");
