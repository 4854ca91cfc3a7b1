//! What one request may cost: every field within its own limit, and the products of any two of them too.
//! What goes beyond is refused by name, with the number and the limit, and nobody else hears of it.

use crate::support::{Server, Setup, config, frames, gate::StepGate, small_engine, user, with};
use futures_util::{StreamExt, stream};
use quern_api::{
    ApiConfig,
    limits::{MAX_OUTPUTS, MAX_STOP_STATES},
    protocol::memory_pool::{HeldFor, HeldMemory},
    score_limits::{ScoreBytes, ScoreReport},
};
use quern_engine::EngineConfig;
use quern_text::Stops;
use serde_json::{Map, Value, json};

/// Patterns of some hundred states each.
fn patterns() -> Vec<String> {
    (0..32).map(|i| format!(r"[a-m]{{300}}{i}")).collect()
}

/// A field of `/generate` that multiplies the cost of others, at its limit.
struct Factor {
    /// Its name, as a refusal must say it.
    name: &'static str,
    fields: Value,
    params: Value,
}

fn factors() -> Vec<Factor> {
    let factor = |name, fields, params| Factor { name, fields, params };
    let empty = || json!({});
    let biases: Map<String, Value> = (0..256).map(|id| (id.to_string(), json!(0.5))).collect();
    vec![
        factor("text", json!({"text": vec!["x"; 1024]}), empty()),
        factor("n", empty(), json!({"n": 128})),
        factor("max_new_tokens", empty(), json!({"max_new_tokens": 24})),
        factor("stop_regex", empty(), json!({"stop_regex": patterns()})),
        factor("stop", empty(), json!({"stop": vec!["ab".repeat(512); 32]})),
        factor("top_logprobs_num", json!({"return_logprob": true, "top_logprobs_num": 1024}), empty()),
        factor("token_ids_logprob", json!({"return_logprob": true, "token_ids_logprob": vec![7; 1024]}), empty()),
        factor("logit_bias", empty(), json!({ "logit_bias": biases })),
        factor("stop_token_ids", empty(), json!({"stop_token_ids": vec![3; 1024]})),
        factor("regex", empty(), json!({"regex": "[a-z]{1,900}"})),
    ]
}

/// What the bounds say of a body: the fields to be named, if it is beyond one.
fn verdict(body: &Value) -> Option<Vec<&'static str>> {
    let params = &body["sampling_params"];
    let number = |value: &Value, default: usize| value.as_u64().map_or(default, |n| n as usize);
    let prompts = body["text"].as_array().map_or(1, Vec::len);
    let outputs = prompts * number(&params["n"], 1);
    if outputs > MAX_OUTPUTS {
        return Some(vec!["text", "n"]);
    }
    let ids = body["token_ids_logprob"].as_array().map_or(0, Vec::len);
    // No more can be listed than the vocabulary has.
    let top = number(&body["top_logprobs_num"], 0).min(269);
    let logprobs = quern_engine::LogprobRequest { prompt_from: None, top, ids: vec![7; ids] };
    let logprobs = (body["return_logprob"] == true).then_some(&logprobs);
    let scores = ScoreReport::default().of_output(1, number(&params["max_new_tokens"], 1), logprobs);
    if ScoreBytes::sum((0..outputs).map(|_| scores)).check(outputs).is_err() {
        return Some(vec!["top_logprobs_num", "token_ids_logprob", "max_new_tokens", "n"]);
    }
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().expect("text").to_owned()).collect()
    };
    let stops = Stops::new(&texts(&params["stop"]), &texts(&params["stop_regex"])).expect("within their own limits");
    (stops.num_states() * outputs > MAX_STOP_STATES).then(|| vec!["stop_regex", "n"])
}

