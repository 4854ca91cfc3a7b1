//! Constrained outputs over HTTP: every field on every endpoint that has it, streamed and whole.
//!
//! The model is the fake one, which says any token that the mask allows.

use crate::support::{Server, config, user, with};
use quern_api::{ApiConfig, config::ToolCallParser};
use serde_json::{Map, Value, json};

const EBNF: &str = "root ::= \"(\" (root | [a-c]) \")\" | \"x\"";

fn schema() -> Value {
    json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", "b"]}},
           "required": ["n", "kind"], "additionalProperties": false})
}

fn tag() -> Value {
    json!({"type": "structural_tag", "format": {"type": "tag", "begin": "<n>", "content": {"type": "json_schema", "json_schema": {"type": "boolean"}}, "end": "</n>"}})
}

fn is_valid(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value["n"].as_u64().is_some_and(|n| n < 100) && (value["kind"] == "a" || value["kind"] == "b")
}

fn is_regex(text: &str) -> bool {
    text.len() == 7 && text.bytes().enumerate().all(|(i, b)| if i == 3 { b == b'-' } else { b.is_ascii_digit() })
}

fn is_ebnf(text: &str) -> bool {
    let inner = text.trim_start_matches('(').trim_end_matches(')');
    let depth = text.matches('(').count();
    inner.len() == 1 && text.len() == 2 * depth + 1 && (inner == "x" || depth > 0 && ["a", "b", "c"].contains(&inner))
}

fn is_tag(text: &str) -> bool {
    ["<n>true</n>", "<n>false</n>"].contains(&text)
}

/// Fields that constrain, and what comes of them.
type Constraint = (Value, fn(&str) -> bool);

fn constraints() -> Vec<Constraint> {
    vec![
        (json!({"json_schema": schema()}), is_valid),
        (json!({"json_schema": schema().to_string()}), is_valid),
        (json!({"regex": "[0-9]{3}-[0-9]{3}"}), is_regex),
        (json!({"ebnf": EBNF}), is_ebnf),
        (json!({"structural_tag": tag().to_string()}), is_tag),
    ]
}

fn formats() -> Vec<Constraint> {
    let schema = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema(), "strict": true}});
    vec![(json!({"response_format": schema}), is_valid), (json!({"response_format": tag()}), is_tag)]
}

/// The text of an answer and its end.
async fn ask(server: &Server, path: &str, body: &Value, streams: bool) -> (String, String) {
    let body = with(body, json!({"stream": streams}));
    let frames = if streams { server.frames(path, body).await } else { vec![server.ok(path, body).await] };
    let (mut text, mut end) = (String::new(), String::new());
    for frame in frames {
        if path == "/generate" {
            text = frame["text"].as_str().unwrap().into();
            end = frame["meta_info"]["finish_reason"]["type"].as_str().unwrap_or("").into();
            continue;
        }
        let choice = &frame["choices"][0];
        let said = [&choice["message"]["content"], &choice["delta"]["content"], &choice["text"]];
        text.extend(said.into_iter().filter_map(Value::as_str));
        end += choice["finish_reason"].as_str().unwrap_or("");
    }
    (text, end)
}

