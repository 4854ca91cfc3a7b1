//! `/v1/responses` over HTTP, as OpenAI's SDKs and Codex use it.

use crate::support::{CALL, Server, arguments, config, functions, gate::StepGate, parsing, user, with};
use futures_util::StreamExt;
use quern_api::ApiConfig;
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";

fn ask() -> Value {
    json!({"model": "m", "input": "Read it", "temperature": 0})
}

fn tools() -> Value {
    let tool = |(name, description, parameters): (&str, &str, Value)| json!({"type": "function", "name": name, "description": description, "parameters": parameters, "strict": false});
    functions().map(tool).into_iter().collect()
}

/// The answer at the end of a stream, checked against the events before it.
fn fold(events: &[Value]) -> Value {
    let name = |event: &Value| event["type"].as_str().unwrap().to_owned();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!([name(&events[0]), name(&events[1])], ["response.created", "response.in_progress"]);
    assert_eq!(
        (&events[0]["response"]["status"], &events[0]["response"]["output"]),
        (&json!("in_progress"), &json!([]))
    );
    let (last, middle) = events[2..].split_last().unwrap();
    let mut items: Vec<Value> = Vec::new();
    let mut text = String::new();
    for event in middle.iter().filter(|event| name(event) != "response.in_progress") {
        match name(event).strip_prefix("response.").unwrap() {
            "output_item.added" => {
                assert_eq!(event["output_index"], items.len());
                assert_eq!(event["item"]["status"], "in_progress");
                items.push(event["item"].clone());
                text.clear();
            }
            "content_part.added" => assert_eq!(event["part"]["text"], ""),
            "output_text.delta" | "function_call_arguments.delta" => text += event["delta"].as_str().unwrap(),
            "output_text.done" => assert_eq!(event["text"], text),
            "function_call_arguments.done" => assert_eq!(event["arguments"], text),
            "content_part.done" => assert_eq!(event["part"]["text"], text),
            "output_item.done" => *items.last_mut().unwrap() = event["item"].clone(),
            other => panic!("{other}"),
        }
        if !name(event).contains("output_item") {
            assert_eq!(event["item_id"], items.last().unwrap()["id"]);
            assert_eq!(event["output_index"], items.len() - 1);
        }
    }
    let response = last["response"].clone();
    assert_eq!(name(last), format!("response.{}", response["status"].as_str().unwrap()));
    items.retain(|item| item["status"] != "in_progress");
    assert_eq!(response["output"], json!(items));
    response
}

/// An answer without what differs from request to request.
fn settled(mut response: Value) -> Value {
    for key in ["id", "created_at"] {
        response[key] = Value::Null;
    }
    response["usage"]["input_tokens_details"] = Value::Null;
    for item in response["output"].as_array_mut().unwrap() {
        for key in ["id", "call_id"] {
            item[key] = Value::Null;
        }
    }
    response
}

async fn both(server: &Server, body: Value) -> Value {
    server.whole_and_streamed(PATH, body, fold, settled).await
}

#[tokio::test]
async fn a_call_is_an_item_of_its_own_whole_and_streamed() {
    let server = Server::saying(CALL, parsing()).await;
    let whole = both(&server, with(&ask(), json!({"tools": tools()}))).await;
    let output = whole["output"].as_array().unwrap();
    assert_eq!(output.len(), 2);
    let text = json!([{"type": "output_text", "text": "Let me look.\n", "annotations": [], "logprobs": []}]);
    assert_eq!(
        (&output[0]["type"], &output[0]["role"], &output[0]["content"]),
        (&json!("message"), &json!("assistant"), &text)
    );
    let call = &output[1];
    assert_eq!(
        (&call["type"], &call["name"], &call["status"]),
        (&json!("function_call"), &json!("read_file"), &json!("completed"))
    );
    assert_eq!(serde_json::from_str::<Value>(call["arguments"].as_str().unwrap()).unwrap(), arguments());
    assert!(call["call_id"].as_str().unwrap().starts_with("call_") && call["id"].as_str().unwrap().starts_with("fc_"));
    let shape: Vec<&str> = whole.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        shape,
        [
            "id",
            "object",
            "created_at",
            "model",
            "output",
            "status",
            "usage",
            "parallel_tool_calls",
            "tool_choice",
            "tools",
            "error",
            "incomplete_details",
            "instructions",
            "max_output_tokens",
            "previous_response_id",
            "reasoning",
            "store",
            "temperature",
            "text",
            "top_p",
            "truncation",
            "user",
            "metadata",
        ]
    );
    assert_eq!((&whole["status"], &whole["store"], &whole["model"]), (&json!("completed"), &json!(true), &json!("m")));
    let events = server.events(PATH, with(&ask(), json!({"tools": tools(), "stream": true}))).await;
    let pieces = events.iter().filter(|e| e["type"] == "response.function_call_arguments.delta").count();
    assert!(pieces > 10, "arguments arrive as they are written: {pieces} pieces");
    server.is_clean().await;
}

