//! llama.cpp's `/props`, `/slots` and `/apply-template`, which its clients query first.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::tokenize::conversation;
use crate::{
    prompt::off_thread,
    protocol::{ApiError, Body, body::ContentType},
    state::AppState,
};

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/props", get(props)).route("/slots", get(slots)).route("/apply-template", post(apply_template))
}

async fn props(State(state): State<Arc<AppState>>) -> Json<Value> {
    let config = &state.config;
    let text = |id: Option<u32>| id.map_or(String::new(), |id| state.tokenizer.decode(&[id], false));
    Json(json!({
        "default_generation_settings": { "id": 0, "n_ctx": config.context_length, "params": state.chat_defaults },
        "total_slots": total_slots(&state),
        "model_path": state.model.path,
        "model_alias": config.served_model_name,
        "chat_template": state.template.as_ref().map_or("", |template| template.source()),
        "eos_token": text(state.tokenizer.eos_id()),
        "bos_token": "",
        "modalities": { "vision": false, "audio": false },
        "build_info": format!("quern {}", env!("CARGO_PKG_VERSION")),
        "is_sleeping": false,
    }))
}

fn total_slots(state: &AppState) -> usize {
    state.engine.config().max_running
}

/// A slot for every request that may run. Requests have no slot of their own here: as many are busy as run.
async fn slots(State(state): State<Arc<AppState>>) -> Json<Value> {
    let running = state.engine.metrics().snapshot().scheduler.running;
    let slot = |id: usize| json!({ "id": id, "n_ctx": state.config.context_length, "speculative": false, "is_processing": id < running });
    Json((0..total_slots(&state)).map(slot).collect())
}

async fn apply_template(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    let ids = conversation(&body)?.tokenise_any(&state).await?;
    let prompt = off_thread(&state, move |state| Ok(state.tokenizer.decode(&ids, false))).await?;
    Ok(Json(json!({ "prompt": prompt })))
}
