//! The page: `/` for browsers, `/configure`, `/dashboard`, their files, and the events of the live view.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use quern_engine::{EngineHandle, MetricsSnapshot, Work};
use serde::Serialize;

use crate::{
    caller::Caller, clock::since_1970, latency::Counts, metrics::used_tokens, page, protocol::error::detail,
    recent_log::RECENT, state::AppState, stream,
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

async fn table(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    // Some tens of milliseconds: not on a thread that serves sockets.
    let made = tokio::task::spawn_blocking(state.configure_table).await;
    ([(header::CONTENT_TYPE, "application/json")], made.expect("the rules do not panic"))
}

/// Interval of the live view's samples.
const EVERY: Duration = Duration::from_secs(1);

/// What the live view draws at one time. Rates are those since the sample before.
#[derive(Serialize)]
struct Sample {
    /// Milliseconds since 1970.
    time: u64,
    running: usize,
    waiting: usize,
    /// Prompt tokens computed a second.
    prefill_rate: f64,
    /// Tokens sampled a second.
    decode_rate: f64,
    /// Tokens of the KV pool: in use, cached and to be had, all.
    used_tokens: usize,
    cached_tokens: usize,
    pool_tokens: usize,
    /// Share of prompt tokens found in the cache: since the start, and of what was admitted just now.
    hit_rate: Option<f64>,
    recent_hit_rate: Option<f64>,
    /// Seconds.
    ttft: Option<Percentiles>,
    itl: Option<Percentiles>,
    /// Share of the time in which a step was computed.
    busy: f64,
    /// The least time that the machine would have needed for those steps, as a share of what they took; nothing
    /// where no step was computed or the machine is not measured, or not yet.
    of_peak: Option<f64>,
    finished: u64,
    aborted: u64,
    failed: u64,
    uptime: f64,
    model: String,
    /// Lines of the log that are new to this viewer.
    log: Vec<String>,
}

/// Of one second.
#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
}

/// Counters at one time, to take differences of.
struct Reading {
    at: Instant,
    prefill: u64,
    generated: u64,
    prompt: u64,
    cached: u64,
    ttft: Counts,
    itl: Counts,
    busy_s: f64,
    work: Work,
}

/// What stands in place of the log where it is not for the viewer.
const LOG_WITHHELD: &str = "The log tells of the requests of all keys: it is shown to the one of --admin-api-key.";

/// Whether the log is for `caller`: it tells of everybody's requests, with addresses and paths. Where there is no
/// administrator's key, it is for everybody if there is no key at all, and for the only one's holder.
fn may_read_log(state: &AppState, caller: &Caller) -> bool {
    let is_alone = !state.keys.are_required() || state.keys.only_caller().is_some();
    caller.is_admin() || state.config.admin_api_key.is_none() && is_alone
}

/// One stream a viewer; a sample reads the same figures as `/metrics`, once a second.
async fn events(State(state): State<Arc<AppState>>, Extension(caller): Extension<Caller>) -> Response {
    stream::response(stream::EVENTS, move |sender| async move {
        let mut frames = stream::Frames::default();
        let mut before = Reading::of(&state);
        let (mut was_ready, mut line, mut withheld) = (false, 0, Some(LOG_WITHHELD.to_owned()));
        let mut clock = tokio::time::interval(EVERY);
        loop {
            clock.tick().await;
            // A server that drains waits for its connections; this one would never end.
            if was_ready && !state.is_ready() {
                return;
            }
            was_ready |= state.is_ready();
            let now = Reading::of(&state);
            let lines = match may_read_log(&state, &caller) {
                false => withheld.take().into_iter().collect(),
                true => {
                    let (lines, next_line) = RECENT.since(line);
                    line = next_line;
                    lines
                }
            };
            frames.data(&sample(&state, &before, &now, lines));
            sender.send(&mut frames).await;
            before = now;
        }
    })
}

impl Reading {
    fn of(state: &AppState) -> Self {
        let MetricsSnapshot { scheduler, busy_s, work, .. } = state.engine.metrics().snapshot();
        Self {
            at: Instant::now(),
            prefill: scheduler.prefill_tokens,
            generated: scheduler.generated_tokens,
            prompt: scheduler.prompt_tokens,
            cached: scheduler.cached_tokens,
            ttft: state.metrics.first_tokens(),
            itl: state.metrics.next_tokens(),
            busy_s,
            work,
        }
    }
}

fn sample(state: &AppState, before: &Reading, now: &Reading, log: Vec<String>) -> Sample {
    let engine: &EngineHandle = &state.engine;
    let (scheduler, config) = (engine.metrics().snapshot().scheduler, engine.config());
    let seconds = (now.at - before.at).as_secs_f64();
    let rate = |now: u64, before: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let busy_s = now.busy_s - before.busy_s;
    let work = Work { bytes: now.work.bytes - before.work.bytes, ops: now.work.ops - before.work.ops };
    Sample {
        time: since_1970(SystemTime::now()).as_millis() as u64,
        running: scheduler.running,
        waiting: engine.num_queued(),
        prefill_rate: rate(now.prefill, before.prefill),
        decode_rate: rate(now.generated, before.generated),
        used_tokens: used_tokens(engine),
        cached_tokens: scheduler.evictable_pages * config.page_size,
        pool_tokens: config.pool_tokens(),
        hit_rate: share(now.cached, now.prompt),
        recent_hit_rate: share(now.cached.saturating_sub(before.cached), now.prompt.saturating_sub(before.prompt)),
        ttft: percentiles(&now.ttft.since(&before.ttft)),
        itl: percentiles(&now.itl.since(&before.itl)),
        // A step counts when it ends, so that one which began before this second may fill more than all of it.
        busy: if seconds > 0.0 { (busy_s / seconds).min(1.0) } else { 0.0 },
        of_peak: state.peaks.get().filter(|_| busy_s > 0.0).map(|peaks| peaks.least_s(work) / busy_s),
        finished: scheduler.finished,
        aborted: scheduler.aborted,
        failed: scheduler.failed,
        uptime: state.started.elapsed().unwrap_or_default().as_secs_f64(),
        model: state.config.served_model_name.clone(),
        log,
    }
}

fn percentiles(counts: &Counts) -> Option<Percentiles> {
    let at = |share| counts.percentile(share);
    Some(Percentiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)? })
}
