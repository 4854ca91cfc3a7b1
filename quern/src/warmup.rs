//! The first request, sent before the server reports ready: it touches once what every later one needs.

use std::time::Duration;

use quern_engine::{EngineHandle, GenerateRequest, TokenEvent};
use quern_text::{Specials, Tokenizer};
use tokio::sync::mpsc;

use crate::start_error::StartError;

/// SGLang's.
const PROMPT: &str = "The capital city of France is";
const NEW_TOKENS: usize = 8;
/// Reading a model of hundreds of gigabytes from disk for the first time takes minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Generate a few tokens and see them come.
///
/// # Errors
/// If the request is refused or fails.
pub async fn run(engine: &EngineHandle, tokenizer: &Tokenizer) -> Result<(), StartError> {
    let mut prompt = tokenizer.encode(PROMPT, Specials::AsText);
    prompt.truncate(engine.config().pool_tokens().saturating_sub(NEW_TOKENS).max(1));
    let (events, mut inbox) = mpsc::unbounded_channel();
    let request = GenerateRequest {
        id: "warmup".into(),
        // Its prefix must not count as reused in a real request.
        namespace: Some("warmup".into()),
        ..GenerateRequest::greedy(prompt, NEW_TOKENS)
    };
    let failed = |cause: String| StartError::Warmup(cause);
    let sink = move |event: TokenEvent| {
        // The receiver is gone once the time is up.
        let _ = events.send(event);
    };
    let _handle = engine.submit(request, Box::new(sink)).map_err(|error| failed(error.to_string()))?;
    let end = async {
        while let Some(event) = inbox.recv().await {
            match event {
                TokenEvent::Finished(_) => return Ok(()),
                TokenEvent::Failed(cause) => return Err(failed(cause.to_string())),
                TokenEvent::Prefilled(_) | TokenEvent::Retracted | TokenEvent::Token { .. } => {}
            }
        }
        Err(failed("the engine ended".into()))
    };
    let late = |_| Err(failed(format!("nothing came for {} s", TIMEOUT.as_secs())));
    tokio::time::timeout(TIMEOUT, end).await.unwrap_or_else(late)
}
