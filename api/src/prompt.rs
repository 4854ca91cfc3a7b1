//! From what a request says to prompt tokens, off the threads that serve sockets: templates and
//! tokenizers take milliseconds on long prompts.

use std::sync::Arc;

use quern_text::{ChatPrompt, Specials, TemplateError, conversation};
use serde_json::{Map, Value};

use crate::{
    protocol::{ApiError, completions::Prompt},
    state::AppState,
};

/// Most prompts of one request.
pub const MAX_PROMPTS: usize = 1024;

/// A conversation on its way to become a prompt.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The request's messages.
    pub messages: Vec<Value>,
    /// The tools that the model is told of.
    pub tools: Vec<Value>,
    /// Template variables of the request.
    pub kwargs: Map<String, Value>,
    /// End with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
    /// The last message is the beginning of the answer rather than a turn of its own.
    pub continue_final_message: bool,
}

impl Conversation {
    /// Render and tokenise.
    pub async fn tokenise(self, state: &Arc<AppState>) -> Result<Vec<u32>, ApiError> {
        off_thread(state, move |state| self.ids(state)).await
    }

    fn ids(self, state: &AppState) -> Result<Vec<u32>, ApiError> {
        let Some(template) = &state.template else {
            let message =
                "The model has no chat template; start the server with --chat-template, or use /v1/completions.";
            return Err(ApiError::render(message));
        };
        if self.messages.is_empty() {
            return Err(ApiError::invalid("Messages cannot be empty.").about("messages"));
        }
        let refused = |cause: conversation::ConversationError| ApiError::render(cause.to_string());
        let conversation::Messages { list: mut messages, notes } =
            conversation::messages(&self.messages).map_err(refused)?;
        if let Some(first) = notes.first() {
            // One line a request: a history comes back with every turn.
            tracing::warn!("{first} ({} places of this conversation in all)", notes.len());
        }
        let tools = conversation::tools(&self.tools).map_err(refused)?;
        let mut begun = None;
        if let Some(last) = messages.last_mut().filter(|last| last["role"] == "assistant") {
            if self.continue_final_message {
                begun = last["content"].as_str().map(str::to_owned);
                messages.pop();
            } else {
                // A model cannot answer itself: SGLang makes the last word the user's.
                last["role"] = "user".into();
            }
        }
        let mut kwargs = state.config.default_chat_template_kwargs.clone();
        kwargs.extend(self.kwargs);
        let prompt = ChatPrompt {
            messages,
            tools: (!tools.is_empty()).then_some(tools),
            add_generation_prompt: self.add_generation_prompt,
            kwargs,
        };
        let rendered = template.render(&prompt).map_err(|cause| match cause {
            TemplateError::Render(words) => ApiError::render(words),
            other => ApiError::render(other.to_string()),
        })?;
        let mut ids = state.tokenizer.encode_rendered(&rendered);
        if let Some(begun) = begun {
            ids.extend(state.tokenizer.encode(&begun, Specials::AsText));
        }
        Ok(ids)
    }
}

/// Tokens of raw prompts, in order. Control tokens spelled in a raw text are control tokens: whoever
/// writes the whole prompt writes its template too.
pub async fn tokenise(state: &Arc<AppState>, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
    off_thread(state, move |state| prompts.into_iter().map(|prompt| ids(state, prompt)).collect()).await
}

fn ids(state: &AppState, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    let vocab_size = state.vocab_size();
    match prompt {
        Prompt::Text(text) => Ok(state.tokenizer.encode(&text, Specials::Parse)),
        Prompt::Ids(ids) => ids
            .into_iter()
            .map(|id| {
                let known = u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size);
                known.ok_or_else(|| {
                    ApiError::invalid(format!("The token id {id} is out of the vocabulary of {vocab_size} tokens."))
                })
            })
            .collect(),
    }
}

/// Run `work` where it may take its time. A panic in it is this request's alone.
pub async fn off_thread<T: Send + 'static>(
    state: &Arc<AppState>,
    work: impl FnOnce(&AppState) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = Arc::clone(state);
    let outcome = tokio::task::spawn_blocking(move || work(&state)).await;
    outcome.unwrap_or_else(|_| Err(ApiError::internal("the prompt could not be prepared")))
}
