//! `/v1/responses`, OpenAI's.
//!
//! SGLang (0.5.23) takes two tokens off `max_output_tokens`; here it means what it says.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    caller::Caller,
    chat_generation::ChatGeneration,
    chat_request::ChatRequest,
    dialects::responses::{ResponseContext, Responses, incomplete_details, usage},
    generate::namespace,
    logprobs,
    offload::{to_pool, to_pool_for},
    prompt::{Conversation, PromptSource},
    protocol::{
        ApiError, Body,
        body::ContentType,
        compaction,
        response_input::{read_input, refers_to_items, tools_of_input},
        responses::{Functions, ResponsesError, ResponsesFields},
        sampling::SamplingFields,
        scalar::Int,
        unsupported::UNSUPPORTED_FIELDS,
    },
    request_id::new_id,
    respond::{Dialect, respond},
    state::AppState,
};

/// Fields that ask for what is not supported.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("background", "answers are given where they are asked for"),
    ("conversation", "conversations are not kept; previous_response_id goes on from an answer"),
    ("prompt", "prompts are not kept; send the text"),
];

/// Fields that a summary cannot obey. Those that agents send with every request, whatever it is for (`text`, `tools`,
/// `include`), are read over.
const UNSUPPORTED_IN_SUMMARIES: &[(&str, &str)] = &[
    ("stream", "a summary comes in one piece"),
    ("response_format", FREE_FORM),
    ("json_schema", FREE_FORM),
    ("regex", FREE_FORM),
    ("ebnf", FREE_FORM),
    ("structural_tag", FREE_FORM),
    ("guided_json", FREE_FORM),
    ("guided_json_object", FREE_FORM),
    ("guided_regex", FREE_FORM),
    ("guided_choice", FREE_FORM),
    ("guided_grammar", FREE_FORM),
    ("structured_outputs", FREE_FORM),
    ("grammar", FREE_FORM),
    ("stop", UNCUT),
    ("stop_regex", UNCUT),
    ("stop_token_ids", UNCUT),
];

const FREE_FORM: &str = "a summary is plain text; /v1/responses binds an answer";
const UNCUT: &str = "a summary ends by itself or at max_output_tokens";

/// What `include` says for log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Tokens of a summary at most, where the request does not say: enough for the state of a coding task.
const MOST_OF_SUMMARY: usize = 2048;

/// What the model is asked for a summary.
const SUMMARISE: &str = "Write a summary of this conversation, from which somebody who has not seen it can go on with \
    the work: what is wanted, what was decided and why, what was done and found (files, commands, results), what is \
    left to do, and every name, path and figure that will be needed. Answer with the summary alone.";

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
struct ParsedRequest {
    fields: ResponsesFields,
    functions: Functions,
    context: ResponseContext,
    request: ChatRequest,
    truncates: bool,
}

/// Read a request; of the fields that would be obeyed, `refused` are not supported at this endpoint.
async fn read(
    state: &AppState,
    request: Request,
    refused: &[(&'static str, &'static str)],
) -> Result<ParsedRequest, ResponsesError> {
    let caller = Caller::of(&request);
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: ResponsesFields = body.read()?;
    body.refuse(UNSUPPORTED_FIELDS)?;
    body.refuse(UNSUPPORTED)?;
    body.refuse(refused)?;
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
        Some(id) => Some(state.responses.get(caller.owner(), id).ok_or_else(|| previous_not_found(id))?),
    };
    to_pool_for(previous.as_ref().map_or(0, |previous| previous.bytes())).await;
    if refers_to_items(input) {
        // Few words, and each stands for an item of any length.
        to_pool().await;
    }
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
    read_input(&functions, input, |id| state.responses.item(caller.owner(), id), &mut history)?;
    let instructions = fields.instructions.iter().map(|text| json!({ "role": "system", "content": text }));
    let messages = instructions.chain(history.iter().cloned()).collect();
    let request = ChatRequest {
        prompt: PromptSource::Messages(Conversation::of_messages(messages)),
        tools: functions.chat_tools.clone(),
        tool_choice,
        parallel_tool_calls: fields.parallel_tool_calls,
        response_format,
        sampling,
        caller: caller.clone(),
        namespace: namespace(fields.cache_salt.as_deref(), None),
        streams: fields.stream.unwrap_or(false),
        ..ChatRequest::default()
    };
    Ok(ParsedRequest {
        fields,
        functions,
        context: ResponseContext { owner: caller.owner().clone(), history, brought },
        request,
        truncates,
    })
}

