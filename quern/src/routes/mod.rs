//! The endpoints, one file each, or one for a few that belong together.

pub mod admin;
pub mod chat;
pub mod completions;
pub mod generate;
pub mod health;
pub mod infill;
pub mod info;
pub mod logprobs;
pub mod messages;
pub mod metrics;
pub mod models;
pub mod ollama;
pub mod page;
pub mod parse;
pub mod response_items;
pub mod responses;
pub mod score;
pub mod tokenize;
pub mod unbuilt;

use std::sync::Arc;

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    app::AppState,
    protocol::{ApiError, scalar::Texts},
};

/// Most prompts of one request.
const MAX_PROMPTS: usize = 1024;

/// Longest request id that a client may choose.
const MAX_ID_BYTES: usize = 256;

/// Every endpoint, with those of the page if there is one.
pub fn all(page: bool) -> Router<Arc<AppState>> {
    let start = if page { page::routes() } else { Router::new().route("/", get(banner)) };
    start
        .merge(chat::routes())
        .merge(completions::routes())
        .merge(messages::routes())
        .merge(generate::routes())
        .merge(responses::routes())
        .merge(ollama::routes())
        .merge(infill::routes())
        .merge(score::routes())
        .merge(parse::routes())
        .merge(models::routes())
        .merge(tokenize::routes())
        .merge(health::routes())
        .merge(info::routes())
        .merge(metrics::routes())
        .merge(admin::routes())
        .merge(unbuilt::routes())
        .fallback(|| async { detail(StatusCode::NOT_FOUND, "Not Found") })
        .method_not_allowed_fallback(|| async { detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed") })
}

/// What a program hears at `/`.
async fn banner() -> Json<&'static str> {
    Json("SGLang is running")
}

/// What FastAPI says where no endpoint speaks.
fn detail(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "detail": words }))).into_response()
}

/// The request's own id, or a new one of 32 hexadecimal digits.
fn request_id(given: Option<&Texts>) -> Result<String, ApiError> {
    let id = match given.map(|Texts(list)| list.as_slice()) {
        None | Some([]) => return Ok(new_id()),
        Some([id]) => id,
        Some(_) => return Err(ApiError::invalid("rid: one id is wanted; prompts are numbered from it.").about("rid")),
    };
    check_id(id)?;
    Ok(id.clone())
}

fn check_id(id: &str) -> Result<(), ApiError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES {
        let message = format!("rid: an id of 1 to {MAX_ID_BYTES} bytes is wanted, not {} bytes.", id.len());
        return Err(ApiError::invalid(message).about("rid"));
    }
    Ok(())
}

fn new_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Prefixes are shared among requests of the same salt and key only.
pub(crate) fn namespace(cache_salt: Option<&str>, extra_key: Option<&str>) -> Option<Arc<str>> {
    match (cache_salt.unwrap_or(""), extra_key.unwrap_or("")) {
        ("", "") => None,
        // Lengths first, so that no two pairs make one name.
        (salt, key) => Some(format!("{}:{salt}{key}", salt.len()).into()),
    }
}

/// Fields of all OpenAI endpoints that ask for what is not built.
const UNBUILT_FIELDS: &[(&str, &str)] = &[
    ("lora_path", "adapters are not built"),
    ("session_params", "sessions are not built"),
    ("custom_logit_processor", "no code of a request is ever run"),
    ("return_hidden_states", "hidden states are not reported"),
    ("return_routed_experts", "routed experts are not reported"),
    ("input_embeds", "prompts are text or token ids"),
    ("bootstrap_host", "split prefill and decode is not built"),
    ("return_token_ids", "token ids in OpenAI answers are not built; /generate has them"),
    ("return_prompt_token_ids", "token ids in OpenAI answers are not built; /generate has them"),
    ("return_meta_info", "/generate has it"),
];
