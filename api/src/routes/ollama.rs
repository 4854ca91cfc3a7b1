//! `/api/chat` and `/api/generate`, Ollama's.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use quern_text::{Specials, fim_prompt, fim_tokens, tool::ToolEvent};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::{
    clock::unix_seconds,
    dialogue::{Dialogue, End, call_id},
    prompt::off_thread,
    protocol::{
        ApiError, Body,
        body::ContentType,
        ollama::{
            OllamaCall, OllamaEnd, OllamaError, OllamaFields, OllamaFunction, OllamaMessage, OllamaPiece, OllamaSaid,
            rfc3339, without_pictures,
        },
        scalar::Int,
    },
    request_id::new_id,
    state::AppState,
    stopwatch::{Laps, Stopwatch},
    stream::{self, Frames},
    translated::Translated,
};

/// Fields that ask for what is not built.
const UNSERVED: &[(&str, &str)] = &[
    ("images", "the model reads text"),
    ("template", "the model's own template is used"),
    ("context", "/api/chat takes the conversation as messages"),
    ("logprobs", "/v1/chat/completions reports log-probabilities"),
];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/api/chat", post(chat)).route("/api/generate", post(generate))
}

async fn chat(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, OllamaError> {
    let fields = read(&state, request).await?;
    let mut messages = fields.messages.clone().unwrap_or_default();
    if messages.is_empty() {
        return Ok(loaded(&state, &fields, Form::Chat));
    }
    without_pictures(&mut messages)?;
    let asked = Translated {
        messages,
        tools: fields.tools.clone().unwrap_or_default(),
        response_format: fields.chat_response_format()?,
        sampling: fields.sampling()?,
        ..Translated::default()
    };
    answer(state, fields, asked, Form::Chat).await
}

async fn generate(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, OllamaError> {
    let fields = read(&state, request).await?;
    let (prompt, suffix) = (fields.prompt.clone().unwrap_or_default(), fields.suffix.clone().unwrap_or_default());
    if prompt.is_empty() && suffix.is_empty() {
        return Ok(loaded(&state, &fields, Form::Generate));
    }
    let response_format = fields.chat_response_format()?;
    let mut asked = Translated { response_format, sampling: fields.sampling()?, ..Translated::default() };
    if !suffix.is_empty() {
        // A model that goes on past the gap begins another one, or another file.
        asked.sampling.stop_token_ids = Some(fim_tokens(&state.tokenizer).map(|id| Int(i64::from(id))).collect());
        let ids = off_thread(&state, move |state| {
            fim_prompt(&state.tokenizer, &prompt, &suffix).ok_or_else(|| {
                ApiError::unsupported("suffix", "suffix: the model's tokenizer has no fill-in-the-middle tokens.")
            })
        });
        asked.prompt_ids = Some(ids.await?);
    } else if fields.raw.unwrap_or(false) {
        let ids = off_thread(&state, move |state| Ok(state.tokenizer.encode(&prompt, Specials::Parse)));
        asked.prompt_ids = Some(ids.await?);
    } else {
        let system = fields.system.iter().filter(|text| !text.is_empty());
        asked.messages = system.map(|text| json!({ "role": "system", "content": text })).collect();
        asked.messages.push(json!({ "role": "user", "content": prompt }));
    }
    answer(state, fields, asked, Form::Generate).await
}

async fn read(state: &AppState, request: Request) -> Result<OllamaFields, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    body.refuse(UNSERVED)?;
    let fields: OllamaFields = body.read()?;
    if fields.think.as_ref().is_some_and(|think| *think != false && *think != "") {
        let model = fields.model.as_deref().unwrap_or(&state.config.served_model_name);
        return Err(ApiError::unsupported("think", format!("think: \"{model}\" does not support thinking")));
    }
    Ok(fields)
}

async fn answer(
    state: Arc<AppState>,
    fields: OllamaFields,
    asked: Translated,
    form: Form,
) -> Result<Response, OllamaError> {
    let watch = Stopwatch::start();
    let streams = fields.stream.unwrap_or(true);
    let named = |error: ApiError| {
        error
            .renamed("max_new_tokens", "num_predict")
            .renamed("repetition_penalty", "repeat_penalty")
            .renamed("response_format", "format")
    };
    let dialogue = asked.begin(&state, new_id(), streams).await.map_err(named)?;
    let model = fields.model.unwrap_or_else(|| state.config.served_model_name.clone());
    let answer = Answer { model, form, watch, dialogue, calls: Calls::default(), state };
    if streams { Ok(stream::lines(|frames| answer.stream(frames))) } else { Ok(answer.whole().await?) }
}

/// A request without a prompt asks for the model to be loaded, which it is, or to be unloaded.
fn loaded(state: &AppState, fields: &OllamaFields, form: Form) -> Response {
    // It stays in memory all the same: it is what the server serves.
    let done_reason = if fields.unloads() { "unload" } else { "load" };
    let end = OllamaEnd { done_reason, ..OllamaEnd::default() };
    let model = fields.model.as_deref().unwrap_or(&state.config.served_model_name);
    let said = form.said(String::new(), Vec::new());
    let created_at = rfc3339(unix_seconds());
    Json(OllamaPiece { model, created_at, said, done: true, end: Some(end) }).into_response()
}

/// Which of two forms an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Chat,
    Generate,
}

