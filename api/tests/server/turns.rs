//! Twenty turns of a conversation through each API, its history growing and other requests in between:
//! only what is new is computed. Histories come back as clients send them, not as they were received.

use crate::support::{CALL, Server, Setup, functions, parsing, small_engine, user, with};
use quern_api::ApiConfig;
use quern_engine::EngineConfig;
use serde_json::{Value, json};

const TURNS: usize = 20;
const SYSTEM: &str = "You are an agent in a terminal. Work in small steps, and say what you did.";

fn roomy() -> Setup {
    Setup {
        api: ApiConfig { context_length: 16_384, ..parsing() },
        engine: EngineConfig { num_pages: 8192, ..small_engine() },
    }
}

/// A conversation as one kind of client keeps it.
trait Client {
    /// The next request; `result` is what the tool of the last answer's call said.
    fn ask(&mut self, result: Option<&str>) -> (&'static str, Value);
    /// Tokens of the prompt and those of them that were cached, out of the answer; keep it as history.
    fn hear(&mut self, answer: &Value) -> (u64, u64);
}

async fn converse(mut client: impl Client) {
    let server = Server::saying(CALL, roomy()).await;
    let page_size = 4;
    let mut before = 0;
    for turn in 0..TURNS {
        let result = (turn > 0).then(|| format!("Line {turn}: \"x\" < {turn}\n"));
        let (path, body) = client.ask(result.as_deref());
        let (prompt, cached) = client.hear(&server.ok(path, body).await);
        // All of the last prompt but its last, partial page.
        assert!(cached >= before / page_size * page_size, "{path}, turn {turn}: {cached} of {before}");
        assert!(prompt > before && prompt - cached <= prompt - before + page_size, "{path}, turn {turn}");
        before = prompt;
        // Agents ask for titles and memories meanwhile.
        let title = json!([
            {"role": "system", "content": format!("Write a title, at most {turn} words.")},
            {"role": "user", "content": "A conversation of some length about files"},
        ]);
        server.ok("/v1/chat/completions", json!({"messages": title, "max_tokens": 4})).await;
    }
    assert!(before > 1000, "{before}");
    server.is_clean().await;
}

/// `text` as JSON without the blanks that the server writes.
fn reserialised(arguments: &Value) -> Value {
    serde_json::from_str::<Value>(arguments.as_str().unwrap()).unwrap().to_string().into()
}

#[derive(Default)]
struct Chat {
    messages: Vec<Value>,
}

impl Client for Chat {
    fn ask(&mut self, result: Option<&str>) -> (&'static str, Value) {
        let id = self.messages.last().map(|last| last["tool_calls"][0]["id"].clone());
        match result {
            None => self.messages.extend([
                json!({"role": "system", "content": SYSTEM}),
                json!({"role": "user", "content": [{"type": "text", "text": "Read it"}]}),
            ]),
            Some(text) => self
                .messages
                .push(json!({"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": text}]})),
        }
        let tool = |(name, description, parameters): (&str, &str, Value)| json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}});
        let tools: Value = functions().map(tool).into_iter().collect();
        ("/v1/chat/completions", json!({"messages": self.messages, "tools": tools, "max_tokens": 32_000}))
    }

    fn hear(&mut self, answer: &Value) -> (u64, u64) {
        let said = &answer["choices"][0]["message"];
        let mut call = said["tool_calls"][0].clone();
        call["function"]["arguments"] = reserialised(&call["function"]["arguments"]);
        self.messages.push(json!({"role": "assistant", "content": said["content"], "tool_calls": [call]}));
        let usage = &answer["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (usage["prompt_tokens"].as_u64().unwrap(), cached)
    }
}

#[derive(Default)]
struct Messages {
    messages: Vec<Value>,
    turn: usize,
}

