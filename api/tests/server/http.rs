//! The endpoints over a real socket: forms, defaults, refusals, and that streams say what answers say.

use std::collections::HashMap;

use crate::support::{Server, config, user, with};
use quern_api::{ApiConfig, config::Secret};
use serde_json::{Value, json};

fn text_of(choice: &Value) -> &str {
    choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap()
}

/// Text, finish and matched stop of each choice of a chat or completion stream.
fn fold(frames: &[Value]) -> HashMap<u64, (String, Value, Value)> {
    let mut choices: HashMap<u64, (String, Value, Value)> = HashMap::new();
    for frame in frames {
        for choice in frame["choices"].as_array().unwrap() {
            let entry = choices.entry(choice["index"].as_u64().unwrap()).or_default();
            let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or("");
            entry.0 += text;
            if !choice["finish_reason"].is_null() {
                assert!(entry.1.is_null(), "two ends: {frames:#?}");
                (entry.1, entry.2) = (choice["finish_reason"].clone(), choice["matched_stop"].clone());
            }
        }
    }
    choices
}

#[tokio::test]
async fn a_chat_answer_has_sglangs_form() {
    let server = Server::new().await;
    let body =
        json!({"model": "any name", "messages": user("Hello"), "max_tokens": 5, "temperature": 0, "ignore_eos": true});
    let mut answer = server.ok("/v1/chat/completions", body).await;
    assert_eq!(answer["id"].as_str().unwrap().len(), 32);
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    for volatile in ["id", "created"] {
        answer[volatile] = json!("…");
    }
    assert!(!text_of(&answer["choices"][0]).is_empty());
    answer["choices"][0]["message"]["content"] = json!("…");
    insta::assert_snapshot!(answer.to_string(), @r#"{"id":"…","object":"chat.completion","created":"…","model":"any name","choices":[{"index":0,"message":{"role":"assistant","content":"…","reasoning_content":null},"logprobs":null,"finish_reason":"length","matched_stop":null}],"usage":{"prompt_tokens":24,"total_tokens":29,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":0},"reasoning_tokens":0,"completion_tokens_details":null},"metadata":{"weight_version":"default"}}"#);
    server.is_clean().await;
}

#[tokio::test]
async fn a_chat_stream_has_sglangs_frames() {
    let server = Server::new().await;
    let body = json!({
        "messages": user("Hello"), "max_tokens": 3, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let frames = server.frames("/v1/chat/completions", body.clone()).await;
    let first = &frames[0];
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(first["model"], "default");
    assert_eq!(
        first["choices"][0]["delta"].to_string(),
        r#"{"role":"assistant","content":"","reasoning_content":null}"#
    );
    let finish = &frames[frames.len() - 2]["choices"][0];
    assert_eq!(finish["delta"].to_string(), r#"{"reasoning_content":null}"#);
    assert_eq!(finish["finish_reason"], "length");
    let usage = frames.last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 3);
    for frame in &frames {
        assert_eq!((&frame["id"], &frame["created"]), (&first["id"], &first["created"]));
    }
    for middle in &frames[1..frames.len() - 2] {
        let choice = &middle["choices"][0];
        assert!(!choice["delta"]["content"].as_str().unwrap().is_empty());
        assert!(choice["finish_reason"].is_null() && choice["logprobs"].is_null());
    }
    let plain = server.frames("/v1/chat/completions", with(&body, json!({"stream_options": null}))).await;
    assert!(plain.iter().all(|frame| frame.get("usage").is_none()));
    let body = with(&body, json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}}));
    let counts: Vec<_> = server.frames("/v1/chat/completions", body).await;
    assert!(counts.iter().all(|frame| frame["usage"]["prompt_tokens"] == 24), "{counts:#?}");
}