async fn create(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ResponsesError> {
    let ParsedRequest { fields, functions, context, request, truncates } = read(&state, request, &[]).await?;
    let named = |error: ApiError| {
        error.renamed("max_new_tokens", "max_output_tokens").renamed("response_format", "text.format")
    };
    let id = format!("resp_{}", new_id());
    let wants_logprobs =
        fields.top_logprobs.is_some() || fields.include.iter().flatten().any(|include| include == LOGPROBS);
    let logprobs = logprobs::chat_request(wants_logprobs, fields.top_logprobs)?;
    let request = ChatRequest { id: id.clone(), logprobs, ..request };
    let generation = begin(request, &state, truncates).await.map_err(named)?;
    let dialect = Responses::new(&state, id, fields, functions, context, &generation);
    Ok(respond(generation, dialect).await?)
}

async fn input_tokens(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ResponsesError> {
    let tokens = read(&state, request, &[]).await?.request.count_tokens(&state).await?;
    Ok(Json(json!({ "object": "response.input_tokens", "input_tokens": tokens })))
}

/// Write a summary from which the conversation can go on, and what stays beside it: the user's own messages.
async fn compact(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ResponsesError> {
    let ParsedRequest { mut request, context, .. } = read(&state, request, UNSUPPORTED_IN_SUMMARIES).await?;
    request.id = format!("resp_{}", new_id());
    request.tools.clear();
    (request.tool_choice, request.response_format) = (None, None);
    let most = MOST_OF_SUMMARY.min(state.config.context_length / 4).max(1);
    request.sampling.max_new_tokens.get_or_insert(Int(most as i64));
    if let PromptSource::Messages(conversation) = &mut request.prompt {
        conversation.messages.push(json!({ "role": "user", "content": SUMMARISE }));
    }
    let id = request.id.clone();
    let mut generation = begin(request, &state, true).await?;
    let (mut summary, mut status) = (String::new(), "");
    while let Some(delta) = generation.next().await {
        if let Some(outcome) = &delta.outcome {
            if let Some(error) = outcome.error(&Responses::WORDS) {
                return Err(error.into());
            }
            status = outcome.reason(&Responses::WORDS);
        }
        summary.push_str(&delta.text());
    }
    let item = compaction::item(&format!("cmp_{}", new_id()), summary.trim());
    let said = context.history.iter().filter(|message| message["role"] == "user" && !compaction::is_summary(message));
    let output: Vec<Value> = said.map(user_item).chain([item]).collect();
    Ok(Json(json!({
        "id": id,
        "object": "response.compaction",
        "created_at": state.clock.unix_seconds(),
        "status": status,
        "incomplete_details": incomplete_details(status),
        "output": output,
        "usage": usage(&generation),
    })))
}

/// A user's message of the history as an item.
fn user_item(message: &Value) -> Value {
    json!({
        "id": format!("msg_{}", new_id()),
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{ "type": "input_text", "text": message["content"] }],
    })
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
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<ItemsQuery>,
) -> Result<Json<Value>, ResponsesError> {
    let response = state.responses.get(caller.owner(), &id).ok_or_else(|| not_found(&id))?;
    let limit = query.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid(format!("limit must be in [1, 100], got {limit}.")).about("limit").into());
    }
    to_pool_for(response.bytes()).await;
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
async fn begin(mut request: ChatRequest, state: &Arc<AppState>, truncates: bool) -> Result<ChatGeneration, ApiError> {
    if !truncates {
        return request.begin(state).await;
    }
    // Twice as many each time: a long conversation is not rendered once for each of its turns.
    let mut turns = 1;
    loop {
        match request.clone().begin(state).await {
            Err(error) if error.overlong.is_some() && request.forget(turns) => turns *= 2,
            begun => return begun,
        }
    }
}

async fn retrieve(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ResponsesError> {
    match state.responses.get(caller.owner(), &id) {
        Some(response) => {
            to_pool_for(response.bytes()).await;
            Ok(Json(&response.object).into_response())
        }
        None => Err(not_found(&id).into()),
    }
}

async fn forget(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ResponsesError> {
    match state.responses.remove(caller.owner(), &id) {
        true => Ok(Json(json!({ "id": id, "object": "response", "deleted": true })).into_response()),
        false => Err(not_found(&id).into()),
    }
}

async fn cancel(
    State(state): State<Arc<AppState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ResponsesError> {
    // The ids of other endpoints' requests are their clients' own, and prefixes are for `/abort_request`.
    if state.responses.cancel(caller.owner(), &id) {
        return Ok(Json(json!({ "id": id, "object": "response", "status": "cancelled" })).into_response());
    }
    Err(match state.responses.get(caller.owner(), &id) {
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
