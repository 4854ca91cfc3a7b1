//! No request, however large, keeps a thread that serves sockets for long.
//!
//! Each poll of a connection, which runs its request's handler and writes its answer, is measured, and so is its drop.
//! Processor time of the thread is what counts, so that a busy machine changes nothing; and large requests are compared
//! with those that are just not large, so that a slow build changes nothing either: what works through 768 KiB in one
//! poll takes sixteen times as long as what works through 48 KiB.

mod support;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Extension, extract::ConnectInfo};
use futures_util::StreamExt;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use quern_api::{ApiConfig, AppState, app, offload::LARGE_BYTES, origin_guard::CrossOrigin};
use quern_engine::{EngineConfig, fake};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use support::{Setup, config, fake, parsing, user};
use tokio::net::TcpListener;
use tower::Layer;

/// Processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The longest poll so far, nanoseconds.
#[derive(Clone, Default)]
struct Longest(Arc<AtomicU64>);

impl Longest {
    fn measure<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = processor_time();
        let value = work();
        self.0.fetch_max((processor_time() - began).as_nanos() as u64, Ordering::Relaxed);
        value
    }

    fn take(&self) -> Duration {
        Duration::from_nanos(self.0.swap(0, Ordering::Relaxed))
    }
}

/// A future whose polls and drop are measured.
struct Measured<F> {
    future: Option<Pin<Box<F>>>,
    longest: Longest,
}

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let future = this.future.as_mut().expect("it has not been dropped");
        this.longest.measure(|| future.as_mut().poll(context))
    }
}

impl<F> Drop for Measured<F> {
    fn drop(&mut self) {
        let future = self.future.take();
        self.longest.measure(|| drop(future));
    }
}

/// A server whose connections are measured.
struct Server {
    address: SocketAddr,
    state: Arc<AppState>,
    longest: Longest,
    client: reqwest::Client,
}

impl Server {
    async fn start(max_request_bytes: usize) -> Self {
        let api = ApiConfig { context_length: 8192, max_request_bytes, ..parsing() };
        let engine = EngineConfig {
            max_running: 1024,
            chunk_tokens: 1024,
            max_prefill_tokens: 1 << 20,
            balanced_context: usize::MAX,
            ..fake::engine_config(64, 2048)
        };
        let state = Arc::new(AppState::new(fake(Setup { api, engine }, None), Instant::now()));
        state.set_ready(true);
        let routes = app::router(Arc::clone(&state), &CrossOrigin::new(config().cross_origin, true));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, longest) = (listener.local_addr().unwrap(), Longest::default());
        let measured = longest.clone();
        tokio::spawn(async move {
            while let Ok((socket, client)) = listener.accept().await {
                let service = TowerToHyperService::new(Extension(ConnectInfo(client)).layer(routes.clone()));
                let mut http = http1::Builder::new();
                // As the front has it.
                http.max_buf_size(64 << 10);
                let future = Some(Box::pin(http.serve_connection(TokioIo::new(socket), service)));
                tokio::spawn(Measured { future, longest: measured.clone() });
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address, state, longest, client }
    }

    async fn send(&self, path: &str, body: String) -> reqwest::Response {
        let request = self.client.post(format!("http://{}{path}", self.address));
        request.header("content-type", "application/json").body(body).send().await.unwrap()
    }

    /// The longest poll of a request of `bytes` bytes, answered whole and given up after the first piece.
    async fn longest_poll(&self, case: &Case, bytes: usize) -> Duration {
        let body = (case.body)(bytes).to_string();
        self.longest.take();
        let answer = self.send(case.path, body.clone()).await;
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert!(status < 500, "{}: {status} {}", case.name, text.chars().take(300).collect::<String>());
        let mut given_up = self.send(case.path, body).await.bytes_stream();
        let _ = given_up.next().await;
        drop(given_up);
        // The connection's task ends behind those of what it asked for.
        let (engine, seconds) = (self.state.engine.clone(), Duration::from_secs(60));
        assert!(tokio::task::spawn_blocking(move || engine.wait_idle(seconds)).await.unwrap(), "{}", case.name);
        self.longest.take()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.engine.shutdown();
    }
}

/// A kind of request of any size.
struct Case {
    name: &'static str,
    path: &'static str,
    /// A body of about so many bytes.
    body: Box<dyn Fn(usize) -> Value + Send + Sync>,
}

fn case(name: &'static str, path: &'static str, body: impl Fn(usize) -> Value + Send + Sync + 'static) -> Case {
    Case { name, path, body: Box::new(body) }
}

/// `piece` as often as makes so many bytes of JSON.
fn many(piece: Value, bytes: usize) -> Value {
    let each = piece.to_string().len() + 1;
    vec![piece; bytes.div_ceil(each)].into()
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}})
}