#[tokio::test]
async fn streams_say_what_answers_say() {
    let server = Server::new().await;
    for seed in 0..40 {
        let sampling = json!({
            "seed": seed, "max_tokens": 40, "n": 1 + seed % 3, "stop": ["q", "\u{7f}", "ab"], "logprobs": true,
            "frequency_penalty": 0.5, "temperature": f64::from(seed % 2),
        });
        let chat = with(&sampling, json!({"messages": user(&format!("Question {seed}"))}));
        let complete =
            with(&sampling, json!({"prompt": format!("Text {seed}"), "logprobs": null, "echo": seed % 2 == 0}));
        for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", complete)] {
            let whole = server.ok(path, body.clone()).await;
            let streamed = server
                .frames(path, with(&body, json!({"stream": true, "stream_options": {"include_usage": true}})))
                .await;
            let folded = fold(&streamed);
            let choices = whole["choices"].as_array().unwrap();
            assert_eq!(folded.len(), choices.len());
            for choice in choices {
                let (text, finish, matched) = &folded[&choice["index"].as_u64().unwrap()];
                assert_eq!(text, text_of(choice), "{path} {body}");
                assert_eq!((finish, matched), (&choice["finish_reason"], &choice["matched_stop"]), "{path} {body}");
            }
            let usage = |usage: &Value| (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone());
            assert_eq!(usage(&streamed.last().unwrap()["usage"]), usage(&whole["usage"]), "{path} {body}");
        }
    }
    server.is_clean().await;
}

#[tokio::test]
async fn a_stop_ends_the_text_before_it_or_behind_it() {
    let server = Server::new().await;
    let body = json!({"text": "abc", "sampling_params": {"temperature": 0, "max_new_tokens": 60, "ignore_eos": true}});
    let whole = server.ok("/generate", body.clone()).await;
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(20).take(2).collect();
    let at = text.find(&stop).unwrap();
    let stopped = |more: Value| {
        let params = with(&body["sampling_params"], with(&more, json!({"stop": [stop]})));
        with(&body, json!({"sampling_params": params}))
    };
    let trimmed = server.ok("/generate", stopped(json!({}))).await;
    assert_eq!(trimmed["text"], text[..at]);
    assert_eq!(trimmed["meta_info"]["finish_reason"], json!({"type": "stop", "matched": stop}));
    let kept = server.ok("/generate", stopped(json!({"no_stop_trim": true}))).await;
    assert_eq!(kept["text"], text[..at + stop.len()]);

    // A stop token: in the ids and counted, not in the text.
    let third = whole["output_ids"][2].as_u64().unwrap();
    let params = json!({"temperature": 0, "max_new_tokens": 60, "stop_token_ids": [third]});
    let ended = server.ok("/generate", json!({"text": "abc", "sampling_params": params})).await;
    let ids = ended["output_ids"].as_array().unwrap();
    assert_eq!(ended["meta_info"]["finish_reason"]["matched"], *ids.last().unwrap());
    assert_eq!(ended["meta_info"]["completion_tokens"], ids.len());
    assert!(ids.len() <= 3);
    server.is_clean().await;
}

#[tokio::test]
async fn native_streams_are_cumulative_or_incremental() {
    let body = json!({"text": "abc", "sampling_params": {"temperature": 0, "max_new_tokens": 20, "ignore_eos": true}, "stream": true});
    let server = Server::new().await;
    let frames = server.frames("/generate", body.clone()).await;
    let mut tokens = 0;
    for pair in frames.windows(2) {
        assert!(pair[1]["text"].as_str().unwrap().starts_with(pair[0]["text"].as_str().unwrap()));
        assert!(pair[0]["meta_info"]["finish_reason"].is_null());
    }
    for frame in &frames {
        let count = frame["meta_info"]["completion_tokens"].as_u64().unwrap();
        assert_eq!(frame["output_ids"].as_array().unwrap().len() as u64, count);
        assert!(count > tokens, "every frame has a new token");
        tokens = count;
    }
    assert_eq!(tokens, 20);
    assert_eq!(frames.last().unwrap()["meta_info"]["finish_reason"], json!({"type": "length", "length": 20}));

    let incremental = Server::with(ApiConfig { incremental_streaming_output: true, ..config() }, None).await;
    let parts = incremental.frames("/generate", body).await;
    let text: String = parts.iter().map(|frame| frame["text"].as_str().unwrap()).collect();
    assert_eq!(text, frames.last().unwrap()["text"]);
    let ids: Vec<_> = parts.iter().flat_map(|frame| frame["output_ids"].as_array().unwrap().clone()).collect();
    assert_eq!(json!(ids), frames.last().unwrap()["output_ids"]);
}

