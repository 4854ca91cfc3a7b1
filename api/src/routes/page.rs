//! The page: `/` for browsers, `/configure`, `/dashboard`, their files, and the events of the live view.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::{
    blocking,
    caller::Caller,
    live_view::Sample,
    page,
    protocol::{ApiError, error::detail},
    recent_log::RECENT,
    state::AppState,
    stream,
};

/// Its routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/", get(root))
        .route("/configure", get(document))
        .route("/configure/table", get(table))
        .route("/dashboard", get(document))
        .route("/dashboard/events", get(events))
        .route("/ui/{file}", get(file))
}

/// What a program gets at `/`.
pub(super) async fn banner() -> Json<&'static str> {
    Json("SGLang is running")
}

async fn root(headers: HeaderMap) -> Response {
    if page::wants_html(&headers) { page::document(&headers) } else { banner().await.into_response() }
}

async fn document(headers: HeaderMap) -> Response {
    page::document(&headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    page::file(&name, &headers).unwrap_or_else(|| detail(StatusCode::NOT_FOUND, "Not Found"))
}

async fn table(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    // Some tens of milliseconds: not on a thread that serves sockets.
    let made = blocking::run(state.configure_table).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], made))
}

/// Interval of the live view's events.
const EVERY: Duration = Duration::from_secs(1);

/// What is new to a viewer; all that is kept, at first.
#[derive(Serialize)]
struct LiveUpdate<'a> {
    model: &'a str,
    /// Seconds since the start.
    uptime: f64,
    /// The oldest first.
    samples: Vec<Sample>,
    /// Lines of the log.
    log: Vec<String>,
}

/// What stands in place of the log where it is not for the viewer.
const LOG_WITHHELD: &str = "The log tells of the requests of all keys: it is shown to the one of --admin-api-key.";

/// Whether the log is for `caller`: it tells of everybody's requests, with addresses and paths. Where there is no
/// administrator's key, it is for everybody if there is no key at all, and for the only one's holder.
fn may_read_log(state: &AppState, caller: &Caller) -> bool {
    let is_alone = !state.keys.are_required() || state.keys.only_caller().is_some();
    caller.is_admin() || state.config.admin_api_key.is_none() && is_alone
}

/// One stream a viewer; what it shows is measured once for all of them, and whether or not anybody looks.
async fn events(State(state): State<Arc<AppState>>, Extension(caller): Extension<Caller>) -> Response {
    stream::response(stream::EVENTS, move |sender| async move {
        let mut frames = stream::Frames::default();
        let (mut was_ready, mut line, mut next, mut withheld) = (false, 0, 0, Some(LOG_WITHHELD.to_owned()));
        let mut clock = tokio::time::interval(EVERY);
        loop {
            clock.tick().await;
            // A server that drains waits for its connections; this one would never end.
            if was_ready && !state.is_ready() {
                return;
            }
            was_ready |= state.is_ready();
            let log = match may_read_log(&state, &caller) {
                false => withheld.take().into_iter().collect(),
                true => {
                    let (lines, next_line) = RECENT.since(line);
                    line = next_line;
                    lines
                }
            };
            let (samples, next_sample) = state.live_view.since(next);
            let uptime = state.clock.now().duration_since(state.started).unwrap_or_default().as_secs_f64();
            frames.data(&LiveUpdate { model: &state.config.served_model_name, uptime, samples, log });
            sender.send(&mut frames).await;
            next = next_sample;
        }
    })
}