#[tokio::test]
async fn every_end_has_its_status() {
    let server = Server::saying("one two three", parsing()).await;
    let text = |response: &Value| response["output"][0]["content"][0]["text"].clone();
    let whole = both(&server, ask()).await;
    assert_eq!((&whole["status"], text(&whole)), (&json!("completed"), json!("one two three")));
    let whole = both(&server, with(&ask(), json!({"max_output_tokens": 3}))).await;
    assert_eq!((&whole["status"], text(&whole)), (&json!("incomplete"), json!("one")));
    assert_eq!(whole["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!((&whole["output"][0]["status"], &whole["usage"]["output_tokens"]), (&json!("incomplete"), &json!(3)));
    let whole = both(&Server::saying("", parsing()).await, ask()).await;
    assert_eq!((&whole["status"], text(&whole)), (&json!("completed"), json!("")));
    // A call that was cut is no call.
    let cut = Server::saying(CALL, parsing()).await;
    let whole = both(&cut, with(&ask(), json!({"tools": tools(), "max_output_tokens": 60}))).await;
    assert_eq!((&whole["status"], whole["output"].as_array().unwrap().len()), (&json!("incomplete"), 1));
}

#[tokio::test]
async fn an_answer_can_be_gone_on_from_by_its_id() {
    let server = Server::saying(CALL, parsing()).await;
    let first = server.ok(PATH, with(&ask(), json!({"tools": tools(), "instructions": "Be brief."}))).await;
    let (id, call) = (first["id"].as_str().unwrap(), &first["output"][1]);
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "text"});
    let more = with(&ask(), json!({"tools": tools(), "instructions": "Be brief.", "input": [result]}));
    let continued = server.ok(PATH, with(&more, json!({"previous_response_id": id}))).await;
    assert_eq!(continued["previous_response_id"], id);
    let mut items = vec![json!({"role": "user", "content": "Read it"})];
    items.extend(first["output"].as_array().unwrap().iter().cloned());
    items.push(result.clone());
    let sent = server.ok(PATH, with(&more, json!({"input": items}))).await;
    assert_eq!(sent["usage"]["input_tokens"], continued["usage"]["input_tokens"], "the same conversation");
    let referred = json!([items[0], {"type": "item_reference", "id": first["output"][0]["id"]}, items[2], items[3]]);
    let referred = server.ok(PATH, with(&more, json!({"input": referred}))).await;
    assert_eq!(sent["usage"]["input_tokens"], referred["usage"]["input_tokens"]);

    let got = server.client.get(server.url(&format!("{PATH}/{id}"))).send().await.unwrap();
    assert_eq!(got.status(), 200);
    assert_eq!(serde_json::from_str::<Value>(&got.text().await.unwrap()).unwrap(), first);
    let (status, _) = server.post(&format!("{PATH}/{id}/cancel"), json!({})).await;
    assert_eq!(status, 400, "it has ended");
    let gone = server.client.delete(server.url(&format!("{PATH}/{id}"))).send().await.unwrap();
    assert_eq!(gone.status(), 200);
    let (status, error) = server.post(PATH, with(&more, json!({"previous_response_id": id}))).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("previous_response_not_found")));
    for path in [format!("{PATH}/{id}/cancel"), format!("{PATH}/resp_x/cancel")] {
        assert_eq!(server.post(&path, json!({})).await.0, 404);
    }
    assert_eq!(server.get(&format!("{PATH}/{id}")).await.0, 404);

    let forgotten = server.ok(PATH, with(&ask(), json!({"store": false}))).await;
    assert_eq!(server.get(&format!("{PATH}/{}", forgotten["id"].as_str().unwrap())).await.0, 404);
    let small = Server::saying("ok", ApiConfig { response_store_entries: 1, ..parsing() }).await;
    let old = small.ok(PATH, ask()).await;
    let new = fold(&small.events(PATH, with(&ask(), json!({"stream": true}))).await);
    assert_eq!(small.get(&format!("{PATH}/{}", old["id"].as_str().unwrap())).await.0, 404);
    assert_eq!(small.get(&format!("{PATH}/{}", new["id"].as_str().unwrap())).await.0, 200);
}

