//! `/api/tags`, `/api/show`, `/api/ps`, `/api/pull` and `/api/version`: what Ollama's clients ask of models.
//! One model is served, whichever name a request gives; what would change that is refused.

use std::{sync::Arc, time::UNIX_EPOCH};

use axum::{
    Json, Router,
    extract::{OriginalUri, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use quern_text::fim_tokens;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    protocol::{
        ApiError, Body,
        ollama::{OllamaError, rfc3339},
    },
    state::AppState,
    stream,
};

/// The version of Ollama whose forms these are. Clients ask for a lowest one: Codex for 0.13.4, whose
/// `/v1/responses` is served here too.
const OLLAMA_VERSION: &str = "0.13.5";

/// How long a model stays in memory: as long as the server runs. Clients expect a date.
const STAYS_SECONDS: u64 = 100 * 365 * 86_400;

/// Endpoints that make, move or embed models.
const REFUSED: &[(&str, &str)] = &[
    ("/api/embed", "this model does not support embeddings; it generates text"),
    ("/api/embeddings", "this model does not support embeddings; it generates text"),
    ("/api/create", "models are not made by requests; quern convert writes GGUF files"),
    ("/api/copy", "models are not copied by requests; --served-model-name gives the served one a name"),
    ("/api/delete", "models are not deleted by requests"),
    ("/api/push", "models are not uploaded"),
    ("/api/blobs/{digest}", "models are not uploaded"),
];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    let served = Router::new()
        .route("/api/tags", get(tags))
        .route("/api/show", post(show))
        .route("/api/ps", get(ps))
        .route("/api/pull", post(pull))
        .route("/api/version", get(|| async { Json(json!({ "version": OLLAMA_VERSION })) }));
    REFUSED.iter().fold(served, |router, (path, reason)| {
        router.route(path, any(move |uri: OriginalUri| async move { refused(&uri, reason) }))
    })
}

fn refused(OriginalUri(uri): &OriginalUri, reason: &str) -> OllamaError {
    ApiError::status(StatusCode::NOT_IMPLEMENTED, format!("{}: {reason}", uri.path())).into()
}

async fn tags(State(state): State<Arc<AppState>>) -> Json<Value> {
    let mut model = card(&state);
    model["modified_at"] = started(&state).into();
    Json(json!({ "models": [model] }))
}

async fn ps(State(state): State<Arc<AppState>>) -> Json<Value> {
    let mut model = card(&state);
    model["expires_at"] = rfc3339(start_seconds(&state) + STAYS_SECONDS).into();
    // None of it is in a graphics card's memory where the CPU computes.
    model["size_vram"] = if state.model.device == "cpu" { 0.into() } else { model["size"].clone() };
    model["context_length"] = state.config.context_length.into();
    Json(json!({ "models": [model] }))
}

/// There is nothing to fetch for the model that is served.
async fn pull(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, OllamaError> {
    let body = Body::receive_optional(request, &state.config).await?;
    let name = ["model", "name"].into_iter().find_map(|field| body.get(field)?.as_str()).unwrap_or_default();
    let served = &state.config.served_model_name;
    if !names(name, served) {
        let message = format!("model {name:?} is not served here; {served:?} is. quern serve --model chooses another.");
        return Err(ApiError::status(StatusCode::NOT_FOUND, message).about("model").into());
    }
    if body.get("stream").and_then(Value::as_bool) == Some(false) {
        return Ok(Json(json!({ "status": "success" })).into_response());
    }
    Ok(stream::response(stream::JSON_LINES, |sender| async move {
        let mut frames = stream::Frames::default();
        ["pulling manifest", "success"].into_iter().for_each(|status| frames.line(&json!({ "status": status })));
        sender.send(&mut frames).await;
    }))
}

/// Whether a client's name means the served model: Ollama's clients add `:latest`, and leave owners out.
fn names(name: &str, served: &str) -> bool {
    let bare = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_lowercase();
    let (name, served) = (bare(name), bare(served));
    name == served || served.rsplit('/').next() == Some(name.as_str())
}

async fn show(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, OllamaError> {
    // Whatever model is asked for, one is served.
    Body::receive_optional(request, &state.config).await?;
    let family = state.model.family;
    let mut capabilities = vec!["completion"];
    if state.config.tool_call_parser.is_some() {
        capabilities.push("tools");
    }
    if fim_tokens(&state.tokenizer).next().is_some() {
        capabilities.push("insert");
    }
    let mut model_info = Map::new();
    model_info.insert("general.architecture".into(), family.into());
    model_info.insert("general.parameter_count".into(), state.model.parameters.into());
    model_info.insert(format!("{family}.context_length"), state.config.context_length.into());
    Ok(Json(json!({
        "modelfile": "",
        "parameters": "",
        "template": state.template.as_ref().map_or("", |template| template.source()),
        "details": details(&state),
        "model_info": model_info,
        "capabilities": capabilities,
        "modified_at": started(&state),
    })))
}

/// What every list says of the model.
fn card(state: &AppState) -> Value {
    let name = &state.config.served_model_name;
    json!({
        "name": name,
        "model": name,
        "size": state.model.weight_bytes,
        "digest": digest(state),
        "details": details(state),
    })
}

/// A hash of what the model is: its name, its numbers, its encoding, its template. Hashing weights of many gigabytes
/// for a list would take minutes; that a fine-tune of the same shape has the same digest is the price.
fn digest(state: &AppState) -> String {
    let mut hash = Sha256::new();
    hash.update(state.config.served_model_name.as_bytes());
    hash.update(format!("{:?}", state.model));
    hash.update(state.template.as_ref().map_or("", |template| template.source()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn start_seconds(state: &AppState) -> u64 {
    state.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn started(state: &AppState) -> String {
    rfc3339(start_seconds(state))
}

fn details(state: &AppState) -> Value {
    let model = &state.model;
    json!({
        "parent_model": "",
        "format": if model.load_format == "gguf" { "gguf" } else { "safetensors" },
        "family": model.family,
        "families": [model.family],
        "parameter_size": parameter_size(model.parameters),
        "quantization_level": model.encoding.as_deref().unwrap_or(""),
    })
}

/// `4.6M`, `30.5B`.
fn parameter_size(count: u64) -> String {
    let count = count as f64;
    match count {
        1e9.. => format!("{:.1}B", count / 1e9),
        1e6.. => format!("{:.1}M", count / 1e6),
        1e3.. => format!("{:.1}K", count / 1e3),
        _ => format!("{count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_digit_that_says_something() {
        for (count, shown) in [(999, "999"), (4_600_000, "4.6M"), (12_345, "12.3K"), (30_500_000_000, "30.5B")] {
            assert_eq!(parameter_size(count), shown);
        }
    }

    #[test]
    fn clients_names_mean_the_model() {
        for (name, meant) in [
            ("Qwen/Qwen3-Coder", true),
            ("qwen3-coder:latest", true),
            ("qwen3-coder", true),
            ("qwen3", false),
            ("", false),
        ] {
            assert_eq!(names(name, "Qwen/Qwen3-Coder"), meant, "{name}");
        }
    }
}
