//! What goes wrong, and that it hurts nobody else: clients that leave, stall or send garbage, a full
//! queue, a failing model. After each of them every page is back in the pool.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{PATIENCE, Server, Setup, config, frames, gate::StepGate, small_engine, until, user, with};
use futures_util::future::join_all;
use quern_api::ApiConfig;
use quern_engine::{DeviceFault, EngineConfig};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A server whose steps wait while the gate is shut.
async fn held_server(config: impl Into<Setup>) -> (Server, StepGate) {
    let gate = StepGate::default();
    gate.open();
    (Server::with(config, Some(gate.hook())).await, gate)
}

fn raw(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// Fixed pseudo-random numbers (a linear congruential generator; Knuth's constants).
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_dropped_at_random_leave_nothing_behind() {
    let server =
        Server::with(Setup { engine: EngineConfig { num_pages: 1024, ..small_engine() }, api: config() }, None).await;
    let mut number = numbers(1);
    let mut dropped = 0;
    for _ in 0..20 {
        let clients = (0..50).map(|_| (number(3), 1 + number(40), number(200)));
        let runs = clients.map(|(kind, bytes, prompt)| {
            let (path, body) = match kind {
                0 => ("/generate", json!({"text": "p".repeat(1 + prompt as usize), "sampling_params": {"max_new_tokens": 700, "ignore_eos": true}})),
                1 => ("/v1/completions", json!({"prompt": "shared prefix of all", "max_tokens": 700, "n": 2, "ignore_eos": true})),
                _ => ("/v1/chat/completions", json!({"messages": user(&"x".repeat(prompt as usize)), "max_tokens": 700, "ignore_eos": true})),
            };
            let request = raw(path, &with(&body, json!({"stream": prompt % 4 != 0})));
            async move {
                let mut socket = TcpStream::connect(server.address).await.unwrap();
                socket.write_all(&request).await.unwrap();
                let mut buffer = vec![0; bytes as usize * 64];
                // Some leave at once, some in the middle of a frame.
                if bytes > 5 {
                    let _ = timeout(Duration::from_millis(bytes), socket.read_exact(&mut buffer)).await;
                }
                1
            }
        });
        dropped += join_all(runs).await.into_iter().sum::<u64>();
    }
    assert_eq!(dropped, 1000);
    server.is_clean().await;
    let answer = server
        .ok("/generate", json!({"text": "still there?", "sampling_params": {"max_new_tokens": 3, "ignore_eos": true}}))
        .await;
    assert_eq!(answer["meta_info"]["completion_tokens"], 3);
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_within_a_step() {
    let (server, gate) = held_server(config()).await;
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 900, "ignore_eos": true}});
    for streams in [true, false] {
        // The engine must not come to the end before the client leaves.
        gate.allow(10);
        let before = server.engine().metrics().snapshot().scheduler.generated_tokens;
        let idle = Arc::strong_count(&server.state);
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(&raw("/generate", &with(&body, json!({"stream": streams})))).await.unwrap();
        let generated = || server.engine().metrics().snapshot().scheduler.generated_tokens;
        until("it generates", || generated() >= before + 9).await;
        drop(socket);
        // The connection's end reaches its task, which lets go of everything without a step of the engine.
        until("the connection ends", || Arc::strong_count(&server.state) == idle).await;
        let at_leaving = generated();
        gate.open();
        server.is_clean().await;
        let after = server.engine().metrics().snapshot().scheduler.generated_tokens;
        assert!(after - at_leaving <= 2, "{} tokens were computed for nobody (stream: {streams})", after - at_leaving);
    }
    assert_eq!(server.engine().metrics().snapshot().scheduler.aborted, 2);
}

