//! `/infill` and `/completion`, llama.cpp's: the text between a prefix and a suffix, or after a prompt.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use serde_json::Value;

use crate::{
    caller::Caller,
    chat_request::ChatRequest,
    dialects::infill::Infill,
    fim::FimPrompt,
    prompt::PromptSource,
    protocol::{
        ApiError, Body, body::ContentType, completions::Prompts, infill::InfillFields, sampling::SamplingFields,
        scalar::Int,
    },
    request_id::new_id,
    respond::respond,
    state::AppState,
    stopwatch::Stopwatch,
};

/// Fields that ask for what is not supported.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("grammar", "llama.cpp's grammars are not supported"),
    ("n_probs", "/v1/completions reports log-probabilities"),
    ("mirostat", "this way of sampling is not supported"),
    ("lora", "adapters are not supported"),
];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/infill", post(infill)).route("/completion", post(complete))
}

async fn complete(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let caller = Caller::of(&request);
    let (prompt, fields, sampling) = read(&state, request).await?;
    let prompts = prompt.ok_or_else(|| ApiError::schema("missing field `prompt`").about("prompt"))?;
    let mut prompts = Prompts::from_value(prompts).map_err(|cause| ApiError::schema(cause).about("prompt"))?;
    if prompts.is_batch && prompts.list.len() != 1 {
        let message =
            format!("prompt: {} prompts; /completion answers one, /v1/completions several.", prompts.list.len());
        return Err(ApiError::invalid(message).about("prompt"));
    }
    answer(state, caller, fields, sampling, PromptSource::Raw(prompts.list.swap_remove(0))).await
}

/// What both read alike. `prompt` is read by each in its own way.
async fn read(state: &AppState, request: Request) -> Result<(Option<Value>, InfillFields, SamplingFields), ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    let fields: InfillFields = body.read()?;
    let zero = |name: &str| body.get(name).and_then(|value| value.as_i64()) == Some(0);
    let asked: Vec<_> = UNSUPPORTED.iter().copied().filter(|(name, _)| !zero(name)).collect();
    body.refuse(&asked)?;
    let mut sampling: SamplingFields = body.read()?;
    let prompt = body.get("prompt").cloned();
    drop(body);
    sampling.max_new_tokens = match fields.n_predict {
        // llama.cpp's words for "as many as there is room for".
        Some(Int(-2 | -1)) => None,
        given => given.or(sampling.max_tokens),
    };
    sampling.max_tokens = None;
    sampling.repetition_penalty = fields.repeat_penalty.or(sampling.repetition_penalty);
    sampling.seed = fields.seed.filter(|seed| seed.0 >= 0);
    Ok((prompt, fields, sampling))
}

async fn infill(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let caller = Caller::of(&request);
    let (prompt, mut fields, sampling) = read(&state, request).await?;
    let prompt = match prompt {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(_) => return Err(ApiError::schema("prompt: a string is wanted.").about("prompt")),
    };
    let extra = std::mem::take(&mut fields.input_extra).unwrap_or_default();
    if let Some(index) = extra.iter().position(|file| file.text.is_none()) {
        return Err(ApiError::schema(format!("input_extra[{index}].text: a string is wanted.")).about("input_extra"));
    }
    let name = |name: Option<String>| name.unwrap_or_else(|| "tmp".into());
    let files = extra.into_iter().map(|file| (name(file.filename), file.text.unwrap_or_default())).collect();
    // llama.cpp's clients send the beginning of the line with the gap apart.
    let prefix = fields.input_prefix.take().unwrap_or_default() + &prompt;
    let suffix = fields.input_suffix.take().unwrap_or_default();
    answer(state, caller, fields, sampling, PromptSource::Fim(FimPrompt { prefix, suffix, files })).await
}

async fn answer(
    state: Arc<AppState>,
    caller: Caller,
    fields: InfillFields,
    sampling: SamplingFields,
    prompt: PromptSource,
) -> Result<Response, ApiError> {
    let watch = Stopwatch::start();
    let streams = fields.stream.unwrap_or(false);
    let request = ChatRequest { id: new_id(), caller, prompt, sampling, streams, ..ChatRequest::default() };
    let named = |error: ApiError| error.renamed("max_new_tokens", "n_predict").renamed("suffix", "input_prefix");
    let generation = request.begin(&state).await.map_err(named)?;
    let model = fields.model.unwrap_or_else(|| state.config.served_model_name.clone());
    let most = fields.t_max_predict_ms.and_then(|ms| u64::try_from(ms.0).ok()).filter(|&ms| ms > 0);
    let wanted = fields.response_fields.unwrap_or_default();
    respond(generation, Infill::new(model, watch, most.map(Duration::from_millis), wanted)).await
}
