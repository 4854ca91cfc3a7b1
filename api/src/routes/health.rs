//! Probes: is the process there (`/live`), may requests come (`/ready`), do they get answers (`/health`),
//! does the engine move (`/health/progress`).

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use serde_json::json;

use crate::state::AppState;

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

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Whether requests are welcome: warmed up, not draining, the engine whole, the queue not full.
async fn ready(State(state): State<Arc<AppState>>) -> StatusCode {
    let engine = &state.engine;
    let room = engine.config().max_queued.is_none_or(|limit| engine.num_queued() < limit);
    status(state.is_ready() && engine.metrics().is_healthy() && room)
}

/// A token is generated, or the requests that are there get their step.
async fn health(State(state): State<Arc<AppState>>) -> StatusCode {
    let engine = &state.engine;
    status(state.is_ready() && engine.metrics().is_healthy() && state.health.passes(engine).await)
}

/// Whether the engine has begun or ended a step lately, or has nothing to do. Takes no part in its work.
async fn progress(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let metrics = state.engine.metrics();
    let seconds = metrics.seconds_since_progress();
    let moving = metrics.is_healthy() && seconds < STUCK_AFTER;
    let body = json!({
        "healthy": metrics.is_healthy(),
        "seconds_since_progress": seconds,
        "running": metrics.snapshot().scheduler.running,
        "waiting": state.engine.num_queued(),
    });
    (status(moving), Json(body))
}