#[tokio::test]
async fn what_was_read_for_a_client_that_gave_up_is_not_read_again() {
    let last_step = Arc::new(AtomicU64::new(5));
    let gate = Arc::clone(&last_step);
    let hook = Box::new(move |step| {
        while step > gate.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let server = Server::with(config(), Some(hook)).await;
    let body = json!({"messages": user(&"a long prompt ".repeat(60)), "max_tokens": 2, "ignore_eos": true});
    let idle = Arc::strong_count(&server.state);
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(&raw("/v1/chat/completions", &with(&body, json!({"stream": true})))).await.unwrap();
    let read = || server.engine().metrics().snapshot().scheduler.prefill_tokens;
    until("it reads", || read() >= 5 * 64).await;
    drop(socket);
    until("the connection ends", || Arc::strong_count(&server.state) == idle).await;
    last_step.store(u64::MAX, Ordering::Release);
    until("it is gone", || server.engine().num_alive() == 0).await;
    let answer = server.ok("/v1/chat/completions", body).await;
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!((5 * 64..answer["usage"]["prompt_tokens"].as_u64().unwrap()).contains(&cached), "{answer}");
    server.is_clean().await;
}

#[tokio::test]
async fn a_full_queue_refuses_with_503_and_says_when_to_come_back() {
    let engine = EngineConfig { max_queued: Some(2), max_running: 1, ..small_engine() };
    let limits = Setup { api: config(), engine };
    let (server, gate) = held_server(limits).await;
    gate.shut();
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    let send = || tokio::spawn(server.client.post(server.url("/generate")).json(&body).send());
    let running = send();
    until("the first runs", || server.engine().num_alive() == 1 && server.engine().num_queued() == 0).await;
    let waiting = [running, send(), send()];
    until("two wait", || server.engine().num_queued() == 2).await;
    for (path, body) in
        [("/generate", body.clone()), ("/v1/chat/completions", json!({"messages": user("x"), "stream": true}))]
    {
        let answer = server.client.post(server.url(path)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
        assert!(answer.text().await.unwrap().contains("The request queue is full."));
    }
    assert_eq!(server.get("/ready").await.0, 503);
    assert_eq!(server.get("/live").await.0, 200);
    gate.open();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(server.get("/ready").await.0, 200);
    server.is_clean().await;
}

#[tokio::test]
async fn health_checks_take_no_place_from_requests() {
    let engine = EngineConfig { max_queued: Some(1), max_running: 1, ..small_engine() };
    let (server, gate) = held_server(Setup { api: config(), engine }).await;
    gate.shut();
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    let send = || tokio::spawn(server.client.post(server.url("/generate")).json(&body).send());
    let running = send();
    until("the first runs", || server.engine().num_alive() == 1 && server.engine().num_queued() == 0).await;
    let probes: Vec<_> = (0..16)
        .map(|i| tokio::spawn(server.client.get(server.url(["/health", "/health_generate"][i % 2])).send()))
        .collect();
    // Time for them to come, if they would.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((server.engine().num_alive(), server.engine().num_queued()), (1, 0));
    let waiting = send();
    until("another waits", || server.engine().num_queued() == 1).await;
    gate.open();
    for answer in probes.into_iter().chain([running, waiting]) {
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().status(), 200);
    }
    server.is_clean().await;
}

#[tokio::test]
async fn health_checks_of_an_idle_server_share_one_request() {
    let engine = EngineConfig { max_queued: Some(1), ..small_engine() };
    let (server, gate) = held_server(Setup { api: config(), engine }).await;
    let before = server.engine().metrics().snapshot().scheduler.steps;
    gate.shut();
    let probes: Vec<_> = (0..16).map(|_| tokio::spawn(server.client.get(server.url("/health")).send())).collect();
    until("one checks", || server.engine().num_alive() == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.engine().num_alive(), 1);
    gate.open();
    for answer in probes {
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().status(), 200);
    }
    let steps = server.engine().metrics().snapshot().scheduler.steps - before;
    assert!(steps <= 3, "{steps} steps for sixteen who asked at once");
    server.is_clean().await;
}

#[tokio::test]
async fn aborts_reach_the_requests_they_name() {
    let (server, gate) = held_server(config()).await;
    gate.shut();
    let body =
        |rid: &str| json!({"text": "x", "rid": rid, "sampling_params": {"max_new_tokens": 500, "ignore_eos": true}});
    let send = |rid: &str| tokio::spawn(server.client.post(server.url("/generate")).json(&body(rid)).send());
    let (a1, a2, b) = (send("a-1"), send("a-2"), send("b"));
    until("requests are alive", || server.engine().num_alive() >= 3).await;
    let (status, answer) = server.post("/generate", body("b")).await;
    assert!(status == 400 && answer.to_string().contains("Duplicate request ID"), "{answer}");
    assert_eq!(server.post("/abort_request", json!({"rid": "a-"})).await.0, 200);
    gate.open();
    for aborted in [a1, a2] {
        let answer: Value = aborted.await.unwrap().unwrap().json().await.unwrap();
        assert_eq!(answer["meta_info"]["finish_reason"]["type"], "abort", "{answer}");
    }
    let answer: Value = b.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["meta_info"]["completion_tokens"], 500);
    server.is_clean().await;
}

