//! From what a request says to prompt tokens, off the threads that serve sockets: templates and
//! tokenizers take milliseconds on long prompts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use quern_text::{ChatPrompt, Specials, TemplateError, conversation};
use serde_json::{Map, Value};

use crate::{
    blocking,
    fim::FimPrompt,
    protocol::{ApiError, chat::ChatFields, completions::Prompt},
    state::AppState,
};

/// Most prompts of one request.
pub const MAX_PROMPTS: usize = 1024;

/// What the model reads.
#[derive(Clone, Debug)]
pub enum PromptSource {
    /// Messages, by the model's template.
    Messages(Conversation),
    /// A prompt as it is.
    Raw(Prompt),
    /// A gap to be filled.
    Fim(FimPrompt),
}

impl Default for PromptSource {
    fn default() -> Self {
        Self::Messages(Conversation::default())
    }
}

impl PromptSource {
    /// Render and tokenise, to be answered. The model is told of `tools` by its template.
    ///
    /// # Errors
    /// If the template refuses the conversation, or it cannot fit.
    pub async fn tokenise(self, state: &Arc<AppState>, tools: Vec<Value>) -> Result<Vec<u32>, ApiError> {
        match self {
            Self::Messages(conversation) => Conversation { tools, ..conversation }.tokenise(state).await,
            Self::Raw(prompt) => Ok(tokenise(state, vec![prompt]).await?.swap_remove(0)),
            Self::Fim(prompt) => off_thread(state, move |state| prompt.tokenise(&state.tokenizer)).await,
        }
    }

    /// The same of any length, to be counted.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub async fn tokenise_any(self, state: &Arc<AppState>, tools: Vec<Value>) -> Result<Vec<u32>, ApiError> {
        match self {
            Self::Messages(conversation) => Conversation { tools, ..conversation }.tokenise_any(state).await,
            Self::Raw(prompt) => Ok(tokenise_any(state, vec![prompt]).await?.swap_remove(0)),
            Self::Fim(_) => self.tokenise(state, tools).await,
        }
    }
}

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
    /// Messages to be answered: they end with the beginning of an assistant's turn.
    pub fn of_messages(messages: Vec<Value>) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }

    /// What a chat request says, without its tools. It is taken out of `fields`, so that a long history is in memory once.
    ///
    /// # Errors
    /// If a message is malformed.
    pub fn of_chat(fields: &mut ChatFields) -> Result<Self, ApiError> {
        let mut kwargs = fields.chat_template_kwargs.take().unwrap_or_default();
        if let Some(name) = ["messages", "tools"].into_iter().find(|name| kwargs.contains_key(*name)) {
            let message = format!("chat_template_kwargs: {name} is a field of its own; it cannot be replaced here.");
            return Err(ApiError::invalid(message).about("chat_template_kwargs"));
        }
        if let Some(effort) = fields.reasoning_effort.take() {
            kwargs.entry("reasoning_effort").or_insert(effort.into());
        }
        let missing = || ApiError::schema("missing field `messages`; /v1/responses reads `input`").about("messages");
        let continue_final_message = fields.continue_final_message.unwrap_or(false);
        let messages = fields.messages.take().ok_or_else(missing)?;
        Ok(Self { kwargs, continue_final_message, ..Self::of_messages(messages) })
    }

    /// Forget the `turns` oldest turns, each from a user's message to the next. The system's words and the
    /// last turn stay. Says whether anything was forgotten.
    pub fn forget(&mut self, turns: usize) -> bool {
        let begins: Vec<usize> = (0..self.messages.len()).filter(|&i| self.messages[i]["role"] == "user").collect();
        let kept_from = begins.get(turns).or(begins.last()).copied().unwrap_or(0);
        let before = self.messages.len();
        let mut index = 0;
        self.messages.retain(|message| {
            index += 1;
            index > kept_from || message["role"] == "system" || message["role"] == "developer"
        });
        self.messages.len() < before
    }

    /// Render and tokenise, to be answered: what cannot fit is refused before it is tokenised.
    ///
    /// # Errors
    /// If the template refuses the conversation, or it cannot fit.
    pub async fn tokenise(self, state: &Arc<AppState>) -> Result<Vec<u32>, ApiError> {
        let work = off_thread_while_wanted(state, move |state, wanted| {
            self.ids(state, wanted, |bytes| state.limits.check_fewest(state.tokenizer.fewest_tokens(bytes), bytes))
        });
        work.await
    }

    /// The same of any length, to be counted.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub async fn tokenise_any(self, state: &Arc<AppState>) -> Result<Vec<u32>, ApiError> {
        off_thread_while_wanted(state, move |state, wanted| self.ids(state, wanted, |_| Ok(()))).await
    }

    fn ids(
        self,
        state: &AppState,
        wanted: &StillWanted,
        check_bytes: impl Fn(usize) -> Result<(), ApiError>,
    ) -> Result<Vec<u32>, ApiError> {
        let Some(template) = &state.template else {
            let message =
                "The model has no chat template; start the server with --chat-template, or use /v1/completions.";
            return Err(ApiError::render(message));
        };
        if self.messages.is_empty() {
            return Err(ApiError::invalid("Messages cannot be empty.").about("messages"));
        }
        let refused = |cause: conversation::ConversationError| ApiError::render(cause.to_string());
        let conversation::TemplateMessages { list: mut messages, notes } =
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
        wanted.check()?;
        let rendered = template.render(&prompt).map_err(|cause| match cause {
            TemplateError::Render(words) => ApiError::render(words),
            other => ApiError::render(other.to_string()),
        })?;
        wanted.check()?;
        check_bytes(rendered.text.len())?;
        let mut ids = state.tokenizer.encode_rendered(&rendered);
        if let Some(begun) = begun {
            ids.extend(state.tokenizer.encode(&begun, Specials::AsText));
        }
        Ok(ids)
    }
}

