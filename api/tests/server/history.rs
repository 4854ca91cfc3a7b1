//! What stands in a conversation's history never ends it, through any API: it is read, or a line stands for
//! it. Only what is new is refused.

use crate::support::{Server, Setup, parsing, small_engine, with};
use quern_api::ApiConfig;
use quern_engine::EngineConfig;
use serde_json::{Value, json};

const OMITTED: &str = "[image omitted: this model reads text only]";

/// A server that answers with its prompt, as text.
async fn echo() -> Server {
    let roomy = Setup {
        api: ApiConfig { context_length: 8192, ..parsing() },
        engine: EngineConfig { num_pages: 4096, ..small_engine() },
    };
    Server::answering(|prompt| prompt.replace("<|", "<"), roomy).await
}

/// What each API is asked with messages, and where its answer's text is.
async fn chat(server: &Server, messages: Value) -> String {
    let answer = server.ok("/v1/chat/completions", json!({"messages": messages, "temperature": 0})).await;
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

async fn responses(server: &Server, input: Value) -> String {
    let answer = server.ok("/v1/responses", json!({"input": input, "temperature": 0})).await;
    answer["output"][0]["content"][0]["text"].as_str().unwrap().to_owned()
}

async fn messages(server: &Server, messages: Value) -> String {
    let body = json!({"messages": messages, "max_tokens": 4096, "temperature": 0});
    server.ok("/v1/messages/count_tokens", body.clone()).await;
    server.ok("/v1/messages", body).await["content"][0]["text"].as_str().unwrap().to_owned()
}

async fn ollama(server: &Server, messages: Value) -> String {
    let body = json!({"messages": messages, "stream": false, "options": {"temperature": 0}});
    server.ok("/api/chat", body).await["message"]["content"].as_str().unwrap().to_owned()
}

fn has(prompt: &str, wanted: &str) {
    assert!(prompt.contains(wanted), "{wanted:?} is not in {prompt:?}");
}

#[tokio::test]
async fn calls_with_broken_arguments_are_read_as_they_are() {
    let server = echo().await;
    let user = json!({"role": "user", "content": "go"});
    for (given, shown) in [
        (json!("{\"a\": "), Some("{\"a\": ")),
        (json!("{\"a\": 1}{\"b\": 2}"), Some("{\"a\": 1}{\"b\": 2}")),
        (json!("{\"q\": \"say \"hi\"\"}"), Some("{\"q\": \"say \"hi\"\"}")),
        (json!("5"), Some("5")),
        (json!([]), None),
        (json!("[]"), None),
        (json!(null), None),
        (json!(""), None),
        (json!("\"{\\\"deep\\\": \\\"value\\\"}\""), Some("<parameter=deep>\nvalue\n")),
    ] {
        let call =
            |given: &Value| json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": given}});
        let made = json!({"role": "assistant", "content": null, "tool_calls": [call(&given)]});
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "invalid"});
        let history = json!([user, made, result, user]);
        let prompts = [
            chat(&server, history.clone()).await,
            ollama(&server, history).await,
            responses(
                &server,
                json!([
                    user,
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": given},
                    {"type": "function_call_output", "call_id": "c", "output": "invalid"},
                    user,
                ]),
            )
            .await,
            messages(
                &server,
                json!([
                    user,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": given}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "invalid"}]},
                ]),
            )
            .await,
        ];
        for prompt in prompts {
            has(&prompt, "<function=f>");
            has(&prompt, "invalid");
            match shown {
                Some(text) => has(&prompt, text),
                None => assert!(!prompt.contains("<parameter="), "{given}: {prompt}"),
            }
        }
    }
    server.is_clean().await;
}

