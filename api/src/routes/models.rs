//! `/v1/models`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Value, json};

use crate::{clock::since_1970, state::AppState};

/// Its routes. A hub id has a slash, so the name may span segments.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/models", get(list)).route("/v1/models/{*id}", get(one))
}

async fn list(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [card(&state, &state.config.served_model_name)] }))
}

/// Requests may name any model, so every name has a card; its `root` says what is served.
async fn one(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Json<Value> {
    Json(card(&state, &id))
}

fn card(state: &AppState, id: &str) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": since_1970(state.started).as_secs(),
        "owned_by": "sglang",
        "root": state.config.served_model_name,
        "parent": null,
        "max_model_len": state.config.context_length,
    })
}