#[tokio::test]
async fn an_answer_under_way_can_be_cancelled() {
    let server = Server::new().await;
    let body = with(&ask(), json!({"stream": true, "ignore_eos": true}));
    let answer = server.client.post(server.url(PATH)).json(&body).send().await.unwrap();
    let mut stream = answer.bytes_stream();
    let mut text = String::new();
    while !text.contains("output_text.delta") {
        text += std::str::from_utf8(&stream.next().await.expect("it goes on").unwrap()).unwrap();
    }
    let id = format!("resp_{}", &text.split("\"resp_").nth(1).unwrap()[..32]);
    let cancelled = server.ok(&format!("{PATH}/{id}/cancel"), json!({})).await;
    assert_eq!(cancelled["status"], "cancelled");
    while let Some(piece) = stream.next().await {
        text += &String::from_utf8_lossy(&piece.unwrap());
    }
    let events = crate::support::events(&text);
    assert_eq!(events.last().unwrap()["type"], "response.failed");
    server.is_clean().await;
}

#[tokio::test]
async fn codexs_tools_are_understood() {
    let call = "<tool_call>\n<function=spawn_agent>\n<parameter=task>\nx\n</parameter>\n</function>\n</tool_call>";
    let server = Server::saying(call, parsing()).await;
    let inner = json!({"type": "function", "name": "spawn_agent", "description": "Spawn.", "strict": false,
        "parameters": {"type": "object", "properties": {"task": {"type": "string"}}}});
    let mut offered = tools();
    offered.as_array_mut().unwrap().extend([
        json!({"type": "namespace", "name": "agents", "description": "Agents.", "tools": [inner]}),
        json!({"type": "web_search", "external_web_access": true}),
        json!({"type": "not_known_yet", "x": 1}),
    ]);
    let part = |text: &str| json!({"type": "input_text", "text": text});
    let body = json!({
        "model": "m", "tools": offered, "tool_choice": "auto", "parallel_tool_calls": true, "store": false,
        "input": [
            {"type": "message", "id": "msg_1", "role": "developer", "content": [part("You are an agent.")]},
            {"type": "message", "id": "msg_2", "role": "developer", "content": [part("One."), part("Two.")]},
            {"type": "message", "id": "msg_3", "role": "user", "content": [part("<environment/>")]},
            {"type": "message", "id": "msg_4", "role": "user", "content": [part("Go")]},
        ],
        "reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0", "client_metadata": {"turn_id": "0"},
    });
    let whole = both(&server, body).await;
    let item = &whole["output"][0];
    assert_eq!((&item["name"], &item["namespace"]), (&json!("spawn_agent"), &json!("agents")));
    assert_eq!(whole["reasoning"], json!({"effort": null, "summary": "auto"}));
}

#[tokio::test]
async fn refusals_have_an_envelope_of_their_own() {
    let server = Server::saying("ok", parsing()).await;
    for (more, part) in [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "Messages cannot be empty"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}), "input_image"),
        (json!({"max_output_tokens": 0}), "max_output_tokens must be at least 1, got 0"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"truncation": "some"}), "truncation"),
        (json!({"tools": [{"name": "x"}]}), "tools[0].type"),
        (json!({"text": {"format": {"type": "nonsense"}}}), "text.format"),
        (json!({"tool_choice": "required"}), "Tools cannot be empty"),
        (json!({"tools": tools(), "tool_choice": {"type": "function", "name": "rm"}}), "'rm'"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"input": "word ".repeat(2000)}), "longer than the model's context length"),
    ] {
        let (status, body) = server.post(PATH, with(&ask(), more.clone())).await;
        assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")), "{more}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(part), "{more}: {body}");
    }
    let mut turns = Vec::new();
    for turn in 0..40 {
        turns.push(json!({"role": "user", "content": format!("{turn}: {}", "word ".repeat(20))}));
        turns.push(json!({"role": "assistant", "content": "ok"}));
    }
    turns.push(json!({"role": "user", "content": "and now?"}));
    let long = with(&ask(), json!({"input": turns, "instructions": "Be brief."}));
    assert_eq!(server.post(PATH, long.clone()).await.1["error"]["code"], "context_length_exceeded");
    let cut = server.ok(PATH, with(&long, json!({"truncation": "auto"}))).await;
    assert!(cut["usage"]["input_tokens"].as_u64().unwrap() < 1024);
    server.is_clean().await;
}

