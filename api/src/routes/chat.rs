//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};

use crate::{
    caller::Caller,
    chat_request::ChatRequest,
    dialects::{OpenAiHead, chat::Chat},
    generate::namespace,
    logprobs,
    prompt::{Conversation, PromptSource},
    protocol::{
        ApiError, Body,
        body::ContentType,
        chat::{CallForm, ChatFields, ChatTools},
        completions::Prompt,
        sampling::SamplingFields,
        scalar::Int,
        unsupported::UNSUPPORTED_FIELDS,
    },
    request_id::request_id,
    respond::respond,
    state::AppState,
};

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/chat/completions", post(chat))
}

async fn chat(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let caller = Caller::of(&request);
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let mut fields: ChatFields = body.read()?;
    body.refuse(UNSUPPORTED_FIELDS)?;
    let mut sampling: SamplingFields = body.read()?;
    drop(body);
    let ChatTools { tools, choice: tool_choice, calls } = fields.take_tools()?;
    let prompt = match &fields.input_ids {
        Some(ids) => PromptSource::Raw(Prompt::Ids(ids.iter().map(|Int(id)| *id).collect())),
        None => PromptSource::Messages(Conversation::of_chat(&mut fields)?),
    };
    let id = request_id(fields.rid.as_ref())?;
    let request = ChatRequest {
        id: id.clone(),
        prompt,
        tools,
        tool_choice,
        // The old form has room for one call.
        parallel_tool_calls: if calls == CallForm::Function { Some(false) } else { fields.parallel_tool_calls },
        response_format: sampling.response_format.take(),
        n: sampling.n,
        sampling,
        refuses_excess: true,
        logprobs: logprobs::chat_request(fields.logprobs.unwrap_or(false), fields.top_logprobs)?,
        caller,
        namespace: namespace(fields.cache_salt.as_deref(), fields.extra_key.as_deref()),
        streams: fields.stream.unwrap_or(false),
    };
    let generation = request.begin(&state).await?;
    let head = OpenAiHead::new(id, fields.model, fields.stream_options, &state);
    let dialect = Chat::new(head, calls, &generation);
    respond(generation, dialect).await
}
