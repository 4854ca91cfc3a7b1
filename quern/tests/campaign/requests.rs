//! What is asked of the server: every API, whole and streamed, right and wrong.

use futures_util::StreamExt;
use reqwest::Client;
use serde_json::{Value, json};

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// Refused, as it should be.
    Refused,
    /// The client left.
    Left,
    /// None of this may happen.
    Wrong(String),
}

impl Outcome {
    /// What may not happen and did.
    pub(crate) fn wrong(self) -> Option<String> {
        if let Self::Wrong(why) = self { Some(why) } else { None }
    }
}

/// Kinds of requests in [`mixed`].
const KINDS: usize = 14;

/// Request number `index` of a mix.
pub(crate) async fn mixed(client: &Client, base: &str, index: usize) -> Outcome {
    let words = format!("def f{}(a, b):\n    # {}\n", index % 17, "word ".repeat(index * 7 % 40));
    let user = json!([{"role": "user", "content": words}]);
    let tokens = 4 + index * 5 % 28;
    let tool = json!({"type": "function", "function": {"name": "ls", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}});
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let (path, body, wanted) = match index % KINDS {
        0 => ("/v1/chat/completions", json!({"messages": user, "max_tokens": tokens, "stream": true}), 200),
        1 => ("/v1/chat/completions", json!({"messages": user, "max_tokens": tokens}), 200),
        2 => ("/generate", json!({"text": words, "stream": true, "sampling_params": {"max_new_tokens": tokens}}), 200),
        3 => ("/v1/messages", json!({"model": "m", "messages": user, "max_tokens": tokens, "stream": true}), 200),
        4 => ("/v1/responses", json!({"input": words, "max_output_tokens": tokens, "stream": true}), 200),
        5 => ("/v1/completions", json!({"prompt": [words, "x"], "max_tokens": tokens, "n": 2}), 200),
        6 => {
            let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
            ("/v1/chat/completions", json!({"messages": user, "max_tokens": tokens, "response_format": format}), 200)
        }
        7 => (
            "/generate",
            json!({"text": words, "sampling_params": {"max_new_tokens": tokens, "regex": "[a-z]+(_[a-z]+)*"}}),
            200,
        ),
        8 => (
            "/v1/chat/completions",
            json!({"messages": user, "max_tokens": tokens, "tools": [tool], "stream": true}),
            200,
        ),
        9 => ("/v1/chat/completions", json!({"messages": "none", "max_tokens": -1}), 400),
        10 => return leave(client, base, &words).await,
        11 => ("/abort_request", json!({"rid": format!("nobody-{index}")}), 200),
        12 => ("/api/chat", json!({"model": "m", "messages": user, "options": {"num_predict": tokens}}), 200),
        _ => ("/tokenize", json!({"prompt": words}), 200),
    };
    ask(client, base, path, body, wanted).await
}

/// Send `body`, and see that the answer is whole and has the status `wanted`; of the refusals any will do.
pub(crate) async fn ask(client: &Client, base: &str, path: &str, body: Value, wanted: u16) -> Outcome {
    let answer = match client.post(format!("{base}{path}")).json(&body).send().await {
        Ok(answer) => answer,
        Err(cause) => return Outcome::Wrong(format!("{path}: {cause}")),
    };
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let text = match answer.text().await {
        Ok(text) => text,
        Err(cause) => return Outcome::Wrong(format!("{path}: {cause}")),
    };
    match status {
        200 if wanted == 200 && is_whole(&kind, &text) => Outcome::Answered,
        400..=499 if wanted == 400 && serde_json::from_str::<Value>(&text).is_ok() => Outcome::Refused,
        _ => Outcome::Wrong(format!("{path}: {status}, {} bytes that end with {:?}", text.len(), tail(&text))),
    }
}

/// Whether an answer of this kind has its end.
pub(crate) fn is_whole(kind: &str, text: &str) -> bool {
    if kind.starts_with("text/event-stream") {
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let ends = ["data: [DONE]", "event: message_stop", "event: response.completed", "event: response.incomplete"];
        return ends.iter().any(|end| last.starts_with(end)) && !text.contains("\"error\":{");
    }
    if kind.starts_with("application/x-ndjson") {
        return text.trim_end().lines().last().is_some_and(|line| line.contains("\"done\":true"));
    }
    text.is_empty() || serde_json::from_str::<Value>(text).is_ok()
}

fn tail(text: &str) -> String {
    let begin = text.char_indices().rev().nth(160).map_or(0, |(at, _)| at);
    text[begin..].to_owned()
}

/// Begin a stream and go away.
async fn leave(client: &Client, base: &str, words: &str) -> Outcome {
    let body = json!({"text": words, "stream": true, "sampling_params": {"max_new_tokens": 400, "ignore_eos": true}});
    match client.post(format!("{base}/generate")).json(&body).send().await {
        Ok(answer) if answer.status() == 200 => {
            let _ = answer.bytes_stream().next().await;
            Outcome::Left
        }
        Ok(answer) => Outcome::Wrong(format!("/generate: {}", answer.status())),
        Err(cause) => Outcome::Wrong(format!("/generate: {cause}")),
    }
}

/// Four APIs' streams of so many tokens.
pub(crate) fn long_stream(index: usize, tokens: usize) -> (&'static str, Value) {
    let words = format!("fn number_{index}() {{");
    let user = json!([{"role": "user", "content": words}]);
    match index % 4 {
        0 => (
            "/v1/chat/completions",
            json!({"messages": user, "max_tokens": tokens, "stream": true, "ignore_eos": true}),
        ),
        1 => (
            "/generate",
            json!({"text": words, "stream": true, "sampling_params": {"max_new_tokens": tokens, "ignore_eos": true}}),
        ),
        2 => ("/v1/completions", json!({"prompt": words, "max_tokens": tokens, "stream": true, "ignore_eos": true})),
        _ => ("/v1/messages", json!({"model": "m", "messages": user, "max_tokens": tokens, "stream": true})),
    }
}
