//! Probes: is the process there (`/live`), may requests come (`/ready`), do they get answers (`/health`),
//! does the engine move (`/health/progress`).

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use quern_engine::{EngineHandle, GenerateRequest, TokenEvent};
use serde_json::json;
use tokio::{
    sync::{Mutex, mpsc},
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

/// A token is generated, or the requests that are there get their step.
async fn health(State(state): State<Arc<AppState>>) -> StatusCode {
    let engine = &state.engine;
    status(state.is_ready() && engine.metrics().is_healthy() && state.health.passes(engine).await)
}

/// Whether the engine answers, checked once for all who ask at the same time: probes take one place of the queue
/// together, and none where clients' requests tell as much.
#[derive(Debug, Default)]
pub struct HealthCheck(Mutex<Option<Outcome>>);

#[derive(Clone, Copy, Debug)]
struct Outcome {
    began: Instant,
    passed: bool,
}

impl HealthCheck {
    async fn passes(&self, engine: &EngineHandle) -> bool {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(outcome) = last.filter(|outcome| outcome.began >= asked) {
            return outcome.passed;
        }
        let began = Instant::now();
        let passed = answers(engine).await;
        *last = Some(Outcome { began, passed });
        passed
    }
}

/// See a step computed: one for the requests that are there, or one for a request of our own.
async fn answers(engine: &EngineHandle) -> bool {
    let steps = || engine.metrics().snapshot().scheduler.steps;
    let (before, until) = (steps(), Instant::now() + TIMEOUT);
    let mut own = None;
    while Instant::now() < until && engine.metrics().is_healthy() {
        if own.is_none() && engine.num_alive() == 0 {
            let (events, inbox) = mpsc::unbounded_channel();
            let request = GenerateRequest {
                id: "HEALTH_CHECK".into(),
                namespace: Some("health".into()),
                ..GenerateRequest::greedy(vec![0], 1)
            };
            // Refused where others were quicker; then their steps tell.
            let handle = engine.submit(request, Box::new(move |event: TokenEvent| drop(events.send(event))));
            own = handle.ok().map(|handle| (handle, inbox));
        }
        match own.as_mut().map(|(_, inbox)| inbox.try_recv()) {
            Some(Ok(TokenEvent::Failed(_))) => return false,
            Some(Ok(TokenEvent::Token { .. } | TokenEvent::Finished(_))) => return true,
            Some(Ok(TokenEvent::Prefilled(_) | TokenEvent::Retracted) | Err(_)) | None => {}
        }
        if steps() > before {
            return true;
        }
        sleep(LOOK_EVERY).await;
    }
    false
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
