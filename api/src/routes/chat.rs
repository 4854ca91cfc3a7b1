//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use quern_engine::TokenLogprobs;
use quern_text::tool::ToolEvent;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    clock::unix_seconds,
    constraint::ToolUse,
    dialogue::{Asked, Dialogue, DialogueRequest, End, Whole, call_id},
    generate::{Matched, namespace},
    logprobs,
    prompt::Conversation,
    protocol::{
        ApiError, Body,
        body::ContentType,
        chat::{
            ChatChoice, ChatChunk, ChatCompletion, ChatFields, ChatLogprobs, ChatMessage, ChunkChoice, Delta, Function,
            FunctionDelta, ToolCall, ToolCallDelta,
        },
        sampling::SamplingFields,
        scalar::Int,
        unbuilt::UNBUILT_FIELDS,
        usage::{Usage, metadata},
    },
    request_id::request_id,
    sampling::Sampling,
    state::AppState,
    stream::{self, Frames},
};

/// The name that an answer carries when the request names no model.
pub const NO_MODEL: &str = "default";

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/chat/completions", post(chat))
}

async fn chat(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let mut fields: ChatFields = body.read()?;
    body.refuse(UNBUILT_FIELDS)?;
    let sampling_fields: SamplingFields = body.read()?;
    drop(body);
    let sampling = Sampling::new(&sampling_fields, state.chat_defaults, state.vocab_size())?;
    let logprobs = logprobs::chat_request(fields.logprobs.unwrap_or(false), fields.top_logprobs)?;
    let wants_logprobs = logprobs.is_some();
    let (tools, tool_choice) = fields.take_tools_and_choice();
    let tool_use = ToolUse::new(&tools, tool_choice.as_ref(), fields.parallel_tool_calls.unwrap_or(true))?;
    let prompt = match &fields.input_ids {
        Some(ids) => Asked::Ids(ids.iter().map(|Int(id)| *id).collect()),
        None => Asked::Conversation(Conversation::of_chat(&mut fields)?),
    };
    let id = request_id(fields.rid.as_ref())?;
    let streams = fields.stream.unwrap_or(false);
    let namespace = namespace(fields.cache_salt.as_deref(), fields.extra_key.as_deref());
    let request = DialogueRequest { id: id.clone(), prompt, tool_use, sampling, logprobs, namespace, streams };
    let dialogue = Dialogue::begin(&state, request).await?;
    let options = fields.stream_options.unwrap_or_default();
    let answer = Answer {
        id,
        created: unix_seconds(),
        model: fields.model.unwrap_or_else(|| NO_MODEL.into()),
        wants_logprobs,
        include_usage: options.include_usage.unwrap_or(state.config.stream_response_default_include_usage),
        continuous_usage: options.continuous_usage_stats.unwrap_or(false),
        dialogue,
        state,
    };
    if streams { Ok(stream::response(|frames| answer.stream(frames))) } else { answer.whole().await }
}

