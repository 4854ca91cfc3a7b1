//! [`ChatPrompt`]: what a template is given.

use serde_json::{Map, Value as Json};

/// What a template is given.
#[derive(Clone, Debug, Default)]
pub struct ChatPrompt {
    /// The conversation, as [`crate::conversation`] prepares it.
    pub messages: Vec<Json>,
    /// Tool definitions; `None` if there are none.
    pub tools: Option<Vec<Json>>,
    /// End with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables.
    pub kwargs: Map<String, Json>,
}

impl ChatPrompt {
    /// Every value that came with the request.
    pub(super) fn values(&self) -> impl Iterator<Item = &Json> {
        self.messages.iter().chain(self.tools.iter().flatten()).chain(self.kwargs.values())
    }
}
