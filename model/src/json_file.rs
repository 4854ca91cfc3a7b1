//! A JSON file as Python writes it, with `NaN` and `Infinity` and perhaps a byte-order mark.

use std::{io::Read, path::Path};

use serde_json::{Map, Value};

use crate::{lfs, regular_file};

/// Largest `config.json` that is read.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Why a file is no JSON object.
#[derive(Debug, thiserror::Error)]
pub enum JsonFileError {
    /// The file cannot be read.
    #[error("{file}: {cause}")]
    Io {
        /// Path.
        file: String,
        /// The operating system's words.
        cause: std::io::Error,
    },
    /// The file is larger than any of its kind.
    #[error("{file} has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// Path.
        file: String,
        /// Its size.
        bytes: u64,
        /// The largest that is read.
        limit: u64,
    },
    /// Not JSON, or not an object.
    #[error("{file} is not a JSON object: {cause}")]
    Json {
        /// Path.
        file: String,
        /// The parser's words, with line and column.
        cause: String,
    },
}

/// The JSON object in a file of at most [`MAX_CONFIG_BYTES`].
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, JsonFileError> {
    read_object_up_to(path, MAX_CONFIG_BYTES)
}

/// The JSON object in a file of at most `limit` bytes.
pub(crate) fn read_object_up_to(path: &Path, limit: u64) -> Result<Map<String, Value>, JsonFileError> {
    let file = path.display().to_string();
    let io = |cause| JsonFileError::Io { file: file.clone(), cause };
    let opened = regular_file::open(path).map_err(io)?;
    let bytes = opened.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(JsonFileError::TooLarge { file, bytes, limit });
    }
    let mut text = Vec::new();
    opened.take(limit).read_to_end(&mut text).map_err(io)?;
    match parse(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(JsonFileError::Json { file, cause: "the top level is no object".into() }),
        Err(_) if lfs::is_pointer(&text) => {
            Err(JsonFileError::Json { file, cause: format!("it is {}. {}", lfs::FOUND, lfs::REMEDY) })
        }
        Err(cause) => Err(JsonFileError::Json { file, cause: cause.to_string() }),
    }
}

/// The value in `text`. Numbers that JSON has no way to write become texts, so that a field that needs a number is
/// refused by its name and any other is passed over.
fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    serde_json::from_slice(text).or_else(|error| {
        let quoted = quote_non_finite(text);
        if quoted.len() == text.len() { Err(error) } else { serde_json::from_slice(&quoted) }
    })
}

/// `text` with quotes around `NaN`, `Infinity` and `-Infinity` where they stand outside of strings.
fn quote_non_finite(text: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut out = Vec::with_capacity(text.len() + 16);
    let (mut at, mut in_string) = (0, false);
    while at < text.len() {
        let rest = &text[at..];
        if in_string && rest[0] == b'\\' {
            out.extend_from_slice(&rest[..rest.len().min(2)]);
            at += 2;
            continue;
        }
        in_string ^= rest[0] == b'"';
        match WORDS.into_iter().find(|word| !in_string && rest.starts_with(word)) {
            Some(word) => {
                out.extend_from_slice(&[b"\"", word, b"\""].concat());
                at += word.len();
            }
            None => {
                out.push(rest[0]);
                at += 1;
            }
        }
    }
    out
}
