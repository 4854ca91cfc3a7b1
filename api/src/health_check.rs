//! [`HealthCheck`]: whether the engine computes, found out once for all concurrent probes.

use std::time::Duration;

use quern_engine::{EngineHandle, GenerateRequest, TokenEvent};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep},
};

/// SGLang's `SGLANG_HEALTH_CHECK_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How often a busy engine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whether the engine answers, checked once for all who ask at the same time: probes take one place of the queue
/// together, and none where clients' requests tell as much.
#[derive(Debug, Default)]
pub struct HealthCheck(Mutex<Option<ProbeResult>>);

#[derive(Clone, Copy, Debug)]
struct ProbeResult {
    began: Instant,
    passed: bool,
}

impl HealthCheck {
    /// Whether a step is computed in time.
    pub async fn passes(&self, engine: &EngineHandle) -> bool {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(outcome) = last.filter(|outcome| outcome.began >= asked) {
            return outcome.passed;
        }
        let began = Instant::now();
        let passed = answers(engine).await;
        *last = Some(ProbeResult { began, passed });
        passed
    }
}

/// See a step computed: one for the requests that are there, or one for a request of our own.
async fn answers(engine: &EngineHandle) -> bool {
    let steps = || engine.metrics().snapshot().scheduler.steps;
    let (before, until) = (steps(), Instant::now() + TIMEOUT);
    let mut own = None;
    while Instant::now() < until && engine.metrics().is_healthy() {
        if own.is_none() && engine.num_alive() == 0 {
            let (events, inbox) = mpsc::unbounded_channel();
            let request = GenerateRequest {
                id: "HEALTH_CHECK".into(),
                namespace: Some("health".into()),
                ..GenerateRequest::greedy(vec![0], 1)
            };
            // Refused where others were quicker; then their steps tell.
            let handle = engine.submit(request, Box::new(move |event: TokenEvent| drop(events.send(event))));
            own = handle.ok().map(|handle| (handle, inbox));
        }
        match own.as_mut().map(|(_, inbox)| inbox.try_recv()) {
            Some(Ok(TokenEvent::Failed(_))) => return false,
            Some(Ok(TokenEvent::Token { .. } | TokenEvent::Finished(_))) => return true,
            Some(Ok(TokenEvent::Prefilled(_) | TokenEvent::Retracted) | Err(_)) | None => {}
        }
        if steps() > before {
            return true;
        }
        sleep(LOOK_EVERY).await;
    }
    false
}
