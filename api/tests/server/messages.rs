//! `/v1/messages` over HTTP, as Anthropic's clients use it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    CALL, Server, Setup, arguments, config, functions, gate::StepGate, parsing, small_engine, user, with,
};
use futures_util::StreamExt;
use quern_api::{ApiConfig, config::Secret};
use quern_engine::{DeviceFault, EngineConfig};
use serde_json::{Value, json};

const PATH: &str = "/v1/messages";

fn ask() -> Value {
    json!({"model": "m", "max_tokens": 500, "messages": user("Read it"), "temperature": 0})
}

fn tools() -> Value {
    let tool = |(name, description, schema): (&str, &str, Value)| json!({"name": name, "description": description, "input_schema": schema});
    functions().map(tool).into_iter().collect()
}

/// The message that a stream adds up to.
fn fold(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut json = String::new();
    let mut open = None;
    for event in events {
        match event["type"].as_str().unwrap() {
            "ping" => {}
            "message_start" => {
                assert!(message.is_null(), "one beginning");
                message = event["message"].clone();
            }
            "content_block_start" => {
                assert_eq!((open, &event["index"]), (None, &json!(message["content"].as_array().unwrap().len())));
                open = event["index"].as_u64();
                json.clear();
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open);
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                match event["delta"]["type"].as_str().unwrap() {
                    "text_delta" => {
                        let text =
                            block["text"].as_str().unwrap().to_owned() + event["delta"]["text"].as_str().unwrap();
                        block["text"] = text.into();
                    }
                    "input_json_delta" => json += event["delta"]["partial_json"].as_str().unwrap(),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(event["index"].as_u64(), open.take());
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json).unwrap_or(Value::String(json.clone()));
                }
            }
            "message_delta" => {
                assert_eq!(open, None);
                for key in ["stop_reason", "stop_sequence"] {
                    message[key] = event["delta"][key].clone();
                }
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => assert_eq!(event, events.last().unwrap()),
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    message
}

/// A message without what differs from request to request.
fn settled(mut message: Value) -> Value {
    message["id"] = Value::Null;
    for key in ["input_tokens", "cache_read_input_tokens"] {
        message["usage"][key] = Value::Null;
    }
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            block["id"] = Value::Null;
        }
    }
    message
}

async fn both(server: &Server, body: Value) -> Value {
    server.whole_and_streamed(PATH, body, fold, settled).await
}

#[tokio::test]
async fn a_call_is_a_block_of_its_own_whole_and_streamed() {
    let server = Server::saying(CALL, parsing()).await;
    let whole = both(&server, with(&ask(), json!({"tools": tools()}))).await;
    assert_eq!(whole["content"][0], json!({"type": "text", "text": "Let me look.\n"}));
    let call = &whole["content"][1];
    assert_eq!((&call["type"], &call["name"], &call["input"]), (&json!("tool_use"), &json!("read_file"), &arguments()));
    let id = call["id"].as_str().unwrap();
    assert!(id.starts_with("toolu_") && id.len() == 30, "{id}");
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("tool_use"), &Value::Null));
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["model"]),
        (&json!("message"), &json!("assistant"), &json!("m"))
    );
    assert!(whole["id"].as_str().unwrap().starts_with("msg_"));
    let events = server.events(PATH, with(&ask(), json!({"tools": tools(), "stream": true}))).await;
    let pieces = events.iter().filter(|event| event["delta"]["type"] == "input_json_delta").count();
    assert!(pieces > 10, "arguments arrive as they are written: {pieces} pieces");
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 0, "nothing is said yet");
    assert_eq!(events[0]["message"]["stop_reason"], Value::Null);
    server.is_clean().await;
}