#[tokio::test]
async fn the_product_of_any_two_limits_is_bounded_and_refused_by_name() {
    let server = Server::new().await;
    let (factors, mut refused) = (factors(), Vec::new());
    for (index, one) in factors.iter().enumerate() {
        for other in &factors[index..] {
            let plain = json!({"text": "x"});
            let params = with(
                &with(&json!({"max_new_tokens": 1, "ignore_eos": true}), one.params.clone()),
                other.params.clone(),
            );
            let body = with(&with(&plain, one.fields.clone()), other.fields.clone());
            let body = with(&body, json!({ "sampling_params": params }));
            let (status, answer) = server.post("/generate", body.clone()).await;
            let pair = format!("{} × {}", one.name, other.name);
            match verdict(&body) {
                None => assert_eq!(status, 200, "{pair}: {answer}"),
                Some(names) => {
                    let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{pair}: {answer}"));
                    assert_eq!(status, 400, "{pair}: {message}");
                    assert!(names.iter().all(|name| message.contains(name)), "{pair}: {message}");
                    assert!(message.contains("at most"), "{pair}: {message}");
                    refused.push(pair);
                }
            }
        }
    }
    for pair in ["text × n", "text × stop_regex", "n × stop_regex"] {
        assert!(refused.iter().any(|refused| refused == pair), "{pair} is bounded: {refused:?}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn scores_of_all_outputs_are_bounded_together() {
    let server = Server::new().await;
    let body = json!({
        "text": vec!["x"; 1024], "return_logprob": true, "top_logprobs_num": 269,
        "sampling_params": {"max_new_tokens": 31},
    });
    let (status, answer) = server.post("/generate", body).await;
    let message = answer["error"]["message"].as_str().unwrap();
    // 31 places of 270 scores for each of 1024.
    let bytes = (31 * 270 * 1024 * 32).to_string();
    assert!(status == 400 && message.contains(&bytes) && message.contains("268435456"), "{message}");
    // A length that is left open is what the scores leave room for.
    let top = quern_engine::LogprobRequest { top: 20, ..Default::default() };
    let ids = ScoreReport::default();
    assert_eq!((ids.open_length(64, 9, Some(&top)), ids.open_length(64, 9, None)), (6241, usize::MAX));
}

#[tokio::test]
async fn scores_that_every_frame_repeats_are_bounded_by_their_bytes() {
    let roomy =
        |incremental_streaming_output| ApiConfig { context_length: 16_384, incremental_streaming_output, ..config() };
    let engine = EngineConfig { num_pages: 8192, ..small_engine() };
    let server = Server::with(Setup { api: roomy(false), engine }, None).await;
    let ask = |max_new_tokens: Value, more: Value| {
        let params = with(&json!({"max_new_tokens": max_new_tokens, "ignore_eos": true}), more);
        json!({"text": "x", "return_logprob": true, "stream": true, "sampling_params": params})
    };
    // 8192 frames with 4096 scores on average.
    for (body, is_more) in [
        (ask(json!(8300), json!({})), true),
        (with(&ask(json!(4000), json!({})), json!({"top_logprobs_num": 5})), true),
        (with(&ask(json!(6000), json!({})), json!({"return_text_in_logprobs": true})), true),
        (with(&ask(json!(3000), json!({})), json!({"text": "x ".repeat(5000), "logprob_start_len": 0})), true),
        (ask(json!(3000), json!({"n": 8})), true),
        (ask(json!(8300), json!({"stream_interval": 100})), false),
        (with(&ask(json!(8300), json!({})), json!({"stream": false})), false),
        (with(&ask(json!(8300), json!({})), json!({"return_logprob": false})), false),
    ] {
        // Told by the head of the answer.
        let answer = server.client.post(server.url("/generate")).json(&body).send().await.unwrap();
        if !is_more {
            assert_eq!(answer.status(), 200, "{}", body["sampling_params"]);
            continue;
        }
        assert_eq!(answer.status(), 400, "{}", body["sampling_params"]);
        let refused: Value = answer.json().await.unwrap();
        let message = refused["error"]["message"].as_str().unwrap();
        for words in ["max_new_tokens", "stream_interval", "--incremental-streaming-output", "1073741824"] {
            assert!(message.contains(words), "{message}");
        }
    }
    let server = Server::with(Setup { api: roomy(true), engine }, None).await;
    let answer = server.client.post(server.url("/generate")).json(&ask(json!(8300), json!({}))).send().await.unwrap();
    assert_eq!(answer.status(), 200, "frames of what is new");
}

#[tokio::test]
async fn outputs_are_bounded_over_all_prompts() {
    let server = Server::new().await;
    let prompts = vec!["x"; 1024];
    for (path, body) in [
        ("/generate", json!({"text": prompts, "sampling_params": {"n": 128, "max_new_tokens": 1}})),
        ("/v1/completions", json!({"prompt": prompts, "n": 128, "max_tokens": 1})),
    ] {
        let (status, answer) = server.post(path, body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(status, 400, "{message}");
        for part in ["1024 prompts", "131072 outputs", "at most 1024"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let body = json!({"text": vec!["x"; 8], "sampling_params": {"n": 128, "max_new_tokens": 1}});
    assert_eq!(server.ok("/generate", body).await.as_array().unwrap().len(), 1024);
    server.is_clean().await;
}

#[tokio::test]
async fn patterns_that_are_large_when_compiled_are_refused_before_anything_is_generated() {
    let server = Server::new().await;
    let hostile: Vec<_> = (0..32).map(|i| format!(r"\w{{8}}X{i}")).collect();
    let params = json!({"max_new_tokens": 1, "stop_regex": hostile});
    for params in [params.clone(), json!(vec![params; 4])] {
        let text = if params.is_array() { json!(vec!["x"; 4]) } else { json!(vec!["x"; 1024]) };
        let (status, answer) = server.post("/generate", json!({"text": text, "sampling_params": params})).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.contains("stop_regex") && message.contains("1048576 bytes"), "{message}");
    }
    assert_eq!(server.engine().metrics().snapshot().scheduler.steps, 0);
    // What people write passes, for many outputs at once.
    let body = json!({"text": "x", "sampling_params": {
        "max_new_tokens": 20, "n": 64, "stop_regex": [r"\d+\.", r"\n\s*\n", r"(?i)\bfinal answer\b"],
    }});
    server.ok("/generate", body).await;
    server.is_clean().await;
}

#[tokio::test]
async fn a_stop_pattern_ends_streams_and_answers_alike() {
    let server = Server::saying("The sum is 42. And more", config()).await;
    let body = json!({"text": "?", "sampling_params": {"max_new_tokens": 60, "stop_regex": r"\b\d+\.", "n": 2}});
    let whole = server.ok("/generate", body.clone()).await;
    let streamed = server.frames("/generate", with(&body, json!({"stream": true}))).await;
    for (index, answer) in whole.as_array().unwrap().iter().enumerate() {
        assert_eq!(answer["text"], "The sum is ");
        assert_eq!(answer["meta_info"]["finish_reason"], json!({"type": "stop", "matched": r"\b\d+\."}));
        let last = streamed.iter().rfind(|frame| frame["index"] == index).unwrap();
        assert_eq!((&last["text"], &last["output_ids"]), (&answer["text"], &answer["output_ids"]));
    }
    server.is_clean().await;
}

#[tokio::test]
async fn an_answer_that_a_stop_string_ends_has_finished() {
    let server = Server::saying("one two three", config()).await;
    let body = json!({"messages": user("Count"), "stop": ["two"], "max_tokens": 100});
    let answer = server.ok("/v1/chat/completions", body.clone()).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    server.frames("/v1/chat/completions", with(&body, json!({"stream": true}))).await;
    server.is_clean().await;
    let scheduler = server.engine().metrics().snapshot().scheduler;
    assert_eq!((scheduler.finished, scheduler.aborted, scheduler.failed), (2, 0, 0));
    let (_, metrics) = server.get("/metrics").await;
    let aborted = metrics.lines().find(|line| line.contains("num_aborted_requests_total{")).unwrap();
    assert!(aborted.ends_with(" 0"), "{aborted}");
}

#[tokio::test]
async fn only_a_response_is_cancelled_and_only_by_its_whole_id() {
    let gate = StepGate::default();
    let server = Server::with(config(), Some(gate.hook())).await;
    let response = json!({"input": "x", "stream": true, "max_output_tokens": 9, "ignore_eos": true});
    let send = async |body: &Value| {
        let answer = server.client.post(server.url("/v1/responses")).json(body).send().await.unwrap();
        let mut stream = answer.bytes_stream();
        let created = stream.next().await.unwrap().unwrap();
        let created = String::from_utf8_lossy(&created).into_owned();
        (format!("resp_{}", &created.split("\"resp_").nth(1).unwrap()[..32]), stream)
    };
    let (id, mut cancelled) = send(&response).await;
    let (unstored, mut other) = send(&with(&response, json!({"store": false}))).await;
    let params = json!({"max_new_tokens": 9, "ignore_eos": true});
    let native = |rid: &str| {
        let body = json!({"text": "x", "rid": rid, "stream": true, "sampling_params": params});
        server.client.post(server.url("/generate")).json(&body).send()
    };
    let own = [native("resp_").await.unwrap(), native("a").await.unwrap()];
    assert_eq!(server.engine().num_alive(), 4);
    for id in ["resp_", "a", "r", "resp_0", &id[..36], &unstored] {
        let (status, answer) = server.post(&format!("/v1/responses/{id}/cancel"), json!({})).await;
        assert_eq!(status, 404, "{id}: {answer}");
    }
    server.ok(&format!("/v1/responses/{id}/cancel"), json!({})).await;
    gate.open();
    let mut events = String::new();
    while let Some(piece) = cancelled.next().await {
        events += &String::from_utf8_lossy(&piece.unwrap());
    }
    assert!(events.contains("response.failed"), "{events}");
    assert_eq!(server.post(&format!("/v1/responses/{id}/cancel"), json!({})).await.0, 404, "it has ended");
    while other.next().await.is_some() {}
    for own in own {
        let last = frames(&own.text().await.unwrap()).pop().unwrap();
        assert_eq!(last["meta_info"]["finish_reason"]["type"], "length");
    }
    server.is_clean().await;
    let scheduler = server.engine().metrics().snapshot().scheduler;
    assert_eq!((scheduler.finished, scheduler.aborted), (3, 1));
}

#[tokio::test]
async fn what_a_request_excludes_itself_is_its_own_error_and_costs_nobody_the_cache() {
    let server = Server::new().await;
    let ask = |params: Value| {
        let params = with(&json!({"max_new_tokens": 2, "ignore_eos": true}), params);
        json!({"text": "a system prompt that many share", "sampling_params": params})
    };
    let cached = |answer: &Value| answer["meta_info"]["cached_tokens"].as_u64().unwrap();
    server.ok("/generate", ask(json!({}))).await;
    let before = cached(&server.ok("/generate", ask(json!({}))).await);
    assert!(before > 0);
    for (params, part) in [
        (json!({"logit_bias": {"1": 1e39}}), "logit_bias must be in [-1e30, 1e30], got 1"),
        (json!({"repetition_penalty": 1e-40}), "repetition_penalty must be in [1e-30, 2]"),
        (json!({"min_new_tokens": 1, "stop_token_ids": (0..269).collect::<Vec<_>>()}), "No token is left"),
    ] {
        let (status, answer) = server.post("/generate", ask(params)).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.contains(part), "{status} {message}");
    }
    assert_eq!(cached(&server.ok("/generate", ask(json!({"temperature": 1e-45}))).await), before);
    server.is_clean().await;
}

#[tokio::test]
async fn what_other_servers_take_as_off_is_off_at_every_endpoint() {
    let server = Server::saying("one two three", config()).await;
    let chat = json!({"messages": user("Hello")});
    let offs = [
        json!({"top_k": 0}),
        json!({"top_k": -1}),
        json!({"stop": ""}),
        json!({"stop": ["", "zzz"]}),
        json!({"top_p": 0}),
    ];
    let room = json!({"max_tokens": -1});
    for (path, body, room) in [
        ("/v1/chat/completions", chat.clone(), room.clone()),
        ("/v1/chat/completions", chat.clone(), json!({"max_completion_tokens": -1})),
        ("/v1/completions", json!({"prompt": "Hello"}), room.clone()),
        (
            "/v1/messages",
            with(&chat, json!({"max_tokens": 50, "model": "m"})),
            with(&room, json!({"stop_sequences": [""]})),
        ),
        ("/v1/responses", json!({"input": "Hello"}), json!({"max_output_tokens": -1})),
        ("/infill", json!({"input_prefix": "a", "input_suffix": "b"}), json!({"n_predict": -1})),
    ] {
        for off in offs.iter().chain([&room]) {
            let (status, answer) = server.post(path, with(&body, off.clone())).await;
            let unsupported = path == "/infill" && answer.to_string().contains("fill-in-the-middle");
            assert!(status == 200 || unsupported, "{path} {off}: {status} {answer}");
            if off == &room && status == 200 {
                assert!(answer.to_string().contains("one two three"), "{path} {off}: {answer}");
            }
        }
    }
    for off in offs.iter().chain([&json!({"max_new_tokens": -1})]) {
        let answer = server.ok("/generate", json!({"text": "Hello", "sampling_params": off})).await;
        assert_eq!(answer["text"], "one two three", "{off}");
        if off.get("stop").is_none_or(|stop| stop.is_string()) {
            let options = with(off, json!({"num_predict": -1, "stop": [""]}));
            let body = with(&chat, json!({"stream": false, "options": options}));
            assert_eq!(server.ok("/api/chat", body).await["message"]["content"], "one two three", "{off}");
        }
    }
    server.is_clean().await;
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_by_its_bytes() {
    let server = Server::new().await;
    let tokenizer = &server.state.tokenizer;
    for text in ["", "a", "Straße 東京 🎉", "<|im_start|>x"] {
        let tokens = tokenizer.encode(text, quern_text::Specials::Parse).len();
        assert!(tokenizer.fewest_tokens(text.len()) <= tokens, "{text}");
    }
    let long = "a".repeat(2_000_000);
    for (path, body) in [
        ("/generate", json!({ "text": long })),
        ("/v1/completions", json!({ "prompt": long })),
        ("/v1/chat/completions", json!({"messages": user(&long)})),
    ] {
        let (status, answer) = server.post(path, body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.contains("bytes, at least") && message.contains("1024 tokens"), "{message}");
    }
    // What is only counted may be of any length.
    let counted = server.ok("/tokenize", json!({"prompt": "a".repeat(20_000)})).await;
    assert_eq!(counted["count"], 20_000);
    server.is_clean().await;
}

#[tokio::test]
async fn bodies_beyond_their_memory_are_turned_away_until_there_is_room() {
    let server = Server::new().await;
    let mut others = HeldMemory::default();
    server.state.memory.hold(&mut others, server.state.memory.limit() - 1000, HeldFor::Body).unwrap();
    let body = json!({"messages": user(&"a".repeat(500)), "max_tokens": 1});
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let answer = server.client.post(server.url(path)).json(&body).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));
        assert!(answer.text().await.unwrap().contains("memory that bodies and log-probabilities may have"));
    }
    assert_eq!(server.get("/live").await.0, 200);
    drop(others);
    server.ok("/v1/chat/completions", body.clone()).await;
    // All of it came back, of bodies in tiny chunks too.
    let pieces = body.to_string().into_bytes().into_iter().map(|byte| Ok::<_, std::io::Error>(vec![byte]));
    let request = server.client.post(server.url("/v1/chat/completions")).header("content-type", "application/json");
    let answer = request.body(reqwest::Body::wrap_stream(stream::iter(pieces))).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    server.state.memory.hold(&mut HeldMemory::default(), server.state.memory.limit(), HeldFor::Body).unwrap();
    server.is_clean().await;
}

#[tokio::test]
async fn log_probabilities_take_their_part_of_the_memory_until_they_are_sent() {
    let server = Server::new().await;
    let body = json!({"messages": user("hello"), "max_tokens": 64, "logprobs": true, "top_logprobs": 20});
    // Of 64 places with 21 scores and their texts no more than half.
    let needed = 64 * 21 * 64 / 2;
    let mut others = HeldMemory::default();
    server.state.memory.hold(&mut others, server.state.memory.limit() - needed, HeldFor::Body).unwrap();
    for streams in [false, true] {
        let (status, answer) = server.post("/v1/chat/completions", with(&body, json!({"stream": streams}))).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 503 && message.contains("log-probabilities may have together"), "{status} {message}");
    }
    let fewer = with(&body, json!({"top_logprobs": 5}));
    server.ok("/v1/chat/completions", fewer).await;
    drop(others);
    server.ok("/v1/chat/completions", body).await;
    server.state.memory.hold(&mut HeldMemory::default(), server.state.memory.limit(), HeldFor::Body).unwrap();
    server.is_clean().await;
}

