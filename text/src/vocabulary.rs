//! [`Vocabulary`]: a tokenizer as GGUF files hold it, and how it becomes one.

use serde_json::{Map, Value, json};

use crate::{
    tokenizer::Tokenizer,
    tokenizer_config::TokenizerError,
    tokenizer_json::{NOT_CONTROL, QWEN2_PIECES, bytes, qwen2_json},
};

/// Kinds of tokens (`llama_token_type` in llama.cpp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Found by merging.
    Normal = 1,
    /// Of templates; not text.
    Control = 3,
    /// Found in text as a whole.
    UserDefined = 4,
    /// Fills the list up to the embedding's rows.
    Unused = 5,
}

/// The lists of a file.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary<'a> {
    /// The algorithm, `tokenizer.ggml.model`: byte-level merging is `gpt2`.
    pub model: &'a str,
    /// How text is cut first, `tokenizer.ggml.pre`.
    pub pre: &'a str,
    /// Each id's text, in the alphabet of byte-level tokenizers.
    pub tokens: Vec<&'a str>,
    /// Each id's kind; an empty list means that all are of the usual one.
    pub kinds: Vec<u64>,
    /// Pairs to merge, `LEFT RIGHT`, the first ones first.
    pub merges: Vec<&'a str>,
    /// The token that ends a turn.
    pub eos: Option<u64>,
    /// The token that fills.
    pub padding: Option<u64>,
    /// Chat templates by name; the unnamed one is `default`.
    pub chat_templates: Vec<(&'a str, &'a str)>,
}

impl Vocabulary<'_> {
    /// The tokenizer that they describe.
    ///
    /// # Errors
    /// If it is of another kind than Qwen's, or the lists contradict one another.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        let refused = |cause: String| Err(TokenizerError::Malformed { file: "the GGUF file's tokenizer", cause });
        if self.model != "gpt2" {
            return refused(format!("tokenizer.ggml.model: expected gpt2, found {:?}", self.model));
        }
        if self.pre != "qwen2" {
            return refused(format!("tokenizer.ggml.pre: expected qwen2, found {:?}", self.pre));
        }
        if !self.kinds.is_empty() && self.kinds.len() != self.tokens.len() {
            let (kinds, tokens) = (self.kinds.len(), self.tokens.len());
            return refused(format!("tokenizer.ggml.token_type: expected {tokens} kinds, found {kinds}"));
        }
        let (mut vocab, mut added) = (Map::new(), Vec::new());
        for (id, token) in self.tokens.iter().enumerate() {
            match self.kinds.get(id) {
                Some(&kind) if kind == TokenKind::Unused as u64 => {}
                Some(&kind) if kind == TokenKind::Control as u64 || kind == TokenKind::UserDefined as u64 => added
                    .push(json!({
                        "id": id, "content": token, "special": kind == TokenKind::Control as u64 && !NOT_CONTROL.contains(token),
                        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                    })),
                _ => {
                    if vocab.insert((*token).to_owned(), id.into()).is_some() {
                        return refused(format!("tokenizer.ggml.tokens: {token:?} occurs twice"));
                    }
                }
            }
        }
        let file = qwen2_json(&vocab, &json!(self.merges), added);
        let named = |id: Option<u64>| id.and_then(|id| self.tokens.get(usize::try_from(id).ok()?).copied());
        let templates = self.chat_templates.iter().map(|(name, source)| json!({"name": name, "template": source}));
        let config = json!({
            "eos_token": named(self.eos), "pad_token": named(self.padding),
            "chat_template": templates.collect::<Vec<_>>(),
        });
        Tokenizer::from_bytes(&bytes(&file), Some(&bytes(&config)))
    }
}

/// A tokenizer's lists, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenLists {
    /// Each id's text and kind.
    pub tokens: Vec<(String, TokenKind)>,
    /// Pairs to merge, `LEFT RIGHT`, the first ones first.
    pub merges: Vec<String>,
}

impl TokenLists {
    /// The lists of `tokenizer`, with fillers up to `size` tokens. It must cut text as Qwen's do.
    ///
    /// # Errors
    /// If it cuts text otherwise.
    pub fn of(tokenizer: &Tokenizer, size: usize) -> Result<Self, TokenizerError> {
        let file = tokenizer.to_json();
        let pieces = file.pointer("/pre_tokenizer/pretokenizers/0/pattern/Regex").and_then(Value::as_str);
        if pieces != Some(QWEN2_PIECES) {
            let cause = format!("pre_tokenizer: expected Qwen's way of cutting text, found {}", file["pre_tokenizer"]);
            return Err(TokenizerError::Malformed { file: "tokenizer.json", cause });
        }
        let filler = |id: usize| (format!("[PAD{id}]"), TokenKind::Unused);
        let mut tokens: Vec<_> = (0..size.max(tokenizer.vocab_size())).map(filler).collect();
        let vocab = file.pointer("/model/vocab").and_then(Value::as_object).into_iter().flatten();
        for (token, id) in vocab.filter_map(|(token, id)| Some((token, id.as_u64()? as usize))) {
            tokens[id] = (token.clone(), TokenKind::Normal);
        }
        for token in file["added_tokens"].as_array().into_iter().flatten() {
            let kind = if token["special"] == true { TokenKind::Control } else { TokenKind::UserDefined };
            if let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str()) {
                tokens[id as usize] = (content.to_owned(), kind);
            }
        }
        let pair = |merge: &Value| match merge {
            Value::Array(two) => Some(format!("{} {}", two.first()?.as_str()?, two.get(1)?.as_str()?)),
            other => other.as_str().map(str::to_owned),
        };
        let merges = file.pointer("/model/merges").and_then(Value::as_array).into_iter().flatten();
        Ok(Self { tokens, merges: merges.filter_map(pair).collect() })
    }
}
