//! [`TARGETS`]: the readers of untrusted bytes, each behind a function that no bytes make panic, hang or fill the memory.

mod files;
mod grammar;
mod http;
mod nodes;
mod sse;
mod text;
mod tools;
mod weights;

/// A reader of untrusted bytes.
pub struct Target {
    /// Its name, and that of its corpus: the folder `fuzz/corpus/NAME`.
    pub name: &'static str,
    /// Reads the bytes, and panics where what must hold for all bytes does not.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    // What clients send.
    Target { name: "chat", run: http::chat },
    Target { name: "completions", run: http::completions },
    Target { name: "messages", run: http::messages },
    Target { name: "responses", run: http::responses },
    Target { name: "generate", run: http::generate },
    Target { name: "ollama", run: http::ollama },
    Target { name: "infill", run: http::infill },
    Target { name: "score", run: http::score },
    Target { name: "tokenize", run: http::tokenize },
    Target { name: "parse_calls", run: http::parse_calls },
    Target { name: "http_head", run: http::head },
    // What they ask an answer to obey.
    Target { name: "json_schema", run: grammar::json_schema },
    Target { name: "ebnf", run: grammar::ebnf },
    Target { name: "regex", run: grammar::regex },
    Target { name: "structural_tag", run: grammar::structural_tag },
    Target { name: "stops", run: text::stops },
    // What a model says.
    Target { name: "tool_calls", run: tools::tool_calls },
    Target { name: "detokenizer", run: text::detokenizer },
    // What a checkpoint holds.
    Target { name: "chat_template", run: text::chat_template },
    Target { name: "tokenizer_json", run: text::tokenizer_json },
    Target { name: "tokenizer_text", run: text::tokenizer_text },
    Target { name: "config_json", run: weights::config_json },
    Target { name: "safetensors", run: weights::safetensors },
    Target { name: "shard_index", run: weights::shard_index },
    Target { name: "packed", run: weights::packed },
    Target { name: "gguf", run: weights::gguf },
    // What an operator and the caches hand us.
    Target { name: "config_file", run: files::config_file },
    Target { name: "key_file", run: files::key_file },
    Target { name: "kept_panels", run: files::kept_panels },
    Target { name: "model_names", run: files::model_names },
    // What nodes of a network send each other.
    Target { name: "node_frames", run: nodes::node_frames },
    // What a server answers to our own client.
    Target { name: "sse_client", run: sse::sse_client },
];

/// The parts of an input that lines of three dashes separate, so that a corpus can be read; of `N` parts those that
/// are missing are empty. `None` if it is no text.
fn parts<const N: usize>(bytes: &[u8]) -> Option<[&str; N]> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.splitn(N, "\n---\n");
    Some(std::array::from_fn(|_| parts.next().unwrap_or_default()))
}
