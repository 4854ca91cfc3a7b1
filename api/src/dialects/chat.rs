//! [`Chat`]: the answers of `/v1/chat/completions`.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use quern_engine::TokenLogprobs;
use quern_text::tool::{ParsedMessage, ToolEvent};
use serde_json::Value;

use super::OpenAiHead;
use crate::{
    chat_generation::{ChatGeneration, OutputDelta, call_id},
    logprobs,
    outcome::{FinishWords, Outcome},
    protocol::{
        ApiError,
        chat::{
            ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChatMessage, ChunkChoice, Delta, Function,
            FunctionDelta, ToolCall, ToolCallDelta,
        },
        usage::{Usage, metadata},
    },
    respond::Dialect,
    stream::Frames,
};

/// An answer of chat completions.
pub struct Chat {
    head: OpenAiHead,
    /// What each output has said, where the answer does not stream.
    outputs: Vec<OutputDelta>,
}

impl Chat {
    /// The answer that `generation` becomes.
    pub fn new(head: OpenAiHead, generation: &ChatGeneration) -> Self {
        Self { head, outputs: vec![OutputDelta::default(); generation.outputs().len()] }
    }

    fn send(&self, generation: &ChatGeneration, choice: ChunkChoice, frames: &mut Frames) {
        let usage = self.head.continuous_usage.then(|| usage(generation));
        frames.data(&ChatChunk { choices: vec![choice], usage, ..self.chunk() });
    }

    fn chunk(&self) -> ChatChunk<'_> {
        let OpenAiHead { id, created, model, .. } = &self.head;
        let object = "chat.completion.chunk";
        ChatChunk { id, object, created: *created, model, choices: Vec::new(), usage: None }
    }
}

impl Dialect for Chat {
    const WORDS: FinishWords = FinishWords {
        stop_token: "stop",
        stop_text: "stop",
        tool_calls: "tool_calls",
        length: "length",
        abort: Some("abort"),
    };

    fn open(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        for index in 0..generation.outputs().len() {
            let delta = Delta { role: Some("assistant"), ..text(String::new()) };
            self.send(generation, ChunkChoice { index, delta, ..ChunkChoice::default() }, frames);
        }
    }

    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames) {
        let index = delta.index;
        if !generation.streams() {
            return self.outputs[index].append(delta);
        }
        let mut logprobs = chat_logprobs(generation, &delta.logprobs);
        for delta in delta.events.into_iter().filter_map(words) {
            let choice = ChunkChoice { index, delta, logprobs: logprobs.take(), ..ChunkChoice::default() };
            self.send(generation, choice, frames);
        }
        if logprobs.is_some() {
            let delta = text(String::new());
            self.send(generation, ChunkChoice { index, delta, logprobs, ..ChunkChoice::default() }, frames);
        }
        if let Some(outcome) = &delta.outcome {
            let finish_reason = Some(outcome.reason(&Self::WORDS));
            let matched_stop = outcome.matched();
            self.send(generation, ChunkChoice { index, finish_reason, matched_stop, ..ChunkChoice::default() }, frames);
        }
    }

    fn idle(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        self.send(generation, ChunkChoice { delta: text(String::new()), ..ChunkChoice::default() }, frames);
    }

    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        if self.head.include_usage {
            frames.data(&ChatChunk { usage: Some(usage(generation)), ..self.chunk() });
        }
        frames.done();
    }

    fn fail(&mut self, _: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        frames.data(&error.openai_frame());
        frames.done();
    }

    fn whole(self, generation: &ChatGeneration) -> Response {
        let choice = |(index, output): (usize, OutputDelta)| {
            let outcome = output.outcome.expect("every output has ended");
            let message = ParsedMessage::from_events(output.events);
            ChatChoice {
                index,
                logprobs: chat_logprobs(generation, &output.logprobs),
                message: ChatMessage {
                    role: "assistant",
                    content: message.content.unwrap_or_default(),
                    reasoning_content: None,
                    tool_calls: message.calls.into_iter().enumerate().map(tool_call).collect(),
                },
                finish_reason: outcome.reason(&Self::WORDS),
                // The token that ends a call is markup, not something the client stopped at.
                matched_stop: if matches!(outcome, Outcome::ToolCalls(_)) { Value::Null } else { outcome.matched() },
            }
        };
        let completion = ChatCompletion {
            id: &self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: &self.head.model,
            choices: self.outputs.into_iter().enumerate().map(choice).collect(),
            usage: usage(generation),
            metadata: metadata(&generation.state().config.weight_version),
        };
        Json(completion).into_response()
    }
}

fn chat_logprobs(generation: &ChatGeneration, scores: &[TokenLogprobs]) -> Option<ChatLogprobs> {
    (!scores.is_empty()).then(|| logprobs::chat(&generation.state().tokenizer, scores))
}

/// Outputs of one prompt share it; it counts once.
fn usage(generation: &ChatGeneration) -> Usage {
    let outputs = generation.outputs();
    let completion = outputs.iter().map(|output| output.completion_tokens()).sum();
    Usage::new(outputs[0].prompt_tokens, completion, outputs[0].prompt.cached_tokens)
}

fn text(text: String) -> Delta {
    Delta { content: Some(text), ..Delta::default() }
}

/// What a stream says of an event. A call's end needs no words: `finish_reason` follows, and of a call
/// that was cut it is `length`.
fn words(event: ToolEvent) -> Option<Delta> {
    let call = |index, id: Option<String>, name, arguments| {
        let function = FunctionDelta { name, arguments };
        let kind = id.is_some().then_some("function");
        let call = ToolCallDelta { index, id, kind, function };
        Some(Delta { tool_calls: vec![call], ..Delta::default() })
    };
    match event {
        ToolEvent::Content(content) => Some(text(content)),
        ToolEvent::CallStart { index, name } => call(index, Some(call_id()), Some(name), String::new()),
        ToolEvent::Arguments { index, json } => call(index, None, None, json),
        ToolEvent::CallEnd { .. } | ToolEvent::CallCut { .. } => None,
    }
}

fn tool_call((index, call): (usize, quern_text::tool::ToolCall)) -> ToolCall {
    let function = Function { name: call.name, arguments: call.arguments };
    ToolCall { id: call_id(), index, kind: "function", function }
}