#[tokio::test]
async fn a_failing_step_ends_its_requests_with_an_error_and_the_next_ones_work() {
    // The number of the step that fails, from now on; 0: none does.
    let failing = Arc::new(AtomicUsize::new(0));
    let fails = Arc::clone(&failing);
    let hook =
        Box::new(move |_| match fails.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)) {
            Ok(1) => Err(DeviceFault::Step { backend: "fake", cause: "the memory is on fire".into() }.into()),
            _ => Ok(()),
        });
    let server = Server::with(config(), Some(hook)).await;
    let body = json!({"messages": user("x"), "max_tokens": 400, "ignore_eos": true});
    failing.store(1, Ordering::Release);
    let (status, answer) = server.post("/v1/chat/completions", body.clone()).await;
    assert_eq!((status, &answer["type"]), (500, &json!("InternalServerError")), "{answer}");

    for (path, body) in [
        ("/v1/chat/completions", with(&body, json!({"stream": true}))),
        (
            "/generate",
            json!({"text": "x", "stream": true, "sampling_params": {"max_new_tokens": 400, "ignore_eos": true}}),
        ),
    ] {
        failing.store(20, Ordering::Release);
        let text = server.client.post(server.url(path)).json(&body).send().await.unwrap().text().await.unwrap();
        let frames = frames(&text);
        assert!(frames.len() > 10, "tokens before the failure: {text}");
        let error = &frames.last().unwrap()["error"];
        assert_eq!(error["code"], 500, "{text}");
        assert!(error["message"].as_str().unwrap().contains("on fire"), "{text}");
        // The engine gives up after three failures within five minutes; the second was not the last.
        if path == "/v1/chat/completions" {
            server.ok("/generate", json!({"text": "x", "sampling_params": {"max_new_tokens": 3}})).await;
            assert_eq!(server.get("/health").await.0, 200);
        }
    }
    server.is_clean().await;
    assert_eq!(server.get("/health").await.0, 503);
    assert_eq!(server.get("/ready").await.0, 503);
    let (status, answer) = server.post("/v1/chat/completions", body).await;
    assert!(status == 503 && answer.to_string().contains("failed repeatedly"), "{answer}");
}

#[tokio::test]
async fn garbage_on_the_socket_is_answered_or_dropped() {
    let server = Server::new().await;
    let mut number = numbers(7);
    for round in 0..200 {
        let mut garbage: Vec<u8> = (0..1 + number(64 << 10)).map(|_| number(256) as u8).collect();
        match round % 4 {
            0 => garbage
                .splice(0..0, *b"POST /generate HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n")
                .for_each(drop),
            1 => garbage
                .splice(0..0, *b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
                .for_each(drop),
            2 => garbage.splice(0..0, *b"GET /\xff HTTP/1.1\r\n").for_each(drop),
            _ => {}
        }
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(&garbage).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "round {round}: the connection hangs");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(128 << 10));
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.get("/ready").await.0, 200);
    server.is_clean().await;
}