#[tokio::test]
async fn a_body_of_more_values_than_memory_holds_is_refused() {
    let server = Server::new().await;
    let body = format!(r#"{{"messages":[],"x":[{}{{}}]}}"#, r#"{"a":{}},"#.repeat(3_400_000));
    let request = server.client.post(server.url("/v1/chat/completions")).header("content-type", "application/json");
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert!(answer.text().await.unwrap().contains("1073741824"));
    server.is_clean().await;
}

#[tokio::test]
async fn frames_of_scores_say_what_the_answer_says() {
    let server = Server::new().await;
    let body = json!({
        "text": ["abcd", "efg"], "return_logprob": true, "logprob_start_len": 0, "top_logprobs_num": 3,
        "token_ids_logprob": [5, 6], "return_text_in_logprobs": true,
        "sampling_params": {"temperature": 0, "max_new_tokens": 9, "ignore_eos": true, "n": 2},
    });
    let whole = server.ok("/generate", body.clone()).await;
    let answer = server.client.post(server.url("/generate")).json(&with(&body, json!({"stream": true}))).send();
    let streamed = frames(&answer.await.unwrap().text().await.unwrap());
    let lists = ["input_token_logprobs", "input_top_logprobs", "output_token_logprobs", "output_top_logprobs"];
    for (index, answer) in whole.as_array().unwrap().iter().enumerate() {
        let of_output: Vec<_> = streamed.iter().filter(|frame| frame["index"] == index).collect();
        let last = &of_output.last().unwrap()["meta_info"];
        for list in lists.iter().chain(&["input_token_ids_logprobs", "output_token_ids_logprobs"]) {
            assert_eq!(last[list], answer["meta_info"][list], "{list} of {index}");
            assert!(answer["meta_info"][list].as_array().is_some_and(|list| !list.is_empty()), "{list}");
        }
        for frame in of_output {
            let info = &frame["meta_info"];
            let count = info["output_token_logprobs"].as_array().unwrap().len();
            assert_eq!(
                (info["output_token_logprobs_length"].as_u64(), frame["output_ids"].as_array().unwrap().len()),
                (Some(count as u64), count)
            );
        }
    }
    server.is_clean().await;
}

/// A field that multiplies what a stream sends or computes, at its limit or at what a small context allows.
fn stream_factors() -> Vec<(&'static str, Value)> {
    let schema = |count: usize| {
        let properties: Map<String, Value> = (0..count).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": properties})
    };
    let biases: Map<String, Value> = (0..256).map(|id| (id.to_string(), json!(0.5))).collect();
    vec![
        ("n", json!({"n": 128})),
        ("max_tokens", json!({"max_tokens": 24, "ignore_eos": true})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": 20})),
        ("model", json!({"model": "m".repeat(1024)})),
        ("rid", json!({"rid": "r".repeat(256)})),
        ("stop", json!({"stop": vec!["ab".repeat(512); 32]})),
        ("stop_regex", json!({"stop_regex": patterns()})),
        (
            "response_format",
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema(500)}}}),
        ),
        ("logit_bias", json!({"logit_bias": biases})),
        ("stream_options", json!({"stream_options": {"include_usage": true, "continuous_usage_stats": true}})),
        ("user", json!({"user": "u".repeat(100_000), "metadata": {"k": "v".repeat(100_000)}})),
    ]
}

