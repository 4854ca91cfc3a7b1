//! [`OlderFiles`]: `vocab.json` and `merges.txt`, the form of a tokenizer before `tokenizer.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    tokenizer_config::{TokenizerConfig, TokenizerError, without_mark},
    tokenizer_json::{NOT_CONTROL, qwen2_json},
};

/// The contents of the files.
pub(crate) struct OlderFiles<'a> {
    /// `vocab.json`: ids by tokens, in the alphabet of byte-level tokenizers.
    pub(crate) vocab: &'a [u8],
    /// `merges.txt`: pairs to merge, `LEFT RIGHT` a line, the first ones first.
    pub(crate) merges: &'a [u8],
    /// `added_tokens.json`: ids of tokens that are found in text as a whole.
    pub(crate) added: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub(crate) config: Option<&'a [u8]>,
}

impl OlderFiles<'_> {
    /// The `tokenizer.json` that they stand for. Of the tokenizers that have such files only Qwen's is known.
    pub(crate) fn tokenizer_json(&self) -> Result<Value, TokenizerError> {
        let malformed = |file, cause: String| TokenizerError::Malformed { file, cause };
        let config = self.config.map_or(Ok(TokenizerConfig::default()), TokenizerConfig::from_json)?;
        let class = self.config.and_then(|text| {
            let root: Value = serde_json::from_slice(without_mark(text)).ok()?;
            root.get("tokenizer_class")?.as_str().map(str::to_owned)
        });
        if let Some(class) = class.filter(|class| !["Qwen2Tokenizer", "Qwen2TokenizerFast"].contains(&class.as_str())) {
            let cause = format!(
                "tokenizer_class {class:?} cannot be read from vocab.json and merges.txt (Qwen2Tokenizer can); a \
                 tokenizer.json is needed: --tokenizer-path gives one"
            );
            return Err(malformed("tokenizer_config.json", cause));
        }
        let object = |file, text: &[u8]| -> Result<Map<String, Value>, TokenizerError> {
            serde_json::from_slice(without_mark(text)).map_err(|cause| malformed(file, cause.to_string()))
        };
        let mut vocab = object("vocab.json", self.vocab)?;
        let merges = std::str::from_utf8(without_mark(self.merges));
        let merges = merges.map_err(|cause| malformed("merges.txt", cause.to_string()))?;
        // The first line may tell the version.
        let lines = merges.lines().enumerate().filter(|(number, line)| !(*number == 0 && line.starts_with("#version")));
        let pairs: Vec<&str> = lines.map(|(_, line)| line.trim_end()).filter(|line| !line.is_empty()).collect();

        let mut added: BTreeMap<u64, Value> = BTreeMap::new();
        for (content, id) in self.added.map(|text| object("added_tokens.json", text)).transpose()?.unwrap_or_default() {
            let Some(id) = id.as_u64() else {
                return Err(malformed("added_tokens.json", format!("{content:?}: expected an id, found {id}")));
            };
            let special = is_control(&content, &config);
            added.insert(id, added_token(id, &content, special));
        }
        for (id, token) in &config.added_tokens {
            added.insert((*id).into(), added_token((*id).into(), &token.content, token.special));
        }
        for token in added.values() {
            vocab.remove(token["content"].as_str().unwrap_or_default());
        }
        Ok(qwen2_json(&vocab, &json!(pairs), added.into_values().collect()))
    }
}

/// `added_tokens.json` does not tell control tokens from others: those are the ones that the configuration names,
/// and those that Qwen spells as such.
fn is_control(content: &str, config: &TokenizerConfig) -> bool {
    let named = config.named_tokens.iter().map(|(_, token)| token).chain(&config.control_tokens);
    let spelled = content.starts_with("<|") && content.ends_with("|>") && !NOT_CONTROL.contains(&content);
    spelled || named.into_iter().any(|token| token == content)
}

fn added_token(id: u64, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}