/// Tokens of raw prompts, in order, to be answered: what cannot fit is refused before it is tokenised.
/// Control tokens spelled in a raw text are control tokens: who writes the whole prompt writes its
/// template too.
///
/// # Errors
/// If one cannot fit, or has an id outside of the vocabulary.
pub async fn tokenise(state: &Arc<AppState>, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
    let lengths = prompts.iter().map(|prompt| match prompt {
        Prompt::Text(text) => (state.tokenizer.fewest_tokens(text.len()), text.len()),
        Prompt::Ids(_) => (0, 0),
    });
    lengths.into_iter().try_for_each(|(fewest, bytes)| state.limits.check_fewest(fewest, bytes))?;
    tokenise_any(state, prompts).await
}

/// The same of any length, to be counted.
///
/// # Errors
/// If one has an id outside of the vocabulary.
pub async fn tokenise_any(state: &Arc<AppState>, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>, ApiError> {
    let each = move |state: &AppState, wanted: &StillWanted| {
        let one = |prompt| wanted.check().and_then(|()| ids(state, prompt));
        prompts.into_iter().map(one).collect()
    };
    off_thread_while_wanted(state, each).await
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

/// Whether the request that some work is for still waits for it.
pub struct StillWanted(Arc<AtomicBool>);

impl StillWanted {
    /// Stop the work once the client has disconnected.
    ///
    /// # Errors
    /// If the client has gone.
    pub fn check(&self) -> Result<(), ApiError> {
        match self.0.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(ApiError::unavailable("The client has gone.")),
        }
    }
}

/// Marks the work as no longer wanted when it is dropped.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The same for work that asks now and then whether it is still wanted.
async fn off_thread_while_wanted<T: Send + 'static>(
    state: &Arc<AppState>,
    work: impl FnOnce(&AppState, &StillWanted) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let waits = Waits(Arc::new(AtomicBool::new(true)));
    let wanted = StillWanted(Arc::clone(&waits.0));
    off_thread(state, move |state| work(state, &wanted)).await
}

/// Run `work` where it may take its time. A panic in it is this request's alone.
///
/// # Errors
/// If `work` fails or panics.
pub async fn off_thread<T: Send + 'static>(
    state: &Arc<AppState>,
    work: impl FnOnce(&AppState) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = Arc::clone(state);
    blocking::run(move || work(&state)).await?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::Body;

    #[test]
    fn template_variables_do_not_replace_the_conversation() {
        let of = |kwargs: Value| {
            let body = json!({"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": kwargs});
            Conversation::of_chat(&mut Body::from_value(body)?.read()?)
        };
        assert_eq!(of(json!({"enable_thinking": false})).unwrap().kwargs.len(), 1);
        for name in ["messages", "tools"] {
            let error = of(json!({ name: [] })).unwrap_err();
            assert!(error.message.contains("chat_template_kwargs") && error.message.contains(name), "{error}");
        }
    }
}