/// README, Limits: bytes of a stream a token and output, and a log-probability.
const TOKEN_BYTES: usize = 2048;
const SCORE_BYTES: usize = 160;

#[tokio::test]
async fn what_the_product_of_any_two_fields_sends_is_within_the_account() {
    let server = Server::new().await;
    let told = server.ok("/v1/chat/completions", json!({"messages": user("hi"), "max_tokens": 1})).await;
    let prompt = told["usage"]["prompt_tokens"].as_u64().unwrap();
    let computed = || {
        let scheduler = server.engine().metrics().snapshot().scheduler;
        (scheduler.prefill_tokens + scheduler.generated_tokens, scheduler.retractions)
    };
    server.is_clean().await;
    let factors = stream_factors();
    for (index, (one, fields)) in factors.iter().enumerate() {
        for (other, more) in &factors[index..] {
            let pair = format!("{one} × {other}");
            let plain = json!({"messages": user("hi"), "max_tokens": 2, "stream": true});
            let body = with(&with(&plain, fields.clone()), more.clone());
            let number = |field: &str, default: usize| body[field].as_u64().map_or(default, |n| n as usize);
            let (outputs, tokens) = (number("n", 1), number("max_tokens", 2));
            let scores = if body["logprobs"] == true { outputs * tokens * 21 } else { 0 };
            let before = computed();
            let answer = server.client.post(server.url("/v1/chat/completions")).json(&body).send().await.unwrap();
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
            if status != 200 {
                assert!(status == 400 && text.contains("at most"), "{pair}: {status} {text}");
                assert!(text.contains(one) || text.contains(other), "{pair}: {text}");
                continue;
            }
            // Roles, ends and usage are frames beside those of tokens.
            let frames = outputs * (tokens + 3) + 2;
            let most = frames * TOKEN_BYTES + scores * SCORE_BYTES;
            assert!(text.len() <= most, "{pair}: {} bytes sent, at most {most} in the account", text.len());
            let sent = text.matches("data: ").count();
            assert!(sent <= frames, "{pair}: {sent} frames, at most {frames} in the account");
            server.is_clean().await;
            let after = computed();
            let (done, retractions) = (after.0 - before.0, after.1 - before.1);
            let most = (outputs as u64 + retractions) * (prompt + tokens as u64);
            assert!(done <= most, "{pair}: {done} tokens computed, at most {most} in the account");
        }
    }
    server.is_clean().await;
}

#[tokio::test]
async fn what_every_frame_repeats_is_short() {
    let server = Server::new().await;
    let long = "m".repeat(1025);
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": user("hi")})),
        ("/v1/completions", json!({"prompt": "x"})),
        ("/v1/messages", json!({"messages": user("hi"), "max_tokens": 2})),
        ("/v1/responses", json!({"input": "x"})),
        ("/api/chat", json!({"messages": user("hi")})),
        ("/api/generate", json!({"prompt": "x"})),
        ("/infill", json!({"input_prefix": "x", "input_suffix": "y"})),
    ] {
        let (status, answer) = server.post(path, with(&body, json!({"model": long, "stream": true}))).await;
        let told = answer.to_string();
        assert!(status == 400 && told.contains("model: 1025 bytes") && told.contains("at most 1024"), "{path}: {told}");
    }
    let (status, answer) = server.post("/generate", json!({"text": "x", "rid": "r".repeat(257)})).await;
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("rid"), "{answer}");
    assert_eq!(server.engine().metrics().snapshot().scheduler.steps, 0);
    server.is_clean().await;
}