#[tokio::test]
async fn every_end_has_its_reason() {
    let server = Server::saying("one two three", parsing()).await;
    let end = async |more: Value| {
        let whole = both(&server, with(&ask(), more)).await;
        (whole["stop_reason"].clone(), whole["stop_sequence"].clone(), whole["content"].clone())
    };
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    assert_eq!(end(json!({})).await, (json!("end_turn"), Value::Null, text("one two three")));
    assert_eq!(
        end(json!({"stop_sequences": [" three", "x"]})).await,
        (json!("stop_sequence"), json!(" three"), text("one two"))
    );
    assert_eq!(end(json!({"max_tokens": 3})).await, (json!("max_tokens"), Value::Null, text("one")));
    let silent = Server::saying("", parsing()).await;
    let whole = both(&silent, ask()).await;
    assert_eq!((&whole["content"], &whole["stop_reason"]), (&text(""), &json!("end_turn")));
    // A call that was cut is no call.
    let cut = Server::saying(CALL, parsing()).await;
    let body = with(&ask(), json!({"tools": tools(), "max_tokens": 60}));
    let whole = cut.ok(PATH, body.clone()).await;
    assert_eq!((&whole["content"], &whole["stop_reason"]), (&text("Let me look.\n"), &json!("max_tokens")));
    let streamed = fold(&cut.events(PATH, with(&body, json!({"stream": true}))).await);
    assert_eq!(streamed["stop_reason"], "max_tokens");
    assert!(streamed["content"][1]["input"].is_string(), "never whole: {streamed}");
}

#[tokio::test]
async fn usage_counts_what_was_cached_apart() {
    let server = Server::saying("ok", parsing()).await;
    let body = with(&ask(), json!({"system": "You are a test of some length.", "tools": tools()}));
    let counted = server.ok("/v1/messages/count_tokens", with(&body, json!({"tool_choice": {"type": "any"}}))).await;
    let total = counted["input_tokens"].as_u64().unwrap();
    let usage = |whole: &Value| {
        let usage = &whole["usage"];
        [&usage["input_tokens"], &usage["cache_read_input_tokens"]].map(|n| n.as_u64().unwrap())
    };
    assert_eq!(usage(&server.ok(PATH, body.clone()).await), [total, 0]);
    let [fresh, cached] = usage(&server.ok(PATH, body.clone()).await);
    assert_eq!((fresh + cached, cached), (total, (total - 1) / 4 * 4));
    let events = server.events(PATH, with(&body, json!({"stream": true}))).await;
    assert_eq!(usage(&events[0]["message"]), [fresh, cached]);
}

#[tokio::test]
async fn what_steers_other_servers_changes_nothing() {
    let server = Server::saying("ok", parsing()).await;
    let count = async |body: Value| server.ok("/v1/messages/count_tokens", body).await["input_tokens"].clone();
    let plain = with(&ask(), json!({"system": "Be brief.\nBe kind.", "tools": tools()}));
    let mut marked = tools();
    marked.as_array_mut().unwrap().push(json!({"type": "web_search_20250305", "name": "web_search"}));
    marked[0]["cache_control"] = json!({"type": "ephemeral"});
    marked[0]["type"] = json!("custom");
    marked[1]["defer_loading"] = json!(true);
    let full = json!({
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=9.9.9.abc; cc_entrypoint=cli;"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "text", "text": "Be kind."},
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Read it", "cache_control": {"type": "ephemeral"}}]}],
        "tools": marked,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": "{\"device_id\":\"0\"}"},
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "mcp_servers": [],
    });
    let full = with(&plain, full);
    assert_eq!(count(full.clone()).await, count(plain.clone()).await);
    server.ok("/v1/messages?beta=true", full.clone()).await;
    let again = server.ok(PATH, plain.clone()).await;
    assert!(again["usage"]["input_tokens"].as_u64().unwrap() <= 4, "the same prompt: {again}");
    let history = |thinks: bool| {
        let thought = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        let hidden = json!({"type": "redacted_thinking", "data": "xx"});
        let thoughts = if thinks { vec![thought, hidden] } else { Vec::new() };
        let blocks: Vec<Value> = thoughts.into_iter().chain([json!({"type": "text", "text": "Yes."})]).collect();
        let messages = json!([user("a")[0], {"role": "assistant", "content": blocks}, user("b")[0]]);
        with(&plain, json!({"messages": messages}))
    };
    assert_eq!(count(history(true)).await, count(history(false)).await, "old thoughts are not read again");
    let without = count(with(&plain, json!({"tool_choice": {"type": "none"}}))).await;
    assert!(without.as_u64() < count(plain).await.as_u64());
}

