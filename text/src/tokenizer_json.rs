//! `tokenizer.json` of a byte-level tokenizer of Qwen's, written from the lists that other file formats hold.

use serde_json::{Map, Value, json};

/// How Qwen's tokenizers cut text before they merge bytes. Source: the `tokenizer.json` of Qwen's models.
pub(crate) const QWEN2_PIECES: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokens that Qwen's own tokenizers find in text, and that llama.cpp's converter takes for control tokens by their
/// spelling.
pub(crate) const NOT_CONTROL: [&str; 6] =
    ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"];

/// The `tokenizer.json` of a byte-level tokenizer that cuts text as Qwen's do.
pub(crate) fn qwen2_json(vocab: &Map<String, Value>, merges: &Value, added_tokens: Vec<Value>) -> Value {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let cut = json!({"type": "Split", "pattern": {"Regex": QWEN2_PIECES}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, byte_level]},
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// `value` as the contents of a file.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}
