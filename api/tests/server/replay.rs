//! Requests as clients send them, each to its endpoint: the ones in `requests`, in our own
//! words, and the captured ones of the reference fixtures where those are present.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::support::{Server, Setup, parsing, small_engine};
use quern_api::ApiConfig;
use quern_engine::EngineConfig;
use serde_json::{Value, json};

/// Captured conversations of which the second request repeats the first and goes on.
const CONTINUED: &[(&str, &str)] = &[
    ("claude-code-2.1.197.01", "claude-code-2.1.197.02"),
    ("claude-code-2.1.330.01", "claude-code-2.1.330.02"),
    ("cline-3.0.01", "cline-3.0.02"),
    ("codex-0.169.01", "codex-0.169.02"),
    ("continue-1.5.01", "continue-1.5.02"),
    ("opencode-1.18.02", "opencode-1.18.03"),
    ("qwen-code-0.24.01", "qwen-code-0.24.02"),
];

/// A request of a client.
struct Captured {
    name: String,
    path: String,
    body: Value,
}

/// What became of it: tokens of its prompt, and how many of them were cached.
type Tokens = (u64, u64);

fn roomy() -> Setup {
    Setup {
        api: ApiConfig { context_length: 200_000, ..parsing() },
        engine: EngineConfig {
            page_size: 32,
            num_pages: 16_384,
            chunk_tokens: 8192,
            max_prefill_tokens: 200_000,
            ..small_engine()
        },
    }
}

/// Requests of a folder, by name.
fn captured(dir: &Path) -> Vec<Captured> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let request: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let query = request["query"].as_object().into_iter().flatten();
        let query: Vec<_> = query.map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        Captured {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            path: request["path"].as_str().unwrap().to_owned() + &query,
            body: whole(request["body"].clone()),
        }
    };
    paths.iter().map(read).collect()
}

/// The same with words of ours where the capture was cut: `{{…123 chars}}`.
fn whole(value: Value) -> Value {
    const OURS: &str = "a few words of our own ";
    match value {
        Value::String(mut text) => {
            while let Some((before, rest)) = text.split_once("{{…") {
                let (count, after) = rest.split_once(" chars}}").expect("a cut says how much is missing");
                let filler: String = OURS.chars().cycle().take(count.parse().unwrap()).collect();
                text = format!("{before}{filler}{after}");
            }
            text.into()
        }
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(key, value)| (key, whole(value))).collect()),
        other => other,
    }
}

/// Why a request may be refused, in the words that its error must have.
fn refusals(body: &Value) -> Vec<&'static str> {
    let mut words = Vec::new();
    if body.get("thread").is_some() {
        words.push("thread_unsupported_request");
    }
    if body.to_string().contains("\"image_url\"") {
        words.push("image_url");
    }
    words
}

/// Whether the answer must have a certain form.
fn is_constrained(body: &Value) -> bool {
    let choice = body.get("tool_choice").unwrap_or(&Value::Null);
    let kind = choice["type"].as_str().or(choice.as_str()).unwrap_or("auto");
    let format = ["/response_format/type", "/text/format/type", "/output_config/format/type"];
    let format = format.into_iter().find_map(|path| body.pointer(path)?.as_str()).unwrap_or("text");
    !["auto", "none"].contains(&kind) || format != "text"
}

async fn send(server: &Server, request: &Captured) -> Option<Tokens> {
    let Captured { name, path, body } = request;
    let mut body = body.clone();
    let streams = body["stream"] == true;
    if streams && path.starts_with("/v1/chat") {
        body["stream_options"] = json!({"include_usage": true});
    }
    let mut last_event = "response.completed";
    if is_constrained(&body) {
        // The script knows no end of what a grammar begins.
        let limit = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        let named = limit.into_iter().find(|name| body.get(name).is_some());
        let default = if path.starts_with("/v1/responses") { "max_output_tokens" } else { "max_tokens" };
        body[named.unwrap_or(default)] = 16.into();
        last_event = "response.incomplete";
    }
    // Ids of another tokenizer.
    for id in body["prompt"].as_array_mut().into_iter().flatten().filter_map(Value::as_array_mut).flatten() {
        *id = (id.as_u64().unwrap() % server.state.vocab_size() as u64).into();
    }
    let answer = server.client.post(server.url(path)).json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    if status == 400 && refusals(&body).iter().any(|words| text.contains(words)) {
        return None;
    }
    assert_eq!(status, 200, "{name}: {text}");
    let end = match (streams, path.split('?').next().unwrap()) {
        (false, "/generate") if text.starts_with('[') => return None,
        (false, _) => serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name}: {text}")),
        (true, "/v1/messages") => {
            let events = crate::support::events(&text);
            assert_eq!(events.last().unwrap()["type"], "message_stop", "{name}");
            events[events.len() - 2].clone()
        }
        (true, "/v1/responses") => {
            let last = crate::support::events(&text).pop().unwrap();
            assert_eq!(last["type"], last_event, "{name}: {last}");
            last["response"].clone()
        }
        (true, _) => crate::support::frames(&text).pop().unwrap(),
    };
    let usage = if end["meta_info"].is_object() { &end["meta_info"] } else { &end["usage"] };
    let count = |paths: &[&str]| paths.iter().find_map(|path| usage.pointer(path)?.as_u64());
    let cached = count(&[
        "/prompt_tokens_details/cached_tokens",
        "/input_tokens_details/cached_tokens",
        "/cache_read_input_tokens",
        "/cached_tokens",
    ]);
    let prompt = count(&["/prompt_tokens", "/input_tokens"])?;
    // Anthropic counts what was cached apart.
    let apart = if path.starts_with("/v1/messages") { cached? } else { 0 };
    Some((prompt + apart, cached?))
}

async fn replay(requests: &[Captured], continued: impl Fn(&str) -> Option<String>) {
    let server = Server::saying("ok", roomy()).await;
    let page_size = server.engine().config().page_size as u64;
    let mut seen: BTreeMap<&str, Tokens> = BTreeMap::new();
    for request in requests {
        let tokens = send(&server, request).await;
        if let Some(earlier) = continued(&request.name) {
            let name = seen.keys().find(|name| name.starts_with(&earlier)).copied().expect("sent before");
            let (before, _) = seen[name];
            let (_, cached) = tokens.unwrap_or_else(|| panic!("{}: no usage", request.name));
            // All of the last prompt but its last, partial page.
            assert!(cached >= before / page_size * page_size, "{}: {cached} of {before}", request.name);
        }
        seen.extend(tokens.map(|tokens| (request.name.as_str(), tokens)));
    }
    server.is_clean().await;
}

#[tokio::test]
async fn requests_of_our_own_words_are_answered() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requests");
    let requests = captured(&dir);
    assert!(requests.len() >= 15, "{} requests", requests.len());
    replay(&requests, |name| Some(format!("{}.1.json", name.strip_suffix(".2.json")?))).await;
}

#[tokio::test]
async fn captured_requests_are_answered() {
    let Some(dir) = crate::reference::folder("clients/shapes") else { return };
    let requests = captured(&dir);
    assert!(requests.len() > 100, "{} requests", requests.len());
    let pair =
        |name: &str| CONTINUED.iter().find(|(_, later)| name.starts_with(later)).map(|(first, _)| (*first).to_owned());
    replay(&requests, pair).await;
}
