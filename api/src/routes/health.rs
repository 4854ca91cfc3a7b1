//! Probes: is the process there (`/live`), may requests come (`/ready`), do they get answers (`/health`),
//! does the engine move (`/health/progress`).

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use quern_engine::{GenerateRequest, SamplingParams, TokenEvent};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::state::AppState;

/// SGLang's `SGLANG_HEALTH_CHECK_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often a busy engine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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

/// Generate one token, or see a busy engine compute a step, whichever comes first.
async fn health(State(state): State<Arc<AppState>>) -> StatusCode {
    let engine = &state.engine;
    if !state.is_ready() || !engine.metrics().is_healthy() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let (events, mut inbox) = mpsc::unbounded_channel();
    let request = GenerateRequest {
        id: "HEALTH_CHECK".into(),
        prompt: vec![0],
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        seed: 0,
        max_new_tokens: 1,
        min_new_tokens: 0,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        logprobs: None,
        namespace: Some("health".into()),
        grammar: None,
    };
    // A full queue refuses it; then the engine's steps tell.
    let handle = engine.submit(request, Box::new(move |event: TokenEvent| drop(events.send(event)))).ok();
    let steps = || engine.metrics().snapshot().scheduler.steps;
    let (before, until) = (steps(), Instant::now() + TIMEOUT);
    while Instant::now() < until {
        match inbox.try_recv() {
            Ok(TokenEvent::Failed(_)) => return StatusCode::SERVICE_UNAVAILABLE,
            Ok(TokenEvent::Token { .. } | TokenEvent::Finished(_)) => return StatusCode::OK,
            Ok(TokenEvent::Prefilled(_) | TokenEvent::Retracted) | Err(_) => {}
        }
        if steps() > before {
            return StatusCode::OK;
        }
        sleep(LOOK_EVERY).await;
    }
    drop(handle);
    StatusCode::SERVICE_UNAVAILABLE
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
