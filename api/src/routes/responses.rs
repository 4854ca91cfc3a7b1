//! `/v1/responses`, OpenAI's.
//!
//! SGLang (0.5.23) takes two tokens off `max_output_tokens`; here it means what it says.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    chat::NO_MODEL,
    response_items::{Event, Items},
};
use crate::{
    clock::unix_seconds,
    dialogue::{Dialogue, End, Turn},
    logprobs,
    protocol::{
        ApiError, Body,
        body::ContentType,
        response_input::{read_input, tools_of_input},
        responses::{Functions, InputTokensDetails, ResponseObject, ResponsesError, ResponsesFields, ResponsesUsage},
        sampling::SamplingFields,
        scalar::Int,
        unbuilt::UNBUILT_FIELDS,
    },
    request_id::new_id,
    response_store::StoredResponse,
    state::AppState,
    stream::{self, Frames},
    translated::Translated,
};

/// Fields that ask for what nobody does here.
const UNSERVED: &[(&str, &str)] = &[
    ("background", "answers are given where they are asked for"),
    ("conversation", "conversations are not kept; previous_response_id goes on from an answer"),
    ("prompt", "prompts are not kept; send the text"),
];

/// What `include` says for log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/v1/responses", post(create))
        .route("/v1/responses/input_tokens", post(input_tokens))
        .route("/v1/responses/compact", post(compact))
        .route("/v1/responses/{id}/input_items", get(input_items))
        .route("/v1/responses/{id}", get(retrieve).delete(forget))
        .route("/v1/responses/{id}/cancel", post(cancel))
}

/// What a request says.
struct Asked {
    fields: ResponsesFields,
    functions: Functions,
    /// The conversation, without instructions.
    history: Vec<Value>,
    /// Tools that came with it.
    brought: Vec<Value>,
    conversation: Translated,
    truncates: bool,
}

async fn read(state: &AppState, request: Request) -> Result<Asked, ResponsesError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: ResponsesFields = body.read()?;
    body.refuse(UNBUILT_FIELDS)?;
    body.refuse(UNSERVED)?;
    let mut sampling: SamplingFields = body.read()?;
    drop(body);
    match fields.max_output_tokens {
        // -1 asks for as many as there is room for.
        Some(Int(n)) if n < 1 && n != -1 => {
            let message = format!("max_output_tokens must be at least 1, got {n}.");
            return Err(ApiError::invalid(message).about("max_output_tokens").into());
        }
        most => sampling.max_new_tokens = most.or(sampling.max_new_tokens),
    }
    let tools = fields.tools.as_deref().unwrap_or_default();
    let mut functions = Functions::of(tools)?;
    let input = fields.input.as_ref().ok_or_else(|| ApiError::schema("missing field `input`").about("input"))?;
    let previous = match &fields.previous_response_id {
        None => None,
        Some(id) => Some(state.responses.get(id).ok_or_else(|| previous_not_found(id))?),
    };
    let mut brought = previous.as_ref().map(|previous| previous.tools.clone()).unwrap_or_default();
    brought.extend(tools_of_input(input));
    functions.extend(&brought);
    let tool_choice = functions.choose(fields.tool_choice.as_ref())?;
    let response_format = fields.chat_response_format();
    let truncates = match fields.truncation.as_deref() {
        None | Some("disabled") => false,
        Some("auto") => true,
        Some(other) => {
            let message = format!("truncation must be auto or disabled, got {other:?}.");
            return Err(ApiError::invalid(message).about("truncation").into());
        }
    };

    let mut history = previous.map(|previous| previous.messages.clone()).unwrap_or_default();
    read_input(&functions, input, |id| state.responses.item(id), &mut history)?;
    let instructions = fields.instructions.iter().map(|text| json!({ "role": "system", "content": text }));
    let wants_logprobs =
        fields.top_logprobs.is_some() || fields.include.iter().flatten().any(|include| include == LOGPROBS);
    let conversation = Translated {
        messages: instructions.chain(history.iter().cloned()).collect(),
        tools: functions.chat_tools.clone(),
        tool_choice,
        parallel_tool_calls: fields.parallel_tool_calls,
        response_format,
        sampling,
        top_logprobs: wants_logprobs.then(|| fields.top_logprobs.unwrap_or(Int(0))),
        cache_salt: fields.cache_salt.clone(),
        ..Translated::default()
    };
    Ok(Asked { fields, functions, history, brought, conversation, truncates })
}

