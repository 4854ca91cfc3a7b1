//! [`Tokenizer`]: text to ids by the model's `tokenizer.json`, and ids back to bytes.
//!
//! Encoding is the `tokenizers` library's. Decoding is a table: a byte-level vocabulary spells bytes, so
//! the bytes of a sequence are the bytes of its tokens one after the other.

use std::{collections::HashMap, panic::catch_unwind, path::Path};

use serde_json::Value;

use crate::{
    older_files::OlderFiles,
    regular_file,
    rendered::Rendered,
    tokenizer_config::{MAX_FILE_BYTES, TokenizerConfig, TokenizerError, without_mark},
    tokenizer_json,
};

/// Whether control tokens (`special` in `tokenizer.json`: `<|im_start|>` and the like) are recognised in
/// the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// As tokens: for text that is trusted to hold them, such as a rendered template or a raw prompt.
    Parse,
    /// As the characters they are spelled with: for text that users supply. Added tokens that are not
    /// control tokens (`<tool_call>`) are recognised all the same, as in training.
    AsText,
}

/// A text with something of everything: cases, digits, blanks, line ends, marks, other scripts, a byte of zero.
const SAMPLE: &str = "def f(x):\n\treturn 'aaaaaaaa  12345 É漢🙂\0'\r\n\n";

/// A byte-level tokenizer.
///
/// ```
/// use quern_text::{Specials, Tokenizer};
///
/// let tokenizer = Tokenizer::from_dir("../models/quern-demo".as_ref())?;
/// let text = "<|im_end|> ends a turn";
/// let (parsed, as_text) = (tokenizer.encode(text, Specials::Parse), tokenizer.encode(text, Specials::AsText));
/// assert_eq!(Some(parsed[0]), tokenizer.eos_id());
/// assert!(!as_text.contains(&parsed[0]) && tokenizer.decode(&as_text, true) == text);
/// # Ok::<(), quern_text::TokenizerError>(())
/// ```
pub struct Tokenizer {
    parsing: tokenizers::Tokenizer,
    as_text: tokenizers::Tokenizer,
    /// The bytes of each id; `None` for ids without a token.
    bytes: Vec<Option<Box<[u8]>>>,
    special: Vec<bool>,
    ids: HashMap<String, u32>,
    /// The control tokens, longest first.
    control_tokens: Vec<String>,
    /// Most bytes of text that become one token, if there is such a bound: added tokens that strip take any
    /// number of blanks in.
    longest_token: Option<usize>,
    config: TokenizerConfig,
}

