//! `/v1/models`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{clock::since_1970, state::AppState};

/// Its routes. A hub id has a slash, so the name may span segments.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/models", get(list)).route("/v1/models/{*id}", get(one))
}

async fn list(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [card(&state)] }))
}

async fn one(State(state): State<Arc<AppState>>, Path(id): Path<String>) -> Response {
    if id == state.config.served_model_name {
        return Json(card(&state)).into_response();
    }
    let error = json!({
        "message": format!("The model '{id}' does not exist"),
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    });
    (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
}

fn card(state: &AppState) -> Value {
    let name = &state.config.served_model_name;
    json!({
        "id": name,
        "object": "model",
        "created": since_1970(state.started).as_secs(),
        "owned_by": "sglang",
        "root": name,
        "parent": null,
        "max_model_len": state.config.context_length,
    })
}