impl Client for Messages {
    fn ask(&mut self, result: Option<&str>) -> (&'static str, Value) {
        self.turn += 1;
        let id = self.messages.last().map(|last| last["content"][1]["id"].clone());
        match result {
            None => self.messages.extend([
                json!({"role": "user", "content": [{"type": "text", "text": "Read it"}]}),
                json!({"role": "system", "content": "# Environment\nA directory."}),
            ]),
            Some(text) => self.messages.push(
                json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": text}]}),
            ),
        }
        let mut messages = self.messages.clone();
        // The mark moves, and text takes whichever form suits it.
        if let Some(block) = messages.last_mut().unwrap().pointer_mut("/content/0") {
            block["cache_control"] = json!({"type": "ephemeral"});
        }
        if self.turn > 1 {
            messages[0]["content"] = "Read it".into();
        }
        let tool = |(name, description, schema): (&str, &str, Value)| json!({"name": name, "description": description, "input_schema": schema});
        let tools: Value = functions().map(tool).into_iter().collect();
        let line = format!("x-anthropic-billing-header: cc_version=1.2.3; cch={};", self.turn);
        let system = json!([{"type": "text", "text": line}, {"type": "text", "text": SYSTEM}]);
        let body = json!({"messages": messages, "system": system, "tools": tools, "max_tokens": 32_000});
        ("/v1/messages?beta=true", body)
    }

    fn hear(&mut self, answer: &Value) -> (u64, u64) {
        self.messages.push(json!({"role": "assistant", "content": answer["content"]}));
        let count = |name: &str| answer["usage"][name].as_u64().unwrap();
        let cached = count("cache_read_input_tokens");
        (count("input_tokens") + cached, cached)
    }
}

/// With all of the history in each request, or with the id of the last answer.
struct Responses {
    by_id: bool,
    items: Vec<Value>,
    last: Value,
}

impl Client for Responses {
    fn ask(&mut self, result: Option<&str>) -> (&'static str, Value) {
        let call_id = self.last.pointer("/output/1/call_id").cloned();
        let text = |text: &str| json!([{"type": "input_text", "text": text}]);
        let new = match result {
            None => json!({"type": "message", "role": "user", "content": text("Read it")}),
            Some(output) => json!({"type": "function_call_output", "call_id": call_id, "output": output}),
        };
        self.items.push(new.clone());
        let tool = |(name, description, parameters): (&str, &str, Value)| json!({"type": "function", "name": name, "description": description, "parameters": parameters, "strict": false});
        let mut tools: Value = functions().map(tool).into_iter().collect();
        tools.as_array_mut().unwrap().push(json!({"type": "web_search"}));
        let body = json!({"instructions": SYSTEM, "tools": tools});
        let more = if self.by_id {
            json!({"input": [new], "previous_response_id": self.last.get("id")})
        } else {
            json!({"input": self.items, "store": false})
        };
        ("/v1/responses", with(&body, more))
    }

    fn hear(&mut self, answer: &Value) -> (u64, u64) {
        self.items.extend(answer["output"].as_array().unwrap().iter().cloned());
        self.last = answer.clone();
        let usage = &answer["usage"];
        let cached = usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (usage["input_tokens"].as_u64().unwrap(), cached)
    }
}

#[tokio::test]
async fn through_chat() {
    converse(Chat::default()).await;
}

#[tokio::test]
async fn through_messages() {
    converse(Messages::default()).await;
}

#[tokio::test]
async fn through_responses_with_all_of_the_history() {
    converse(Responses { by_id: false, items: Vec::new(), last: Value::Null }).await;
}

#[tokio::test]
async fn through_responses_by_the_last_ones_id() {
    converse(Responses { by_id: true, items: Vec::new(), last: Value::Null }).await;
}

/// What was computed of a prompt stays when its client hangs up: its next try goes on from there.
#[tokio::test]
async fn a_retry_goes_on_where_the_client_hung_up() {
    let steps = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&steps);
    let hook = Box::new(move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(5));
        Ok(())
    });
    let server = Server::with(roomy(), Some(hook)).await;
    // Many steps' worth of tokens.
    let body = json!({"max_tokens": 4, "messages": user(&"word ".repeat(2000)), "stream": true});
    let answer = server.client.post(server.url("/v1/messages")).json(&body).send().await.unwrap();
    while steps.load(std::sync::atomic::Ordering::SeqCst) < 6 {
        tokio::task::yield_now().await;
    }
    drop(answer);
    let engine = server.engine().clone();
    let idle = tokio::task::spawn_blocking(move || engine.wait_idle(std::time::Duration::from_secs(20)));
    assert!(idle.await.unwrap());
    let again = server.ok("/v1/messages", with(&body, json!({"stream": false}))).await;
    let cached = again["usage"]["cache_read_input_tokens"].as_u64().unwrap();
    assert!(cached >= 4 * 64, "{again}");
    server.is_clean().await;
}
