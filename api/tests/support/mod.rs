//! A server on a real socket over the fake model, and a client of few words.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod gate;
mod scripted;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quern_api::{ApiConfig, AppState, ModelCard, Service, config::ToolCallParser, connection, model_card::Recommended};
use quern_engine::{
    EngineConfig, EngineHandle, Model,
    fake::{self, FakeModel, StepHook},
};
use quern_text::{ChatTemplate, Tokenizer};
use scripted::{Script, Scripted};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

/// Long enough for any answer here, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Wait for something that must come true.
pub(crate) async fn until(what: &str, comes_true: impl Fn() -> bool) {
    let wait = async {
        while !comes_true() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} does not come true"));
}

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<AppState>,
    pub(crate) client: reqwest::Client,
    stop: watch::Sender<bool>,
}

/// What was decided for a server.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) api: ApiConfig,
    pub(crate) engine: EngineConfig,
}

impl From<ApiConfig> for Setup {
    fn from(api: ApiConfig) -> Self {
        Self { api, engine: small_engine() }
    }
}

/// Tokens of the model's vocabulary: the bytes and a few more.
const VOCAB_SIZE: usize = 269;

/// The folder of a model whose tokens are bytes, so that ids can be written down. It has no weights.
pub(crate) const BYTE_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/tests/byte-model");

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(BYTE_MODEL.as_ref()).unwrap()
}

/// A context of 1024 tokens, and a pool that is twice as large.
pub(crate) fn config() -> ApiConfig {
    ApiConfig { context_length: 1024, random_seed: 7, enable_metrics: true, ..ApiConfig::default() }
}

/// A small pool: a few hundred tokens make it full.
pub(crate) fn small_engine() -> EngineConfig {
    EngineConfig {
        max_running: 256,
        chunk_tokens: 64,
        max_prefill_tokens: 16_384,
        balanced_context: usize::MAX,
        ..fake::engine_config(4, 512)
    }
}

/// `model` as the byte model, behind an API.
pub(crate) fn service(setup: Setup, model: Box<dyn Model>) -> Service {
    let engine = quern_engine::start(model, setup.engine).unwrap();
    service_over(setup, engine)
}

/// An engine that runs, as that of the byte model, behind an API.
pub(crate) fn service_over(setup: Setup, handle: EngineHandle) -> Service {
    let Setup { api, engine } = setup;
    let tokenizer = tokenizer();
    let template =
        ChatTemplate::from_dir(BYTE_MODEL.as_ref(), None, tokenizer.config(), tokenizer.control_tokens()).unwrap();
    Service {
        config: api,
        model: ModelCard {
            path: "quern-demo".into(),
            tokenizer_path: "quern-demo".into(),
            load_format: "dummy",
            device: "cpu",
            architecture: "Qwen3MoeForCausalLM".into(),
            model_type: "qwen3_moe",
            family: "qwen3moe",
            vocab_size: VOCAB_SIZE,
            eos_token_ids: vec![256, 258],
            parameters: 100_000,
            weight_bytes: 200_000,
            encoding: Some("BF16".into()),
            recommended: Recommended {
                temperature: Some(0.7),
                top_p: Some(0.8),
                top_k: Some(20),
                min_p: None,
                repetition_penalty: Some(1.05),
            },
        },
        settings: json!({ "page_size": engine.page_size }),
        engine: handle,
        template,
        tokenizer,
        configure_table: || "{}".to_owned(),
        weight_cache_failures: Arc::default(),
    }
}

/// The fake model behind an API.
pub(crate) fn fake(setup: impl Into<Setup>, hook: Option<StepHook>) -> Service {
    let setup = setup.into();
    let mut model = FakeModel::new(VOCAB_SIZE as u32, setup.engine.page_size, setup.engine.num_pages);
    if let Some(hook) = hook {
        model = model.with_hook(hook);
    }
    service(setup, Box::new(model))
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::with(config(), None).await
    }

    pub(crate) async fn with(setup: impl Into<Setup>, hook: Option<StepHook>) -> Self {
        Self::over(fake(setup, hook)).await
    }

    /// A server whose model answers everything with `text`.
    pub(crate) async fn saying(text: &str, setup: impl Into<Setup>) -> Self {
        let text = text.to_owned();
        Self::answering(move |_| text.clone(), setup).await
    }

    /// A server whose model answers each prompt with what `script` makes of it.
    pub(crate) async fn answering(
        script: impl Fn(&str) -> String + Send + Sync + 'static,
        setup: impl Into<Setup>,
    ) -> Self {
        Self::scripted(Arc::new(script), setup.into(), true).await
    }

    /// A server whose model says `text` even where a grammar forbids it.
    pub(crate) async fn insisting_on(text: &str, setup: impl Into<Setup>) -> Self {
        let text = text.to_owned();
        Self::scripted(Arc::new(move |_: &str| text.clone()), setup.into(), false).await
    }

    async fn scripted(script: Script, setup: Setup, heeds_masks: bool) -> Self {
        let (page_size, num_pages) = (setup.engine.page_size, setup.engine.num_pages);
        let model = Scripted::new(script, heeds_masks, Arc::new(tokenizer()), page_size, num_pages);
        Self::over(service(setup, Box::new(model))).await
    }

    pub(crate) async fn over(service: Service) -> Self {
        let state = Arc::new(AppState::new(service, Instant::now()));
        state.set_ready(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(connection::serve(listener, &state, Handle::current(), stopped));
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

    /// The answer in one piece. The events of the same request streamed, `fold`ed into one, must be it, but for what
    /// `settled` takes away.
    pub(crate) async fn whole_and_streamed(
        &self,
        path: &str,
        body: Value,
        fold: fn(&[Value]) -> Value,
        settled: fn(Value) -> Value,
    ) -> Value {
        let whole = self.ok(path, body.clone()).await;
        let streamed = fold(&self.events(path, with(&body, json!({"stream": true}))).await);
        assert_eq!(settled(streamed), settled(whole.clone()), "{body}");
        whole
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
        // A flush is answered by the engine's thread between steps, once its figures are published.
        let engine = self.engine().clone();
        assert!(tokio::task::spawn_blocking(move || engine.flush_cache()).await.unwrap());
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
pub(crate) fn parsing() -> ApiConfig {
    ApiConfig { tool_call_parser: ToolCallParser::from_name("qwen3_coder"), ..config() }
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
