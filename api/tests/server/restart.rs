//! An engine that fails as a whole and begins anew, as clients and probes see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{Server, Setup, config, events, frames, service, small_engine, user, with};
use quern_engine::{
    EngineState, ForwardBatch, ForwardError, Model, RowOutput, SampleBatch, StepOutput, fake::FakeModel,
};
use serde_json::{Value, json};

/// A model that returns a row too many after so many steps, if not 0: an error of ours, at which the scheduler panics.
struct Miscounting {
    inner: FakeModel,
    steps_left: Arc<AtomicU64>,
}

impl Model for Miscounting {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        self.inner.launch(batch, samples);
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        let mut output = self.inner.wait()?;
        // In one operation: the test sets it anew while the step behind a failed one may still be waited for.
        let down = |left: u64| Some(left.saturating_sub(1));
        if self.steps_left.fetch_update(Ordering::AcqRel, Ordering::Acquire, down) == Ok(1) {
            output.rows.push(RowOutput::default());
        }
        Ok(output)
    }
}

async fn server() -> (Server, Arc<AtomicU64>) {
    let setup = Setup { api: config(), engine: small_engine() };
    let steps_left = Arc::new(AtomicU64::new(0));
    let inner = FakeModel::new(269, setup.engine.page_size, setup.engine.num_pages);
    let model = Miscounting { inner, steps_left: Arc::clone(&steps_left) };
    (Server::over(service(setup, Box::new(model))).await, steps_left)
}

/// Wait for the end of a restart.
async fn settled(server: &Server) {
    let wait = async {
        while server.engine().metrics().state() == EngineState::Restarting {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

/// The stream's text, from a server that fails some tokens after it has begun.
async fn interrupted(server: &Server, steps_left: &AtomicU64, path: &str, body: Value) -> String {
    steps_left.store(40, Ordering::Release);
    let answer = server.client.post(server.url(path)).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

#[tokio::test]
async fn streams_end_with_an_error_and_the_engine_begins_anew() {
    let (server, steps_left) = server().await;
    let body = json!({"messages": user(&"a long prompt ".repeat(20)), "max_tokens": 700, "ignore_eos": true});
    let text = interrupted(&server, &steps_left, "/v1/chat/completions", with(&body, json!({"stream": true}))).await;
    let last = frames(&text).pop().unwrap();
    assert_eq!(last["error"]["code"], 500, "{last}");
    assert!(last["error"]["message"].as_str().unwrap().contains("the scheduler panicked"), "{last}");

    settled(&server).await;
    assert_eq!(server.get("/ready").await, (200, String::new()));
    assert_eq!(server.get("/health").await.0, 200);
    let answer = server.ok("/v1/chat/completions", with(&body, json!({"max_tokens": 3}))).await;
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0), 0, "{answer}");
    let metrics = server.get("/metrics").await.1;
    assert!(metrics.lines().any(|l| l.starts_with("sglang:engine_restarts_total{") && l.ends_with(" 1")), "{metrics}");
    server.is_clean().await;
}

#[tokio::test]
async fn the_third_failure_is_the_last_and_probes_say_why() {
    let (server, steps_left) = server().await;
    let body = json!({"model": "m", "messages": user("x"), "max_tokens": 700, "ignore_eos": true, "stream": true});
    for _ in 0..3 {
        let text = interrupted(&server, &steps_left, "/v1/messages", body.clone()).await;
        let events = events(&text);
        let [.., error, stop] = events.as_slice() else { panic!("{text}") };
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("api_error")), "{error}");
        assert_eq!(stop["type"], "message_stop");
        settled(&server).await;
    }
    server.is_clean().await;
    for path in ["/ready", "/health"] {
        let (status, reason) = server.get(path).await;
        assert_eq!(status, 503, "{path}");
        assert!(reason.contains("stays down"), "{path}: {reason}");
    }
    let (status, answer) = server.post("/v1/messages", body).await;
    assert!(status == 503 && answer["error"]["message"].as_str().unwrap().contains("failed repeatedly"), "{answer}");
    assert_eq!(server.get("/live").await.0, 200);
}