#[tokio::test]
async fn an_answer_may_be_begun_by_the_client() {
    let server = Server::saying("and more", parsing()).await;
    let begun = json!([{"role": "user", "content": "Go"}, {"role": "assistant", "content": "So: "}]);
    let answer = server.ok(PATH, with(&ask(), json!({"messages": begun}))).await;
    let plain = server.ok(PATH, with(&ask(), json!({"messages": user("Go")}))).await;
    let tokens = |a: &Value| {
        a["usage"]["input_tokens"].as_u64().unwrap() + a["usage"]["cache_read_input_tokens"].as_u64().unwrap()
    };
    let added = server.ok("/tokenize", json!({"prompt": "So: "})).await["count"].as_u64().unwrap();
    assert_eq!(tokens(&answer), tokens(&plain) + added);
    let counted = server.ok("/v1/messages/count_tokens", with(&ask(), json!({"messages": begun}))).await;
    assert_eq!(counted["input_tokens"], tokens(&answer), "what is counted is what is read");
    // A history that ends in a call cannot be answered, yet clients ask how long it is.
    let call = json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "ls", "input": {}}]}]);
    server.ok("/v1/messages/count_tokens", json!({"model": "m", "messages": call})).await;
}

/// Ask ten times, each time with the answer so far and what `reply` says to it. As Claude Code does, the
/// line of bookkeeping changes with every request and the cache mark moves to the newest block.
async fn ten_turns(server: &Server, more: Value, reply: impl Fn(&Value, usize) -> Vec<Value>) -> Vec<[usize; 3]> {
    let mut messages = vec![json!({"role": "user", "content": "Begin"})];
    let mut turns = Vec::new();
    for turn in 0..10 {
        let line = format!("x-anthropic-billing-header: cc_version=2.1.330.{turn:03x}; cch={};", turn * 7919);
        let system = json!([{"type": "text", "text": line}, {"type": "text", "text": "You are a test."}]);
        let mut marked = messages.clone();
        if let Some(block) = marked.last_mut().unwrap()["content"].as_array_mut().and_then(|blocks| blocks.last_mut()) {
            block["cache_control"] = json!({"type": "ephemeral"});
        }
        let answer = server.ok(PATH, with(&ask(), with(&more, json!({"system": system, "messages": marked})))).await;
        let usage = |key: &str| answer["usage"][key].as_u64().unwrap() as usize;
        let cached = usage("cache_read_input_tokens");
        turns.push([cached + usage("input_tokens"), cached, usage("output_tokens")]);
        messages.push(json!({"role": "assistant", "content": answer["content"]}));
        messages.push(json!({"role": "user", "content": reply(&answer, turn)}));
    }
    turns
}

