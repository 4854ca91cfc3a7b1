//! What stands beside the endpoints: forms of addresses, paths that are not served, keys, preflights, and the
//! questions that other servers' clients ask.

use crate::support::{CALL, Server, functions, parsing, user, with};
use quern_api::config::{ApiConfig, Secret};
use serde_json::{Value, json};

#[tokio::test]
async fn every_form_of_an_address_is_answered() {
    let server = Server::saying("Hi.", parsing()).await;
    let body = json!({"messages": user("x"), "max_tokens": 4});
    for path in [
        "/chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/v1/chat/completions",
        "/v1/chat/completions/chat/completions",
    ] {
        assert_eq!(server.ok(path, body.clone()).await["choices"][0]["message"]["content"], "Hi.", "{path}");
    }
    server.ok("/messages", body).await;
    server.ok("/responses", json!({"input": "x"})).await;
    server.ok("/completions", json!({"prompt": "x"})).await;
    for path in ["/models", "/v1/models/", "/models/any/name"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_served_is_said_in_the_form_of_its_api() {
    let server = Server::saying("Hi.", parsing()).await;
    let get = async |path: &str| -> (u16, Value) {
        let (status, text) = server.get(path).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}")))
    };
    let (status, body) = get("/v1/chat/completion").await;
    assert!(body["error"]["message"].as_str().unwrap().contains("Did you mean /v1/chat/completions?"), "{body}");
    assert_eq!((status, &body["detail"], &body["code"]), (404, &json!("Not Found"), &json!(404)));
    let (status, body) = get("/v1/messages/batches").await;
    assert_eq!((status, &body["type"], &body["error"]["type"]), (404, &json!("error"), &json!("not_found_error")));
    let (status, body) = get("/api/nothing").await;
    assert!(status == 404 && body["error"].is_string(), "{body}");
    let (status, body) = get("/v1/chat/completions").await;
    assert!(status == 405 && body["error"]["message"].as_str().unwrap().contains("GET"), "{body}");
    let (status, body) = get("/api/chat").await;
    assert!(status == 405 && body["error"].is_string(), "{body}");
    let (status, body) = server.post("/v1/chat/completions", json!({"input": "x"})).await;
    assert!(status == 400 && body["error"]["message"].as_str().unwrap().contains("/v1/responses"), "{body}");
    let zipped = server.client.post(server.url("/v1/chat/completions")).header("content-type", "application/json");
    let answer = zipped.header("content-encoding", "gzip").body(vec![0x1f, 0x8b]).send().await.unwrap();
    assert_eq!(answer.status(), 415);
    assert!(answer.text().await.unwrap().contains("gzip"));
}

#[tokio::test]
async fn a_missing_key_is_said_in_the_form_of_the_api_whatever_the_addresss_form() {
    let config = ApiConfig { api_key: vec![Secret::new("k")], ..parsing() };
    let server = Server::saying("Hi.", config).await;
    for (path, place) in [
        ("/v1/chat/completions", "/error/message"),
        ("/v1/responses", "/error/message"),
        ("/v1/messages", "/error/message"),
        ("/generate", "/error/message"),
        ("/api/chat", "/error"),
        ("//flush_cache", "/error/message"),
        ("/chat/completions", "/error/message"),
    ] {
        let (status, body) = server.post(path, json!({})).await;
        assert_eq!(status, 401, "{path}");
        assert!(body.pointer(place).unwrap().as_str().unwrap().starts_with("Unauthorized"), "{path}: {body}");
    }
}

#[tokio::test]
async fn the_questions_of_llama_cpp_and_vllm_are_answered() {
    let server = Server::answering(|prompt| format!("a\nb\nc {}", prompt.len()), parsing()).await;
    let get = async |path: &str| -> Value { serde_json::from_str(&server.get(path).await.1).unwrap() };
    let props = get("/props").await;
    assert_eq!(props["default_generation_settings"]["n_ctx"], 1024);
    let params = &props["default_generation_settings"]["params"];
    assert_eq!((&params["temperature"], &params["top_k"]), (&json!(0.7), &json!(20)), "the model's own");
    assert_eq!(params["repeat_penalty"], json!(1.05));
    assert!(props["chat_template"].as_str().unwrap().contains("im_start"));
    let slots = get("/slots").await;
    assert_eq!(slots.as_array().unwrap().len() as u64, props["total_slots"].as_u64().unwrap());
    assert!(slots.as_array().unwrap().iter().all(|slot| slot["is_processing"] == false));
    assert!(get("/version").await["version"].is_string());
    assert!(get("/tokenizer_info").await["eos_token"].is_string());
    let applied = server.ok("/apply-template", json!({"messages": user("Hello")})).await;
    assert_eq!(applied["prompt"], "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(server.ok("/tokenize", json!({"content": "ab"})).await, json!({"tokens": [97, 98]}));
    let pieces = server.ok("/tokenize", json!({"content": "a", "with_pieces": true})).await;
    assert_eq!(pieces, json!({"tokens": [{"id": 97, "piece": "a"}]}));

    let body = json!({"prompt": "xyz", "n_predict": 20, "temperature": 0});
    let whole = server.ok("/completion", body.clone()).await;
    assert_eq!(
        (&whole["content"], &whole["stop"], &whole["stop_type"]),
        (&json!("a\nb\nc 3"), &json!(true), &json!("eos"))
    );
    let some = server
        .ok("/completion", with(&body, json!({"response_fields": ["content", "timings/prompt_n", "no/such"]})))
        .await;
    assert_eq!(some, json!({"content": "a\nb\nc 3", "timings/prompt_n": some["timings/prompt_n"]}));
    assert!(some["timings/prompt_n"].is_u64());
    assert_eq!(server.ok("/completion", with(&body, json!({"prompt": [120, 121]}))).await["tokens_evaluated"], 2);
    let (status, _) = server.post("/completion", with(&body, json!({"prompt": ["a", "b"]}))).await;
    assert_eq!(status, 400);
    server.is_clean().await;
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_used() {
    let server = Server::saying("Hi.", parsing()).await;
    let tools: Value = functions()
        .map(|(name, description, parameters)| json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}))
        .into_iter()
        .collect();
    let talk = json!([{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "A colour is"}]);
    for body in [
        json!({"messages": talk}),
        json!({"messages": talk, "continue_final_message": true, "add_generation_prompt": false}),
        json!({"messages": talk, "continue_final_message": true}),
        json!({"messages": talk, "tools": tools}),
        json!({"messages": talk, "tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "ls"}}]}}}),
        json!({"messages": talk, "tools": tools, "tool_choice": "none"}),
    ] {
        let counted = server.ok("/tokenize", body.clone()).await;
        let used = server.ok("/v1/chat/completions", with(&body, json!({"max_tokens": 1}))).await;
        assert_eq!(counted["count"], used["usage"]["prompt_tokens"], "{body}");
    }
    let flat: Value = functions()
        .map(|(name, description, parameters)| json!({"type": "function", "name": name, "description": description, "parameters": parameters}))
        .into_iter()
        .collect();
    let body = json!({"input": "Name a colour.", "instructions": "Be brief.", "tools": flat});
    let counted = server.ok("/v1/responses/input_tokens", body.clone()).await;
    let answer = server.ok("/v1/responses", body).await;
    assert_eq!(counted["input_tokens"], answer["usage"]["input_tokens"]);
    let items: Value = serde_json::from_str(
        &server.get(&format!("/v1/responses/{}/input_items", answer["id"].as_str().unwrap())).await.1,
    )
    .unwrap();
    assert_eq!((&items["object"], &items["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(items["data"][0]["content"][0]["text"], "Name a colour.");
    assert_eq!(server.get("/v1/responses/none/input_items").await.0, 404);
}

#[tokio::test]
async fn tool_choice_has_openais_forms_on_chat() {
    let server = Server::saying(CALL, parsing()).await;
    let tools: Value = functions()
        .map(|(name, _, parameters)| json!({"type": "function", "function": {"name": name, "parameters": parameters}}))
        .into_iter()
        .collect();
    let body = json!({"messages": user("x"), "tools": tools, "max_tokens": 300, "temperature": 0});
    for choice in [
        json!({"type": "function", "name": "read_file"}),
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "read_file"}}]}}),
        json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "read_file"}]}),
    ] {
        let answer = server.ok("/v1/chat/completions", with(&body, json!({"tool_choice": choice}))).await;
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "read_file", "{choice}");
    }
}