#[tokio::test]
async fn random_json_never_makes_a_server_error() {
    let server = Server::new().await;
    let mut number = numbers(99);
    let fields = [
        "messages",
        "prompt",
        "text",
        "input_ids",
        "sampling_params",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "stop",
        "stream",
        "stream_options",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "tools",
        "tool_choice",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "echo",
        "suffix",
        "rid",
        "return_logprob",
        "logprob_start_len",
        "top_logprobs_num",
        "token_ids_logprob",
        "response_format",
        "chat_template_kwargs",
        "continue_final_message",
        "stop_token_ids",
        "stop_regex",
        "min_tokens",
        "ignore_eos",
        "skip_special_tokens",
        "best_of",
        "model",
        "cache_salt",
        "tokens",
        "add_generation_prompt",
    ];
    fn value(number: &mut impl FnMut(u64) -> u64, depth: u64) -> Value {
        match number(if depth == 0 { 9 } else { 12 }) {
            0 => Value::Null,
            1 => json!(number(2) == 0),
            2 => json!(number(5)),
            3 => json!(-(number(1000) as i64)),
            4 => json!(number(1000) as f64 / 7.0),
            5 => json!(["", "x", "user", "required", "json_object", "<|im_end|>", "\u{0}é日", "("][number(8) as usize]),
            6 => json!(i64::MAX),
            7 => json!(1e300),
            8 => json!([]),
            9 => (0..number(4)).map(|_| value(number, depth - 1)).collect(),
            10 => json!({"role": "user", "content": value(number, depth - 1)}),
            _ => {
                json!({"type": "function", "function": {"name": "f", "parameters": value(number, depth - 1)}, "5": value(number, 0)})
            }
        }
    }
    for round in 0..1500 {
        let path =
            ["/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/detokenize", "/abort_request"]
                [number(6) as usize];
        let mut body = match path {
            "/v1/chat/completions" => json!({"messages": user("x"), "max_tokens": 2}),
            "/v1/completions" => json!({"prompt": "x", "max_tokens": 2}),
            "/generate" => json!({"text": "x", "sampling_params": {"max_new_tokens": 2}}),
            _ => json!({}),
        };
        for _ in 0..1 + number(4) {
            body[fields[number(fields.len() as u64) as usize]] = value(&mut number, 3);
        }
        let (status, answer) = server.post(path, body.clone()).await;
        assert!(status < 500, "round {round}: {path} {body}: {status} {answer}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let limits = Setup {
        api: ApiConfig { slow_client_timeout: 0.3, context_length: 60_000, ..config() },
        engine: EngineConfig { num_pages: 16_000, ..small_engine() },
    };
    let server = Server::with(limits, None).await;
    let idle = Arc::strong_count(&server.state);
    // More than the buffers of both sockets hold.
    let body = json!({"text": "x", "stream": true, "sampling_params": {"max_new_tokens": 3000, "ignore_eos": true}});
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (read, mut write) = socket.into_split();
    write.write_all(&raw("/generate", &body)).await.unwrap();
    until("it is answered", || Arc::strong_count(&server.state) > idle).await;
    until("it is cut off", || Arc::strong_count(&server.state) == idle).await;
    server.is_clean().await;
    drop(read);
    // Others were served meanwhile.
    server.ok("/generate", json!({"text": "x", "sampling_params": {"max_new_tokens": 3}})).await;
}

#[tokio::test]
async fn a_head_or_a_body_that_dribbles_in_is_given_up() {
    let server = Server::with(ApiConfig { request_read_timeout: 0.2, ..config() }, None).await;
    let mut head = TcpStream::connect(server.address).await.unwrap();
    head.write_all(b"POST /generate HTTP/1.1\r\nhost:").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, head.read_to_end(&mut answer)).await.expect("the head's time is up").unwrap();
    let mut body = TcpStream::connect(server.address).await.unwrap();
    body.write_all(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"te").await.unwrap();
    let mut answer = vec![0; 2000];
    let n = timeout(PATIENCE, body.read(&mut answer)).await.expect("the body's time is up").unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("--request-read-timeout"), "{answer}");
}

#[tokio::test]
async fn a_draining_server_refuses_and_finishes_what_runs() {
    let (server, gate) = held_server(config()).await;
    gate.shut();
    let body = json!({"messages": user("x"), "max_tokens": 50, "ignore_eos": true, "stream": true});
    let running = tokio::spawn(server.client.post(server.url("/v1/chat/completions")).json(&body).send());
    until("requests are alive", || server.engine().num_alive() >= 1).await;
    server.state.set_ready(false);
    server.engine().drain();
    assert_eq!(server.get("/ready").await.0, 503);
    assert_eq!(server.get("/health").await.0, 503);
    let (status, answer) = server.post("/v1/chat/completions", body.clone()).await;
    assert!(status == 503 && answer.to_string().contains("shutting down"), "{answer}");
    gate.open();
    let text = running.await.unwrap().unwrap().text().await.unwrap();
    let frames = frames(&text);
    assert_eq!(frames.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_an_end() {
    let (server, gate) = held_server(config()).await;
    let body = json!({"messages": user("x"), "max_tokens": 900, "ignore_eos": true, "stream": true});
    let answer = server.client.post(server.url("/v1/chat/completions")).json(&body).send().await.unwrap();
    gate.shut();
    server.engine().shutdown();
    gate.open();
    let frames = frames(&answer.text().await.unwrap());
    assert_eq!(frames.last().unwrap()["choices"][0]["finish_reason"], "abort");
}

#[tokio::test]
async fn a_stuck_step_is_no_progress_and_probes_answer_all_the_same() {
    let (server, gate) = held_server(config()).await;
    let body: Value = serde_json::from_str(&server.get("/health/progress").await.1).unwrap();
    assert_eq!(body["seconds_since_progress"], 0.0, "an idle engine is not late");
    gate.shut();
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    let stuck = tokio::spawn(server.client.post(server.url("/generate")).json(&body).send());
    until("requests are alive", || server.engine().num_alive() >= 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (status, answer) = server.get("/health/progress").await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(status == 200 && answer["seconds_since_progress"].as_f64().unwrap() > 0.04, "{answer}");
    assert_eq!(server.get("/live").await.0, 200);
    gate.open();
    assert_eq!(stuck.await.unwrap().unwrap().status(), 200);
    assert_eq!(server.get("/health").await.0, 200);
}