impl Tokenizer {
    /// Read `tokenizer.json`, or else the `vocab.json` and `merges.txt` that it came from, and, if there is one,
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// If there are no such files, or they are malformed or not supported.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let optional = |name: &str| Some(dir.join(name)).filter(|file| file.exists()).map(|file| read(&file));
        let config = optional("tokenizer_config.json").transpose()?;
        let json = match optional("tokenizer.json").transpose()? {
            Some(json) => json,
            None if dir.join("vocab.json").exists() && dir.join("merges.txt").exists() => {
                let (vocab, merges) = (read(&dir.join("vocab.json"))?, read(&dir.join("merges.txt"))?);
                let added = optional("added_tokens.json").transpose()?;
                let (added, config) = (added.as_deref(), config.as_deref());
                let files = OlderFiles { vocab: &vocab, merges: &merges, added, config };
                tokenizer_json::bytes(&files.tokenizer_json()?)
            }
            None => return Err(TokenizerError::Missing { dir: dir.display().to_string() }),
        };
        Self::from_bytes(&json, config.as_deref())
    }

    /// A tokenizer from the files' contents, tried once.
    ///
    /// # Errors
    /// If they are malformed, the vocabulary is not byte-level, or texts cannot be encoded.
    pub fn from_bytes(tokenizer_json: &[u8], tokenizer_config_json: Option<&[u8]>) -> Result<Self, TokenizerError> {
        // The library panics where it reads or uses some files that it should refuse.
        let made = catch_unwind(|| Self::read(tokenizer_json, tokenizer_config_json)?.tried());
        made.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            Err(malformed(format!("it cannot be used: {words}")))
        })
    }

    /// Refuse one that would fail on the first request.
    fn tried(self) -> Result<Self, TokenizerError> {
        for specials in [Specials::Parse, Specials::AsText] {
            if self.encode(SAMPLE, specials).is_empty() {
                return Err(malformed(format!("{SAMPLE:?} becomes no tokens; its vocabulary is empty or another's")));
            }
        }
        Ok(self)
    }

    fn read(tokenizer_json: &[u8], tokenizer_config_json: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let tokenizer_json = without_mark(tokenizer_json);
        let root: Value = serde_json::from_slice(tokenizer_json).map_err(|e| malformed(e.to_string()))?;
        require_byte_level(&root)?;
        let config = tokenizer_config_json.map_or(Ok(TokenizerConfig::default()), TokenizerConfig::from_json)?;
        let mut parsing = tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(|e| malformed(e.to_string()))?;
        // What a trainer cut and filled its examples to; a prompt is neither.
        parsing.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        parsing.with_padding(None);
        add_missing(&mut parsing, &config)?;
        let mut as_text = parsing.clone();
        as_text.set_encode_special_tokens(true);

        let ids = parsing.get_vocab(true);
        let size = ids.values().max().map_or(0, |&id| id as usize + 1);
        // Ids are dense in practice; a file that is not must not make us allocate by its largest number.
        if size > 8 * ids.len() + 1024 {
            return Err(malformed(format!("{} tokens with ids up to {}", ids.len(), size - 1)));
        }
        let mut bytes = vec![None; size];
        let spell = byte_alphabet();
        for (token, &id) in &ids {
            let spelled: Option<Vec<u8>> = token.chars().map(|c| spell.get(&c).copied()).collect();
            bytes[id as usize] = Some(spelled.unwrap_or_else(|| token.as_bytes().to_vec()).into_boxed_slice());
        }
        let mut special = vec![false; size];
        let mut control_tokens = Vec::new();
        let mut strips = false;
        for (id, token) in parsing.get_added_tokens_decoder() {
            strips |= token.lstrip || token.rstrip;
            bytes[id as usize] = Some(token.content.as_bytes().into());
            if token.special {
                special[id as usize] = true;
                control_tokens.push(token.content.clone());
            }
        }
        control_tokens.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        let longest_token = longest_token(&root, &bytes).filter(|_| !strips);
        Ok(Self { parsing, as_text, bytes, special, ids, control_tokens, longest_token, config })
    }

    /// The ids of `text`. Nothing is added around it.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let tokenizer = match specials {
            Specials::Parse => &self.parsing,
            Specials::AsText => &self.as_text,
        };
        let encoding = tokenizer.encode_fast(text, false).expect("byte-level encoding knows every character");
        encoding.get_ids().to_vec()
    }

    /// A number of tokens that a text of `bytes` bytes has at least, known before it is tokenised.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        self.longest_token.map_or(0, |longest| bytes.div_ceil(longest))
    }

    /// The ids of a rendered template: control tokens are recognised where the template wrote them, and
    /// nowhere else.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut position = 0;
        for control in &rendered.controls {
            if control.start > position {
                ids.extend(self.encode(&rendered.text[position..control.start], Specials::AsText));
            }
            ids.extend(self.ids.get(&rendered.text[control.clone()]));
            position = control.end;
        }
        if position < rendered.text.len() {
            ids.extend(self.encode(&rendered.text[position..], Specials::AsText));
        }
        ids
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = kept.filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of a token; `None` for an id without one (models pad their vocabularies).
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id as usize)?.as_deref()
    }

    /// The id of a token by its exact content.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Whether `id` is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The token that ends a turn, if the configuration names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_id(self.config.eos_token.as_deref()?)
    }

    /// The control tokens, longest first.
    pub fn control_tokens(&self) -> &[String] {
        &self.control_tokens
    }

    /// The contents of a `tokenizer.json` that makes this tokenizer.
    pub(crate) fn to_json(&self) -> Value {
        let text = self.parsing.to_string(false).expect("what was read can be written");
        serde_json::from_str(&text).expect("it is written as JSON")
    }

    /// What `tokenizer_config.json` says.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }
}