async fn create(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ResponsesError> {
    let Asked { fields, functions, history, brought, conversation, truncates } = read(&state, request).await?;
    let named = |error: ApiError| {
        error.renamed("max_new_tokens", "max_output_tokens").renamed("response_format", "text.format")
    };
    let id = format!("resp_{}", new_id());
    let streams = fields.stream.unwrap_or(false);
    let dialogue = begin(conversation, &state, &id, streams, truncates).await.map_err(named)?;
    if fields.store != Some(false) {
        state.responses.begun(&id, dialogue.aborters());
    }
    let answer =
        Answer { items: Items::new(functions), created: unix_seconds(), id, fields, history, brought, dialogue, state };
    if streams { Ok(stream::response(|frames| answer.stream(frames))) } else { Ok(answer.whole().await?) }
}

async fn input_tokens(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ResponsesError> {
    let Asked { mut conversation, .. } = read(&state, request).await?;
    // What must be called changes what may be written, not what is read.
    conversation.tool_choice = conversation.tool_choice.filter(|choice| choice == "none");
    let ids = conversation.conversation()?.tokenise_any(&state).await?;
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": ids.len() })))
}

async fn compact() -> ResponsesError {
    let message = "/v1/responses/compact is not supported: histories are not summarised here; \
                   truncation: auto forgets the oldest turns of one that is too long.";
    ApiError::status(StatusCode::NOT_IMPLEMENTED, message).into()
}

/// Which items of an `input` are wanted.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ItemsQuery {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
}

async fn input_items(
    State(state): State<Arc<AppState>>,
    Path(id): Path<String>,
    Query(query): Query<ItemsQuery>,
) -> Result<Json<Value>, ResponsesError> {
    let response = state.responses.get(&id).ok_or_else(|| not_found(&id))?;
    let limit = query.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid(format!("limit must be in [1, 100], got {limit}.")).about("limit").into());
    }
    let mut items: Vec<&Value> = response.input.iter().collect();
    if query.order.as_deref() != Some("asc") {
        items.reverse();
    }
    let begin = query.after.and_then(|after| items.iter().position(|item| item["id"] == after)).map_or(0, |at| at + 1);
    let rest = &items[begin..];
    let data = &rest[..limit.min(rest.len())];
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "first_id": data.first().map(|item| &item["id"]),
        "last_id": data.last().map(|item| &item["id"]),
        "has_more": rest.len() > limit,
    })))
}

/// Begin the answer. With `truncation: auto`, a conversation that is too long loses its beginning.
async fn begin(
    mut conversation: Translated,
    state: &Arc<AppState>,
    id: &str,
    streams: bool,
    truncates: bool,
) -> Result<Dialogue, ApiError> {
    if !truncates {
        return conversation.begin(state, id.to_owned(), streams).await;
    }
    // Twice as many each time: a long conversation is not rendered once for each of its turns.
    let mut turns = 1;
    loop {
        match conversation.clone().begin(state, id.to_owned(), streams).await {
            Err(error) if error.overlong.is_some() && conversation.forget(turns) => turns *= 2,
            begun => return begun,
        }
    }
}

