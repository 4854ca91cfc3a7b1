//! [`Detokenizer`]: text from ids as they come, never half a character.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// Joins the bytes of tokens into characters.
///
/// The concatenation of everything returned is [`Tokenizer::decode`] of all ids: bytes that can never
/// become a character turn into U+FFFD one maximal subpart at a time, as `from_utf8_lossy` does it.
///
/// ```
/// use std::sync::Arc;
///
/// use quern_text::{Detokenizer, Specials, Tokenizer};
///
/// let tokenizer = Arc::new(Tokenizer::from_dir("../models/quern-demo".as_ref())?);
/// let ids = tokenizer.encode("crème brûlée", Specials::AsText);
/// let mut detokenizer = Detokenizer::new(tokenizer, true);
/// let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
/// assert_eq!(text + &detokenizer.finish(), "crème brûlée");
/// # Ok::<(), quern_text::TokenizerError>(())
/// ```
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// At most three bytes: the beginning of a character.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Nothing seen yet. `skip_special` leaves control tokens out.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, pending: Vec::new() }
    }

    /// The text that `id` completes; may be empty.
    pub fn push(&mut self, id: u32) -> String {
        if !(self.skip_special && self.tokenizer.is_special(id)) {
            self.pending.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default());
        }
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                    rest = invalid;
                    let Some(length) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[length..];
                }
            }
        }
        let keep = rest.len();
        self.pending.drain(..self.pending.len() - keep);
        text
    }

    /// The end: what was begun and never completed.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
