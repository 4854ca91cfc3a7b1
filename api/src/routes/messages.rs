//! `/v1/messages` and `/v1/messages/count_tokens`, Anthropic's.
//!
//! Where SGLang (0.5.23) and Anthropic differ, Anthropic's form is kept, since its clients read it: a
//! matched stop sequence is named, and an answer that was aborted is an error rather than an end of turn.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use serde_json::{Value, json};

use crate::{
    caller::Caller,
    chat_request::ChatRequest,
    dialects::{NO_MODEL, messages::Messages},
    generate::namespace,
    prompt::{Conversation, PromptSource},
    protocol::{
        ApiError, Body,
        body::ContentType,
        messages::{MessagesError, MessagesFields},
        sampling::SamplingFields,
        scalar::Int,
        unsupported::UNSUPPORTED_FIELDS,
    },
    request_id::new_id,
    respond::respond,
    state::AppState,
};

/// Fields that ask for what is not supported.
const UNSUPPORTED: &[(&str, &str)] =
    &[("mcp_servers", "the server calls no other servers"), ("container", "the server runs no containers")];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/messages", post(messages)).route("/v1/messages/count_tokens", post(count_tokens))
}

async fn messages(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, MessagesError> {
    let (fields, request) = read(&state, request).await?;
    match fields.max_tokens {
        // -1 asks for as many as there is room for.
        Some(Int(-1 | 1..)) => {}
        Some(Int(n)) => return Err(ApiError::invalid(format!("max_tokens must be at least 1, got {n}.")).into()),
        None => return Err(ApiError::schema("missing field `max_tokens`").into()),
    }
    let prompt = conversation(&fields, fields.begins_the_answer()?)?;
    let id = format!("msg_{}", new_id());
    let named =
        |error: ApiError| error.renamed("stop", "stop_sequences").renamed("response_format", "output_config.format");
    let request = ChatRequest { id: id.clone(), prompt, streams: fields.stream.unwrap_or(false), ..request };
    let generation = request.begin(&state).await.map_err(named)?;
    let model = fields.model.unwrap_or_else(|| NO_MODEL.into());
    Ok(respond(generation, Messages::new(id, model)).await?)
}

async fn count_tokens(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, MessagesError> {
    let (fields, request) = read(&state, request).await?;
    // Clients count unfinished histories too: one that ends in a call is counted, though it is not answered.
    let prompt = conversation(&fields, fields.begins_the_answer().unwrap_or(false))?;
    let tokens = ChatRequest { prompt, ..request }.count_tokens(&state).await?;
    Ok(Json(json!({ "input_tokens": tokens })))
}

/// What the model reads. The last message may be the beginning of the answer.
fn conversation(fields: &MessagesFields, continue_final_message: bool) -> Result<PromptSource, ApiError> {
    let messages = fields.chat_messages()?;
    Ok(PromptSource::Messages(Conversation { continue_final_message, ..Conversation::of_messages(messages) }))
}

/// What a request says, but for its messages.
async fn read(state: &AppState, request: Request) -> Result<(MessagesFields, ChatRequest), MessagesError> {
    let caller = Caller::of(&request);
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    if body.get("thread").is_some() {
        return Err(MessagesError::thread());
    }
    body.refuse(UNSUPPORTED_FIELDS)?;
    body.refuse(UNSUPPORTED)?;
    let fields: MessagesFields = body.read()?;
    let mut sampling: SamplingFields = body.read()?;
    if let Some(stops) = &fields.stop_sequences {
        sampling.stop.get_or_insert_default().0.extend(stops.0.iter().cloned());
    }
    let request = ChatRequest {
        tools: fields.chat_tools()?,
        tool_choice: fields.chat_tool_choice()?,
        parallel_tool_calls: fields.tool_choice.as_ref().and_then(|c| c.disable_parallel_tool_use).map(|off| !off),
        response_format: fields.chat_response_format(),
        caller,
        namespace: namespace(fields.cache_salt.as_deref(), None),
        sampling,
        ..ChatRequest::default()
    };
    Ok((fields, request))
}
