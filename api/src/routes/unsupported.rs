//! Endpoints of SGLang that are not supported: they say so, instead of not being found.

use std::sync::Arc;

use axum::{
    Router,
    extract::OriginalUri,
    http::StatusCode,
    routing::{any, post},
};

use crate::{protocol::ApiError, state::AppState};

/// They exist there and answer 501 here.
const PATHS: &[&str] = &[
    "/start_profile",
    "/stop_profile",
    "/pause_generation",
    "/continue_generation",
    "/configure_logging",
    "/slow_down",
    "/set_internal_state",
    "/freeze_gc",
    "/set_trace_level",
    "/separate_reasoning",
    "/open_session",
    "/close_session",
    "/update_weights_from_disk",
    "/update_weights_from_tensor",
    "/update_weights_from_distributed",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/load_lora_adapter",
    "/unload_lora_adapter",
    "/vertex_generate",
    "/invocations",
    "/v1/audio/transcriptions",
    "/v1/realtime",
];

/// They want an embedding model; a text generator refuses, here as there.
const EMBEDDINGS: &[&str] = &["/v1/embeddings", "/v1/rerank", "/v1/classify", "/classify", "/encode"];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    let with_paths = PATHS.iter().fold(Router::new(), |router, path| router.route(path, any(unsupported)));
    EMBEDDINGS.iter().fold(with_paths, |router, path| router.route(path, post(no_embeddings)))
}

async fn unsupported(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::status(StatusCode::NOT_IMPLEMENTED, format!("{} is not supported yet.", uri.path()))
}

async fn no_embeddings() -> ApiError {
    ApiError::invalid(
        "This model does not appear to be an embedding model by default. Please add `--is-embedding` when launching \
         the server, with a model that is one; Qwen3-Coder models generate text.",
    )
}