/// Every place of a request that may be long, at every API.
fn requests() -> Vec<Case> {
    let text = |bytes: usize| "lorem ".repeat(bytes / 6);
    let tree = |bytes: usize| many(json!({"a": {}}), bytes);
    let map = |bytes: usize| -> Value {
        (0..bytes / 12).map(|i| (format!("{i:07}"), json!(1))).collect::<serde_json::Map<_, _>>().into()
    };
    vec![
        case(
            "no field",
            "/v1/chat/completions",
            move |n| json!({"messages": user("x"), "max_tokens": 2, "more": tree(n)}),
        ),
        case(
            "no field, streamed",
            "/v1/chat/completions",
            move |n| json!({"messages": user("x"), "max_tokens": 2, "stream": true, "more": tree(n)}),
        ),
        case("a message", "/v1/chat/completions", move |n| json!({"messages": user(&text(n))})),
        case(
            "messages",
            "/v1/chat/completions",
            |n| json!({"messages": many(json!({"role": "user", "content": "x"}), n)}),
        ),
        case(
            "a message's trees",
            "/v1/chat/completions",
            move |n| json!({"messages": [{"role": "user", "content": "x", "more": tree(n)}]}),
        ),
        case("tools", "/v1/chat/completions", |n| json!({"messages": user("x"), "tools": many(tool(), n)})),
        case(
            "tools not used",
            "/v1/chat/completions",
            |n| json!({"messages": user("x"), "max_tokens": 2, "tools": many(tool(), n), "tool_choice": "none"}),
        ),
        case(
            "a tool's schema",
            "/v1/chat/completions",
            move |n| json!({"messages": user("x"), "max_tokens": 2, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": map(n)}}}]}),
        ),
        case(
            "template variables",
            "/v1/chat/completions",
            move |n| json!({"messages": user("x"), "max_tokens": 2, "chat_template_kwargs": {"more": tree(n)}}),
        ),
        case(
            "a schema",
            "/v1/chat/completions",
            move |n| json!({"messages": user("x"), "max_tokens": 2, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": many(json!("x"), n)}}}}),
        ),
        case(
            "biases",
            "/v1/chat/completions",
            move |n| json!({"messages": user("x"), "max_tokens": 2, "logit_bias": map(n)}),
        ),
        case(
            "stops",
            "/v1/chat/completions",
            |n| json!({"messages": user("x"), "max_tokens": 2, "stop": many(json!("xyz"), n)}),
        ),
        case(
            "stop tokens",
            "/v1/chat/completions",
            |n| json!({"messages": user("x"), "max_tokens": 2, "stop_token_ids": many(json!(3), n)}),
        ),
        case("token ids", "/v1/chat/completions", |n| json!({"messages": user("x"), "input_ids": many(json!(65), n)})),
        case("a prompt", "/v1/completions", move |n| json!({"prompt": text(n)})),
        case("prompts", "/v1/completions", move |n| json!({"prompt": vec![text(n / 512); 512], "max_tokens": 1})),
        case("ids", "/v1/completions", |n| json!({"prompt": many(json!(65), n)})),
        case(
            "lists of ids",
            "/v1/completions",
            |n| json!({"prompt": vec![many(json!(65), n / 512); 512], "max_tokens": 1}),
        ),
        case("a suffix", "/v1/completions", move |n| json!({"prompt": "x", "suffix": text(n)})),
        case("text", "/generate", move |n| json!({"text": text(n)})),
        case("input_ids", "/generate", |n| json!({"input_ids": many(json!(65), n)})),
        case("sampling_params", "/generate", |n| json!({"text": "x", "sampling_params": many(json!({"n": 1}), n)})),
        case(
            "token_ids_logprob",
            "/generate",
            |n| json!({"text": "x", "return_logprob": true, "token_ids_logprob": many(json!(65), n)}),
        ),
        case("rid", "/generate", move |n| json!({"text": ["x", "y"], "rid": text(n)})),
        case(
            "blocks",
            "/v1/messages",
            |n| json!({"max_tokens": 2, "messages": [{"role": "user", "content": many(json!({"type": "text", "text": "x"}), n)}]}),
        ),
        case("system", "/v1/messages", move |n| json!({"max_tokens": 2, "messages": user("x"), "system": text(n)})),
        case(
            "tools",
            "/v1/messages",
            |n| json!({"max_tokens": 2, "messages": user("x"), "tools": many(json!({"name": "f", "input_schema": {"type": "object"}}), n)}),
        ),
        case("a message", "/v1/messages/count_tokens", move |n| json!({"messages": user(&text(n))})),
        case("items", "/v1/responses", |n| json!({"input": many(json!({"role": "user", "content": "x"}), n)})),
        case("instructions", "/v1/responses", move |n| json!({"input": "x", "instructions": text(n)})),
        case(
            "tools not used",
            "/v1/responses",
            |n| json!({"input": "x", "max_output_tokens": 2, "tools": many(json!({"type": "function", "name": "f"}), n), "tool_choice": "none"}),
        ),
        case(
            "tools not used, streamed",
            "/v1/responses",
            |n| json!({"input": "x", "stream": true, "max_output_tokens": 2, "tools": many(json!({"type": "function", "name": "f"}), n), "tool_choice": "none"}),
        ),
        case("metadata", "/v1/responses", move |n| json!({"input": "x", "max_output_tokens": 2, "metadata": map(n)})),
        case(
            "items",
            "/v1/responses/compact",
            |n| json!({"input": many(json!({"role": "user", "content": "x"}), n / 8), "max_output_tokens": 2}),
        ),
        case(
            "items",
            "/v1/responses/input_tokens",
            |n| json!({"input": many(json!({"role": "user", "content": "x"}), n)}),
        ),
        case(
            "messages",
            "/api/chat",
            |n| json!({"messages": many(json!({"role": "user", "content": "x"}), n), "options": {"num_predict": 2}}),
        ),
        case("a prompt", "/api/generate", move |n| json!({"prompt": text(n), "options": {"num_predict": 2}})),
        case(
            "a form",
            "/api/generate",
            move |n| json!({"prompt": "x", "format": {"enum": many(json!("x"), n)}, "options": {"num_predict": 2}}),
        ),
        case(
            "files",
            "/infill",
            move |n| json!({"prompt": "x", "input_extra": many(json!({"text": "lorem"}), n), "n_predict": 2}),
        ),
        case(
            "response_fields",
            "/completion",
            |n| json!({"prompt": "x", "response_fields": many(json!("content"), n), "n_predict": 2}),
        ),
        case("text", "/tokenize", move |n| json!({"prompt": text(n)})),
        case("pieces", "/tokenize", move |n| json!({"content": text(n / 8), "with_pieces": true})),
        case("ids", "/detokenize", |n| json!({"tokens": many(json!(65), n)})),
        case(
            "items",
            "/v1/score",
            |n| json!({"query": "x", "items": vec![text_of(n / 512); 512], "label_token_ids": [1]}),
        ),
        case("a text", "/parse_function_call", move |n| json!({"text": text(n), "tools": [tool()]})),
        case("messages", "/apply-template", |n| json!({"messages": many(json!({"role": "user", "content": "x"}), n)})),
    ]
}

fn text_of(bytes: usize) -> String {
    "lorem ".repeat(bytes / 6)
}

/// Small requests for answers of about so many bytes.
fn answers() -> Vec<Case> {
    let prompt = |tokens: usize| "x".repeat(tokens.clamp(1, 8000));
    let prompts = |tokens: usize| vec!["x".repeat(1000); tokens.div_ceil(1000)];
    let scores = |n: usize| n / (32 * 270);
    vec![
        case(
            "scores of a prompt",
            "/generate",
            move |n| json!({"text": prompts(scores(n)), "return_logprob": true, "logprob_start_len": 0, "top_logprobs_num": 269, "sampling_params": {"max_new_tokens": 1}}),
        ),
        case(
            "scores of a prompt, streamed",
            "/generate",
            move |n| json!({"text": prompts(scores(n)), "stream": true, "return_logprob": true, "logprob_start_len": 0, "top_logprobs_num": 269, "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}}),
        ),
        case(
            "scores of an answer, streamed",
            "/generate",
            move |n| json!({"text": "x", "stream": true, "return_logprob": true, "top_logprobs_num": 269, "sampling_params": {"max_new_tokens": scores(n).min(300), "stream_interval": 50, "ignore_eos": true}}),
        ),
        case(
            "an echo",
            "/v1/completions",
            move |n| json!({"prompt": prompt(n / (64 * 21)), "echo": true, "logprobs": 20, "max_tokens": 1}),
        ),
        case(
            "an echo, streamed",
            "/v1/completions",
            move |n| json!({"prompt": prompt(n / (64 * 21)), "echo": true, "logprobs": 20, "max_tokens": 2, "stream": true}),
        ),
        case(
            "outputs",
            "/v1/completions",
            |n| json!({"prompt": vec!["x"; (n / 4000).clamp(1, 1024)], "max_tokens": 1, "logprobs": 20}),
        ),
        case(
            "outputs, streamed",
            "/v1/chat/completions",
            |n| json!({"messages": user("x"), "n": (n / 30_000).clamp(1, 128), "max_tokens": 24, "logprobs": true, "top_logprobs": 20, "stream": true}),
        ),
        case(
            "labels",
            "/v1/score",
            |n| json!({"query": "x", "items": vec!["y"; (n / 20_000).clamp(1, 1024)], "label_token_ids": vec![7; 1024]}),
        ),
    ]
}

/// Bytes of a request, or of an answer, that is just not large.
const SMALL: usize = LARGE_BYTES * 3 / 4;

/// Longest poll of each case at `bytes`, by name.
async fn longest_polls(server: &Server, cases: &[Case], bytes: usize) -> Vec<(String, Duration)> {
    let mut longest = Vec::new();
    for case in cases {
        let poll = server.longest_poll(case, bytes).await;
        longest.push((format!("{} {}", case.path, case.name), poll));
    }
    longest
}

/// What a poll may take whatever the request: copies, system calls, and what a cold cache adds.
const SLACK: Duration = Duration::from_millis(10);

/// Refuse polls at `bytes` that are out of proportion to those of small ones.
async fn compare(cases: &[Case], bytes: usize) {
    let server = Server::start(bytes * 4).await;
    let small = longest_polls(&server, cases, SMALL).await;
    let large = longest_polls(&server, cases, bytes).await;
    let is_wrong = |((_, small), (_, large)): &(&(String, Duration), &(String, Duration))| *large > *small * 3 + SLACK;
    let wrong: Vec<_> = small.iter().zip(&large).filter(is_wrong).collect();
    assert!(wrong.is_empty(), "of {SMALL} bytes and of {bytes}: {wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_takes_no_longer_at_a_time_than_a_short_one() {
    compare(&requests(), 768 << 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_takes_no_longer_at_a_time_than_a_short_one() {
    compare(&answers(), 2 << 20).await;
}

/// A few words that call up a long answer of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_used_and_freed_elsewhere() {
    let server = Server::start(64 << 20).await;
    let keep = |bytes| json!({"input": "x", "max_output_tokens": 2, "tools": many(json!({"type": "function", "name": "f"}), bytes), "tool_choice": "none", "metadata": {}});
    let mut longest = Vec::new();
    for bytes in [SMALL, 4 << 20] {
        let answer: Value = server.send("/v1/responses", keep(bytes).to_string()).await.json().await.unwrap();
        let id = answer["id"].as_str().expect("an answer has an id");
        server.longest.take();
        let url = format!("http://{}/v1/responses/{id}", server.address);
        let got = server.client.get(&url).send().await.unwrap().bytes().await.unwrap();
        assert!(got.len() > bytes / 2);
        server.client.get(format!("{url}/input_items")).send().await.unwrap().bytes().await.unwrap();
        let goes_on = json!({"input": "y", "previous_response_id": id, "max_output_tokens": 2});
        assert_eq!(server.send("/v1/responses", goes_on.to_string()).await.status(), 200);
        assert_eq!(server.client.delete(&url).send().await.unwrap().status(), 200);
        longest.push(server.longest.take());
    }
    assert!(longest[1] < longest[0] * 3 + SLACK, "{longest:?}");
}

/// The figure of docs/reliability.md: `cargo test --release -p quern-api --test polls -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and measures: of a release build"]
async fn longest_polls_at_the_default_limits() {
    let most = ApiConfig::default().max_request_bytes;
    let server = Server::start(most).await;
    let mut all = longest_polls(&server, &requests(), most - (1 << 20)).await;
    // Of small objects fewer bytes fit into the memory of bodies.
    all.extend(longest_polls(&server, &requests(), most / 2).await);
    all.extend(longest_polls(&server, &answers(), 64 << 20).await);
    all.sort_by_key(|(_, time)| *time);
    for (name, time) in &all {
        println!("{:8.2} ms  {name}", time.as_secs_f64() * 1e3);
    }
    let (name, longest) = all.last().expect("there are cases");
    assert!(cfg!(debug_assertions) || *longest < Duration::from_millis(10), "{name}: {longest:?}");
}
