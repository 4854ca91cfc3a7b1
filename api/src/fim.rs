//! [`FimPrompt`]: a gap between two texts that the model is to fill, for every API that has such requests.

use quern_text::{Tokenizer, fim_context, fim_prompt};

use crate::protocol::ApiError;

/// What stands around a gap.
#[derive(Clone, Debug, Default)]
pub struct FimPrompt {
    /// The text before it.
    pub prefix: String,
    /// The text after it.
    pub suffix: String,
    /// Other files that the model is to know of, by name and text.
    pub files: Vec<(String, String)>,
}

impl FimPrompt {
    /// The prompt's tokens. A tokenizer without tokens for it is an error about `suffix`.
    ///
    /// # Errors
    /// If the tokenizer has no fill-in-the-middle tokens.
    pub fn tokenise(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
        let files = self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let context = if self.files.is_empty() { Some(Vec::new()) } else { fim_context(tokenizer, files) };
        let gap = fim_prompt(tokenizer, &self.prefix, &self.suffix);
        context.zip(gap).map(|(context, gap)| [context, gap].concat()).ok_or_else(|| {
            ApiError::unsupported("suffix", "suffix: the model's tokenizer has no fill-in-the-middle tokens.")
        })
    }
}