#[tokio::test]
async fn parameters_that_are_no_schema_are_refused_by_their_place_on_every_api() {
    let server = Server::saying("Hi.", parsing()).await;
    let misspelt = json!({"type": "object", "properties": {"n": {"type": "intger"}}});
    for (parameters, place) in [
        (misspelt, ".properties.n.type"),
        (json!("a string"), ""),
        (json!({"type": "object", "properties": 3}), ".properties"),
    ] {
        let function = json!({"name": "note", "parameters": parameters});
        let flat = with(&function, json!({"type": "function"}));
        let inside = json!([{"type": "function", "function": function}]);
        for (path, body, name) in [
            ("/v1/chat/completions", json!({"messages": user("x"), "tools": inside}), "tools[0].function.parameters"),
            ("/tokenize", json!({"messages": user("x"), "tools": inside}), "tools[0].function.parameters"),
            ("/api/chat", json!({"messages": user("x"), "tools": inside}), "tools[0].function.parameters"),
            ("/v1/responses", json!({"input": "x", "tools": [flat]}), "tools[0].parameters"),
            (
                "/v1/messages",
                json!({"messages": user("x"), "max_tokens": 4, "tools": [{"name": "note", "input_schema": parameters}]}),
                "tools[0].input_schema",
            ),
        ] {
            let (status, answer) = server.post(path, body).await;
            let said = answer.to_string();
            assert!(status == 400 && said.contains(&format!("{name}{place}: ")), "{path}: {status} {said}");
        }
    }
    // Brought by the history, such a tool is read over.
    let brought = json!({"type": "additional_tools", "tools": [{"type": "function", "name": "f", "parameters": 3}]});
    server.ok("/v1/responses", json!({"input": [brought, {"role": "user", "content": "x"}]})).await;
}