#[tokio::test]
async fn a_conversation_recomputes_only_what_is_new() {
    let roomy = Setup {
        api: ApiConfig { context_length: 4096, ..parsing() },
        engine: EngineConfig { num_pages: 2048, ..small_engine() },
    };
    let server = Server::saying("It is as you say, and so it goes on.", roomy.clone()).await;
    let say = |_: &Value, turn: usize| vec![json!({"type": "text", "text": format!("And what of {turn}?")})];
    for turns in ten_turns(&server, json!({}), say).await.windows(2) {
        let ([prompt, _, output], [_, cached, _]) = (turns[0], turns[1]);
        // The last token of an answer is never computed; the last page is kept only when it is full.
        assert!(cached >= (prompt + output - 1) / 4 * 4, "{turns:?}");
    }
    server.is_clean().await;

    // Whether the words of a call are found again is up to the template; all before them always is.
    let server = Server::saying(CALL, roomy).await;
    let results = |answer: &Value, turn: usize| {
        let calls = answer["content"].as_array().unwrap().iter().filter(|block| block["type"] == "tool_use");
        let result = |call: &Value| {
            let content = json!([{"type": "text", "text": format!("line {turn}")}]);
            json!({"type": "tool_result", "tool_use_id": call["id"], "content": content})
        };
        calls.map(result).chain([json!({"type": "text", "text": "Go on."})]).collect()
    };
    for turns in ten_turns(&server, json!({"tools": tools()}), results).await.windows(2) {
        assert!(turns[1][1] >= (turns[0][0] - 1) / 4 * 4, "{turns:?}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn recorded_requests_are_answered_or_refused_as_documented() {
    let Some(dir) = crate::reference::folder("clients/shapes") else { return };
    let roomy = Setup {
        api: ApiConfig { context_length: 1 << 16, ..parsing() },
        engine: EngineConfig { num_pages: 1 << 15, chunk_tokens: 2048, ..small_engine() },
    };
    let server = Server::saying("ok", roomy.clone()).await;
    // Says any token that a constraint allows.
    let obedient = Server::with(roomy, None).await;
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.filter(|name| name.contains(".v1_messages")).collect();
    names.sort();
    let mut prompts = BTreeMap::new();
    for name in &names {
        let shape: Value = serde_json::from_str(&std::fs::read_to_string(dir.join(name)).unwrap()).unwrap();
        let body = &shape["body"];
        let beta = if shape["query"]["beta"] == "true" { "?beta=true" } else { "" };
        let path = format!("{}{beta}", shape["path"].as_str().unwrap());
        if body.get("thread").is_some() {
            let (status, refusal) = server.post(&path, body.clone()).await;
            let wanted = json!({"error_code": "thread_unsupported_request", "unsupported": ["thread"]});
            assert_eq!((status, &refusal["error"]["details"]), (400, &wanted), "{name}");
            continue;
        }
        let kind = &body["tool_choice"]["type"];
        let forced = kind == "any" || kind == "tool";
        if forced || body["output_config"].get("format").is_some() {
            // Without its stop sequences, one of which such a model would say sooner or later.
            let message = obedient.ok(&path, with(body, json!({"max_tokens": 1000, "stop_sequences": []}))).await;
            let block = &message["content"][0];
            let obeys = match forced {
                true => message["stop_reason"] == "tool_use" && block["type"] == "tool_use",
                false => serde_json::from_str::<Value>(block["text"].as_str().unwrap()).is_ok_and(|v| v.is_object()),
            };
            // A model that says whatever is allowed may not come to an end.
            assert!(obeys || message["stop_reason"] == "max_tokens", "{name}: {message}");
            continue;
        }
        if path.ends_with("count_tokens") {
            assert!(server.ok(&path, body.clone()).await["input_tokens"].as_u64() > Some(0), "{name}");
            continue;
        }
        let message = match body["stream"] == true {
            true => fold(&server.events(&path, body.clone()).await),
            false => server.ok(&path, body.clone()).await,
        };
        assert_eq!(message["content"], json!([{"type": "text", "text": "ok"}]), "{name}");
        assert_eq!(message["stop_reason"], "end_turn", "{name}");
        let usage = |key: &str| message["usage"][key].as_u64().unwrap();
        let cached = usage("cache_read_input_tokens");
        prompts.insert(name.as_str(), (usage("input_tokens") + cached, cached));
    }
    // Of two requests of one session, the second finds all of the first, though its blocks come in
    // another form and the cache mark has moved.
    let prompt = |name: &str| prompts[format!("claude-code-2.1.330.{name}.json").as_str()];
    for (first, second) in [
        ("01.v1_messages.stream.b", "02.v1_messages.stream.b"),
        ("05.v1_messages.stream.multi", "06.v1_messages.stream.multi"),
    ] {
        let ((total, _), (_, cached)) = (prompt(first), prompt(second));
        assert!(total > 1000 && cached >= (total - 1) / 4 * 4, "{first}: {total}; {second}: {cached}");
    }
    println!("{} recorded requests replayed", names.len());
    server.is_clean().await;
}

#[tokio::test]
async fn refusals_have_anthropics_form() {
    let server = Server::saying("ok", parsing()).await;
    let refused = async |more: Value| {
        let (status, body) = server.post(PATH, with(&ask(), more)).await;
        assert_eq!((status, &body["type"]), (400, &json!("error")), "{body}");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        body["error"].clone()
    };
    let thread = refused(json!({"thread": {"type": "continue", "previous_message_id": "msg_1"}})).await;
    assert_eq!(thread["details"], json!({"error_code": "thread_unsupported_request", "unsupported": ["thread"]}));
    let image = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
    let schema = json!({"format": {"type": "nonsense", "schema": {"type": "object"}}});
    for (more, part) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens must be at least 1, got 0"),
        (json!({"messages": []}), "Messages cannot be empty"),
        (json!({"messages": image}), "messages[0].content[0]"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"stop_sequences": vec!["x"; 33]}), "stop_sequences: 33 stop strings"),
        (json!({"tool_choice": {"type": "any"}}), "Tools cannot be empty"),
        (json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "rm"}}), "'rm'"),
        (json!({"tools": tools(), "tool_choice": {"type": "maybe"}}), "maybe"),
        (json!({"tools": [{"name": "ls"}]}), "tools[0].input_schema"),
        (json!({"tools": [{"name": "ls", "type": "custom", "input_schema": "x"}]}), "tools[0].input_schema"),
        (json!({"mcp_servers": [{"name": "x"}]}), "mcp_servers"),
        (json!({"output_config": schema}), "output_config.format"),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "ls", "input": {}}]}]}),
            "tool_result",
        ),
    ] {
        let error = refused(more.clone()).await;
        assert!(error["message"].as_str().unwrap().contains(part), "{more}: {error}");
    }
    let long = refused(json!({"messages": user(&"word ".repeat(2000))})).await;
    let words = long["message"].as_str().unwrap();
    let numbers: Vec<usize> = words.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(words, format!("prompt is too long: {} tokens > {} maximum", numbers[0], numbers[1]));
    assert!(numbers[0] > 2000 && numbers[1] < 1024);
    // As many as fit, however many are asked for.
    server.ok(PATH, with(&ask(), json!({"max_tokens": 32_000}))).await;
    let head = server.client.head(server.url("/")).send().await.unwrap();
    assert_eq!(head.status(), 200);
    server.is_clean().await;
}