impl Form {
    fn said(self, content: String, tool_calls: Vec<OllamaCall>) -> OllamaSaid {
        match self {
            Self::Chat => OllamaSaid::Message(OllamaMessage { role: "assistant", content, tool_calls }),
            Self::Generate => OllamaSaid::Response(content),
        }
    }
}

/// An answer in the making.
struct Answer {
    model: String,
    form: Form,
    watch: Stopwatch,
    dialogue: Dialogue,
    calls: Calls,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let (mut content, mut calls, mut end) = (String::new(), Vec::new(), None);
        while let Some((_, turn)) = self.dialogue.next().await {
            self.watch.word();
            for said in turn.said {
                match said {
                    ToolEvent::Content(text) => content += &text,
                    said => calls.extend(self.calls.take(said)),
                }
            }
            end = turn.end;
        }
        let end = self.end(end)?;
        Ok(Json(self.piece(content, calls, Some(end))).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        let mut end = None;
        loop {
            match timeout(self.state.keep_alive(), self.dialogue.next()).await {
                Ok(Some((_, turn))) => {
                    self.watch.word();
                    for said in turn.said {
                        let piece = match said {
                            ToolEvent::Content(text) => Some((text, Vec::new())),
                            said => self.calls.take(said).map(|call| (String::new(), vec![call])),
                        };
                        if let Some((content, calls)) = piece {
                            frames.line(&self.piece(content, calls, None)).await;
                        }
                    }
                    end = turn.end;
                }
                Ok(None) => break,
                Err(_) => frames.line(&self.piece(String::new(), Vec::new(), None)).await,
            }
        }
        match self.end(end) {
            Ok(end) => frames.line(&self.piece(String::new(), Vec::new(), Some(end))).await,
            Err(error) => frames.line(&OllamaError(error).body()).await,
        }
    }

    fn piece(&self, content: String, calls: Vec<OllamaCall>, end: Option<OllamaEnd>) -> OllamaPiece<'_> {
        OllamaPiece {
            model: &self.model,
            created_at: rfc3339(unix_seconds()),
            said: self.form.said(content, calls),
            done: end.is_some(),
            end,
        }
    }

    fn end(&self, end: Option<End>) -> Result<OllamaEnd, ApiError> {
        let done_reason = match end {
            Some(End::Stop(_) | End::ToolCalls(_)) => "stop",
            Some(End::Length) => "length",
            Some(End::Abort(words)) => return Err(ApiError::unavailable(words)),
            Some(End::Failed(error)) => return Err(error),
            None => return Err(ApiError::internal("the answer has no end")),
        };
        let output = &self.dialogue.outputs()[0];
        let Laps { prompt, answer } = self.watch.laps();
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Ok(OllamaEnd {
            done_reason,
            total_duration: nanos(prompt + answer),
            load_duration: 0,
            prompt_eval_count: output.prompt_tokens,
            prompt_eval_duration: nanos(prompt),
            eval_count: output.completion_tokens(),
            eval_duration: nanos(answer),
        })
    }
}

/// Calls in the making: Ollama's arrive in one piece.
#[derive(Debug, Default)]
struct Calls {
    name: String,
    json: String,
    count: usize,
}

impl Calls {
    fn take(&mut self, said: ToolEvent) -> Option<OllamaCall> {
        match said {
            ToolEvent::CallStart { name, .. } => {
                self.name = name;
                self.json.clear();
                None
            }
            ToolEvent::Arguments { json, .. } => {
                self.json.push_str(&json);
                None
            }
            ToolEvent::CallEnd { .. } => {
                let arguments: Map<String, Value> =
                    serde_json::from_str(&self.json).expect("complete arguments are a JSON object");
                let index = self.count;
                self.count += 1;
                let function = OllamaFunction { index, name: std::mem::take(&mut self.name), arguments };
                Some(OllamaCall { id: call_id(), function })
            }
            ToolEvent::Content(_) | ToolEvent::CallCut { .. } => None,
        }
    }
}
