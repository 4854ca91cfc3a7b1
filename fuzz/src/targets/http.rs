//! What clients send, to the real routes over an engine whose model is a double.

#[path = "../../../api/tests/support/mod.rs"]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Method, Request, StatusCode, header},
};
use quern_api::{ApiConfig, AppState, app, config::Secret, cross_origin::CrossOriginConfig, origin_guard::CrossOrigin};
use serde_json::Value;
use support::{fake, parsing};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// Tokens of a sequence at most, so that no input generates for long.
const CONTEXT: usize = 64;

/// No small body is worth more time than this.
const LONGEST: Duration = Duration::from_secs(20);

const MAX_ANSWER_BYTES: usize = 64 << 20;

const KEY: &str = "key";
const ADMIN_KEY: &str = "admin";

struct InProcess {
    runtime: Runtime,
    routes: Router,
}

struct Answer {
    status: StatusCode,
    content_type: String,
    body: Vec<u8>,
}

impl InProcess {
    fn new(config: ApiConfig) -> Self {
        let service = fake(ApiConfig { context_length: CONTEXT, ..config }, None);
        let state = Arc::new(AppState::new(service, Instant::now()));
        state.set_ready(true);
        let routes = app::router(state, &CrossOrigin::new(CrossOriginConfig::default(), true));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, routes }
    }

    fn answer(&self, mut request: Request<Body>) -> Answer {
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        request.extensions_mut().insert(ConnectInfo(client));
        let answer = async {
            let Ok(answer) = self.routes.clone().oneshot(request).await;
            let (head, body) = answer.into_parts();
            let content_type = head.headers.get(header::CONTENT_TYPE);
            let content_type =
                content_type.map_or("", |value| value.to_str().expect("a plain content type")).to_owned();
            let body = to_bytes(body, MAX_ANSWER_BYTES).await.expect("an answer of a bounded size").into();
            Answer { status: head.status, content_type, body }
        };
        self.runtime.block_on(async { tokio::time::timeout(LONGEST, answer).await }).expect("an answer in time")
    }
}

thread_local! {
    static OPEN: InProcess = InProcess::new(parsing());
    static LOCKED: InProcess = InProcess::new(ApiConfig {
        api_key: vec![Secret::new(KEY)],
        admin_api_key: Some(Secret::new(ADMIN_KEY)),
        ..parsing()
    });
}

/// The body is answered or refused in a form that clients can read: whatever it says, the fault is never ours.
fn post(path: &str, body: &[u8]) {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_vec())).expect("a request");
    check(path, &OPEN.with(|server| server.answer(request)));
}

fn check(path: &str, answer: &Answer) {
    let Answer { status, content_type, body } = answer;
    let text = || String::from_utf8_lossy(body);
    assert!(!status.is_server_error() || *status == StatusCode::NOT_IMPLEMENTED, "{path}: {status} {}", text());
    if content_type.starts_with("application/json") {
        let value = serde_json::from_slice::<Value>(body).unwrap_or_else(|cause| panic!("{path}: {cause}: {}", text()));
        assert!(status.is_success() || says_why(&value), "{path}: {status} {value}");
    } else if content_type.starts_with("text/event-stream") || content_type.starts_with("application/x-ndjson") {
        let text = std::str::from_utf8(body).unwrap_or_else(|cause| panic!("{path}: {cause}"));
        let payloads = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let json = payloads.filter(|line| line.starts_with(['{', '[']) && *line != "[DONE]");
        let mut count = 0;
        for payload in json {
            count += 1;
            serde_json::from_str::<Value>(payload).unwrap_or_else(|cause| panic!("{path}: {cause}: {payload}"));
        }
        assert!(count > 0, "{path}: a stream that says nothing");
    } else {
        assert!(!status.is_success() || !body.is_empty() || *status == StatusCode::NO_CONTENT, "{path}: nothing");
    }
}

/// Whether an error has words, in any of the forms that APIs have for it.
fn says_why(value: &Value) -> bool {
    let words = |value: &Value| value.as_str().is_some_and(|words| !words.is_empty());
    ["message", "error", "detail"].iter().any(|field| words(&value[field]) || words(&value[field]["message"]))
}

pub(super) fn chat(body: &[u8]) {
    post("/v1/chat/completions", body);
}

pub(super) fn completions(body: &[u8]) {
    post("/v1/completions", body);
}

pub(super) fn messages(body: &[u8]) {
    post("/v1/messages", body);
    post("/v1/messages/count_tokens", body);
}

pub(super) fn responses(body: &[u8]) {
    post("/v1/responses", body);
}

pub(super) fn generate(body: &[u8]) {
    post("/generate", body);
}

pub(super) fn ollama(body: &[u8]) {
    post("/api/chat", body);
    post("/api/generate", body);
}

pub(super) fn infill(body: &[u8]) {
    post("/infill", body);
    post("/completion", body);
}

pub(super) fn score(body: &[u8]) {
    post("/v1/score", body);
}

pub(super) fn tokenize(body: &[u8]) {
    post("/tokenize", body);
    post("/detokenize", body);
    post("/apply-template", body);
}

pub(super) fn parse_calls(body: &[u8]) {
    post("/parse_function_call", body);
}

/// No method, path or headers get past the keys: `METHOD TARGET`, then a header a line.
pub(super) fn head(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let Some((method, target)) = lines.next().and_then(|line| line.split_once(' ')) else { return };
    let Ok(method) = method.parse::<Method>() else { return };
    let mut request = Request::builder().method(method.clone()).uri(target);
    let mut has_key = false;
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        has_key |= value.contains(KEY) || value.contains(ADMIN_KEY);
        request = request.header(name, value);
    }
    let Ok(request) = request.body(Body::empty()) else { return };
    let path = request.uri().path().to_owned();
    // The live view has no end.
    if path.ends_with("/events") {
        return;
    }
    let answer = LOCKED.with(|server| server.answer(request));
    assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR, "{text:?}: {}", String::from_utf8_lossy(&answer.body));
    let is_answered = answer.status.is_success() && method != Method::OPTIONS;
    let shows_engine = answer.content_type.starts_with("application/json");
    assert!(
        !(is_answered && shows_engine && !has_key) || OPEN_PATHS.contains(&path.as_str()),
        "{text:?}: {path} is open"
    );
}

/// Paths that are open by design and answer in JSON.
const OPEN_PATHS: &[&str] = &["/health/progress", "/configure/table"];
