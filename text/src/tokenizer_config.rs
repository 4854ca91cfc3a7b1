//! [`TokenizerConfig`]: what is used of `tokenizer_config.json`, and [`TokenizerError`]: why a tokenizer's files cannot
//! be used.

use serde_json::Value;
use tokenizers::AddedToken;

/// Largest `tokenizer.json` that is read (Qwen3's has 11 MB).
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// What is used of `tokenizer_config.json`.
#[derive(Clone, Debug, Default)]
pub struct TokenizerConfig {
    /// The token that ends a turn.
    pub eos_token: Option<String>,
    /// Other named tokens that templates may print (`bos_token`, `pad_token`, `unk_token`).
    pub named_tokens: Vec<(&'static str, String)>,
    /// Chat templates by name; the unnamed one is `default`.
    pub chat_templates: Vec<(String, String)>,
    /// `added_tokens_decoder`: added tokens that `tokenizer.json` may or may not know, by ascending id.
    pub added_tokens: Vec<(u32, AddedToken)>,
    /// `additional_special_tokens`.
    pub control_tokens: Vec<String>,
}

impl TokenizerConfig {
    /// Interpret a `tokenizer_config.json`.
    ///
    /// # Errors
    /// If it is no JSON, or a field is malformed.
    pub fn from_json(text: &[u8]) -> Result<Self, TokenizerError> {
        let malformed = |cause: String| TokenizerError::Malformed { file: "tokenizer_config.json", cause };
        let root: Value = serde_json::from_slice(without_mark(text)).map_err(|e| malformed(e.to_string()))?;
        // A token is a string, or an object with the string as `content`.
        let content = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string);
        let token = |name: &str| content(root.get(name)?);
        let named = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let chat_templates = match root.get("chat_template") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(source)) => vec![("default".to_string(), source.clone())],
            Some(Value::Array(list)) => {
                let entry = |e: &Value| Some((e.get("name")?.as_str()?.into(), e.get("template")?.as_str()?.into()));
                let entries: Option<Vec<_>> = list.iter().map(entry).collect();
                entries.ok_or_else(|| malformed("chat_template: expected a list of {name, template}".into()))?
            }
            Some(_) => return Err(malformed("chat_template: expected a string or a list".into())),
        };
        let mut added_tokens = Vec::new();
        for (id, token) in root.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
            let read = id.parse().ok().zip(added_token(token));
            let expected = || malformed(format!("added_tokens_decoder: {id:?}: expected an added token's fields"));
            added_tokens.push(read.ok_or_else(expected)?);
        }
        added_tokens.sort_by_key(|(id, _)| *id);
        let additional = root.get("additional_special_tokens").and_then(Value::as_array);
        Ok(Self {
            eos_token: token("eos_token"),
            named_tokens: named.into_iter().filter_map(|name| Some((name, token(name)?))).collect(),
            chat_templates,
            added_tokens,
            control_tokens: additional.into_iter().flatten().filter_map(content).collect(),
        })
    }
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("{file}: {cause}")]
    Io {
        /// Path.
        file: String,
        /// The operating system's words.
        cause: std::io::Error,
    },
    /// A file is larger than any tokenizer.
    #[error("{file} has {bytes} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLarge {
        /// Path.
        file: String,
        /// Its size.
        bytes: u64,
    },
    /// A file cannot be understood.
    #[error("{file}: {cause}")]
    Malformed {
        /// Which of the files.
        file: &'static str,
        /// What is wrong, with its place where that is known.
        cause: String,
    },
    /// No tokenizer.
    #[error(
        "{dir} holds no tokenizer.json (nor vocab.json and merges.txt); give the tokenizer of the model it was made \
         from with --tokenizer-path, e.g. --tokenizer-path Qwen/Qwen3-Coder-30B-A3B-Instruct"
    )]
    Missing {
        /// The folder.
        dir: String,
    },
    /// The vocabulary does not spell bytes.
    #[error("tokenizer.json: decoder {found} is not supported; supported: ByteLevel")]
    NotByteLevel {
        /// The decoder's type.
        found: String,
    },
}

/// An entry of `added_tokens_decoder`. What it leaves out is as the `tokenizers` library has it.
fn added_token(token: &Value) -> Option<AddedToken> {
    let flag = |name: &str| token.get(name).and_then(Value::as_bool);
    let plain = AddedToken::from(token.get("content")?.as_str()?, flag("special").unwrap_or(false));
    Some(AddedToken {
        single_word: flag("single_word").unwrap_or(plain.single_word),
        lstrip: flag("lstrip").unwrap_or(plain.lstrip),
        rstrip: flag("rstrip").unwrap_or(plain.rstrip),
        normalized: flag("normalized").unwrap_or(plain.normalized),
        ..plain
    })
}

/// `text` without the byte-order mark that some editors write before UTF-8.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
