//! What the client itself costs: tokens a second on one core, against a server that does nothing but send.
//!
//! `cargo bench -p quern-bench`. The server is another process, the client runs on one thread. Each answer has
//! 1000 tokens, each token its own write, as a server that streams sends them.
//!
//! Two shared vCPUs of an Intel Xeon at load 8, rustc 1.95, medians of 7: /generate, whose every chunk repeats
//! all text and ids (5 KB a token at the mean), 37,000 to 75,000 tokens/s at 11.3 to 13.9 µs of CPU a token;
//! the others 190,000 to 310,000 tokens/s at 1.2 to 1.7 µs.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use quern_bench::{
    backend::{Backend, BodyOptions, Protocol},
    client::{Client, Clock},
    cpu_time::CpuTime,
    endpoint::Endpoint,
    load::{self, Pace},
    progress::Progress,
    random::NumpyRandom,
    request::{Prompt, Request, Session},
};
use serde_json::json;

const TOKENS: usize = 1000;
const REQUESTS: usize = 64;
const ROUNDS: usize = 7;

fn main() {
    if env::args().any(|word| word == "--null-server") {
        serve();
        return;
    }
    let mut server = Command::new(env::current_exe().expect("it runs"))
        .arg("--null-server")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can run twice");
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
    println!("{REQUESTS} answers of {TOKENS} tokens, one write a token; median (least to most) of {ROUNDS} rounds");
    println!("{:<16} {:>11} {:>24} {:>24}", "backend", "concurrency", "tokens/s", "CPU µs/token");
    for backend in [Backend::Sglang, Backend::SglangOai, Backend::SglangOaiChat, Backend::Anthropic] {
        for concurrency in [1, 16, 64] {
            let mut rates = Vec::new();
            let mut costs = Vec::new();
            for _ in 0..ROUNDS {
                let (rate, cost) = measure(backend, concurrency, port.trim());
                rates.push(rate);
                costs.push(cost);
            }
            let range = |mut all: Vec<f64>, digits: usize| {
                all.sort_by(f64::total_cmp);
                format!("{:.digits$} ({:.digits$} to {:.digits$})", all[all.len() / 2], all[0], all[all.len() - 1])
            };
            println!("{:<16} {concurrency:>11} {:>24} {:>24}", backend.name(), range(rates, 0), range(costs, 2));
        }
    }
    server.kill().expect("it runs");
    server.wait().expect("it ends");
}

/// Tokens a second, and microseconds of CPU a token.
fn measure(backend: Backend, concurrency: usize, port: &str) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let endpoint = Endpoint::new(&format!("127.0.0.1:{port}"), &[]).expect("an address");
    let options = BodyOptions {
        model: "null".into(),
        stream: true,
        ignore_eos: true,
        temperature: 0.0,
        top_p: 1.0,
        return_logprob: false,
        extra: serde_json::Map::new(),
    };
    let client = Arc::new(Client { endpoint, backend, options, told: None });
    let request = Request::new(Prompt::Text("x".into()), Some(1), TOKENS);
    let sessions = vec![Session::from(request); REQUESTS];
    let pace = Pace { rate: f64::INFINITY, max_concurrency: Some(concurrency) };
    let progress = Arc::new(Progress::hidden());
    let cpu = CpuTime::now();
    let start = Instant::now();
    let mut numpy = NumpyRandom::new(1);
    let outcomes = runtime.block_on(load::run(&client, sessions, pace, &mut numpy, Clock::start(), &progress));
    let seconds = start.elapsed().as_secs_f64();
    let cpu_s = CpuTime::now().since(&cpu).unwrap_or(f64::NAN);
    for outcome in &outcomes {
        assert_eq!(outcome.recording.error, None);
        assert_eq!(outcome.recording.output_len, TOKENS);
    }
    let tokens = (TOKENS * REQUESTS) as f64;
    (tokens / seconds, 1e6 * cpu_s / tokens)
}

/// Answer every request with the same stream, a thread for each.
fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("bound").port());
    let protocols = [Protocol::Generate, Protocol::Completions, Protocol::Chat, Protocol::Messages];
    let answers = Arc::new(protocols.map(|protocol| (protocol.path(), frames(protocol))));
    for stream in listener.incoming().flatten() {
        let answers = Arc::clone(&answers);
        thread::spawn(move || answer(stream, answers.as_slice()));
    }
}

fn answer(mut stream: TcpStream, answers: &[(&str, Vec<Vec<u8>>)]) {
    stream.set_nodelay(true).expect("a socket");
    let mut request = vec![0; 65536];
    let count = stream.read(&mut request).unwrap_or(0);
    let head = String::from_utf8_lossy(&request[..count]);
    let path = head.split(' ').nth(1).unwrap_or("");
    let Some((_, frames)) = answers.iter().find(|(known, _)| *known == path) else { return };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    for frame in frames {
        if stream.write_all(frame).is_err() {
            return;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
}

/// One HTTP chunk for each token.
fn frames(protocol: Protocol) -> Vec<Vec<u8>> {
    let mut text = String::new();
    let mut ids = Vec::new();
    let mut events = Vec::new();
    for index in 0..TOKENS {
        text.push_str(" word");
        ids.push(100_000 + index);
        let last = index + 1 == TOKENS;
        let finish = if last { json!({"type": "length", "length": TOKENS}) } else { json!(null) };
        events.push(match protocol {
            Protocol::Generate => json!({"text": text, "output_ids": ids, "meta_info": {"id": "0123456789abcdef",
                "finish_reason": finish, "prompt_tokens": 1, "completion_tokens": index + 1, "cached_tokens": 0}}),
            Protocol::Completions => json!({"id": "x", "object": "text_completion", "created": 1, "model": "null",
                "choices": [{"index": 0, "text": " word", "logprobs": null, "finish_reason": null}], "usage": null}),
            Protocol::Chat => json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "null",
                "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": null}], "usage": null}),
            Protocol::Messages => {
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " word"}})
            }
        });
    }
    let usage = json!({"prompt_tokens": 1, "completion_tokens": TOKENS, "output_tokens": TOKENS});
    match protocol {
        Protocol::Generate => {}
        Protocol::Messages => {
            events.push(json!({"type": "message_delta", "usage": usage}));
            events.push(json!({"type": "message_stop"}));
        }
        Protocol::Completions | Protocol::Chat => events.push(json!({"choices": [], "usage": usage})),
    }
    let mut lines: Vec<String> = events.into_iter().map(|event| format!("data: {event}\n\n")).collect();
    lines.push("data: [DONE]\n\n".into());
    lines.into_iter().map(|line| format!("{:x}\r\n{line}\r\n", line.len()).into_bytes()).collect()
}