/// Add the tokens that only `tokenizer_config.json` lists, which transformers reads as well.
fn add_missing(tokenizer: &mut tokenizers::Tokenizer, config: &TokenizerConfig) -> Result<(), TokenizerError> {
    let malformed = |cause: String| TokenizerError::Malformed { file: "tokenizer_config.json", cause };
    let known: Vec<String> = tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    for (id, token) in config.added_tokens.iter().filter(|(_, token)| !known.contains(&token.content)) {
        tokenizer.add_tokens([token.clone()]).map_err(|e| malformed(e.to_string()))?;
        let content = &token.content;
        match tokenizer.token_to_id(content) {
            Some(found) if found == *id => {}
            // The library numbers what it adds itself.
            found => {
                let found = found.map_or_else(|| "none".into(), |found| found.to_string());
                return Err(malformed(format!(
                    "added_tokens_decoder: {content:?} has the id {id}, and by tokenizer.json, which does not list it, \
                     its id is {found}; the two files are of different tokenizers"
                )));
            }
        }
    }
    Ok(())
}

fn malformed(cause: String) -> TokenizerError {
    TokenizerError::Malformed { file: "tokenizer.json", cause }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let file = path.display().to_string();
    let io = |cause| TokenizerError::Io { file: file.clone(), cause };
    let bytes = regular_file::length(path).map_err(io)?;
    if bytes > MAX_FILE_BYTES {
        return Err(TokenizerError::TooLarge { file, bytes });
    }
    std::fs::read(path).map_err(io)
}

/// Most bytes of text that become one of the tokens spelled by `bytes`; `None` if their spelling does not
/// say, since a normaliser that is not known may drop text.
fn longest_token(root: &Value, bytes: &[Option<Box<[u8]>>]) -> Option<usize> {
    let longest = bytes.iter().flatten().map(|spelled| spelled.len()).max()?;
    // Composition (NFC) makes at most three bytes one (UAX 15 on expansion factors, read backwards).
    let shrinks = match root.get("normalizer") {
        None | Some(Value::Null) => 1,
        Some(normalizer) if normalizer["type"] == "NFC" => 3,
        Some(_) => return None,
    };
    Some((longest * shrinks).max(1))
}

/// The decoder must be `ByteLevel`, alone or in a sequence.
fn require_byte_level(root: &Value) -> Result<(), TokenizerError> {
    let decoder = root.get("decoder").unwrap_or(&Value::Null);
    let is_byte_level = |d: &Value| d.get("type").and_then(Value::as_str) == Some("ByteLevel");
    let listed = decoder.get("decoders").and_then(Value::as_array);
    if is_byte_level(decoder) || listed.is_some_and(|list| list.iter().any(is_byte_level)) {
        return Ok(());
    }
    let found = decoder.get("type").map_or_else(|| decoder.to_string(), Value::to_string);
    Err(TokenizerError::NotByteLevel { found: found.chars().take(80).collect() })
}

/// The characters by which a byte-level vocabulary spells bytes.
///
/// Printable bytes stand for themselves; the others, in order, for the characters from U+0100 on.
/// Source: Radford et al. 2019, GPT-2, `bytes_to_unicode`.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| {
            if printable(byte) {
                return (char::from(byte), byte);
            }
            let letter = char::from_u32(next).expect("U+0100 to U+0143 are characters");
            next += 1;
            (letter, byte)
        })
        .collect()
}