#[tokio::test]
async fn native_batches_answer_in_order_and_streams_carry_an_index() {
    let server = Server::new().await;
    let params = json!({"temperature": 0, "max_new_tokens": 6, "ignore_eos": true});
    let alone = server.ok("/generate", json!({"text": "two", "sampling_params": params})).await;
    let batch = json!({"text": ["one", "two"], "sampling_params": [{"max_new_tokens": 3}, params]});
    let answers = server.ok("/generate", batch.clone()).await;
    assert_eq!(answers[0]["meta_info"]["completion_tokens"], 3);
    assert_eq!(answers[1]["text"], alone["text"]);
    let frames = server.frames("/generate", with(&batch, json!({"stream": true}))).await;
    let last = frames.iter().rfind(|frame| frame["index"] == 1).unwrap();
    assert_eq!(last["text"], alone["text"]);
    let listed = server.ok("/generate", json!({"input_ids": [[97]], "sampling_params": params})).await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "a list of one is a list");
    let several = server.ok("/generate", json!({"text": "x", "sampling_params": {"n": 3, "max_new_tokens": 2}})).await;
    assert_eq!(several.as_array().unwrap().len(), 3);
    server.is_clean().await;
}

#[tokio::test]
async fn scores_come_where_they_are_asked_for() {
    let server = Server::new().await;
    let body = json!({
        "text": "abcd", "sampling_params": {"temperature": 0, "max_new_tokens": 2, "ignore_eos": true},
        "return_logprob": true, "logprob_start_len": 0, "top_logprobs_num": 2, "token_ids_logprob": [5, 6],
        "return_text_in_logprobs": true,
    });
    let info = server.ok("/generate", body.clone()).await["meta_info"].clone();
    let prompt = info["input_token_logprobs"].as_array().unwrap();
    assert_eq!(prompt[0], json!([null, 97, "a"]));
    assert_eq!((prompt.len(), prompt[3][1].as_u64()), (4, Some(100)));
    assert!(prompt[1][0].is_number());
    assert_eq!(info["input_top_logprobs"][0], Value::Null);
    assert_eq!(info["output_top_logprobs"][1].as_array().unwrap().len(), 2);
    assert_eq!(info["output_token_ids_logprobs"][0][1][1], 6);
    assert_eq!(info["output_token_logprobs"].as_array().unwrap().len(), 2);
    let info = server.ok("/generate", with(&body, json!({"logprob_start_len": 2}))).await["meta_info"].clone();
    let ids: Vec<_> = info["input_token_logprobs"].as_array().unwrap().iter().map(|t| t[1].clone()).collect();
    assert_eq!(json!(ids), json!([99, 100]));
    let info = server.ok("/generate", with(&body, json!({"logprob_start_len": -1}))).await["meta_info"].clone();
    assert_eq!(info["input_token_logprobs"], json!([]));

    // lm-eval's request.
    let body =
        json!({"prompt": [[97, 98, 99]], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true, "seed": 1});
    let choice = server.ok("/v1/completions", body).await["choices"][0].clone();
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap()[..3], [json!("a"), json!("b"), json!("c")]);
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(logprobs["token_logprobs"].as_array().unwrap().len(), 4);
    assert!(choice["text"].as_str().unwrap().starts_with("abc"));

    // Where each token begins in the text, echoed or not, whole or streamed.
    let body = json!({"prompt": "abc", "max_tokens": 3, "temperature": 0, "logprobs": 2, "ignore_eos": true});
    for echo in [true, false] {
        let body = with(&body, json!({ "echo": echo }));
        let whole = server.ok("/v1/completions", body.clone()).await["choices"][0]["logprobs"].clone();
        let (mut offsets, mut at) = (Vec::new(), 0);
        for token in whole["tokens"].as_array().unwrap() {
            offsets.push(at);
            at += token.as_str().unwrap().chars().count();
        }
        assert_eq!(whole["text_offset"], json!(offsets));
        let frames = server.frames("/v1/completions", with(&body, json!({"stream": true}))).await;
        let streamed: Vec<_> = frames
            .iter()
            .flat_map(|frame| frame["choices"][0]["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default())
            .collect();
        assert_eq!(json!(streamed), whole["text_offset"]);
        for (token, top) in whole["tokens"].as_array().unwrap().iter().zip(whole["top_logprobs"].as_array().unwrap()) {
            assert!(top.is_null() || top.get(token.as_str().unwrap()).is_some(), "the chosen token is among {top}");
        }
    }

    // Scores of the prompt alone.
    let scored = server.ok("/v1/completions", with(&body, json!({"echo": true, "max_tokens": 0}))).await;
    let choice = &scored["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("abc"), &json!("length")));
    assert_eq!(choice["logprobs"]["tokens"], json!(["a", "b", "c"]));
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    let frames = server.frames("/v1/completions", with(&body, json!({"echo": true, "max_tokens": 0, "stream": true})));
    let frames = frames.await;
    assert!(frames.iter().any(|frame| frame["choices"][0]["logprobs"] == choice["logprobs"]), "{frames:?}");

    let body = json!({"messages": user("x"), "logprobs": true, "top_logprobs": 3, "max_tokens": 4, "ignore_eos": true});
    let whole = server.ok("/v1/chat/completions", with(&body, json!({"temperature": 0}))).await;
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!((content.len(), content[0]["top_logprobs"].as_array().unwrap().len()), (4, 3));
    let frames = server.frames("/v1/chat/completions", with(&body, json!({"temperature": 0, "stream": true}))).await;
    let streamed: Vec<_> = frames
        .iter()
        .flat_map(|frame| frame["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(streamed, content);
    server.is_clean().await;
}

#[tokio::test]
async fn a_prompt_of_any_shape_is_completed() {
    let server = Server::new().await;
    let body = json!({"max_tokens": 4, "temperature": 0, "ignore_eos": true});
    let text = |prompt: Value| {
        let (server, body) = (&server, with(&body, json!({ "prompt": prompt })));
        async move { server.ok("/v1/completions", body).await }
    };
    let one = text(json!("abc")).await;
    assert_eq!(one["choices"][0]["text"], text(json!([97, 98, 99])).await["choices"][0]["text"]);
    let two = text(json!(["abc", "xyz"])).await;
    assert_eq!(two["choices"][0]["text"], one["choices"][0]["text"]);
    assert_eq!((two["choices"].as_array().unwrap().len(), &two["usage"]["prompt_tokens"]), (2, &json!(6)));
    assert_eq!(two["usage"]["completion_tokens"], 8);
    let ids = text(json!([[97, 98, 99], [120, 121, 122]])).await;
    assert_eq!(ids["choices"][1]["text"], two["choices"][1]["text"]);
    assert_eq!(one["object"], "text_completion");
    let defaults = server.ok("/v1/completions", json!({"prompt": "abc", "ignore_eos": true})).await;
    assert_eq!(defaults["usage"]["completion_tokens"], 16, "OpenAI's default");
}

#[tokio::test]
async fn a_text_stream_ends_in_its_last_chunk() {
    let server = Server::new().await;
    let body = json!({"prompt": "abc", "max_tokens": 4, "temperature": 0, "ignore_eos": true, "stream": true});
    let frames = server.frames("/v1/completions", body).await;
    let last = frames.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(last["usage"].is_null() && last.get("metadata").is_none());
    assert!(frames.len() <= 4, "an end is no chunk of its own: {frames:#?}");
}

#[tokio::test]
async fn wrong_requests_name_field_value_and_limit() {
    let server = Server::new().await;
    let long = "x".repeat(2000);
    for (path, body, status, parts) in [
        ("/v1/chat/completions", json!({"messages": []}), 400, vec!["Messages cannot be empty."]),
        ("/v1/chat/completions", json!({}), 400, vec!["messages"]),
        ("/v1/chat/completions", json!([]), 400, vec!["object"]),
        ("/v1/chat/completions", json!({"messages": user("x"), "temperature": -1}), 400, vec!["temperature", "-1"]),
        ("/v1/chat/completions", json!({"messages": user("x"), "top_k": -2}), 400, vec!["top_k", "-2"]),
        ("/v1/chat/completions", json!({"messages": user("x"), "max_tokens": -2}), 400, vec!["max_tokens", "-2"]),
        ("/v1/chat/completions", json!({"messages": user("x"), "n": 100_000}), 400, vec!["n must", "100000", "128"]),
        (
            "/v1/chat/completions",
            json!({"messages": user("x"), "top_logprobs": 21, "logprobs": true}),
            400,
            vec!["top_logprobs", "20"],
        ),
        (
            "/v1/chat/completions",
            json!({"messages": user("x"), "top_logprobs": 2}),
            400,
            vec!["top_logprobs", "logprobs"],
        ),
        ("/v1/chat/completions", json!({"messages": user(&long)}), 400, vec!["2019 tokens", "1024 tokens"]),
        ("/v1/chat/completions", json!({"messages": [{"content": "x"}]}), 400, vec!["messages[0].role"]),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            vec!["image_url"],
        ),
        (
            "/v1/chat/completions",
            json!({"messages": user("x"), "tool_choice": "required"}),
            400,
            vec!["Tools cannot be empty"],
        ),
        (
            "/v1/chat/completions",
            json!({"messages": user("x"), "tool_choice": "perhaps"}),
            400,
            vec!["tool_choice", "perhaps"],
        ),
        ("/v1/chat/completions", json!({"messages": user("x"), "lora_path": "a"}), 400, vec!["lora_path", "adapters"]),
        ("/v1/chat/completions", json!({"messages": user("x"), "input_ids": [9999]}), 400, vec!["9999", "vocabulary"]),
        ("/v1/completions", json!({"prompt": ""}), 400, vec!["Prompt cannot be empty"]),
        ("/v1/completions", json!({"prompt": []}), 400, vec!["Prompt cannot be empty"]),
        ("/v1/completions", json!({"prompt": [[]]}), 400, vec!["Prompt cannot be empty"]),
        ("/v1/completions", json!({"prompt": {"a": 1}}), 400, vec!["prompt"]),
        ("/v1/completions", json!({"prompt": "x", "max_tokens": 0}), 400, vec!["max_tokens", "0"]),
        ("/v1/completions", json!({"prompt": "x", "max_tokens": 2000}), 400, vec!["1024 tokens", "2001 tokens"]),
        ("/v1/completions", json!({"prompt": "x", "best_of": 3}), 400, vec!["best_of", "3"]),
        ("/v1/completions", json!({"prompt": "x", "logit_bias": {"9999": 1}}), 400, vec!["logit_bias", "9999"]),
        ("/v1/completions", json!({"prompt": vec!["x"; 1025]}), 400, vec!["1025", "1024"]),
        ("/generate", json!({}), 400, vec!["text", "input_ids"]),
        ("/generate", json!({"text": "x", "input_ids": [1]}), 400, vec!["not both"]),
        (
            "/generate",
            json!({"text": "x", "sampling_params": {"max_token": 1}}),
            400,
            vec!["unknown field `max_token`", "`max_new_tokens`"],
        ),
        ("/generate", json!({"text": "x", "sampling_params": []}), 400, vec!["sampling_params", "0 entries"]),
        ("/generate", json!({"text": "x", "sampling_params": 3}), 400, vec!["sampling_params"]),
        ("/generate", json!({"text": long}), 400, vec!["2000 tokens", "1024 tokens"]),
        (
            "/generate",
            json!({"text": "x", "return_logprob": true, "logprob_start_len": 5}),
            400,
            vec!["logprob_start_len", "5"],
        ),
        ("/generate", json!({"text": "x", "rid": ""}), 400, vec!["rid"]),
        ("/tokenize", json!({}), 400, vec!["prompt", "messages"]),
        ("/detokenize", json!({"tokens": "x"}), 400, vec!["tokens"]),
        ("/v1/embeddings", json!({"input": "x"}), 400, vec!["does not appear to be an embedding model"]),
        ("/open_session", json!({}), 501, vec!["/open_session is not supported yet"]),
        ("/abort_request", json!({}), 400, vec!["rid"]),
    ] {
        let (got, answer) = server.post(path, body.clone()).await;
        assert_eq!(got, status, "{path} {body}: {answer}");
        let message =
            answer["message"].as_str().or(answer["error"]["message"].as_str()).unwrap_or_else(|| panic!("{answer}"));
        for part in parts {
            assert!(message.contains(part), "{path} {body}: {message}");
        }
        if path != "/generate" {
            assert_eq!(answer["object"], "error");
            assert_eq!(answer["code"], status);
            assert_eq!(answer["error"]["message"], answer["message"]);
        }
    }
    let (_, answer) = server.post("/v1/chat/completions", json!({"messages": user(&long)})).await;
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    server.is_clean().await;
}

#[tokio::test]
async fn bodies_must_be_json_of_the_right_kind_and_size() {
    let server = Server::with(ApiConfig { max_request_bytes: 1000, ..config() }, None).await;
    let send = |kind: Option<&'static str>, body: Vec<u8>, path: &str| {
        let mut request = server.client.post(server.url(path)).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    };
    let good = br#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}"#.to_vec();
    let chat = "/v1/chat/completions";
    assert_eq!(send(Some("application/json; charset=utf-8"), good.clone(), chat).await.0, 200);
    for kind in [None, Some("text/plain")] {
        let (status, text) = send(kind, good.clone(), chat).await;
        assert!(status == 400 && text.contains("Unsupported Media Type"), "{text}");
    }
    assert_eq!(
        send(None, br#"{"text": "x", "sampling_params": {"max_new_tokens": 1}}"#.to_vec(), "/generate").await.0,
        200
    );
    let json = Some("application/json");
    for (body, part) in [
        (&b"{\"temperature\": NaN}"[..], "Invalid JSON"),
        (b"{\"a\": \"\xff\"}", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"", "empty"),
        (b"null", "object"),
    ] {
        let (status, text) = send(json, body.to_vec(), chat).await;
        assert!(status == 400 && text.contains(part), "{text}");
    }
    let deep = [b"{\"messages\": ".to_vec(), vec![b'['; 300], b"}".to_vec()].concat();
    assert_eq!(send(json, deep, chat).await.0, 400);
    let (status, text) = send(json, vec![b' '; 1001], chat).await;
    assert!(status == 413 && text.contains("1001 bytes") && text.contains("1000"), "{text}");
    // Nobody says how long this one is before it is there.
    let pieces = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 100])));
    let request = server.client.post(server.url(chat)).header("content-type", "application/json");
    let answer = request.body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert!(answer.text().await.unwrap().contains("more than 1000 bytes"));
}

