//! A server on a real socket over the fake model, and a client of few words.

#![allow(dead_code, reason = "each test file uses its part")]

mod scripted;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use quern_engine::{
    EngineHandle,
    fake::{FakeModel, StepHook},
};
use quern::{
    app::{self, AppState},
    config::{Config, LoadFormat, ToolCallParser},
    connection,
    model_files::ModelFiles,
    start::Started,
};
use scripted::{Script, Scripted};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::watch};

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<AppState>,
    pub(crate) client: reqwest::Client,
    stop: watch::Sender<bool>,
}

/// A configuration whose tokens are bytes, so that ids can be written down; its weights are random.
pub(crate) fn byte_model() -> ModelFiles {
    ModelFiles::Directory(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/byte-model").into())
}

/// A small pool: a few hundred tokens make it full.
pub(crate) fn config() -> Config {
    Config {
        page_size: 4,
        num_pages: 512,
        max_total_num_tokens: 2048,
        context_length: 1024,
        chunked_prefill_size: 64,
        random_seed: 7,
        enable_metrics: true,
        ..Config::default()
    }
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::with(config(), None).await
    }

    pub(crate) async fn with(config: Config, hook: Option<StepHook>) -> Self {
        let files = byte_model();
        let checkpoint = files.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap();
        let tokenizer = files.tokenizer().unwrap();
        let template = files.chat_template(&tokenizer, None, None).unwrap();
        let mut model = FakeModel::new(checkpoint.config().vocab_size as u32, config.page_size, config.num_pages);
        if let Some(hook) = hook {
            model = model.with_hook(hook);
        }
        let engine = quern_engine::start(Box::new(model), config.engine()).unwrap();
        Self::over(Started { config, engine, tokenizer, template, checkpoint }).await
    }

    /// A server whose model answers everything with `text`.
    pub(crate) async fn saying(text: &str, config: Config) -> Self {
        let text = text.to_owned();
        Self::answering(move |_| text.clone(), config).await
    }

    /// A server whose model answers each prompt with what `script` makes of it.
    pub(crate) async fn answering(script: impl Fn(&str) -> String + Send + Sync + 'static, config: Config) -> Self {
        Self::scripted(Arc::new(script), config, true).await
    }

    /// A server whose model says `text` even where a grammar forbids it.
    pub(crate) async fn insisting_on(text: &str, config: Config) -> Self {
        let text = text.to_owned();
        Self::scripted(Arc::new(move |_: &str| text.clone()), config, false).await
    }

    async fn scripted(script: Script, config: Config, heeds_masks: bool) -> Self {
        let files = byte_model();
        let checkpoint = files.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap();
        let tokenizer = files.tokenizer().unwrap();
        let template = files.chat_template(&tokenizer, None, None).unwrap();
        let reading = Arc::new(files.tokenizer().unwrap());
        let model = Scripted::new(script, heeds_masks, reading, config.page_size, config.num_pages);
        let engine = quern_engine::start(Box::new(model), config.engine()).unwrap();
        Self::over(Started { config, engine, tokenizer, template, checkpoint }).await
    }

    pub(crate) async fn over(started: Started) -> Self {
        let state = Arc::new(AppState::new(started, None, Instant::now()));
        state.set_ready(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(connection::serve(listener, app::router(Arc::clone(&state)), Arc::clone(&state), stopped));
        Self { address, state, client: reqwest::Client::builder().no_proxy().build().unwrap(), stop }
    }

    pub(crate) fn engine(&self) -> &EngineHandle {
        &self.state.engine
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.client.post(self.url(path)).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A request that must succeed.
    pub(crate) async fn ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body.clone()).await;
        assert_eq!(status, 200, "{path} {body}: {answer}");
        answer
    }

    /// The frames of a stream, `[DONE]` checked and taken off.
    pub(crate) async fn frames(&self, path: &str, body: Value) -> Vec<Value> {
        let answer = self.client.post(self.url(path)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path} {body}");
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        frames(&answer.text().await.unwrap())
    }

    /// The events of a stream, by [`events`].
    pub(crate) async fn events(&self, path: &str, body: Value) -> Vec<Value> {
        let answer = self.client.post(self.url(path)).json(&body).send().await.unwrap();
        let status = answer.status();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{path} {body}: {text}");
        assert!(content_type.starts_with("text/event-stream"));
        events(&text)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(self.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Wait until nothing is alive and see that every page came back.
    pub(crate) async fn is_clean(&self) {
        let engine = self.engine().clone();
        let idle = tokio::task::spawn_blocking(move || engine.wait_idle(std::time::Duration::from_secs(20)));
        assert!(idle.await.unwrap(), "{} requests are still alive", self.engine().num_alive());
        // A flush is answered by the engine's thread between steps, so the figures behind it are settled.
        let engine = self.engine().clone();
        assert!(tokio::task::spawn_blocking(move || engine.flush_cache()).await.unwrap());
        let engine = self.engine().clone();
        tokio::task::spawn_blocking(move || engine.flush_cache()).await.unwrap();
        let scheduler = self.engine().metrics().snapshot().scheduler;
        assert_eq!((scheduler.running, scheduler.waiting), (0, 0));
        assert_eq!(scheduler.free_pages, self.engine().config().num_pages, "pages leaked");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.engine().shutdown();
        let _ = self.stop.send(true);
    }
}

/// What a stream of named events said: each event's name is its `type` too.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let event = |frame: &str| {
        let (name, data) = frame.split_once('\n').unwrap_or_else(|| panic!("an event has two lines: {frame:?}"));
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("a data line")).unwrap();
        assert_eq!(data["type"], name.strip_prefix("event: ").expect("an event line"));
        data
    };
    text.split("\n\n").filter(|frame| !frame.is_empty()).map(event).collect()
}

/// What a stream said.
pub(crate) fn frames(text: &str) -> Vec<Value> {
    let mut frames: Vec<&str> =
        text.split("\n\n").filter(|frame| !frame.is_empty() && !frame.starts_with(':')).collect();
    assert_eq!(frames.pop(), Some("data: [DONE]"), "{text}");
    let json = |frame: &str| serde_json::from_str(frame.strip_prefix("data: ").expect("a data frame")).unwrap();
    frames.into_iter().map(json).collect()
}

/// An answer that calls the first of [`functions`], after a word.
pub(crate) const CALL: &str = "Let me look.\n<tool_call>\n<function=read_file>\n<parameter=path>\n/tmp/a \"b\".txt\n</parameter>\n<parameter=lines>\n12\n</parameter>\n</function>\n</tool_call>";

/// What it is called with.
pub(crate) fn arguments() -> Value {
    json!({"path": "/tmp/a \"b\".txt", "lines": 12})
}

/// Names, descriptions and parameters of two functions.
pub(crate) fn functions() -> [(&'static str, &'static str, Value); 2] {
    let path = json!({"type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}}});
    [("read_file", "Read.", path), ("ls", "List.", json!({"type": "object", "properties": {}}))]
}

/// A small server whose answers are searched for Qwen3-Coder's calls.
pub(crate) fn parsing() -> Config {
    Config { tool_call_parser: ToolCallParser::from_name("qwen3_coder"), ..config() }
}

/// A conversation of one message.
pub(crate) fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

/// `body` with more fields.
pub(crate) fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    let (Value::Object(fields), Value::Object(more)) = (&mut body, more) else { panic!("objects are wanted") };
    fields.extend(more);
    body
}