#[tokio::test]
async fn lists_that_do_not_match_are_refused() {
    let server = Server::new().await;
    let ask = json!({"text": "hello", "sampling_params": {"max_new_tokens": 1}, "return_logprob": true});
    for more in [
        json!({"token_ids_logprob": [[3]]}),
        json!({"token_ids_logprob": [[3], [4, 5]]}),
        json!({"text": ["hello", "hello"], "token_ids_logprob": [[3]]}),
    ] {
        let (status, answer) = server.post("/generate", with(&ask, more.clone())).await;
        assert!(status == 400 && answer.to_string().contains("token_ids_logprob"), "{more}: {status} {answer}");
    }
    server.ok("/generate", with(&ask, json!({"token_ids_logprob": [3]}))).await;
    server.ok("/generate", with(&ask, json!({"text": ["a", "b"], "token_ids_logprob": [[3], [4, 5]]}))).await;
    for extra in [json!([{"filename": "x"}]), json!([{"text": 3}])] {
        let (status, answer) = server.post("/infill", json!({"input_prefix": "a", "input_extra": extra})).await;
        assert!(status == 400 && answer.to_string().contains("input_extra[0].text"), "{extra}: {answer}");
    }
}

#[tokio::test]
async fn a_tool_without_a_description_has_none_in_the_prompt() {
    let server = Server::answering(
        |prompt| prompt.replace("<|", "<").replace("tool_call", "call"),
        ApiConfig { tool_call_parser: None, ..parsing() },
    )
    .await;
    let tools = json!([{"type": "function", "function": {"name": "f", "description": null}}]);
    let body = json!({"messages": user("x"), "tools": tools, "temperature": 0});
    let answer = server.ok("/v1/chat/completions", body).await;
    let prompt = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(prompt.contains("\"name\": \"f\"") && !prompt.contains("description"), "{prompt}");
}

#[tokio::test]
async fn a_call_cut_in_its_opening_tag_leaks_no_markup() {
    let server = Server::saying("Look.\n<tool_call>\n<function=ls>\n</function>\n</tool_call>", parsing()).await;
    let tools = json!([{"type": "function", "function": {"name": "ls"}}]);
    for max_tokens in 6..=30 {
        let body = json!({"messages": user("x"), "tools": tools, "temperature": 0, "max_tokens": max_tokens});
        let answer = server.ok("/v1/chat/completions", body).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        assert!(!text.contains("<tool") && !text.contains("<function"), "{max_tokens}: {text:?}");
    }
}
