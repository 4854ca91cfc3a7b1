//! [`Chat`]: the answers of `/v1/chat/completions`.

use std::collections::HashMap;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use quern_engine::TokenLogprobs;
use quern_text::tool::{ParsedMessage, ToolEvent};
use serde_json::Value;

use super::{OpenAiHead, freeform::Freeform};
use crate::{
    chat_generation::{ChatGeneration, OutputDelta, call_id},
    logprobs,
    outcome::{FinishWords, Outcome},
    protocol::{
        ApiError,
        chat::{
            CallForm, Called, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChatMessage, ChunkChoice, Custom,
            CustomDelta, Delta, Function, FunctionDelta, ToolCall, ToolCallDelta,
        },
        usage::{Usage, metadata},
    },
    respond::Dialect,
    stream::Frames,
};

/// An answer of chat completions.
pub struct Chat {
    head: OpenAiHead,
    calls: CallForm,
    /// Inputs of custom tools in the making, by output and call.
    inputs: HashMap<(usize, usize), Freeform>,
    /// What each output has said, where the answer does not stream.
    outputs: Vec<OutputDelta>,
}

impl Chat {
    /// The answer that `generation` becomes, calls in this form.
    pub fn new(head: OpenAiHead, calls: CallForm, generation: &ChatGeneration) -> Self {
        Self { head, calls, inputs: HashMap::new(), outputs: vec![OutputDelta::default(); generation.outputs().len()] }
    }

    fn send(&self, generation: &ChatGeneration, choice: ChunkChoice, frames: &mut Frames) {
        let usage = self.head.continuous_usage.then(|| usage(generation));
        frames.data(&ChatChunk { choices: vec![choice], usage, ..self.chunk() });
    }

    fn finish_reason(&self, outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::ToolCalls(_) if self.calls == CallForm::Function => "function_call",
            outcome => outcome.reason(&Self::WORDS),
        }
    }

    fn is_custom(&self, name: &str) -> bool {
        matches!(&self.calls, CallForm::Tools { custom } if custom.iter().any(|custom| custom == name))
    }

    /// What a stream says of an event. A call's end needs no words: `finish_reason` follows, and of a call
    /// that was cut it is `length`.
    fn words(&mut self, output: usize, event: ToolEvent) -> Option<Delta> {
        match event {
            ToolEvent::Content(content) => Some(text(content)),
            ToolEvent::CallStart { index, name } => {
                let is_custom = self.is_custom(&name);
                if is_custom {
                    self.inputs.insert((output, index), Freeform::default());
                }
                self.call(index, is_custom, Some(name), String::new())
            }
            ToolEvent::Arguments { index, json } => {
                let Some(input) = self.inputs.get_mut(&(output, index)) else {
                    return self.call(index, false, None, json);
                };
                let piece = input.push(&json);
                if piece.is_empty() { None } else { self.call(index, true, None, piece) }
            }
            ToolEvent::CallEnd { index } => {
                let (_, rest) = self.inputs.remove(&(output, index))?.finish();
                if rest.is_empty() { None } else { self.call(index, true, None, rest) }
            }
            ToolEvent::CallCut { .. } => None,
        }
    }

    /// More of a call; with its name, its beginning. The old form has room for one, and clients would add the words of
    /// a second to the first's.
    fn call(&self, index: usize, is_custom: bool, name: Option<String>, more: String) -> Option<Delta> {
        if self.calls == CallForm::Function {
            let function_call = (index == 0).then_some(FunctionDelta { name, arguments: more })?;
            return Some(Delta { function_call: Some(function_call), ..Delta::default() });
        }
        let id = name.is_some().then(call_id);
        let kind = id.is_some().then_some(if is_custom { "custom" } else { "function" });
        let (function, custom) = match is_custom {
            true => (None, Some(CustomDelta { name, input: more })),
            false => (Some(FunctionDelta { name, arguments: more }), None),
        };
        Some(Delta { tool_calls: vec![ToolCallDelta { index, id, kind, function, custom }], ..Delta::default() })
    }

    /// What the assistant said, in one piece.
    fn message(&self, said: ParsedMessage) -> ChatMessage {
        let content = said.content.unwrap_or_default();
        let mut message = ChatMessage { role: "assistant", content, ..ChatMessage::default() };
        let mut functions = said.calls.into_iter().map(|call| Function { name: call.name, arguments: call.arguments });
        if self.calls == CallForm::Function {
            message.function_call = functions.next();
            return message;
        }
        let call = |(index, function): (usize, Function)| {
            let called = match self.is_custom(&function.name) {
                false => Called::Function { function },
                true => {
                    let mut input = Freeform::default();
                    input.push(&function.arguments);
                    Called::Custom { custom: Custom { name: function.name, input: input.finish().0 } }
                }
            };
            ToolCall { id: call_id(), index, called }
        };
        message.tool_calls = functions.enumerate().map(call).collect();
        message
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
        for event in delta.events {
            let Some(delta) = self.words(index, event) else { continue };
            let choice = ChunkChoice { index, delta, logprobs: logprobs.take(), ..ChunkChoice::default() };
            self.send(generation, choice, frames);
        }
        if logprobs.is_some() {
            let delta = text(String::new());
            self.send(generation, ChunkChoice { index, delta, logprobs, ..ChunkChoice::default() }, frames);
        }
        if let Some(outcome) = &delta.outcome {
            let finish_reason = Some(self.finish_reason(outcome));
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

    fn whole(mut self, generation: &ChatGeneration) -> Response {
        let outputs = std::mem::take(&mut self.outputs);
        let choice = |(index, output): (usize, OutputDelta)| {
            let outcome = output.outcome.expect("every output has ended");
            let message = ParsedMessage::from_events(output.events);
            ChatChoice {
                index,
                logprobs: chat_logprobs(generation, &output.logprobs),
                message: self.message(message),
                finish_reason: self.finish_reason(&outcome),
                // The token that ends a call is markup, not something the client stopped at.
                matched_stop: if matches!(outcome, Outcome::ToolCalls(_)) { Value::Null } else { outcome.matched() },
            }
        };
        let completion = ChatCompletion {
            id: &self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: &self.head.model,
            choices: outputs.into_iter().enumerate().map(choice).collect(),
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