/// An answer in the making.
struct Answer {
    id: String,
    created: u64,
    model: String,
    wants_logprobs: bool,
    include_usage: bool,
    continuous_usage: bool,
    dialogue: Dialogue,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let outputs = self.dialogue.whole().await?;
        let choice = |(index, output): (usize, Whole)| {
            let (finish_reason, matched_stop) = finish_reason(&output.end);
            let message = output.message;
            ChatChoice {
                index,
                logprobs: self.logprobs(&output.logprobs),
                message: ChatMessage {
                    role: "assistant",
                    content: message.content.unwrap_or_default(),
                    reasoning_content: None,
                    tool_calls: message.calls.into_iter().enumerate().map(tool_call).collect(),
                },
                finish_reason,
                // The token that ends a call is markup, not something the client stopped at.
                matched_stop: if matches!(output.end, End::ToolCalls(_)) { Value::Null } else { matched_stop },
            }
        };
        let completion = ChatCompletion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: outputs.into_iter().enumerate().map(choice).collect(),
            usage: self.usage(),
            metadata: metadata(&self.state.config.weight_version),
        };
        Ok(Json(completion).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        for index in 0..self.dialogue.outputs().len() {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.send(&frames, ChunkChoice { index, delta, ..ChunkChoice::default() }).await;
        }
        loop {
            let (index, turn) = match timeout(self.state.keep_alive(), self.dialogue.next()).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(_) => {
                    let delta = Delta { content: Some(String::new()), ..Delta::default() };
                    self.send(&frames, ChunkChoice { delta, ..ChunkChoice::default() }).await;
                    continue;
                }
            };
            if let Some(End::Failed(error)) = &turn.end {
                frames.data(&error.openai_frame()).await;
                return frames.done().await;
            }
            let mut logprobs = self.logprobs(&turn.logprobs);
            for delta in turn.said.into_iter().filter_map(delta) {
                let choice = ChunkChoice { index, delta, logprobs: logprobs.take(), ..ChunkChoice::default() };
                self.send(&frames, choice).await;
            }
            if logprobs.is_some() {
                let delta = Delta { content: Some(String::new()), ..Delta::default() };
                self.send(&frames, ChunkChoice { index, delta, logprobs, ..ChunkChoice::default() }).await;
            }
            if let Some(end) = &turn.end {
                let (reason, matched_stop) = finish_reason(end);
                let last = ChunkChoice { index, finish_reason: Some(reason), matched_stop, ..ChunkChoice::default() };
                self.send(&frames, last).await;
            }
        }
        if self.include_usage {
            let chunk = ChatChunk { choices: Vec::new(), usage: Some(self.usage()), ..self.chunk() };
            frames.data(&chunk).await;
        }
        frames.done().await;
    }

    async fn send(&self, frames: &Frames, choice: ChunkChoice) {
        let usage = self.continuous_usage.then(|| self.usage());
        frames.data(&ChatChunk { choices: vec![choice], usage, ..self.chunk() }).await;
    }

    fn chunk(&self) -> ChatChunk<'_> {
        let object = "chat.completion.chunk";
        ChatChunk { id: &self.id, object, created: self.created, model: &self.model, choices: Vec::new(), usage: None }
    }

    fn logprobs(&self, scores: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        let wanted = self.wants_logprobs && !scores.is_empty();
        wanted.then(|| logprobs::chat(&self.state.tokenizer, scores))
    }

    /// Outputs of one prompt share it; it counts once.
    fn usage(&self) -> Usage {
        let outputs = self.dialogue.outputs();
        let completion = outputs.iter().map(|output| output.completion_tokens()).sum();
        let first = &outputs[0];
        Usage::new(first.prompt_tokens, completion, first.prompt.cached_tokens)
    }
}

/// OpenAI's name of an end, and what matched.
fn finish_reason(end: &End) -> (&'static str, Value) {
    match end {
        End::Stop(matched) => ("stop", matched_stop(matched)),
        End::ToolCalls(matched) => ("tool_calls", matched_stop(matched)),
        End::Length => ("length", Value::Null),
        End::Abort(_) | End::Failed(_) => ("abort", Value::Null),
    }
}

/// The id of the token, or the text, that ended an output.
pub fn matched_stop(matched: &Matched) -> Value {
    match matched {
        Matched::Token(id) => (*id).into(),
        Matched::Text(text) => text.as_str().into(),
    }
}

/// What a stream says of an event. A call's end needs no words: `finish_reason` follows, and of a call
/// that was cut it is `length`.
fn delta(said: ToolEvent) -> Option<Delta> {
    let call = |index, id: Option<String>, name, arguments| {
        let function = FunctionDelta { name, arguments };
        let kind = id.is_some().then_some("function");
        let call = ToolCallDelta { index, id, kind, function };
        Some(Delta { tool_calls: vec![call], ..Delta::default() })
    };
    match said {
        ToolEvent::Content(text) => Some(Delta { content: Some(text), ..Delta::default() }),
        ToolEvent::CallStart { index, name } => call(index, Some(call_id()), Some(name), String::new()),
        ToolEvent::Arguments { index, json } => call(index, None, None, json),
        ToolEvent::CallEnd { .. } | ToolEvent::CallCut { .. } => None,
    }
}

fn tool_call((index, call): (usize, quern_text::tool::ToolCall)) -> ToolCall {
    let function = Function { name: call.name, arguments: call.arguments };
    ToolCall { id: call_id(), index, kind: "function", function }
}