async fn retrieve(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Result<Response, ResponsesError> {
    match state.responses.get(&id) {
        Some(response) => Ok(Json(&response.object).into_response()),
        None => Err(not_found(&id).into()),
    }
}

async fn forget(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Result<Response, ResponsesError> {
    match state.responses.remove(&id) {
        true => Ok(Json(json!({ "id": id, "object": "response", "deleted": true })).into_response()),
        false => Err(not_found(&id).into()),
    }
}

async fn cancel(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Result<Response, ResponsesError> {
    // The ids of other endpoints' requests are their clients' own, and prefixes are for `/abort_request`.
    if state.responses.cancel(&id) {
        return Ok(Json(json!({ "id": id, "object": "response", "status": "cancelled" })).into_response());
    }
    Err(match state.responses.get(&id) {
        Some(_) => ApiError::invalid(format!("The response '{id}' has ended; only one under way can be cancelled.")),
        None => not_found(&id),
    }
    .into())
}

fn not_found(id: &str) -> ApiError {
    ApiError::status(StatusCode::NOT_FOUND, format!("Response with id '{id}' not found."))
}

fn previous_not_found(id: &str) -> ApiError {
    let message = format!("Previous response with id '{id}' not found.");
    ApiError { code: Some("previous_response_not_found"), ..ApiError::invalid(message).about("previous_response_id") }
}

/// An answer in the making.
struct Answer {
    id: String,
    created: u64,
    fields: ResponsesFields,
    /// The conversation before the answer, without instructions.
    history: Vec<Value>,
    /// Tools that came with it.
    brought: Vec<Value>,
    items: Items,
    dialogue: Dialogue,
    state: Arc<AppState>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.state.responses.ended(&self.id);
    }
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut end = None;
        while let Some((_, turn)) = self.dialogue.next().await {
            let (turn_end, _) = self.take(turn);
            end = turn_end;
        }
        let outcome = Outcome::of(end);
        if let Some(error) = outcome.error {
            return Err(error);
        }
        self.items.finish(outcome.status);
        let object = self.value(&outcome);
        self.keep(&object);
        Ok(Json(object).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        let mut events = Events { frames, sequence_number: 0 };
        let begun = self.value(&Outcome { status: "in_progress", error: None });
        events.send("response.created", json!({ "response": begun })).await;
        events.send("response.in_progress", json!({ "response": begun })).await;
        let mut end = None;
        loop {
            let turn = match timeout(self.state.keep_alive(), self.dialogue.next()).await {
                Ok(Some((_, turn))) => turn,
                Ok(None) => break,
                Err(_) => {
                    // Comments do not hold Codex; this does.
                    events.send("response.in_progress", json!({ "response": begun })).await;
                    continue;
                }
            };
            let (turn_end, said) = self.take(turn);
            end = turn_end;
            for (name, fields) in said {
                events.send(name, fields).await;
            }
        }
        let outcome = Outcome::of(end);
        for (name, fields) in self.items.finish(outcome.status) {
            events.send(name, fields).await;
        }
        let object = self.value(&outcome);
        if outcome.error.is_none() {
            self.keep(&object);
        }
        events.send(&format!("response.{}", outcome.status), json!({ "response": object })).await;
    }

    /// Take a turn; returns what a stream says of it.
    fn take(&mut self, turn: Turn) -> (Option<End>, Vec<Event>) {
        let scores = (!turn.logprobs.is_empty()).then(|| logprobs::chat(&self.state.tokenizer, &turn.logprobs));
        let scores = scores.into_iter().flat_map(|scores| scores.content);
        let scores = scores.map(|score| serde_json::to_value(score).expect("wire types are plain data")).collect();
        (turn.end, self.items.take(turn.said, scores))
    }

    fn value(&self, outcome: &Outcome) -> Value {
        let fields = &self.fields;
        let text = fields.text.as_ref();
        let mut text_out = Map::new();
        let format = text.and_then(|text| text.format.clone()).unwrap_or_else(|| json!({ "type": "text" }));
        text_out.insert("format".into(), format);
        if let Some(verbosity) = text.and_then(|text| text.verbosity.as_deref()) {
            text_out.insert("verbosity".into(), verbosity.into());
        }
        let reasoning = fields.reasoning.clone().unwrap_or_default();
        let error = outcome.error.as_ref().map(|error| {
            let code = error.code.unwrap_or("server_error");
            json!({ "code": code, "message": error.message })
        });
        let has_ended = outcome.status != "in_progress";
        let object = ResponseObject {
            id: &self.id,
            object: "response",
            created_at: self.created,
            model: fields.model.as_deref().unwrap_or(NO_MODEL),
            output: if has_ended { self.items.output().to_vec() } else { Vec::new() },
            status: outcome.status,
            usage: has_ended.then(|| self.usage()),
            parallel_tool_calls: fields.parallel_tool_calls.unwrap_or(true),
            tool_choice: fields.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            tools: fields.tools.as_deref().unwrap_or_default(),
            error,
            incomplete_details: (outcome.status == "incomplete").then(|| json!({ "reason": "max_output_tokens" })),
            instructions: fields.instructions.as_deref(),
            max_output_tokens: fields.max_output_tokens.map(|most| most.0),
            previous_response_id: fields.previous_response_id.as_deref(),
            reasoning: json!({ "effort": reasoning.effort, "summary": reasoning.summary }),
            store: fields.store.unwrap_or(true),
            temperature: self.dialogue.sampling().params.temperature,
            text: text_out.into(),
            top_p: self.dialogue.sampling().params.top_p,
            truncation: fields.truncation.as_deref().unwrap_or("disabled"),
            user: fields.user.as_deref(),
            metadata: fields.metadata.clone().unwrap_or_default(),
        };
        serde_json::to_value(object).expect("wire types are plain data")
    }

    fn usage(&self) -> ResponsesUsage {
        let output = &self.dialogue.outputs()[0];
        let (input_tokens, output_tokens) = (output.prompt_tokens, output.completion_tokens());
        ResponsesUsage {
            input_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: output.prompt.cached_tokens,
                ..InputTokensDetails::default()
            },
            output_tokens,
            total_tokens: input_tokens + output_tokens,
            ..ResponsesUsage::default()
        }
    }

    /// Keep the answer for a request that goes on from it, unless this one wants it forgotten.
    fn keep(&self, object: &Value) {
        if self.fields.store == Some(false) {
            return;
        }
        let mut messages = self.history.clone();
        let output = object.get("output").expect("an answer has it");
        let read = read_input(self.items.functions(), output, |_| None, &mut messages);
        read.expect("what was written here can be read here");
        let input = self.fields.input.as_ref().map(items_of).unwrap_or_default();
        let response = StoredResponse { object: object.clone(), messages, tools: self.brought.clone(), input };
        self.state.responses.insert(self.id.clone(), response);
    }
}

/// The items of an `input`, each with an id.
fn items_of(input: &Value) -> Vec<Value> {
    let message = |text: &str| json!({ "role": "user", "content": [{ "type": "input_text", "text": text }] });
    let items = match input {
        Value::Array(items) => items.clone(),
        Value::String(text) => vec![message(text)],
        other => vec![other.clone()],
    };
    let with_id = |mut item: Value| {
        if let Some(fields) = item.as_object_mut() {
            fields.entry("type").or_insert_with(|| "message".into());
            fields.entry("id").or_insert_with(|| format!("msg_{}", new_id()).into());
        }
        item
    };
    items.into_iter().map(with_id).collect()
}

/// How an answer ended.
struct Outcome {
    status: &'static str,
    error: Option<ApiError>,
}

impl Outcome {
    fn of(end: Option<End>) -> Self {
        let failed = |error| Self { status: "failed", error: Some(error) };
        match end {
            Some(End::Stop(_) | End::ToolCalls(_)) => Self { status: "completed", error: None },
            Some(End::Length) => Self { status: "incomplete", error: None },
            Some(End::Abort(words)) => failed(ApiError::unavailable(words)),
            Some(End::Failed(error)) => failed(error),
            None => failed(ApiError::internal("the answer has no end")),
        }
    }
}

/// The events of a stream, numbered.
struct Events {
    frames: Frames,
    sequence_number: usize,
}

impl Events {
    async fn send(&mut self, name: &str, fields: Value) {
        let mut event = Map::new();
        event.insert("type".into(), name.into());
        event.insert("sequence_number".into(), self.sequence_number.into());
        self.sequence_number += 1;
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        self.frames.event(name, &event).await;
    }
}