#[tokio::test]
async fn keys_open_what_they_should_and_nothing_else() {
    let key = |api: Option<&str>, admin: Option<&str>| ApiConfig {
        api_key: api.into_iter().map(Secret::new).collect(),
        admin_api_key: admin.map(Secret::new),
        ..config()
    };
    let paths = [
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/x"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/generate"),
        ("PUT", "/generate"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/model_info"),
        ("GET", "/get_model_info"),
        ("GET", "/server_info"),
        ("GET", "/get_server_info"),
        ("GET", "/v1/loads"),
        ("GET", "/ping"),
        ("GET", "/nothing"),
        ("GET", "/healthy"),
        ("GET", "/ready2"),
        ("GET", "/metrics_x"),
        // Every form of an address is one path before keys are asked for.
        ("GET", "//v1//models"),
        ("GET", "/models/"),
        ("POST", "//generate"),
        ("POST", "/v1/v1/completions"),
        ("GET", "/%68ealth"),
        ("HEAD", "/v1/models"),
        ("POST", "/v1/responses"),
    ];
    let open = ["/health", "//health", "/health_generate", "/health/progress", "/ready", "/live", "/metrics"];
    let admin =
        [("GET", "/flush_cache"), ("POST", "//flush_cache/"), ("POST", "/flush_cache"), ("POST", "/abort_request")];
    let status = async |server: &Server, method: &str, path: &str, key: Option<&str>| {
        let mut request = server.client.request(method.parse().unwrap(), server.url(path));
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let server = Server::with(key(Some("sesame"), None), None).await;
    for (method, path) in paths.iter().chain(&admin) {
        for wrong in [
            None,
            Some("sesame"),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer sesam"),
            Some("Bearer sesame2"),
            Some("Basic sesame"),
        ] {
            assert_eq!(status(&server, method, path, wrong).await, 401, "{method} {path} with {wrong:?}");
        }
        assert_ne!(status(&server, method, path, Some("Bearer sesame")).await, 401, "{method} {path}");
        assert_ne!(status(&server, "OPTIONS", path, None).await, 401, "OPTIONS {path}");
    }
    for path in open {
        assert_eq!(status(&server, "GET", path, None).await, 200, "{path}");
    }
    let server = Server::with(key(Some("sesame"), Some("boss")), None).await;
    for (method, path) in admin {
        assert_eq!(status(&server, method, path, Some("Bearer sesame")).await, 401, "{path}");
        assert_ne!(status(&server, method, path, Some("Bearer boss")).await, 401, "{path}");
    }
    assert_eq!(status(&server, "GET", "/v1/models", Some("Bearer boss")).await, 401);
    let server = Server::with(key(None, Some("boss")), None).await;
    assert_eq!(status(&server, "GET", "/v1/models", None).await, 200);
    assert_eq!(status(&server, "GET", "/flush_cache", None).await, 401);
    let server = Server::new().await;
    assert_eq!(status(&server, "GET", "/v1/models", Some("Bearer EMPTY")).await, 200);
    assert_eq!(status(&server, "GET", "/flush_cache", None).await, 200);
}

#[tokio::test]
async fn the_server_tells_what_it_is() {
    let server = Server::with(ApiConfig { served_model_name: "Qwen/Coder".into(), ..config() }, None).await;
    let get = async |path: &str| -> Value { serde_json::from_str(&server.get(path).await.1).unwrap() };
    assert_eq!(get("/").await, "SGLang is running");
    let models = get("/v1/models").await;
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("Qwen/Coder"), &json!(1024)));
    assert_eq!(get("/v1/models/Qwen/Coder").await, models["data"][0]);
    let other = get("/v1/models/other").await;
    assert_eq!((&other["id"], &other["root"]), (&json!("other"), &json!("Qwen/Coder")), "as requests may name any");
    for path in ["/model_info", "/get_model_info"] {
        let info = get(path).await;
        assert_eq!((&info["model_path"], &info["is_generation"]), (&json!("quern-demo"), &json!(true)));
    }
    for path in ["/server_info", "/get_server_info"] {
        let info = get(path).await;
        assert_eq!((&info["max_total_num_tokens"], &info["page_size"]), (&json!(2048), &json!(4)));
        assert_eq!(info["max_req_input_len"], 1018);
        assert!(info["internal_states"].is_array());
    }
    assert_eq!(get("/v1/loads").await["loads"][0]["num_running_reqs"], 0);
    let (status, body) = server.get("/nothing").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["detail"]), (404, &json!("Not Found")));
    assert_eq!(body["error"]["message"], "Nothing is served at /nothing.");
    assert_eq!(server.client.delete(server.url("/generate")).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn tokens_and_texts_turn_into_each_other() {
    let server = Server::new().await;
    let one = server.ok("/tokenize", json!({"prompt": "héllo"})).await;
    assert_eq!((&one["count"], &one["max_model_len"]), (&json!(6), &json!(1024)));
    assert_eq!(
        server.ok("/v1/detokenize", json!({"tokens": one["tokens"]})).await,
        json!({"text": "héllo", "prompt": "héllo", "content": "héllo"})
    );
    let two = server.ok("/v1/tokenize", json!({"prompt": ["a", "bc"]})).await;
    assert_eq!((&two["tokens"], &two["count"]), (&json!([[97], [98, 99]]), &json!([1, 2])));
    assert_eq!(server.ok("/detokenize", json!({"tokens": [[97], [98, 99]]})).await["text"], json!(["a", "bc"]));
    assert_eq!(server.ok("/detokenize", json!({"tokens": []})).await["text"], "");
    let chat = server.ok("/tokenize", json!({"messages": user("x")})).await;
    let usage = server.ok("/v1/chat/completions", json!({"messages": user("x"), "max_tokens": 1})).await;
    assert_eq!(chat["count"], usage["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn cached_tokens_are_reported_and_salts_keep_them_apart() {
    let server = Server::new().await;
    let body = json!({"messages": user(&"word ".repeat(20)), "max_tokens": 2, "temperature": 0, "ignore_eos": true});
    let cached = async |more: Value| {
        let answer = server.ok("/v1/chat/completions", with(&body, more)).await;
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached(json!({})).await, 0);
    assert!(cached(json!({})).await > 80);
    assert_eq!(cached(json!({"cache_salt": "tenant"})).await, 0);
    assert!(cached(json!({"cache_salt": "tenant"})).await > 80);
    assert_eq!(cached(json!({"extra_key": "tenant"})).await, 0, "another kind of key is another tenant");
    server.is_clean().await;
}

#[tokio::test]
async fn an_assistants_last_word_is_the_users_or_is_continued() {
    let server = Server::new().await;
    let tokens = async |messages: Value, more: Value| {
        let body = with(&json!({"messages": messages, "max_tokens": 1}), more);
        server.ok("/v1/chat/completions", body).await["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let begun = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure"}]);
    let as_user = json!([{"role": "user", "content": "Hi"}, {"role": "user", "content": "Sure"}]);
    assert_eq!(tokens(begun.clone(), json!({})).await, tokens(as_user, json!({})).await);
    let asked = tokens(user("Hi"), json!({})).await;
    assert_eq!(tokens(begun, json!({"continue_final_message": true})).await, asked + 4);
}

#[tokio::test]
async fn what_a_conversation_leaves_open_comes_from_the_model() {
    let server = Server::new().await;
    let greedy =
        json!({"messages": user("x"), "max_tokens": 8, "temperature": 0, "ignore_eos": true, "repetition_penalty": 1});
    let first = server.ok("/v1/chat/completions", greedy.clone()).await;
    let again = server.ok("/v1/chat/completions", greedy).await;
    assert_eq!(first["choices"], again["choices"]);
    let defaults = server.state.model.recommended;
    assert_eq!((defaults.temperature, defaults.top_k), (Some(0.7), Some(20)), "the shipped model recommends these");
    let seeded = json!({"messages": user("x"), "max_tokens": 8, "seed": 3});
    let one = server.ok("/v1/chat/completions", seeded.clone()).await;
    let two = server.ok("/v1/chat/completions", seeded).await;
    assert_eq!(one["choices"], two["choices"]);
    let max = server.ok("/v1/chat/completions", json!({"messages": user("x"), "ignore_eos": true})).await;
    let usage = &max["usage"];
    assert_eq!(usage["total_tokens"], 1023, "an answer without a limit runs to the end of the context");
}

#[tokio::test]
async fn metrics_have_sglangs_names_and_true_figures() {
    let server = Server::new().await;
    let body = json!({"text": "abc", "sampling_params": {"max_new_tokens": 5, "ignore_eos": true}});
    server.ok("/generate", body.clone()).await;
    server.frames("/generate", with(&body, json!({"stream": true}))).await;
    let (status, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    let value = |name: &str, labels: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("sglang:{name}{{")) && line.contains(labels));
        line.unwrap_or_else(|| panic!("{name} {labels} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    for labels in ["is_streaming=\"true\"", "is_streaming=\"false\""] {
        assert_eq!(value("generation_tokens_total", labels), 5.0);
        assert_eq!(value("prompt_tokens_total", labels), 3.0);
        assert_eq!(value("num_requests_total", labels), 1.0);
        assert_eq!(value("time_to_first_token_seconds_count", labels), 1.0);
        assert_eq!(value("e2e_request_latency_seconds_count", labels), 1.0);
    }
    assert_eq!(value("inter_token_latency_seconds_count", ""), 8.0);
    assert_eq!(value("http_responses_total", "endpoint=\"/generate\",status_code=\"200\""), 2.0);
    for gauge in
        ["num_running_reqs", "num_queue_reqs", "token_usage", "gen_throughput", "cache_hit_rate", "num_used_tokens"]
    {
        value(gauge, "model_name=\"quern-demo\"");
    }
    // Prometheus' classic form, unless the other is asked for.
    assert!(text.contains("# TYPE sglang:cached_tokens_total counter\n") && !text.contains("# EOF"), "{text}");
    for (accept, kind) in [
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
    ] {
        let answer = server.client.get(server.url("/metrics")).header("accept", accept).send().await.unwrap();
        let given = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(given.starts_with(kind), "{accept}: {given}");
        assert_eq!(answer.text().await.unwrap().ends_with("# EOF\n"), kind.contains("openmetrics"));
    }
    let off = Server::with(ApiConfig { enable_metrics: false, ..config() }, None).await;
    assert_eq!(off.get("/metrics").await.0, 404);
}
