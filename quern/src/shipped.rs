//! The model inside this program, served when no other is named: quern-demo, a few million parameters trained
//! to show what the server does. A moved program still has it, and a fresh checkout needs no download.

use std::sync::Arc;

use quern_backend::SharedBytes;

/// Its name.
pub const NAME: &str = "quern-demo";

/// `config.json`.
pub const CONFIG: &[u8] = include_bytes!("../../models/quern-demo/config.json");
/// `generation_config.json`.
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../../models/quern-demo/generation_config.json");
/// `tokenizer.json`.
pub const TOKENIZER: &[u8] = include_bytes!("../../models/quern-demo/tokenizer.json");
/// `tokenizer_config.json`.
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../models/quern-demo/tokenizer_config.json");
/// `chat_template.jinja`.
pub const CHAT_TEMPLATE: &str = include_str!("../../models/quern-demo/chat_template.jinja");

/// The safetensors files: `(name, bytes)` of each, not copied.
pub fn weights() -> [(&'static str, SharedBytes); 2] {
    [
        ("model-00001-of-00002.safetensors", SharedBytes::new(Arc::new(&FIRST.0))),
        ("model-00002-of-00002.safetensors", SharedBytes::new(Arc::new(&SECOND.0))),
    ]
}

/// Bytes that start where a mapped file would be fine to start: `include_bytes!` alone promises no alignment.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static FIRST: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/quern-demo/model-00001-of-00002.safetensors"));
static SECOND: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/quern-demo/model-00002-of-00002.safetensors"));
