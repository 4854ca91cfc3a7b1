//! `/v1/chat/completions`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    app::{AppState, unix_seconds},
    generate::{Finish, Generations, Job, Matched, Piece},
    prompt::{Conversation, tokenise},
    protocol::{
        ApiError, Body,
        body::ContentType,
        chat::{ChatChoice, ChatChunk, ChatCompletion, ChatFields, ChatLogprobs, ChatMessage, ChunkChoice, Delta},
        completions::Prompt,
        sampling::SamplingFields,
        scalar::Int,
        usage::{Usage, metadata},
    },
    routes::{UNBUILT_FIELDS, logprobs, namespace, request_id},
    sampling::Sampling,
    stream::{self, Frames},
};

/// A stream that has nothing to say for this long says so. Clients give up after one to five minutes
/// without data, and a comment is no data to some of them.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The name that an answer carries when the request names no model.
pub const NO_MODEL: &str = "default";

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/chat/completions", post(chat))
}

async fn chat(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: ChatFields = body.read()?;
    body.refuse(UNBUILT_FIELDS)?;
    refuse_response_format(fields.response_format.as_ref())?;
    let sampling_fields: SamplingFields = body.read()?;
    let mut sampling = Sampling::new(&sampling_fields, state.chat_defaults, state.vocab_size())?;
    let logprobs = logprobs::chat_request(fields.logprobs.unwrap_or(false), fields.top_logprobs)?;

    let tools = tools_for_prompt(fields.tools.as_deref().unwrap_or_default(), fields.tool_choice.as_ref())?;
    if !tools.is_empty() {
        // The tags of a call may be control tokens, and they must reach the client.
        sampling.skip_special_tokens = false;
    }
    let mut prompt = match fields.input_ids {
        Some(ids) => {
            let ids = Prompt::Ids(ids.into_iter().map(|Int(id)| id).collect());
            tokenise(&state, vec![ids]).await?.swap_remove(0)
        }
        None => {
            let mut kwargs = fields.chat_template_kwargs.unwrap_or_default();
            if let Some(effort) = fields.reasoning_effort {
                kwargs.entry("reasoning_effort").or_insert(effort.into());
            }
            let conversation = Conversation {
                messages: fields
                    .messages
                    .ok_or_else(|| ApiError::schema("missing field `messages`").about("messages"))?,
                tools,
                kwargs,
                add_generation_prompt: true,
                continue_final_message: fields.continue_final_message.unwrap_or(false),
            };
            conversation.tokenise(&state).await?
        }
    };
    let max_new_tokens = state.limits.admit_chat(&mut prompt, sampling.max_new_tokens)?;

    let id = request_id(fields.rid.as_ref())?;
    let sampling = Arc::new(sampling);
    let jobs = (0..sampling.n).map(|sample_index| Job {
        id: if sampling.n == 1 { id.clone() } else { format!("{id}_{sample_index}") },
        prompt: prompt.clone(),
        sampling: Arc::clone(&sampling),
        max_new_tokens,
        logprobs: logprobs.clone(),
        namespace: namespace(fields.cache_salt.as_deref(), fields.extra_key.as_deref()),
        sample_index,
    });
    let streams = fields.stream.unwrap_or(false);
    let generations = Generations::submit(&state, jobs.collect(), streams)?;
    let options = fields.stream_options.unwrap_or_default();
    let answer = Answer {
        id,
        created: unix_seconds(),
        model: fields.model.unwrap_or_else(|| NO_MODEL.into()),
        wants_logprobs: logprobs.is_some(),
        include_usage: options.include_usage.unwrap_or(state.config.stream_response_default_include_usage),
        continuous_usage: options.continuous_usage_stats.unwrap_or(false),
        generations,
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
    generations: Generations,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let pieces = self.generations.whole().await?;
        let choice = |(index, piece): (usize, Piece)| {
            let (finish_reason, matched_stop) = finish(piece.finish.as_ref());
            ChatChoice {
                index,
                logprobs: self.logprobs(&piece),
                message: ChatMessage { role: "assistant", content: piece.text, reasoning_content: None },
                finish_reason,
                matched_stop,
            }
        };
        let completion = ChatCompletion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: pieces.into_iter().enumerate().map(choice).collect(),
            usage: self.usage(),
            metadata: metadata(&self.state.config.weight_version),
        };
        Ok(Json(completion).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        for index in 0..self.generations.outputs().len() {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.send(&frames, ChunkChoice { index, delta, ..ChunkChoice::default() }).await;
        }
        loop {
            let (index, piece) = match timeout(KEEP_ALIVE, self.generations.next()).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(_) => {
                    let delta = Delta { content: Some(String::new()), ..Delta::default() };
                    self.send(&frames, ChunkChoice { delta, ..ChunkChoice::default() }).await;
                    continue;
                }
            };
            if let Some(Finish::Failed(error)) = &piece.finish {
                frames.data(&error.openai_frame()).await;
                return frames.done().await;
            }
            let logprobs = self.logprobs(&piece);
            if !piece.text.is_empty() || logprobs.is_some() {
                let delta = Delta { content: Some(piece.text), ..Delta::default() };
                self.send(&frames, ChunkChoice { index, delta, logprobs, ..ChunkChoice::default() }).await;
            }
            if piece.finish.is_some() {
                let (reason, matched_stop) = finish(piece.finish.as_ref());
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

    fn logprobs(&self, piece: &Piece) -> Option<ChatLogprobs> {
        let wanted = self.wants_logprobs && !piece.logprobs.is_empty();
        wanted.then(|| logprobs::chat(&self.state.tokenizer, &piece.logprobs))
    }

    /// Outputs of one prompt share it; it counts once.
    fn usage(&self) -> Usage {
        let outputs = self.generations.outputs();
        let completion = outputs.iter().map(|output| output.completion_tokens()).sum();
        let first = &outputs[0];
        Usage::new(first.prompt_tokens, completion, first.prompt.cached_tokens)
    }
}

/// OpenAI's name of an end, and what matched.
pub fn finish(finish: Option<&Finish>) -> (&'static str, Value) {
    match finish {
        Some(Finish::Stop(Matched::Token(id))) => ("stop", (*id).into()),
        Some(Finish::Stop(Matched::Text(text))) => ("stop", text.as_str().into()),
        Some(Finish::Length) => ("length", Value::Null),
        Some(Finish::Abort(_) | Finish::Failed(_)) | None => ("abort", Value::Null),
    }
}

/// The tools that the model is told of, by `tool_choice`.
pub fn tools_for_prompt(tools: &[Value], choice: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    let wrong = |message: String| ApiError::invalid(message).about("tool_choice");
    let built = |words: &str| {
        let message =
            format!("tool_choice: {words} needs constrained output, which is not built yet; auto and none are.");
        ApiError::unsupported("tool_choice", message)
    };
    match choice.filter(|choice| !choice.is_null()) {
        None => Ok(tools.to_vec()),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(tools.to_vec()),
            "none" => Ok(Vec::new()),
            "required" if tools.is_empty() => {
                Err(wrong("Tools cannot be empty if tool choice is set to required.".into()))
            }
            "required" => Err(built("required")),
            other => Err(wrong(format!("tool_choice must be none, auto, required or a function, got {other:?}."))),
        },
        Some(value) => {
            let Some(name) = value.pointer("/function/name").and_then(Value::as_str) else {
                return Err(wrong("tool_choice must be none, auto, required or {type, function: {name}}.".into()));
            };
            if tools.is_empty() {
                return Err(wrong("Tools cannot be empty if tool choice is set to a specific tool.".into()));
            }
            let named = |tool: &&Value| tool.pointer("/function/name").and_then(Value::as_str) == Some(name);
            match tools.iter().find(named) {
                None => Err(wrong(format!("Tool '{name}' not found in tools list."))),
                Some(_) => Err(built("a named function")),
            }
        }
    }
}

/// Only plain text is built; a request for JSON must not get something else.
fn refuse_response_format(format: Option<&Value>) -> Result<(), ApiError> {
    let Some(format) = format else { return Ok(()) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(()),
        Some(kind @ ("json_object" | "json_schema" | "structural_tag")) => {
            let message = format!("response_format: {kind} needs constrained output, which is not built yet; text is.");
            Err(ApiError::unsupported("response_format", message))
        }
        _ => {
            let message = "response_format.type must be text, json_object, json_schema or structural_tag.";
            Err(ApiError::schema(message).about("response_format"))
        }
    }
}
