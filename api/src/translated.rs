//! [`Translated`]: a conversation in the words of `/v1/chat/completions`, for the doors that speak otherwise.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    constraint::ToolUse,
    dialogue::{Asked, Dialogue, DialogueRequest},
    generate::namespace,
    logprobs,
    prompt::Conversation,
    protocol::{ApiError, sampling::SamplingFields, scalar::Int},
    sampling::Sampling,
    state::AppState,
};

/// What a door has read.
#[derive(Clone, Debug, Default)]
pub struct Translated {
    /// The messages.
    pub messages: Vec<Value>,
    /// A prompt that stands for the messages, rendered already.
    pub prompt_ids: Option<Vec<u32>>,
    /// The functions that may be called: `{type, function: {name, …}}`.
    pub tools: Vec<Value>,
    /// `auto`, `none`, `required` or a function.
    pub tool_choice: Option<Value>,
    /// Whether one answer may have several calls.
    pub parallel_tool_calls: Option<bool>,
    /// The form that the answer's text must have.
    pub response_format: Option<Value>,
    /// How to choose tokens and where to stop.
    pub sampling: SamplingFields,
    /// Report log-probabilities, with this many of the likeliest tokens.
    pub top_logprobs: Option<Int>,
    /// The last message is the beginning of the answer.
    pub continue_final_message: bool,
    /// Prefixes are shared among requests of one salt only.
    pub cache_salt: Option<String>,
}

impl Translated {
    /// Begin the answer. One: these doors have no other number.
    pub async fn begin(self, state: &Arc<AppState>, id: String, streams: bool) -> Result<Dialogue, ApiError> {
        let fields = SamplingFields { n: None, response_format: self.response_format, ..self.sampling };
        let mut sampling = Sampling::new(&fields, state.chat_defaults, state.vocab_size())?;
        // Agents ask for tens of thousands of tokens whatever the context, and mean "as many as fit".
        sampling.max_new_tokens = sampling.max_new_tokens.map(|most| most.min(state.config.context_length));
        let conversation = Conversation {
            messages: self.messages,
            add_generation_prompt: true,
            continue_final_message: self.continue_final_message,
            ..Conversation::default()
        };
        let request = DialogueRequest {
            id,
            tool_use: ToolUse::new(&self.tools, self.tool_choice.as_ref(), self.parallel_tool_calls.unwrap_or(true))?,
            prompt: match self.prompt_ids {
                Some(ids) => Asked::Ids(ids.into_iter().map(i64::from).collect()),
                None => Asked::Conversation(conversation),
            },
            sampling,
            logprobs: logprobs::chat_request(self.top_logprobs.is_some(), self.top_logprobs)?,
            namespace: namespace(self.cache_salt.as_deref(), None),
            streams,
        };
        Dialogue::begin(state, request).await
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

    /// What the model is to read, for whoever only counts it.
    pub fn conversation(self) -> Result<Conversation, ApiError> {
        Ok(Conversation {
            tools: ToolUse::new(&self.tools, self.tool_choice.as_ref(), true)?.tools,
            messages: self.messages,
            add_generation_prompt: true,
            continue_final_message: self.continue_final_message,
            ..Conversation::default()
        })
    }
}
