//! Calls of tools over HTTP: out of a scripted answer, through the real parser and stream.

use crate::support::{Server, config, gate::StepGate, user, with};
use quern_api::{ApiConfig, config::ToolCallParser};
use serde_json::{Value, json};

const CALL: &str = "Let me look.\n<tool_call>\n<function=read_file>\n<parameter=path>\n/tmp/a \"b\".txt\n</parameter>\n<parameter=lines>\n12\n</parameter>\n</function>\n</tool_call>";

fn parsing() -> ApiConfig {
    ApiConfig { tool_call_parser: ToolCallParser::from_name("qwen3_coder"), ..config() }
}

fn tools() -> Value {
    let parameters =
        json!({"type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}}});
    json!([
        {"type": "function", "function": {"name": "read_file", "description": "Read.", "parameters": parameters}},
        {"type": "function", "function": {"name": "ls"}},
    ])
}

fn ask() -> Value {
    json!({"messages": user("Read it"), "tools": tools(), "temperature": 0})
}

/// Content, calls as (id, name, arguments) and finish reason of a stream.
fn fold(frames: &[Value]) -> (String, Vec<(String, String, String)>, Value) {
    let (mut content, mut calls, mut finish) = (String::new(), Vec::<(String, String, String)>::new(), Value::Null);
    for frame in frames {
        let choice = &frame["choices"][0];
        content += choice["delta"]["content"].as_str().unwrap_or("");
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            // Clients add up the texts of a field, this one's too.
            assert_eq!(call["type"] == "function", call["id"].is_string(), "{call}");
            assert_eq!(call.get("type").is_some(), call["id"].is_string(), "{call}");
            let index = call["index"].as_u64().unwrap() as usize;
            if let Some(id) = call["id"].as_str() {
                assert_eq!(index, calls.len(), "calls come one after the other");
                calls.push((id.into(), call["function"]["name"].as_str().unwrap().into(), String::new()));
            }
            calls[index].2 += call["function"]["arguments"].as_str().unwrap();
        }
        if !choice["finish_reason"].is_null() {
            assert!(finish.is_null(), "one end only");
            finish = choice["finish_reason"].clone();
        }
    }
    (content, calls, finish)
}

/// The one call of the form before tools, as clients add it up, and the finish reason of a stream.
fn fold_function_call(frames: &[Value]) -> (Value, Value) {
    let (mut folded, mut finish) = (json!({"name": "", "arguments": ""}), Value::Null);
    for choice in frames.iter().map(|frame| &frame["choices"][0]) {
        for key in ["name", "arguments"] {
            let more = choice["delta"]["function_call"][key].as_str().unwrap_or_default();
            folded[key] = format!("{}{more}", folded[key].as_str().unwrap()).into();
        }
        assert!(choice["delta"].get("tool_calls").is_none(), "{choice}");
        finish = if choice["finish_reason"].is_null() { finish } else { choice["finish_reason"].clone() };
    }
    (folded, finish)
}

#[tokio::test]
async fn a_call_is_parsed_whole_and_streamed() {
    let server = Server::saying(CALL, parsing()).await;
    let whole = server.ok("/v1/chat/completions", ask()).await;
    let choice = &whole["choices"][0];
    let message = &choice["message"];
    assert_eq!(message["content"], "Let me look.\n");
    let call = &message["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["index"], &call["function"]["name"]),
        (&json!("function"), &json!(0), &json!("read_file"))
    );
    assert_eq!(call["function"]["arguments"], r#"{"path": "/tmp/a \"b\".txt", "lines": 12}"#);
    let id = call["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && id.len() == 29, "{id}");
    assert_eq!((&choice["finish_reason"], &choice["matched_stop"]), (&json!("tool_calls"), &Value::Null));

    let frames = server.frames("/v1/chat/completions", with(&ask(), json!({"stream": true}))).await;
    let (content, calls, finish) = fold(&frames);
    assert_eq!(content, "Let me look.\n");
    assert_eq!((calls.len(), calls[0].1.as_str(), finish), (1, "read_file", json!("tool_calls")));
    assert_eq!(calls[0].2, call["function"]["arguments"].as_str().unwrap());
    assert_ne!(calls[0].0, id, "every call has an id of its own");
    let strings = frames.iter().filter(|frame| frame.to_string().contains("arguments")).count();
    assert!(strings > 10, "a text arrives as it is written, not at its end: {strings} frames");
    server.is_clean().await;
}

#[tokio::test]
async fn several_calls_have_indices_and_text_around_them_stays() {
    let text = "<tool_call>\n<function=ls>\n</function>\n</tool_call>\n<tool_call>\n<function=read_file>\n<parameter=path>\nx\n</parameter>\n</function>\n</tool_call>";
    let server = Server::saying(text, parsing()).await;
    let whole = server.ok("/v1/chat/completions", ask()).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "");
    let names: Vec<_> =
        message["tool_calls"].as_array().unwrap().iter().map(|c| c["function"]["name"].clone()).collect();
    assert_eq!(json!(names), json!(["ls", "read_file"]));
    let (content, calls, _) = fold(&server.frames("/v1/chat/completions", with(&ask(), json!({"stream": true}))).await);
    assert_eq!(content, "");
    let folded: Vec<_> = calls.iter().map(|call| (call.1.as_str(), call.2.as_str())).collect();
    assert_eq!(folded, [("ls", "{}"), ("read_file", r#"{"path": "x"}"#)]);
}

#[tokio::test]
async fn a_call_that_was_cut_is_not_reported_as_one() {
    let server = Server::saying(CALL, parsing()).await;
    for (max_tokens, stop) in [(60, json!(null)), (70, json!(null)), (500, json!("lines"))] {
        let body = with(&ask(), json!({"max_tokens": max_tokens, "stop": stop}));
        let whole = server.ok("/v1/chat/completions", body.clone()).await;
        let choice = &whole["choices"][0];
        assert!(choice["message"].get("tool_calls").is_none(), "{choice}");
        assert_eq!(choice["finish_reason"], if stop.is_null() { "length" } else { "stop" });
        assert!(!choice["message"]["content"].as_str().unwrap().contains('<'), "no markup leaks: {choice}");
        let frames = server.frames("/v1/chat/completions", with(&body, json!({"stream": true}))).await;
        let (_, calls, finish) = fold(&frames);
        assert_eq!(finish, choice["finish_reason"]);
        assert!(calls.iter().all(|call| serde_json::from_str::<Value>(&call.2).is_err()), "{calls:?} looks complete");
    }
}

#[tokio::test]
async fn text_stays_text_where_no_calls_are_wanted() {
    let server = Server::saying(CALL, parsing()).await;
    for body in [
        json!({"messages": user("x")}),
        with(&ask(), json!({"tool_choice": "none"})),
        json!({"messages": user("x"), "tools": []}),
    ] {
        let whole = server.ok("/v1/chat/completions", with(&body, json!({"skip_special_tokens": false}))).await;
        assert!(
            whole["choices"][0]["message"]["content"].as_str().unwrap().contains("<function=read_file>"),
            "{whole}"
        );
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    }
    let unparsed = Server::saying(CALL, config()).await;
    let whole = unparsed.ok("/v1/chat/completions", ask()).await;
    assert!(whole["choices"][0]["message"]["content"].as_str().unwrap().contains("<function=read_file>"));
}

#[tokio::test]
async fn the_model_is_told_of_the_tools_it_may_call() {
    let server = Server::saying("ok", parsing()).await;
    let tokens =
        async |body: Value| server.ok("/v1/chat/completions", body).await["usage"]["prompt_tokens"].as_u64().unwrap();
    let without = tokens(json!({"messages": user("Read it")})).await;
    assert!(tokens(ask()).await > without + 100);
    assert_eq!(tokens(with(&ask(), json!({"tool_choice": "none"}))).await, without);
    let counted = server.ok("/tokenize", json!({"messages": user("Read it"), "tools": tools()})).await;
    assert_eq!(counted["count"], tokens(ask()).await);
}

#[tokio::test]
async fn a_gap_is_filled_and_ends_where_the_model_says() {
    let server = Server::saying("return 1<|fim_prefix|>def g():", config()).await;
    let body = json!({"prompt": "def f():\n    ", "suffix": "\n\nf()", "max_tokens": 40, "temperature": 0});
    let whole = server.ok("/v1/completions", body.clone()).await;
    assert_eq!(whole["choices"][0]["text"], "return 1");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["usage"]["prompt_tokens"], 3 + 13 + 5);
    let echoed = server.ok("/v1/completions", with(&body, json!({"echo": true}))).await;
    assert_eq!(echoed["choices"][0]["text"], "def f():\n    return 1");
    let (status, answer) = server.post("/v1/completions", with(&body, json!({"prompt": [1, 2]}))).await;
    assert!(status == 400 && answer.to_string().contains("suffix"), "{answer}");
}

#[tokio::test]
async fn a_stream_that_waits_says_so_with_data() {
    let gate = StepGate::default();
    let server = Server::with(ApiConfig { stream_keep_alive: 0.02, ..config() }, Some(gate.hook())).await;
    for (path, body, empty) in [
        ("/v1/chat/completions", json!({"messages": user("x")}), "\"delta\":{\"content\":\"\""),
        ("/v1/completions", json!({"prompt": "x"}), "\"text\":\"\""),
        ("/generate", json!({"text": "x"}), ": keep-alive"),
    ] {
        gate.shut();
        let body = with(&body, json!({"stream": true, "max_tokens": 2, "ignore_eos": true}));
        let answer = server.client.post(server.url(path)).json(&body).send().await.unwrap();
        let mut stream = answer.bytes_stream();
        // Pieces of a socket may end inside a character.
        let mut bytes = Vec::new();
        while String::from_utf8_lossy(&bytes).matches(empty).count() < 3 {
            bytes.extend(futures_util::StreamExt::next(&mut stream).await.expect("it goes on").unwrap());
        }
        gate.open();
        while let Some(piece) = futures_util::StreamExt::next(&mut stream).await {
            bytes.extend(piece.unwrap());
        }
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}

#[tokio::test]
async fn calls_are_found_in_a_text_from_elsewhere() {
    let server = Server::saying("ok", config()).await;
    let body = json!({"text": CALL, "tool_call_parser": "qwen3_coder", "tools": tools()});
    let parsed = server.ok("/parse_function_call", body.clone()).await;
    let call =
        json!({"tool_index": 0, "name": "read_file", "parameters": r#"{"path": "/tmp/a \"b\".txt", "lines": 12}"#});
    assert_eq!(parsed, json!({"normal_text": "Let me look.\n", "calls": [call]}));
    let hermes = r#"<tool_call>{"name": "ls", "arguments": {}}</tool_call>"#;
    let parsed =
        server.ok("/parse_function_call", with(&body, json!({"text": hermes, "tool_call_parser": "hermes"}))).await;
    assert_eq!(parsed["calls"][0]["tool_index"], 1);
    for more in [json!({"tool_call_parser": "other"}), json!({"tool_call_parser": null}), json!({"text": null})] {
        assert_eq!(server.post("/parse_function_call", with(&body, more)).await.0, 400);
    }
}

#[tokio::test]
async fn custom_tools_of_chat_take_text_under_a_grammar() {
    let said = "<tool_call>\n<function=sum>\n<parameter=input>\n12 + \n3\n</parameter>\n</function>\n</tool_call>";
    let server = Server::saying(said, parsing()).await;
    let grammar =
        |definition: &str| json!({"type": "grammar", "grammar": {"syntax": "regex", "definition": definition}});
    let tool = |format: Value| json!({"type": "custom", "custom": {"name": "sum", "format": format}});
    let tools = |tool: Value| json!([tool, tools()[1]]);
    let body = with(&ask(), json!({"tools": tools(tool(grammar("[0-9 +\n]+")))}));
    let named = json!({"type": "custom", "custom": {"name": "sum"}});
    let only = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}});
    for choice in [json!("auto"), json!("required"), named, only] {
        let whole = server.ok("/v1/chat/completions", with(&body, json!({"tool_choice": choice}))).await;
        let call = &whole["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(call["custom"], json!({"name": "sum", "input": "12 + \n3"}), "{whole}");
        assert_eq!((&call["type"], call.get("function")), (&json!("custom"), None));
    }
    let frames = server.frames("/v1/chat/completions", with(&body, json!({"stream": true}))).await;
    let calls: Vec<&Value> = frames.iter().map(|frame| &frame["choices"][0]["delta"]["tool_calls"][0]).collect();
    let calls: Vec<&Value> = calls.into_iter().filter(|call| !call.is_null()).collect();
    assert_eq!((&calls[0]["type"], &calls[0]["custom"]["name"]), (&json!("custom"), &json!("sum")));
    assert!(calls[1..].iter().all(|call| call.get("id").is_none() && call.get("type").is_none()), "{calls:?}");
    let input: String = calls.iter().map(|call| call["custom"]["input"].as_str().unwrap()).collect();
    assert_eq!(input, "12 + \n3");
    // Another grammar does not let the model say that.
    let other = with(&body, json!({"tools": tools(tool(grammar("[a-z]+"))), "max_tokens": 100}));
    let bound = server.ok("/v1/chat/completions", with(&other, json!({"tool_choice": "required"}))).await;
    assert!(!bound.to_string().contains("12 + "), "{bound}");
    for (format, words) in [(grammar("("), "sum"), (json!({"type": "x"}), "tools[0].format.type")] {
        let refused = with(&body, json!({"tools": [tool(format)]}));
        let (status, body) = server.post("/v1/chat/completions", refused).await;
        assert!(status == 400 && body.to_string().contains(words), "{body}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn functions_of_the_time_before_tools_are_called_in_their_form() {
    let server = Server::saying(CALL, parsing()).await;
    let functions: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
    let body = json!({"messages": user("Read it"), "functions": functions, "temperature": 0});
    let same = json!({"messages": user("Read it"), "tools": tools()});
    let tokens = async |body: &Value| server.ok("/tokenize", body.clone()).await["count"].clone();
    assert_eq!(tokens(&body).await, tokens(&same).await, "the model is told of them");
    let call = json!({"name": "read_file", "arguments": r#"{"path": "/tmp/a \"b\".txt", "lines": 12}"#});
    let whole = server.ok("/v1/chat/completions", body.clone()).await;
    let choice = &whole["choices"][0];
    assert_eq!((&choice["message"]["function_call"], &choice["finish_reason"]), (&call, &json!("function_call")));
    assert_eq!((&choice["message"]["content"], choice["message"].get("tool_calls")), (&json!("Let me look.\n"), None));
    let frames = server.frames("/v1/chat/completions", with(&body, json!({"stream": true}))).await;
    assert_eq!(fold_function_call(&frames), (call.clone(), json!("function_call")));
    for (choice, calls) in [(json!("none"), false), (json!("auto"), true), (json!({"name": "read_file"}), true)] {
        let whole = server.ok("/v1/chat/completions", with(&body, json!({"function_call": choice}))).await;
        assert_eq!(whole["choices"][0]["message"].get("function_call").is_some(), calls, "{choice}");
    }
    let (status, _) = server.post("/v1/chat/completions", with(&body, json!({"function_call": {"name": "x"}}))).await;
    assert_eq!(status, 400);
    // An answer is written in one form, so that a request cannot mix them.
    let named = json!({"type": "function", "function": {"name": "ls"}});
    for (base, more, names) in [
        (&body, json!({"tools": tools()}), ["tools", "functions"]),
        (&body, json!({"tool_choice": "none"}), ["tool_choice", "functions"]),
        (&body, json!({"tool_choice": named}), ["tool_choice", "functions"]),
        (&ask(), json!({"function_call": "none"}), ["function_call", "tools"]),
        (&ask(), json!({"function_call": {"name": "ls"}}), ["function_call", "tools"]),
    ] {
        for path in ["/v1/chat/completions", "/tokenize"] {
            let (status, answer) = server.post(path, with(base, more.clone())).await;
            let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}"));
            assert!(status == 400 && names.iter().all(|name| message.contains(name)), "{path} {more}: {message}");
        }
    }
    for (base, more) in [
        (&body, json!({"tools": [], "tool_choice": "auto"})),
        (&body, json!({"tools": null, "tool_choice": null})),
        (&ask(), json!({"functions": [], "function_call": "auto"})),
    ] {
        server.ok("/v1/chat/completions", with(base, more)).await;
    }
    server.is_clean().await;
}

#[tokio::test]
async fn of_two_calls_the_old_form_has_the_first() {
    let said = "<tool_call>\n<function=ls>\n</function>\n</tool_call>\n<tool_call>\n<function=read_file>\n<parameter=path>\nx\n</parameter>\n</function>\n</tool_call>";
    let server = Server::saying(said, parsing()).await;
    let functions: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
    let body = json!({"messages": user("Read it"), "functions": functions, "temperature": 0, "logprobs": true});
    let call = json!({"name": "ls", "arguments": "{}"});
    let whole = server.ok("/v1/chat/completions", body.clone()).await;
    assert_eq!(whole["choices"][0]["message"]["function_call"], call);
    let frames = server.frames("/v1/chat/completions", with(&body, json!({"stream": true}))).await;
    assert_eq!(fold_function_call(&frames), (call, json!("function_call")));
    let scores = |choice: &Value| choice["logprobs"]["content"].as_array().map_or(0, Vec::len);
    let streamed: usize = frames.iter().map(|frame| scores(&frame["choices"][0])).sum();
    assert_eq!(streamed, scores(&whole["choices"][0]), "the scores of what is left out are there all the same");
    server.is_clean().await;
}

#[tokio::test]
async fn a_key_of_the_clients_own_is_no_grammar() {
    let server = Server::saying(CALL, parsing()).await;
    let keyed = |tool: &Value| with(tool, json!({"input_grammar": {"syntax": "regex", "definition": "("}}));
    let keyed: Vec<Value> = tools().as_array().unwrap().iter().map(keyed).collect();
    let body = with(&ask(), json!({ "tools": keyed }));
    for (path, call) in [
        ("/v1/chat/completions", "/choices/0/message/tool_calls/0/function/name"),
        ("/api/chat", "/message/tool_calls/0/function/name"),
    ] {
        let answer = server.ok(path, with(&body, json!({"model": "m", "stream": false}))).await;
        assert_eq!(answer.pointer(call), Some(&json!("read_file")), "{path}: {answer}");
    }
    let hermes = ApiConfig { tool_call_parser: ToolCallParser::from_name("hermes"), ..config() };
    Server::saying("ok", hermes).await.ok("/v1/chat/completions", body).await;
}

/// Text, names of calls and end of an answer that has calls, of any API.
async fn said(server: &Server, path: &str, body: &Value, streams: bool) -> (String, Vec<String>, Value) {
    let body = with(body, json!({"stream": streams}));
    let (mut text, mut calls, mut end) = (String::new(), Vec::new(), Value::Null);
    match (path, streams) {
        ("/v1/chat/completions", true) => {
            let (content, found, finish) = fold(&server.frames(path, body).await);
            return (content, found.into_iter().map(|call| call.1).collect(), finish);
        }
        ("/v1/chat/completions", false) => {
            let choice = server.ok(path, body).await["choices"][0].clone();
            text += choice["message"]["content"].as_str().unwrap_or_default();
            for call in choice["message"]["tool_calls"].as_array().into_iter().flatten() {
                calls.push(call["function"]["name"].as_str().unwrap().into());
            }
            end = choice["finish_reason"].clone();
        }
        ("/v1/messages", true) => {
            for event in server.events(path, body).await {
                text += event["delta"]["text"].as_str().unwrap_or_default();
                calls.extend(event["content_block"]["name"].as_str().map(String::from));
                end = if event["delta"]["stop_reason"].is_null() { end } else { event["delta"]["stop_reason"].clone() };
            }
        }
        ("/v1/messages", false) => {
            let answer = server.ok(path, body).await;
            for block in answer["content"].as_array().unwrap() {
                text += block["text"].as_str().unwrap_or_default();
                calls.extend(block["name"].as_str().map(String::from));
            }
            end = answer["stop_reason"].clone();
        }
        _ => {
            let response = match streams {
                true => server.events(path, body).await.pop().unwrap()["response"].clone(),
                false => server.ok(path, body).await,
            };
            for item in response["output"].as_array().unwrap() {
                text += item["content"][0]["text"].as_str().unwrap_or_default();
                calls.extend(item["name"].as_str().map(String::from));
            }
            end = response["status"].clone();
        }
    }
    (text, calls, end)
}

#[tokio::test]
async fn nothing_follows_the_calls_that_must_be_made_on_any_api() {
    let calls =
        "<tool_call>\n<function=ls>\n</function>\n</tool_call>\n<tool_call>\n<function=ls>\n</function>\n</tool_call>";
    let functions: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
    let anthropic: Vec<Value> =
        functions.iter().map(|f| json!({"name": f["name"], "input_schema": {"type": "object"}})).collect();
    let responses: Vec<Value> = functions.iter().map(|f| with(f, json!({"type": "function"}))).collect();
    let chat = json!({"messages": user("Go"), "tools": tools()});
    let messages = json!({"model": "m", "max_tokens": 300, "messages": user("Go"), "tools": anthropic});
    let response = json!({"model": "m", "input": "Go", "tools": responses});
    let named = json!({"type": "function", "function": {"name": "ls"}});
    let single = json!({"parallel_tool_calls": false});
    let cases = [
        ("/v1/chat/completions", &chat, json!({"tool_choice": "required"}), 2, "tool_calls"),
        ("/v1/chat/completions", &chat, with(&single, json!({"tool_choice": "required"})), 1, "tool_calls"),
        ("/v1/chat/completions", &chat, json!({"tool_choice": named}), 1, "tool_calls"),
        ("/v1/messages", &messages, json!({"tool_choice": {"type": "any"}}), 2, "tool_use"),
        (
            "/v1/messages",
            &messages,
            json!({"tool_choice": {"type": "any", "disable_parallel_tool_use": true}}),
            1,
            "tool_use",
        ),
        ("/v1/messages", &messages, json!({"tool_choice": {"type": "tool", "name": "ls"}}), 1, "tool_use"),
        ("/v1/responses", &response, json!({"tool_choice": "required"}), 2, "completed"),
        ("/v1/responses", &response, with(&single, json!({"tool_choice": "required"})), 1, "completed"),
        ("/v1/responses", &response, json!({"tool_choice": {"type": "function", "name": "ls"}}), 1, "completed"),
    ];
    // What the model would go on with, if it were let.
    for more in [" Done.", "\n\nThat is all.\n<parameter=path>", "<tool_response>\n[]\n</tool_response>"] {
        let server = Server::saying(&format!("{calls}{more}"), parsing()).await;
        for (path, body, choice, wanted, end) in &cases {
            for streams in [false, true] {
                let found = said(&server, path, &with(body, choice.clone()), streams).await;
                let wanted = (String::new(), vec!["ls".to_owned(); *wanted], json!(end));
                assert_eq!(found, wanted, "{path} {choice} after {more:?}");
            }
        }
        server.is_clean().await;
    }
}

#[tokio::test]
async fn a_sampled_answer_that_must_call_holds_no_text() {
    let server = Server::with(parsing(), None).await;
    let mut ended = 0;
    for seed in 0..12 {
        let tools = json!([{"type": "function", "function": {"name": "ls"}}]);
        let body = json!({"messages": user("Go"), "tools": tools, "tool_choice": "required", "seed": seed});
        for streams in [false, true] {
            let (text, calls, end) = said(&server, "/v1/chat/completions", &body, streams).await;
            assert_eq!(text, "", "seed {seed}: {calls:?}");
            ended += usize::from(end == "tool_calls" && !calls.is_empty());
        }
    }
    assert!(ended > 12, "{ended} of 24 ended");
    server.is_clean().await;
}
