//! [`Client`]: sends one request and records its answer.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use reqwest::{
    Response,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    backend::{Backend, BodyOptions, Protocol},
    endpoint::{Endpoint, chain, refusal},
    progress::Progress,
    record::{Recorder, Recording},
    request::Request,
    sse::{LineReader, payload},
};

/// Seconds since a run began.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A run begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since then.
    pub fn now_s(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Sends requests to one server by one interface.
pub struct Client {
    /// The server.
    pub endpoint: Endpoint,
    /// The interface.
    pub backend: Backend,
    /// What all bodies have in common.
    pub options: BodyOptions,
    /// If standard error is told of each request's beginning and end: of how many it has been.
    pub told: Option<AtomicUsize>,
}

impl Client {
    /// Send `request` and record its answer. Never fails: what went wrong is in the recording.
    pub async fn run(&self, request: &Request, clock: &Clock, progress: &Progress) -> Recording {
        let Some(told) = &self.told else { return self.record(request, clock, progress).await };
        let number = told.fetch_add(1, Ordering::Relaxed);
        let prompt_len = request.prompt_len.map_or_else(|| "?".into(), |length| length.to_string());
        progress.line(&format!("request {number}: {prompt_len} tokens in, {} wanted", request.output_len));
        let recording = self.record(request, clock, progress).await;
        progress.line(&match &recording.error {
            Some(error) => format!("request {number}: failed after {:.3} s: {error}", recording.latency_s),
            None => format!(
                "request {number}: {} tokens in {:.3} s, the first after {:.3} s",
                recording.output_len,
                recording.latency_s,
                recording.ttft_s()
            ),
        });
        recording
    }

    async fn record(&self, request: &Request, clock: &Clock, progress: &Progress) -> Recording {
        let protocol = self.backend.protocol();
        let body = self.options.body(self.backend, request).to_string().into_bytes();
        let headers = self.headers(request);
        let start_s = clock.now_s();
        let response = match self.endpoint.send(protocol.path(), body, headers).await {
            Err(error) => return Recording::failed(start_s, chain(&error)),
            Ok(response) if !response.status().is_success() => {
                return Recording::failed(start_s, refusal(response).await);
            }
            Ok(response) => response,
        };
        let mut recorder = Recorder::new(protocol, start_s, request.output_len);
        let outcome = if self.options.stream {
            read_stream(response, &mut recorder, clock, progress).await
        } else {
            read_whole(response, &mut recorder, clock).await
        };
        recorder.finish(outcome)
    }

    fn headers(&self, request: &Request) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(key) = &request.routing_key {
            let value = HeaderValue::from_str(key).expect("routing keys are made of digits and underscores");
            headers.insert(HeaderName::from_static("x-smg-routing-key"), value);
        }
        if self.backend.protocol() == Protocol::Messages {
            headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
            // Anthropic's own servers look for the key here.
            let key = std::env::var("ANTHROPIC_API_KEY").ok().and_then(|key| HeaderValue::from_str(&key).ok());
            if let Some(key) = key {
                headers.insert(HeaderName::from_static("x-api-key"), key);
            }
        }
        headers
    }
}

async fn read_stream(
    mut response: Response,
    recorder: &mut Recorder,
    clock: &Clock,
    progress: &Progress,
) -> Result<(), String> {
    let mut lines = LineReader::default();
    while let Some(piece) = response.chunk().await.map_err(|error| chain(&error))? {
        let at_s = clock.now_s();
        lines.push(&piece);
        while let Some(line) = lines.next_line() {
            if let Some(payload) = payload(line) {
                recorder.payload(at_s, payload)?;
            }
        }
        if lines.is_overlong() {
            return Err("a line that does not end".into());
        }
        progress.tokens(recorder);
    }
    match payload(lines.rest()) {
        Some(payload) => recorder.payload(clock.now_s(), payload),
        None => Ok(()),
    }
}

async fn read_whole(response: Response, recorder: &mut Recorder, clock: &Clock) -> Result<(), String> {
    let body = response.bytes().await.map_err(|error| chain(&error))?;
    let at_s = clock.now_s();
    recorder.payload(at_s, body.trim_ascii())
}
