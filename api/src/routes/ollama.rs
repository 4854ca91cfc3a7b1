//! `/api/chat` and `/api/generate`, Ollama's.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use serde_json::json;

use crate::{
    caller::Caller,
    chat_request::ChatRequest,
    dialects::ollama::{Ollama, OllamaEndpoint},
    fim::FimPrompt,
    prompt::{Conversation, PromptSource},
    protocol::{
        ApiError, Body,
        body::ContentType,
        completions::Prompt,
        custom_tool::without_grammar,
        ollama::{OllamaError, OllamaFields, without_pictures},
    },
    request_id::new_id,
    respond::respond,
    state::AppState,
    stopwatch::Stopwatch,
};

/// Fields that ask for what is not supported.
const UNSUPPORTED: &[(&str, &str)] = &[
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
    let caller = Caller::of(&request);
    let fields = read(&state, request).await?;
    let mut messages = fields.messages.clone().unwrap_or_default();
    if messages.is_empty() {
        return Ok(load(&state, &fields, OllamaEndpoint::Chat));
    }
    without_pictures(&mut messages)?;
    let request = ChatRequest {
        caller,
        prompt: PromptSource::Messages(Conversation::of_messages(messages)),
        tools: fields.tools.iter().flatten().cloned().map(without_grammar).collect(),
        response_format: fields.chat_response_format()?,
        sampling: fields.sampling()?,
        ..ChatRequest::default()
    };
    answer(state, fields, request, OllamaEndpoint::Chat).await
}

async fn generate(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, OllamaError> {
    let caller = Caller::of(&request);
    let fields = read(&state, request).await?;
    let (prompt, suffix) = (fields.prompt.clone().unwrap_or_default(), fields.suffix.clone().unwrap_or_default());
    if prompt.is_empty() && suffix.is_empty() {
        return Ok(load(&state, &fields, OllamaEndpoint::Generate));
    }
    let prompt = if !suffix.is_empty() {
        PromptSource::Fim(FimPrompt { prefix: prompt, suffix, ..FimPrompt::default() })
    } else if fields.raw.unwrap_or(false) {
        PromptSource::Raw(Prompt::Text(prompt))
    } else {
        let system = fields.system.iter().filter(|text| !text.is_empty());
        let system = system.map(|text| json!({ "role": "system", "content": text }));
        let user = json!({ "role": "user", "content": prompt });
        PromptSource::Messages(Conversation::of_messages(system.chain([user]).collect()))
    };
    let response_format = fields.chat_response_format()?;
    let request =
        ChatRequest { caller, prompt, response_format, sampling: fields.sampling()?, ..ChatRequest::default() };
    answer(state, fields, request, OllamaEndpoint::Generate).await
}

async fn read(state: &AppState, request: Request) -> Result<OllamaFields, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    body.refuse(UNSUPPORTED)?;
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
    request: ChatRequest,
    form: OllamaEndpoint,
) -> Result<Response, OllamaError> {
    let watch = Stopwatch::start();
    let named = |error: ApiError| {
        error
            .renamed("max_new_tokens", "num_predict")
            .renamed("repetition_penalty", "repeat_penalty")
            .renamed("response_format", "format")
    };
    let request = ChatRequest { id: new_id(), streams: fields.stream.unwrap_or(true), ..request };
    let generation = request.begin(&state).await.map_err(named)?;
    let model = fields.model.unwrap_or_else(|| state.config.served_model_name.clone());
    Ok(respond(generation, Ollama::new(model, form, watch)).await?)
}

/// A request without a prompt asks for the model to be loaded, which it is, or to be unloaded.
fn load(state: &AppState, fields: &OllamaFields, form: OllamaEndpoint) -> Response {
    // It stays in memory all the same: it is what the server serves.
    let done_reason = if fields.unloads() { "unload" } else { "load" };
    Ollama::empty(&state.clock, fields.model.as_deref().unwrap_or(&state.config.served_model_name), form, done_reason)
}
