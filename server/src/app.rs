//! The HTTP application: what its routes share, and how it is served.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use quern_engine::EngineHandle;
use quern_model::Checkpoint;
use quern_text::{ChatTemplate, Tokenizer};
use tokio::net::TcpListener;

use crate::{config::Config, start::Started};

/// What the routes share.
pub struct AppState {
    /// What was decided at start.
    pub config: Config,
    /// The way to the engine.
    pub engine: EngineHandle,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the model has one.
    pub template: Option<Arc<ChatTemplate>>,
    /// The model's numbers and recommended sampling.
    pub checkpoint: Checkpoint,
    ready: AtomicBool,
}

impl AppState {
    /// Share what was started; not ready yet.
    pub fn new(started: Started) -> Self {
        let Started { config, engine, tokenizer, template, checkpoint } = started;
        let (tokenizer, template) = (Arc::new(tokenizer), template.map(Arc::new));
        Self { config, engine, tokenizer, template, checkpoint, ready: AtomicBool::new(false) }
    }

    /// From now on, or no longer, requests are welcome.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// All routes.
pub fn router(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/", get(|| async { Json("SGLang is running") }))
        .route("/ready", get(ready))
        .route("/server_info", get(server_info))
        .with_state(state)
}

/// Answer requests until the listener fails.
pub async fn serve(listener: TcpListener, state: Arc<AppState>) -> io::Result<()> {
    axum::serve(listener, router(state)).await
}

async fn ready(State(state): State<Arc<AppState>>) -> StatusCode {
    if state.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn server_info(State(state): State<Arc<AppState>>) -> Json<Config> {
    Json(state.config.clone())
}