#[tokio::test]
async fn every_field_constrains_every_endpoint_streamed_and_whole() {
    let server = Server::new().await;
    let chat = json!({"messages": user("Go"), "max_tokens": 300});
    let completion = json!({"prompt": "Go", "max_tokens": 300});
    let mut requests = Vec::new();
    for (fields, check) in constraints() {
        requests.push(("/v1/chat/completions", with(&chat, fields.clone()), check));
        requests.push(("/v1/completions", with(&completion, fields.clone()), check));
        let params = with(&fields, json!({"max_new_tokens": 300}));
        requests.push(("/generate", json!({"text": "Go", "sampling_params": params}), check));
    }
    for (fields, check) in formats() {
        requests.push(("/v1/chat/completions", with(&chat, fields.clone()), check));
        requests.push(("/v1/completions", with(&completion, fields), check));
    }
    for (path, body, check) in requests {
        // Blanks are free, and the fake model likes some more than others.
        let ended = futures_util::future::join_all((0..4).map(|seed| {
            let seeded = match path {
                "/generate" => {
                    let params = with(&body["sampling_params"], json!({"sampling_seed": seed}));
                    with(&body, json!({"sampling_params": params}))
                }
                _ => with(&body, json!({"seed": seed})),
            };
            let server = &server;
            async move {
                let whole = ask(server, path, &seeded, false).await;
                assert_eq!(ask(server, path, &seeded, true).await, whole, "{path} {seeded}");
                whole
            }
        }))
        .await;
        for (text, end) in &ended {
            assert!(end == "length" || end == "stop" && check(text), "{path} {body}: {text:?} {end}");
        }
        assert!(ended.iter().any(|(_, end)| end == "stop"), "{path} {body}: nothing ended");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn any_object_is_json_and_several_outputs_go_their_own_ways() {
    let server = Server::new().await;
    let body = json!({"messages": user("Go"), "max_tokens": 200, "n": 16, "seed": 1, "response_format": {"type": "json_object"}});
    let answer = server.ok("/v1/chat/completions", body).await;
    let choices = answer["choices"].as_array().unwrap();
    let ended: Vec<_> = choices.iter().filter(|choice| choice["finish_reason"] == "stop").collect();
    assert!(ended.len() > 1, "{answer}");
    for choice in &ended {
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object()), "{text:?}");
    }
    assert!(ended.iter().any(|choice| choice["message"] != ended[0]["message"]), "outputs differ");
    server.is_clean().await;
}

#[tokio::test]
async fn a_grammar_ends_an_output_even_if_ends_are_ignored() {
    let server = Server::new().await;
    let body = json!({"prompt": "Go", "max_tokens": 50, "ignore_eos": true, "regex": "a{3}"});
    let answer = server.ok("/v1/completions", body).await;
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&json!("aaa"), &json!("stop"))
    );
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    server.is_clean().await;
}

#[tokio::test]
async fn what_does_not_compile_is_said_before_anything_runs() {
    let server = Server::new().await;
    let deep = (0..100).fold(json!({}), |inner, _| json!({"items": inner}));
    for (fields, words) in [
        (json!({"regex": "("}), "Failed to compile regex grammar: "),
        (json!({"regex": "(a)\\1"}), "Failed to compile regex grammar: "),
        (json!({"ebnf": "root ::= \"a"}), "Failed to compile ebnf grammar: line 1: "),
        (json!({"ebnf": "start ::= \"a\""}), "Failed to compile ebnf grammar: there is no rule named root"),
        (json!({"json_schema": {"type": "teapot"}}), "Failed to compile json grammar: "),
        (json!({"json_schema": "{"}), "Failed to compile json grammar: "),
        (json!({"json_schema": deep}), "nested more than 64 levels"),
        (
            json!({"structural_tag": {"format": {"type": "x"}}}),
            "Failed to compile structural_tag grammar: format x is not supported",
        ),
        (json!({"regex": "a", "ebnf": "b"}), "Only one of json_schema, regex, ebnf, or structural_tag can be set."),
    ] {
        for (path, body) in [
            ("/v1/chat/completions", with(&json!({"messages": user("Go")}), fields.clone())),
            ("/v1/completions", with(&json!({"prompt": "Go"}), fields.clone())),
            ("/generate", json!({"text": "Go", "sampling_params": fields})),
        ] {
            for stream in [false, true] {
                let (status, answer) = server.post(path, with(&body, json!({"stream": stream}))).await;
                let message = answer["error"]["message"].as_str().unwrap_or_default();
                assert!(status == 400 && message.contains(words), "{path} {body}: {status} {answer}");
                assert!(!message.contains('\n') && message.len() < 500, "{message}");
            }
        }
    }
    for (format, words) in [
        (json!({"type": "json_schema"}), "response_format.json_schema.schema is required"),
        (json!({"type": "yaml"}), "response_format.type must be"),
    ] {
        let body = json!({"messages": user("Go"), "response_format": format});
        let (status, answer) = server.post("/v1/chat/completions", body).await;
        assert!(status == 400 && answer.to_string().contains(words), "{status} {answer}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn a_server_without_a_grammar_backend_refuses_constraints_and_nothing_else() {
    let server = Server::with(ApiConfig { grammar_backend: None, ..parsing() }, None).await;
    for fields in [
        json!({"regex": "a"}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"tools": tools(), "tool_choice": "required"}),
    ] {
        let (status, answer) =
            server.post("/v1/chat/completions", with(&json!({"messages": user("Go")}), fields)).await;
        assert!(status == 400 && answer.to_string().contains("--grammar-backend none"), "{status} {answer}");
    }
    let body = json!({"messages": user("Go"), "max_tokens": 3, "response_format": {"type": "text"}, "tools": tools()});
    server.ok("/v1/chat/completions", body).await;
    server.is_clean().await;
}

fn parsing() -> ApiConfig {
    ApiConfig { tool_call_parser: ToolCallParser::from_name("qwen3_coder"), ..config() }
}

/// Tools whose arguments the fake model can end: no texts.
fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "turn", "parameters": {"type": "object", "properties": {
            "degrees": {"type": "integer", "minimum": 0, "maximum": 360}, "way": {"enum": ["left", "right"]}, "fast": {"type": "boolean"}},
            "required": ["degrees", "way"]}}},
        {"type": "function", "function": {"name": "stop"}},
    ])
}