#[tokio::test]
async fn keys_come_in_either_header() {
    let server = Server::with(ApiConfig { api_key: vec![Secret::new("k")], ..config() }, None).await;
    for (header, value, wanted) in
        [("x-api-key", "k", 200), ("authorization", "Bearer k", 200), ("x-api-key", "no", 401), ("accept", "*/*", 401)]
    {
        let body = with(&ask(), json!({"max_tokens": 1}));
        let answer = server.client.post(server.url(PATH)).header(header, value).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), wanted, "{header}: {value}");
        if wanted == 401 {
            let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(body["error"]["type"], "authentication_error");
        }
    }
}

#[tokio::test]
async fn either_key_may_be_the_right_one() {
    let server = Server::with(ApiConfig { api_key: vec![Secret::new("k")], ..config() }, None).await;
    for (token, key, wanted) in [("no", "k", 200), ("k", "no", 200), ("no", "no", 401)] {
        let post = server.client.post(server.url("/v1/messages/count_tokens")).bearer_auth(token);
        let answer = post.header("x-api-key", key).json(&ask()).send().await.unwrap();
        assert_eq!(answer.status(), wanted, "token {token}, key {key}");
    }
}

#[tokio::test]
async fn while_a_prompt_is_read_there_are_pings_and_a_failure_ends_the_stream() {
    let gate = StepGate::default();
    let fails = Arc::new(AtomicBool::new(false));
    let (held, failing) = (gate.clone(), Arc::clone(&fails));
    let hook = Box::new(move |_| {
        held.pass();
        if failing.load(Ordering::Acquire) {
            return Err(DeviceFault::Step { backend: "fake", cause: "scripted".into() }.into());
        }
        Ok(())
    });
    let server = Server::with(ApiConfig { stream_keep_alive: 0.02, ..config() }, Some(hook)).await;
    for fail in [false, true] {
        gate.shut();
        fails.store(fail, Ordering::Release);
        let body = with(&ask(), json!({"stream": true, "max_tokens": 2, "ignore_eos": true}));
        let answer = server.client.post(server.url(PATH)).json(&body).send().await.unwrap();
        let mut stream = answer.bytes_stream();
        let mut text = String::new();
        while text.matches("event: ping\n").count() < 3 {
            text += std::str::from_utf8(&stream.next().await.expect("it goes on").unwrap()).unwrap();
        }
        gate.open();
        while let Some(piece) = stream.next().await {
            text += std::str::from_utf8(&piece.unwrap()).unwrap();
        }
        let events = crate::support::events(&text);
        if fail {
            let error = events.iter().find(|event| event["type"] == "error").expect("an error");
            assert_eq!(error["error"]["type"], "api_error");
            assert_eq!(events.last().unwrap()["type"], "message_stop");
        } else {
            assert_eq!(fold(&events)["stop_reason"], "max_tokens");
        }
    }
}