#[tokio::test]
async fn scores_are_reported_when_asked_for() {
    let server = Server::new().await;
    let body =
        with(&ask(), json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 4}));
    let whole = server.ok(PATH, body).await;
    let logprobs = whole["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    assert!(!logprobs.is_empty());
    assert_eq!(logprobs[0]["top_logprobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn while_a_prompt_is_read_the_stream_says_that_it_goes_on() {
    let gate = StepGate::default();
    let server = Server::with(ApiConfig { stream_keep_alive: 0.02, ..config() }, Some(gate.hook())).await;
    let body = with(&ask(), json!({"stream": true, "max_output_tokens": 2, "ignore_eos": true}));
    let answer = server.client.post(server.url(PATH)).json(&body).send().await.unwrap();
    let mut stream = answer.bytes_stream();
    let mut text = String::new();
    while text.matches("event: response.in_progress\n").count() < 4 {
        text += std::str::from_utf8(&stream.next().await.expect("it goes on").unwrap()).unwrap();
    }
    gate.open();
    while let Some(piece) = stream.next().await {
        text += std::str::from_utf8(&piece.unwrap()).unwrap();
    }
    assert_eq!(fold(&crate::support::events(&text))["status"], "incomplete");
}

#[tokio::test]
async fn custom_tools_take_text_of_any_form() {
    let patch = "*** Begin Patch\n*** Update File: a.py\n+print(\"hi\")\n*** End Patch";
    let said = format!(
        "<tool_call>\n<function=apply_patch>\n<parameter=input>\n{patch}\n</parameter>\n</function>\n</tool_call>"
    );
    let server = Server::saying(&said, parsing()).await;
    let definition = r#"start: "*** Begin Patch\n*** Update File: " /(.+)/ "\n" ("+" /(.*)/ "\n")+ "*** End Patch""#;
    let format = json!({"type": "grammar", "syntax": "lark", "definition": definition});
    let tool = json!({"type": "custom", "name": "apply_patch", "description": "Apply a patch.", "format": format});
    let body = json!({"input": "Patch it", "tools": [tool], "temperature": 0});
    let tokens =
        async |body: Value| server.ok("/v1/responses/input_tokens", body).await["input_tokens"].as_u64().unwrap();
    assert!(tokens(body.clone()).await > tokens(json!({"input": "Patch it"})).await + 100, "the model is told of it");
    let choices = [json!("auto"), json!("required"), json!({"type": "custom", "name": "apply_patch"})];
    for choice in choices {
        let answer = server.ok("/v1/responses", with(&body, json!({"tool_choice": choice}))).await;
        let call = &answer["output"][0];
        assert_eq!(
            (&call["type"], &call["name"], &call["input"]),
            (&json!("custom_tool_call"), &json!("apply_patch"), &json!(patch)),
            "{answer}"
        );
        assert_eq!(call["status"], "completed");
    }
    let events = server.events("/v1/responses", with(&body, json!({"stream": true}))).await;
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>();
    let deltas = of("response.custom_tool_call_input.delta");
    assert!(deltas.len() > 10, "it comes as it is written");
    assert_eq!(deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect::<String>(), patch);
    assert_eq!(of("response.custom_tool_call_input.done")[0]["input"], patch);
    assert!(of("response.function_call_arguments.delta").is_empty());
    let done = &of("response.output_item.done")[0]["item"];
    assert_eq!((&done["type"], &done["input"]), (&json!("custom_tool_call"), &json!(patch)));
    // A grammar that cannot be used is refused, and so is a form that is not known.
    for (format, words) in [
        (json!({"type": "grammar", "syntax": "lark", "definition": "start: begin"}), "begin"),
        (json!({"type": "grammar", "syntax": "gbnf", "definition": "root ::= \"a\""}), "tools[0].format.syntax"),
        (json!({"type": "yaml"}), "tools[0].format.type"),
    ] {
        let tool = with(&tool, json!({"format": format}));
        let (status, body) = server.post("/v1/responses", with(&body, json!({"tools": [tool]}))).await;
        assert!(status == 400 && body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    }
    // Its history is read, from the client's items and from the server's own.
    let output = json!({"type": "custom_tool_call_output", "call_id": done["call_id"], "output": "Done"});
    let user = json!({"type": "message", "role": "user", "content": "Patch it"});
    server.ok("/v1/responses", with(&body, json!({"input": [user, done, output]}))).await;
    let kept = server.ok("/v1/responses", body.clone()).await;
    server.ok("/v1/responses", with(&body, json!({"previous_response_id": kept["id"], "input": [output]}))).await;
    // Cut by the limit, it is not called done.
    let cut = server.ok("/v1/responses", with(&body, json!({"max_output_tokens": 90}))).await;
    assert_eq!((&cut["status"], cut["output"].as_array().unwrap().len()), (&json!("incomplete"), 0));
    server.is_clean().await;
}

#[tokio::test]
async fn a_conversation_is_compacted_and_goes_on_from_its_summary() {
    let server = Server::saying("Tests fail in a.rs.", parsing()).await;
    let call = json!({"type": "function_call", "call_id": "c", "name": "ls", "arguments": "{}"});
    let input = json!([
        {"role": "user", "content": "Mend the tests"},
        call,
        {"type": "function_call_output", "call_id": "c", "output": "a.rs ".repeat(200)},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a.rs it is."}]},
        {"role": "user", "content": "Go on"},
    ]);
    let tokens = async |input: &Value| {
        let body = json!({"input": input});
        server.ok("/v1/responses/input_tokens", body).await["input_tokens"].as_u64().unwrap()
    };
    let compacted = server.ok("/v1/responses/compact", json!({"input": input, "temperature": 0})).await;
    assert_eq!(compacted["object"], "response.compaction");
    assert_eq!((&compacted["status"], &compacted["incomplete_details"]), (&json!("completed"), &Value::Null));
    assert!(compacted["usage"]["output_tokens"].as_u64().unwrap() > 0, "{compacted}");
    let output = compacted["output"].as_array().unwrap();
    let kinds: Vec<_> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "message", "compaction"], "the user's words and a summary");
    assert_eq!(output[1]["content"][0], json!({"type": "input_text", "text": "Go on"}));
    assert!(tokens(&compacted["output"]).await < tokens(&input).await / 2);
    // The model reads the summary in the item's place.
    let said = |text: &str| json!({"role": "user", "content": format!("Summary of the conversation so far:\n{text}")});
    let (item, summary) = (json!([output[2]]), json!([said("Tests fail in a.rs.")]));
    assert_eq!(tokens(&item).await, tokens(&summary).await);
    // A summary is not kept beside the next one.
    let again = server.ok("/v1/responses/compact", json!({"input": output, "temperature": 0})).await;
    assert_eq!(again["output"].as_array().unwrap().len(), 3);
    // A history that is too long loses its beginning rather than its summary.
    let long = json!([{"role": "user", "content": "x ".repeat(20_000)}, {"role": "user", "content": "y"}]);
    let short = server.ok("/v1/responses/compact", json!({"input": long, "temperature": 0})).await;
    assert_eq!(short["output"][2]["encrypted_content"], output[2]["encrypted_content"]);
    server.is_clean().await;
}

#[tokio::test]
async fn a_summary_that_was_cut_says_so_and_what_would_bind_it_is_refused() {
    let server = Server::saying("Tests fail in a.rs.", parsing()).await;
    let body = json!({"input": user("Mend the tests"), "temperature": 0});
    let cut = server.ok("/v1/responses/compact", with(&body, json!({"max_output_tokens": 5}))).await;
    assert_eq!(cut["status"], "incomplete", "{cut}");
    assert_eq!(cut["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(cut["usage"]["output_tokens"], 5);
    let form = json!({"type": "json_schema", "name": "n", "schema": {"type": "integer"}});
    for (field, value) in [
        ("stream", json!(true)),
        ("response_format", json!({"type": "json_object"})),
        ("json_schema", json!({"type": "integer"})),
        ("regex", json!("[0-9]+")),
        ("ebnf", json!("root ::= \"a\"")),
        ("grammar", json!("root ::= \"a\"")),
        ("guided_choice", json!(["yes"])),
        ("guided_json", json!({"type": "integer"})),
        ("structured_outputs", json!({"regex": "[0-9]+"})),
        ("stop", json!("fail")),
        ("stop_token_ids", json!([97])),
    ] {
        let (status, answer) = server.post("/v1/responses/compact", with(&body, json!({ field: value }))).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{answer}");
    }
    // What agents send with everything is no obstacle.
    let agents = json!({"stream": false, "text": {"format": form}, "tools": tools(), "include": [], "stop": null});
    let whole = server.ok("/v1/responses/compact", with(&body, agents)).await;
    assert_eq!((&whole["status"], whole["output"].as_array().unwrap().len()), (&json!("completed"), 2));
    server.is_clean().await;
}
