//! `/flush_cache`, `/abort_request` and `/reload_api_keys`: endpoints that change the server.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use quern_engine::AbortScope;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    blocking,
    caller::Caller,
    protocol::{ApiError, Body},
    request_id::check_id,
    state::AppState,
};

/// Longest time that a flush may be asked to wait, seconds.
const MAX_FLUSH_WAIT: f64 = 3600.0;

/// How often a waiting flush tries.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/flush_cache", get(flush_cache).post(flush_cache))
        .route("/abort_request", post(abort_request))
        .route("/reload_api_keys", post(reload_api_keys))
}

#[derive(Deserialize)]
struct FlushQuery {
    timeout: Option<f64>,
}

/// Forget all cached prefixes, waiting up to `?timeout=` seconds for the engine to be idle.
async fn flush_cache(State(state): State<Arc<AppState>>, Query(query): Query<FlushQuery>) -> Response {
    let seconds = query.timeout.filter(|t| t.is_finite()).unwrap_or(0.0).clamp(0.0, MAX_FLUSH_WAIT);
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    loop {
        let engine = state.engine.clone();
        // Waits for the engine to end its step.
        if blocking::run(move || engine.flush_cache()).await.unwrap_or(false) {
            let words = "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting \
                         requests, the operation will not be performed.)\n";
            return words.into_response();
        }
        if Instant::now() >= until {
            let alive = state.engine.num_alive();
            let words = format!("The cache is not flushed: {alive} requests are running or waiting.\n");
            return (StatusCode::BAD_REQUEST, words).into_response();
        }
        sleep(TRY_EVERY).await;
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AbortFields {
    rid: Option<String>,
    abort_all: Option<bool>,
}

/// Abort the requests whose id begins with `rid`, or all of them, as SGLang does; for an ordinary one of several keys only
/// its own, by whole ids.
async fn abort_request(State(state): State<Arc<AppState>>, request: Request) -> Result<StatusCode, ApiError> {
    let caller = Caller::of(&request);
    let body = Body::receive_optional(request, &state.config).await?;
    let AbortFields { rid, abort_all } = body.read()?;
    let own = caller.owner().as_ref().map(|_| caller.tenant().clone());
    let scope = match (rid, abort_all.unwrap_or(false), own) {
        (_, true, None) => AbortScope::Prefix(String::new()),
        (_, true, Some(own)) => AbortScope::Own(own, None),
        (Some(rid), false, own) if !rid.is_empty() => {
            check_id(&rid)?;
            match own {
                None => AbortScope::Prefix(rid),
                Some(own) => AbortScope::Own(own, Some(rid)),
            }
        }
        // An empty prefix would abort the requests of all clients; that must be asked for.
        _ => {
            return Err(ApiError::invalid("rid: an id, or its beginning, is wanted (or abort_all: true).").about("rid"));
        }
    };
    state.engine.abort(scope);
    Ok(StatusCode::OK)
}

/// Read `--api-key-file` again.
async fn reload_api_keys(State(state): State<Arc<AppState>>) -> Result<Json<Value>, ApiError> {
    if state.keys.file().is_none() {
        return Err(ApiError::invalid("There is no --api-key-file to read again; --api-key needs a restart."));
    }
    let reloaded = blocking::run(move || state.keys.reload()).await?;
    let count = reloaded.map_err(|error| ApiError::internal(format!("the keys are as before: {error}")))?;
    tracing::info!("--api-key-file is read again: {count} keys");
    Ok(Json(json!({ "success": true, "keys": count })))
}