/// Calls of an answer as (name, arguments), and its end.
async fn calls(server: &Server, body: &Value, streams: bool) -> (Vec<(String, String)>, String) {
    let body = with(body, json!({"stream": streams}));
    let path = "/v1/chat/completions";
    let frames = if streams { server.frames(path, body).await } else { vec![server.ok(path, body).await] };
    let (mut calls, mut end) = (Vec::<(String, String)>::new(), String::new());
    for frame in frames {
        let choice = &frame["choices"][0];
        let said = [&choice["message"]["tool_calls"], &choice["delta"]["tool_calls"]];
        for call in said.into_iter().filter_map(Value::as_array).flatten() {
            if let Some(name) = call["function"]["name"].as_str() {
                calls.push((name.into(), String::new()));
            }
            calls.last_mut().unwrap().1 += call["function"]["arguments"].as_str().unwrap();
        }
        end += choice["finish_reason"].as_str().unwrap_or("");
    }
    (calls, end)
}

fn check(name: &str, arguments: &str) {
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    match name {
        "turn" => {
            assert!(arguments["degrees"].as_u64().is_some_and(|d| d <= 360), "{arguments}");
            assert!(arguments["way"] == "left" || arguments["way"] == "right", "{arguments}");
            assert!(arguments["fast"].is_boolean() || arguments["fast"].is_null(), "{arguments}");
        }
        "stop" => assert_eq!(arguments, json!({})),
        other => panic!("{other} is not declared"),
    }
}

#[tokio::test]
async fn a_named_tool_is_called_and_nothing_else_is_said() {
    let server = Server::with(parsing(), None).await;
    for name in ["turn", "stop"] {
        for seed in 0..4 {
            let choice = json!({"type": "function", "function": {"name": name}});
            let body = json!({"messages": user("Go"), "tools": tools(), "tool_choice": choice, "seed": seed, "max_tokens": 400});
            let (found, end) = calls(&server, &body, false).await;
            assert_eq!((found.len(), found[0].0.as_str(), end.as_str()), (1, name, "tool_calls"));
            check(name, &found[0].1);
            assert_eq!(calls(&server, &body, true).await, (found, end));
        }
    }
    server.is_clean().await;
}