#[tokio::test]
async fn halves_of_pairs_are_replaced_in_every_string() {
    let server = echo().await;
    let half = r#""a\ud83d\u2026""#;
    let post = async |path: &str, body: String| {
        let request = server.client.post(server.url(path)).header("content-type", "application/json");
        let answer = request.body(body.clone()).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{path} {body}: {text}");
        text
    };
    let call = format!(r#"{{"id": "c", "function": {{"name": "f", "arguments": {{{half}: {half}}}}}}}"#);
    let history = format!(
        r#"[{{"role": "user", "content": "go"}}, {{"role": "assistant", "tool_calls": [{call}]}},
            {{"role": "tool", "tool_call_id": "c", "content": {half}}}]"#
    );
    for (path, body) in [
        ("/v1/chat/completions", format!(r#"{{"messages": {history}, {half}: 1}}"#)),
        ("/v1/completions", format!(r#"{{"prompt": {half}, "max_tokens": 40}}"#)),
        ("/v1/responses", format!(r#"{{"input": {half}}}"#)),
        ("/v1/messages", format!(r#"{{"max_tokens": 900, "messages": [{{"role": "user", "content": {half}}}]}}"#)),
        ("/api/chat", format!(r#"{{"stream": false, "messages": {history}}}"#)),
        ("/api/generate", format!(r#"{{"stream": false, "prompt": {half}}}"#)),
        ("/generate", format!(r#"{{"text": {half}}}"#)),
        ("/infill", format!(r#"{{"input_prefix": {half}, "n_predict": 40}}"#)),
        ("/tokenize", format!(r#"{{"prompt": {half}}}"#)),
    ] {
        let text = post(path, body).await;
        if path != "/tokenize" {
            has(&text, "a\u{fffd}…");
        }
    }
    let (status, _) = server.post("/v1/completions", json!({"prompt": "a\u{fffd}…", "max_tokens": 1})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn pictures_of_the_history_leave_a_line() {
    let server = echo().await;
    let user = |text: &str| json!({"role": "user", "content": text});
    let url = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let call =
        json!({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "shot", "arguments": "{}"}}]});
    let turns = [
        json!([user("go"), call, {"role": "tool", "tool_call_id": "c", "content": [url]}]),
        json!([{"role": "user", "content": [{"type": "text", "text": "see"}, url]}, user("never mind")]),
        json!([{"role": "user", "content": [url]}, {"role": "assistant", "content": "I cannot."}, user("never mind")]),
        json!([{"role": "system", "content": [url]}, user("x")]),
    ];
    for turn in turns {
        has(&chat(&server, turn).await, OMITTED);
    }
    let block = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [block]});
    let used = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Read", "input": {}}]});
    has(&messages(&server, json!([user("go"), used, {"role": "user", "content": [result]}])).await, OMITTED);
    has(&messages(&server, json!([{"role": "user", "content": [block]}, user("never mind")])).await, OMITTED);
    let part = json!({"type": "input_image", "image_url": "data:image/png;base64,AAAA"});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": [part]});
    let made = json!({"type": "function_call", "call_id": "c", "name": "view", "arguments": "{}"});
    has(&responses(&server, json!([user("go"), made, output])).await, OMITTED);
    has(&responses(&server, json!([{"role": "user", "content": [part]}, user("never mind")])).await, OMITTED);
    let images = |text: &str| json!({"role": "user", "content": text, "images": ["AAAA"]});
    has(&ollama(&server, json!([images("see"), user("never mind")])).await, &format!("see\n{OMITTED}"));
    let seen = json!({"role": "tool", "content": "", "images": ["AAAA"]});
    has(&ollama(&server, json!([user("go"), seen])).await, OMITTED);

    // What is new is refused, by its place.
    for (path, body, place) in [
        (
            "/v1/chat/completions",
            json!({"messages": [user("x"), {"role": "user", "content": ["x", url]}]}),
            "messages[1].content[1]",
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 9, "messages": [user("x"), {"role": "user", "content": [block]}]}),
            "messages[1].content[0]",
        ),
        ("/v1/responses", json!({"input": [user("x"), {"role": "user", "content": [part]}]}), "input[1].content[0]"),
        ("/api/chat", json!({"messages": [user("x"), images("see")]}), "messages[1].images"),
    ] {
        let (status, answer) = server.post(path, body).await;
        assert!(status == 400 && answer.to_string().contains(place), "{path}: {status} {answer}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn oddities_of_the_history_are_read_or_read_over() {
    let server = echo().await;
    let last = json!({"role": "user", "content": "and now?"});
    let call = json!({"name": "f", "arguments": "{\"a\": 1}"});
    for (message, shown) in [
        (json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]}), "I will not."),
        (json!({"role": "assistant", "content": null, "refusal": "I will not."}), "I will not."),
        (
            json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Two."}]}),
            "Two.",
        ),
        (
            json!({"role": "assistant", "content": [{"type": "text", "text": null}], "tool_calls": null, "audio": null}),
            "assistant",
        ),
        (json!({"role": "assistant", "content": ""}), "assistant"),
        (json!({"role": "assistant", "function_call": call, "content": null}), "<function=f>\n<parameter=a>\n1\n"),
        (json!({"role": "function", "name": "f", "content": "found"}), "<tool_response>\nfound"),
        (json!({"role": "tool", "tool_call_id": "nobody's", "content": "found"}), "<tool_response>\nfound"),
        (json!({"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}), "system\nBe brief."),
        (json!({"role": "user", "content": [{"type": "novelty", "text": "words"}]}), "user\nwords"),
        (json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}), "[audio omitted"),
        (json!({"role": "user", "content": {"type": "text", "text": "one part"}}), "one part"),
        (json!({"role": "assistant", "tool_calls": [null, {"id": "x"}, {"function": null}]}), "assistant"),
        (json!({"content": "no role"}), "user\nno role"),
        (json!(null), "and now?"),
    ] {
        let history = json!([{"role": "user", "content": "go"}, message, last]);
        has(&chat(&server, history.clone()).await, shown);
        has(&ollama(&server, history).await, shown);
    }
    for (block, shown) in [
        (
            json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}),
            "<function=web_search>",
        ),
        (
            json!({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "title": "T", "url": "u"}]}),
            "<tool_response>\nT\nu",
        ),
        (
            json!({"type": "code_execution_tool_result", "tool_use_id": "s", "content": {"type": "code_execution_result", "stdout": "out", "stderr": ""}}),
            "<tool_response>\nout",
        ),
        (json!({"type": "mcp_tool_use", "id": "s", "name": "n", "server_name": "m", "input": {}}), "<function=n>"),
        (
            json!({"type": "mcp_tool_result", "tool_use_id": "s", "is_error": false, "content": [{"type": "text", "text": "out"}]}),
            "<tool_response>\nout",
        ),
        (json!({"type": "compaction", "content": "So far."}), "So far."),
        (json!({"type": "redacted_thinking", "data": "…"}), "assistant"),
        (json!({"type": "container_upload", "file_id": "f"}), "[file omitted"),
        (json!({"type": "novelty"}), "[novelty omitted"),
        (json!({"type": "tool_use", "id": "t"}), "assistant"),
    ] {
        let history = json!([{"role": "user", "content": "go"}, {"role": "assistant", "content": [block]}, last]);
        has(&messages(&server, history).await, shown);
    }
    for (block, shown) in [
        (
            json!({"type": "search_result", "source": "s", "title": "T", "content": [{"type": "text", "text": "x"}]}),
            "T\ns\nx",
        ),
        (
            json!({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}}),
            "user\nx",
        ),
    ] {
        has(&messages(&server, json!([{"role": "user", "content": [block]}])).await, shown);
    }
    server.is_clean().await;
}

#[tokio::test]
async fn items_that_codex_and_others_keep_are_read() {
    let server = echo().await;
    let user = |text: &str| json!({"role": "user", "content": text});
    for (item, shown) in [
        (
            json!({"type": "tool_search_call", "call_id": "t", "execution": "client", "arguments": {"query": "x"}}),
            "<function=tool_search>",
        ),
        (json!({"type": "tool_search_output", "call_id": "t", "execution": "client", "tools": []}), "<tool_response>"),
        (
            json!({"type": "local_shell_call", "call_id": "l", "action": {"type": "exec", "command": ["ls"]}}),
            "<function=local_shell>",
        ),
        (json!({"type": "local_shell_call_output", "id": "l", "output": "listed"}), "<tool_response>\nlisted"),
        (json!({"type": "compaction", "id": "c", "encrypted_content": "x"}), "user"),
        (json!({"type": "image_generation_call", "id": "i", "result": "AAAA"}), OMITTED),
        (
            json!({"type": "mcp_call", "id": "m", "server_label": "s", "name": "n", "arguments": "{}", "output": "said"}),
            "<tool_response>\nsaid",
        ),
        (json!({"type": "mcp_list_tools", "id": "m", "tools": []}), "user"),
        (json!({"type": "code_interpreter_call", "id": "i", "code": "print(1)", "outputs": []}), "print(1)"),
        (json!({"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "…"}), "user"),
        (json!({"type": "item_reference", "id": "msg_lost"}), "not kept any more"),
        (json!({"type": "novelty", "id": "n"}), "user"),
    ] {
        let prompt = responses(&server, json!([user("a"), item, user("b")])).await;
        has(&prompt, shown);
        has(&prompt, "user\nb");
    }
    let called = "<tool_call>\n<function=f>\n</function>\n</tool_call>";
    let server = Server::saying(called, parsing()).await;
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]);
    let brought = json!({"type": "additional_tools", "role": "developer", "tools": tools});
    let body = json!({"input": [brought, user("b")], "tool_choice": "required"});
    let answer = server.ok("/v1/responses", body).await;
    assert_eq!((&answer["output"][0]["type"], &answer["output"][0]["name"]), (&json!("function_call"), &json!("f")));
    let next = json!({"input": [user("again")], "previous_response_id": answer["id"], "tool_choice": "required"});
    assert_eq!(server.ok("/v1/responses", next.clone()).await["output"][0]["type"], "function_call");
    let named = with(&next, json!({"tool_choice": {"type": "function", "name": "f"}}));
    assert_eq!(server.ok("/v1/responses", named).await["output"][0]["name"], "f");
    server.is_clean().await;
}
