//! Ollama's endpoints over HTTP.

use crate::support::{CALL, Server, arguments, functions, parsing, user, with};
use serde_json::{Value, json};

fn tools() -> Value {
    let tool = |(name, description, parameters): (&str, &str, Value)| json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}});
    functions().map(tool).into_iter().collect()
}

/// The lines of a stream.
async fn lines(server: &Server, path: &str, body: Value) -> Vec<Value> {
    let answer = server.client.post(server.url(path)).body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_conversation_streams_lines_unless_told_otherwise() {
    let server = Server::saying(CALL, parsing()).await;
    let body =
        json!({"model": "m:latest", "messages": user("Read it"), "tools": tools(), "options": {"temperature": 0}});
    let lines = lines(&server, "/api/chat", body.clone()).await;
    let (last, rest) = lines.split_last().unwrap();
    let content: String = rest.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(content, "Let me look.\n");
    assert!(rest.iter().all(|line| line["done"] == false && line["message"]["role"] == "assistant"));
    let calls: Vec<_> = rest.iter().filter_map(|line| line["message"]["tool_calls"].as_array()).flatten().collect();
    assert_eq!(calls.len(), 1);
    assert_eq!(
        (&calls[0]["function"]["name"], &calls[0]["function"]["arguments"]),
        (&json!("read_file"), &arguments())
    );
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["model"]),
        (&json!(true), &json!("stop"), &json!("m:latest"))
    );
    assert!(last["eval_count"].as_u64().unwrap() > 10 && last["total_duration"].as_u64().unwrap() > 0);
    assert_eq!(last["created_at"].as_str().unwrap().len(), 20);

    let whole = server.ok("/api/chat", with(&body, json!({"stream": false}))).await;
    assert_eq!((&whole["message"]["content"], &whole["done"]), (&json!("Let me look.\n"), &json!(true)));
    let call = whole["message"]["tool_calls"][0].clone();
    assert_eq!(call["function"]["arguments"], arguments());
    let history = json!([
        {"role": "user", "content": "Read it"},
        {"role": "assistant", "content": "Let me look.\n", "tool_calls": [call]},
        {"role": "tool", "tool_name": "read_file", "content": "text"},
    ]);
    server.ok("/api/chat", with(&body, json!({"stream": false, "messages": history}))).await;
    server.is_clean().await;
}

#[tokio::test]
async fn prompts_are_rendered_or_raw_or_have_a_gap() {
    let server = Server::saying("return 1<|fim_prefix|>more", parsing()).await;
    let ask =
        json!({"model": "m", "prompt": "def f():", "stream": false, "options": {"temperature": 0, "num_predict": 30}});
    let read = |answer: &Value| answer["prompt_eval_count"].as_u64().unwrap();
    let plain = server.ok("/api/generate", ask.clone()).await;
    let raw = server.ok("/api/generate", with(&ask, json!({"raw": true}))).await;
    let system = server.ok("/api/generate", with(&ask, json!({"system": "Be brief."}))).await;
    assert!(read(&raw) < read(&plain) && read(&plain) < read(&system));
    assert_eq!(raw["response"], "return 1more");
    let gap = server.ok("/api/generate", with(&ask, json!({"suffix": "\n"}))).await;
    assert_eq!((&gap["response"], &gap["done_reason"]), (&json!("return 1"), &json!("stop")));
    let cut = server.ok("/api/generate", with(&ask, json!({"options": {"num_predict": 2}}))).await;
    assert_eq!((&cut["done_reason"], &cut["eval_count"]), (&json!("length"), &json!(2)));
    let stopped = server.ok("/api/generate", with(&ask, json!({"options": {"stop": [" 1"], "num_ctx": 4096}}))).await;
    assert_eq!(stopped["response"], "return");
    let loaded = server.ok("/api/generate", json!({"model": "m"})).await;
    assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
}

#[tokio::test]
async fn the_server_says_what_it_serves() {
    let server = Server::saying("ok", parsing()).await;
    let get = async |path: &str| -> Value { serde_json::from_str(&server.get(path).await.1).unwrap() };
    assert!(get("/api/version").await["version"].is_string());
    let name = server.state.config.served_model_name.clone();
    assert_eq!(get("/api/tags").await["models"][0]["name"], name);
    let model = get("/api/tags").await["models"][0].clone();
    assert_eq!(model["digest"].as_str().unwrap().len(), 64);
    assert!(!model["details"]["parameter_size"].as_str().unwrap().starts_with("0.0"));
    let running = get("/api/ps").await["models"][0].clone();
    assert_eq!((&running["name"], &running["digest"]), (&model["name"], &model["digest"]));
    assert_eq!((&running["context_length"], &running["size_vram"]), (&json!(1024), &json!(0)));
    let version = get("/api/version").await["version"].as_str().unwrap().to_owned();
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap()).collect();
    assert!(numbers >= vec![0, 13, 4], "Codex asks for 0.13.4: {version}");
    let pulled = lines(&server, "/api/pull", json!({"model": name})).await;
    assert_eq!(pulled.last().unwrap()["status"], "success");
    assert_eq!(server.ok("/api/pull", json!({"name": name, "stream": false})).await["status"], "success");
    let (status, other) = server.post("/api/pull", json!({"model": "another"})).await;
    assert!(status == 404 && other["error"].as_str().unwrap().contains(&name), "{other}");
    for path in ["/api/embed", "/api/embeddings", "/api/create"] {
        let (status, refused) = server.post(path, json!({"model": "m", "input": "x"})).await;
        assert!(status == 501 && refused["error"].is_string(), "{path}: {refused}");
    }
    for (keep_alive, reason) in
        [(json!(0), "unload"), (json!("0s"), "unload"), (json!("5m"), "load"), (json!(-1), "load")]
    {
        for path in ["/api/generate", "/api/chat"] {
            let answer = server.ok(path, json!({"model": "m", "keep_alive": keep_alive})).await;
            assert_eq!(answer["done_reason"], reason, "{path} {keep_alive}");
        }
    }
    let shown = server.ok("/api/show", json!({"model": name})).await;
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "insert"]));
    let family = shown["model_info"]["general.architecture"].as_str().unwrap();
    assert_eq!(shown["model_info"][format!("{family}.context_length")], 1024);
}

#[tokio::test]
async fn refusals_are_one_text() {
    let server = Server::saying("ok", parsing()).await;
    let ask = json!({"model": "m", "messages": user("x")});
    for (more, part) in [
        (json!({"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}), "messages[0].images"),
        (json!({"think": true}), "does not support thinking"),
        (json!({"options": {"mirostat": 2}}), "options.mirostat"),
        (json!({"options": {"temperature": -1}}), "temperature"),
        (json!({"options": {"repeat_penalty": 3}}), "repeat_penalty"),
        (json!({"format": 3}), "format"),
        (json!({"context": [1, 2]}), "context"),
        (json!({"messages": user(&"word ".repeat(2000))}), "longer than"),
    ] {
        let (status, body) = server.post("/api/chat", with(&ask, more.clone())).await;
        assert!(status == 400 && body["error"].as_str().unwrap().contains(part), "{more}: {status} {body}");
    }
    server.is_clean().await;
}
