//! [`Ollama`]: the answers of `/api/chat` and `/api/generate`, Ollama's.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use quern_text::tool::ToolEvent;
use serde_json::{Map, Value};

use crate::{
    chat_generation::{ChatGeneration, OutputDelta, call_id},
    clock::WallClock,
    outcome::FinishWords,
    protocol::{
        ApiError,
        ollama::{OllamaCall, OllamaEnd, OllamaError, OllamaFunction, OllamaMessage, OllamaPiece, OllamaSaid, rfc3339},
    },
    respond::Dialect,
    stopwatch::{Laps, Stopwatch},
    stream::{self, Frames},
};

/// Which of two forms an answer has: that of `/api/chat` or of `/api/generate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OllamaEndpoint {
    /// A message.
    Chat,
    /// Text.
    Generate,
}

impl OllamaEndpoint {
    fn answer(self, content: String, tool_calls: Vec<OllamaCall>) -> OllamaSaid {
        match self {
            Self::Chat => OllamaSaid::Message(OllamaMessage { role: "assistant", content, tool_calls }),
            Self::Generate => OllamaSaid::Response(content),
        }
    }
}

/// An answer of Ollama's.
pub struct Ollama {
    model: String,
    form: OllamaEndpoint,
    watch: Stopwatch,
    open_call: OpenCall,
    /// What has been said, where the answer does not stream.
    content: String,
    calls: Vec<OllamaCall>,
    done_reason: &'static str,
}

impl Ollama {
    /// An answer that says nothing yet, to a request that came when `watch` was started.
    pub fn new(model: String, form: OllamaEndpoint, watch: Stopwatch) -> Self {
        Self {
            model,
            form,
            watch,
            open_call: OpenCall::default(),
            content: String::new(),
            calls: Vec::new(),
            done_reason: "",
        }
    }

    /// The answer to a request without a prompt.
    pub fn empty(clock: &WallClock, model: &str, form: OllamaEndpoint, done_reason: &'static str) -> Response {
        let end = OllamaEnd { done_reason, ..OllamaEnd::default() };
        Json(piece(clock, model, form, String::new(), Vec::new(), Some(end))).into_response()
    }

    fn piece(
        &self,
        clock: &WallClock,
        content: String,
        calls: Vec<OllamaCall>,
        end: Option<OllamaEnd>,
    ) -> OllamaPiece<'_> {
        piece(clock, &self.model, self.form, content, calls, end)
    }

    fn end(&self, generation: &ChatGeneration) -> OllamaEnd {
        let output = &generation.outputs()[0];
        let Laps { prompt, answer } = self.watch.laps();
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        OllamaEnd {
            done_reason: self.done_reason,
            total_duration: nanos(prompt + answer),
            load_duration: 0,
            prompt_eval_count: output.prompt_tokens,
            prompt_eval_duration: nanos(prompt),
            eval_count: output.completion_tokens(),
            eval_duration: nanos(answer),
        }
    }
}

fn piece<'a>(
    clock: &WallClock,
    model: &'a str,
    form: OllamaEndpoint,
    content: String,
    calls: Vec<OllamaCall>,
    end: Option<OllamaEnd>,
) -> OllamaPiece<'a> {
    OllamaPiece {
        model,
        created_at: rfc3339(clock.unix_seconds()),
        said: form.answer(content, calls),
        done: end.is_some(),
        end,
    }
}

impl Dialect for Ollama {
    const WORDS: FinishWords =
        FinishWords { stop_token: "stop", stop_text: "stop", tool_calls: "stop", length: "length", abort: None };

    const CONTENT_TYPE: &'static str = stream::JSON_LINES;

    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames) {
        self.watch.word();
        for event in delta.events {
            let (content, call) = match event {
                ToolEvent::Content(text) => (text, None),
                event => match self.open_call.take(event) {
                    None => continue,
                    call => (String::new(), call),
                },
            };
            if generation.streams() {
                frames.line(&self.piece(&generation.state().clock, content, call.into_iter().collect(), None));
            } else {
                self.content += &content;
                self.calls.extend(call);
            }
        }
        if let Some(outcome) = delta.outcome {
            self.done_reason = outcome.reason(&Self::WORDS);
        }
    }

    fn idle(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        frames.line(&self.piece(&generation.state().clock, String::new(), Vec::new(), None));
    }

    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        frames.line(&self.piece(&generation.state().clock, String::new(), Vec::new(), Some(self.end(generation))));
    }

    fn fail(&mut self, _: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        frames.line(&OllamaError(error).body());
    }

    fn whole(mut self, generation: &ChatGeneration) -> Response {
        let (content, calls) = (std::mem::take(&mut self.content), std::mem::take(&mut self.calls));
        Json(self.piece(&generation.state().clock, content, calls, Some(self.end(generation)))).into_response()
    }
}

/// A call in the making: Ollama's arrive in one piece.
#[derive(Debug, Default)]
struct OpenCall {
    name: String,
    json: String,
    count: usize,
}

impl OpenCall {
    fn take(&mut self, event: ToolEvent) -> Option<OllamaCall> {
        match event {
            ToolEvent::CallStart { name, .. } => {
                self.name = name;
                self.json.clear();
                None
            }
            ToolEvent::Arguments { json, .. } => {
                self.json.push_str(&json);
                None
            }
            ToolEvent::CallEnd { .. } => {
                let arguments: Map<String, Value> =
                    serde_json::from_str(&self.json).expect("complete arguments are a JSON object");
                let index = self.count;
                self.count += 1;
                let function = OllamaFunction { index, name: std::mem::take(&mut self.name), arguments };
                Some(OllamaCall { id: call_id(), function })
            }
            ToolEvent::Content(_) | ToolEvent::CallCut { .. } => None,
        }
    }
}