#[tokio::test]
async fn the_doors_of_agents_constrain_as_chat_does() {
    let server = Server::with(parsing(), None).await;
    let messages = json!({"model": "m", "max_tokens": 300, "messages": user("Go")});
    let format = json!({"type": "json_schema", "schema": schema()});
    let form = with(&messages, json!({"output_config": {"format": format}}));
    let answer = server.ok("/v1/messages", form).await;
    let text = answer["content"][0]["text"].as_str().unwrap();
    assert!(answer["stop_reason"] == "max_tokens" || is_valid(text), "{answer}");
    let tool = json!({"name": "turn", "input_schema": tools()[0]["function"]["parameters"]});
    let call = with(&messages, json!({"tools": [tool], "tool_choice": {"type": "tool", "name": "turn"}}));
    let answer = server.ok("/v1/messages", call).await;
    assert_eq!((&answer["content"][0]["type"], &answer["stop_reason"]), (&json!("tool_use"), &json!("tool_use")));
    check("turn", &answer["content"][0]["input"].to_string());

    let input = json!({"model": "m", "input": "Go", "max_output_tokens": 300});
    let form = with(&input, json!({"text": {"format": with(&format, json!({"name": "n"}))}}));
    let answer = server.ok("/v1/responses", form).await;
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(answer["status"] == "incomplete" || is_valid(text), "{answer}");
    let mut tool = tools()[0]["function"].clone();
    tool["type"] = json!("function");
    let choice = json!({"type": "function", "name": "turn"});
    let answer = server.ok("/v1/responses", with(&input, json!({"tools": [tool], "tool_choice": choice}))).await;
    let call = &answer["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("turn")));
    check("turn", call["arguments"].as_str().unwrap());
    server.is_clean().await;
}

#[tokio::test]
async fn a_required_call_comes_and_only_one_if_so_asked() {
    let server = Server::with(parsing(), None).await;
    let mut ended = 0;
    for seed in 0..6 {
        let body = json!({"messages": user("Go"), "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false, "seed": seed});
        let (found, end) = calls(&server, &body, false).await;
        assert_eq!(calls(&server, &body, true).await, (found.clone(), end.clone()));
        if end == "tool_calls" {
            assert_eq!(found.len(), 1);
            check(&found[0].0, &found[0].1);
            ended += 1;
        }
    }
    assert!(ended > 2, "{ended} of 6 ended");
    server.is_clean().await;
}

#[tokio::test]
async fn strict_tools_are_obeyed_under_auto() {
    let mut strict = json!([tools()[0]]);
    strict[0]["function"]["strict"] = json!(true);
    let server = Server::with(parsing(), None).await;
    let mut called = 0;
    for seed in 0..16 {
        let body = json!({"messages": user("Go"), "tools": strict, "seed": seed});
        let (found, end) = calls(&server, &body, false).await;
        for (name, arguments) in found.iter().filter(|_| end == "tool_calls") {
            check(name, arguments);
            called += 1;
        }
    }
    assert!(called > 0, "no output called");
    // A model that does not heed its masks fails, and its request with it, not the server.
    let said = "<tool_call>\n<function=turn>\n<parameter=degrees>\nmany";
    let server = Server::insisting_on(said, parsing()).await;
    let body = json!({"messages": user("Go"), "tools": strict});
    let (status, answer) = server.post("/v1/chat/completions", body).await;
    assert!(status == 500 && answer["error"]["message"].as_str().is_some(), "{status} {answer}");
    server.ok("/v1/chat/completions", json!({"messages": user("Go")})).await;
    server.is_clean().await;
}

/// A form of the answer on every API that has tools: the path, the request, and where text and the name of a
/// call stand in the answer.
fn calling_apis() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let form = schema();
    let chat = json!({"messages": user("Go"), "tools": tools(), "max_tokens": 400,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": form}}});
    let object = with(&chat, json!({"response_format": {"type": "json_object"}}));
    let tool = |schema: &str| {
        let function = |tool: &Value| {
            let parameters = tool["function"].get("parameters").cloned().unwrap_or(json!({"type": "object"}));
            json!({"name": tool["function"]["name"], schema: parameters})
        };
        tools().as_array().unwrap().iter().map(function).collect::<Vec<_>>()
    };
    let functions: Vec<Value> =
        tool("parameters").into_iter().map(|tool| with(&tool, json!({"type": "function"}))).collect();
    let format = json!({"type": "json_schema", "name": "n", "schema": form});
    let messages = json!({"model": "m", "max_tokens": 400, "messages": user("Go"), "tools": tool("input_schema")});
    vec![
        ("/v1/chat/completions", chat, "/choices/0/message/content", "/choices/0/message/tool_calls/0/function/name"),
        ("/v1/chat/completions", object, "/choices/0/message/content", "/choices/0/message/tool_calls/0/function/name"),
        (
            "/v1/responses",
            json!({"model": "m", "input": "Go", "max_output_tokens": 400, "tools": functions, "text": {"format": format}}),
            "/output/0/content/0/text",
            "/output/0/name",
        ),
        (
            "/v1/messages",
            with(&messages, json!({"output_config": {"format": format}})),
            "/content/0/text",
            "/content/0/name",
        ),
        ("/v1/messages", with(&messages, json!({"output_format": format})), "/content/0/text", "/content/0/name"),
        (
            "/api/chat",
            json!({"model": "m", "messages": user("Go"), "stream": false, "tools": tools(), "format": form}),
            "/message/content",
            "/message/tool_calls/0/function/name",
        ),
    ]
}

#[tokio::test]
async fn with_tools_and_a_form_the_model_calls_or_answers_on_every_api() {
    let call = "<tool_call>\n<function=stop>\n</function>\n</tool_call>";
    let server = Server::saying(call, parsing()).await;
    for (path, body, _, name) in calling_apis() {
        let answer = server.ok(path, body).await;
        assert_eq!(answer.pointer(name), Some(&json!("stop")), "{path}: {answer}");
    }
    server.is_clean().await;
    let said = r#"{"n":7,"kind":"a"}"#;
    let server = Server::saying(said, parsing()).await;
    for (path, body, text, _) in calling_apis() {
        let answer = server.ok(path, body).await;
        assert_eq!(answer.pointer(text), Some(&json!(said)), "{path}: {answer}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn the_choice_of_tools_decides_between_call_and_answer() {
    let call = "<tool_call>\n<function=stop>\n</function>\n</tool_call>";
    let (calling, answering) =
        (Server::saying(call, parsing()).await, Server::saying(r#"{"n":7,"kind":"a"}"#, parsing()).await);
    let (_, body, text, name) = calling_apis().remove(0);
    let none = with(&body, json!({"tool_choice": "none"}));
    for server in [&calling, &answering] {
        let answer = server.ok("/v1/chat/completions", none.clone()).await;
        assert!(is_valid(answer.pointer(text).unwrap().as_str().unwrap()), "{answer}");
        let named = json!({"type": "function", "function": {"name": "stop"}});
        for choice in [json!("required"), named] {
            let answer = server.ok("/v1/chat/completions", with(&body, json!({"tool_choice": choice}))).await;
            assert!(answer.pointer(name).is_some(), "{choice}: {answer}");
        }
    }
    let hermes = ApiConfig { tool_call_parser: ToolCallParser::from_name("hermes"), ..config() };
    let server = Server::with(hermes, None).await;
    for choice in ["auto", "required"] {
        let (status, answer) = server.post("/v1/chat/completions", with(&body, json!({"tool_choice": choice}))).await;
        assert!(status == 400 && answer.to_string().contains("--tool-call-parser qwen3_coder"), "{status} {answer}");
    }
}

#[tokio::test]
async fn a_required_call_comes_at_once_whatever_the_model_would_say() {
    let server = Server::saying("Let me think about that for a while, and then for another while.", parsing()).await;
    let functions: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
    let anthropic: Vec<Value> =
        functions.iter().map(|f| json!({"name": f["name"], "input_schema": {"type": "object"}})).collect();
    let responses: Vec<Value> = functions.iter().map(|f| with(f, json!({"type": "function"}))).collect();
    for (path, body, name) in [
        (
            "/v1/chat/completions",
            json!({"messages": user("Go"), "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false}),
            "/choices/0/message/tool_calls/0/function/name",
        ),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 400, "messages": user("Go"), "tools": anthropic,
                "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}),
            "/content/0/name",
        ),
        (
            "/v1/responses",
            json!({"model": "m", "input": "Go", "tools": responses, "tool_choice": "required", "parallel_tool_calls": false}),
            "/output/0/name",
        ),
    ] {
        let answer = server.ok(path, body).await;
        assert!(answer.pointer(name).is_some_and(Value::is_string), "{path}: {answer}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn constraints_in_the_words_of_other_servers_are_obeyed_or_refused_by_name() {
    let server = Server::new().await;
    let form = schema();
    let digits = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    let chosen = |text: &str| ["yes", "no", "no."].contains(&text);
    let zz = |text: &str| text == "zz";
    type Obeys = fn(&str) -> bool;
    let cases: Vec<(Value, Obeys)> = vec![
        (json!({"guided_json": form}), is_valid),
        (json!({"guided_json": form.to_string()}), is_valid),
        (json!({"guided_regex": "[0-9]{3}"}), digits),
        (json!({"guided_choice": ["yes", "no", "no."]}), chosen),
        (json!({"guided_grammar": "root ::= \"zz\""}), zz),
        (json!({"grammar": "root ::= \"z\" rest\nrest ::= \"z\""}), zz),
        (json!({"structured_outputs": {"json": form}}), is_valid),
        (json!({"structured_outputs": {"regex": "[0-9]{3}"}}), digits),
        (json!({"structured_outputs": {"choice": ["yes", "no"]}}), chosen),
        (json!({"structured_outputs": {"grammar": "root ::= \"zz\""}}), zz),
        (json!({"response_format": {"type": "json_object", "schema": form}}), is_valid),
    ];
    for (fields, check) in cases {
        for (path, body) in [
            ("/v1/chat/completions", json!({"messages": user("Go"), "max_tokens": 300})),
            ("/v1/completions", json!({"prompt": "Go", "max_tokens": 300})),
        ] {
            let (text, end) = ask(&server, path, &with(&body, fields.clone()), false).await;
            assert!(end == "stop" && check(&text), "{path} {fields}: {text:?} {end}");
        }
    }
    for (fields, words) in [
        (json!({"chat_template": "{{ 'x' }}"}), "chat_template"),
        (json!({"structured_outputs": {"magic": 1}}), "structured_outputs.magic"),
        (json!({"guided_json": form, "guided_whitespace_pattern": " "}), "guided_whitespace_pattern"),
        (json!({"guided_grammar": "start: \"a\""}), "Failed to compile ebnf grammar: line 1: expected ::= after start"),
    ] {
        for (path, body) in [
            ("/v1/chat/completions", json!({"messages": user("Go")})),
            ("/v1/responses", json!({"model": "m", "input": "Go"})),
            ("/v1/messages", json!({"model": "m", "max_tokens": 9, "messages": user("Go")})),
        ] {
            let (status, answer) = server.post(path, with(&body, fields.clone())).await;
            assert!(
                status == 400 && answer["error"]["message"].to_string().contains(&words.replace('"', "\\\"")),
                "{path} {fields}: {status} {answer}"
            );
        }
    }
    server.is_clean().await;
}

#[tokio::test]
async fn a_schema_that_is_too_big_is_refused_before_anything_runs() {
    let server = Server::with(parsing(), None).await;
    let wide: Map<String, Value> = (0..3000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    let form = json!({"type": "object", "properties": wide});
    let body = json!({"messages": user("Go"), "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": form}}});
    let (status, answer) = server.post("/v1/chat/completions", body).await;
    let words = "Failed to compile json grammar: an object has 3000 properties; at most 1000 are supported";
    assert_eq!((status, &answer["error"]["message"]), (400, &json!(words)));
    server.is_clean().await;
}
