//! Probes: is the process there (`/live`), may requests come (`/ready`), do they get answers (`/health`),
//! does the engine move (`/health/progress`).

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use quern_engine::EngineState;
use serde_json::json;

use crate::{caller::Caller, state::AppState};

/// A step that takes longer than this is no progress: the longest, a full chunk of a large model at a
/// depth of 256K tokens, takes seconds.
const STUCK_AFTER: f64 = 30.0;

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/live", get(|| async { StatusCode::OK }))
        .route("/ready", get(ready))
        .route("/ping", get(ready))
        .route("/health", get(health))
        .route("/health_generate", get(health))
        .route("/health/progress", get(progress))
}

/// 200 without a body, or 503 with the reason as text. Probes have no key: the reason tells nothing of requests.
fn verdict(obstacle: Option<&'static str>) -> Response {
    match obstacle {
        None => StatusCode::OK.into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Why no request is served now.
fn obstacle(state: &AppState) -> Option<&'static str> {
    match state.engine.metrics().state() {
        EngineState::Restarting => Some("The engine is restarting after a failure."),
        EngineState::Down => Some("The engine has failed repeatedly and stays down; the process ends."),
        EngineState::Serving if !state.engine.is_accepting() => Some("The server is shutting down."),
        EngineState::Serving if !state.is_ready() => Some("The server is starting."),
        EngineState::Serving => None,
    }
}

/// Whether requests are welcome: warmed up, not draining, the engine whole, room in the queue for one of the caller. A
/// probe that brings no key asks for a client that has no requests yet, or for the only key's where there is one.
async fn ready(State(state): State<Arc<AppState>>, Extension(caller): Extension<Caller>) -> Response {
    let caller = state.keys.only_caller().unwrap_or(caller);
    let is_full = state.engine.check_queue(caller.tenant()).is_err();
    verdict(obstacle(&state).or(is_full.then_some("The request queue is full.")))
}

/// A token is generated, or the requests that are there get their step.
async fn health(State(state): State<Arc<AppState>>) -> Response {
    if let Some(reason) = obstacle(&state) {
        return verdict(Some(reason));
    }
    let passes = state.health.passes(&state.engine).await;
    verdict((!passes).then(|| obstacle(&state).unwrap_or("The engine computes no token in time.")))
}

/// Whether the engine has begun or ended a step lately, or has nothing to do. Takes no part in its work.
async fn progress(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let metrics = state.engine.metrics();
    let seconds = metrics.seconds_since_progress();
    let moving = metrics.is_healthy() && seconds < STUCK_AFTER;
    let status = if moving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "healthy": metrics.is_healthy(),
        "seconds_since_progress": seconds,
        "running": metrics.snapshot().scheduler.running,
        "waiting": state.engine.num_queued(),
    });
    (status, Json(body))
}
