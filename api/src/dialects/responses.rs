//! [`Responses`]: the answers of `/v1/responses`, OpenAI's.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    NO_MODEL,
    response_items::{Event, Items},
};
use crate::{
    caller::Owner,
    chat_generation::{ChatGeneration, OutputDelta},
    logprobs,
    outcome::FinishWords,
    protocol::{
        ApiError,
        response_input::read_input,
        responses::{Functions, InputTokensDetails, ResponseObject, ResponsesFields, ResponsesUsage},
    },
    request_id::new_id,
    respond::Dialect,
    response_store::StoredResponse,
    state::AppState,
    stream::Frames,
};

/// What an answer belongs to, for a request that goes on from it.
#[derive(Clone, Debug, Default)]
pub struct ResponseContext {
    /// Whose it is.
    pub owner: Owner,
    /// The conversation before the answer, without instructions.
    pub history: Vec<Value>,
    /// Tools that came with it.
    pub brought: Vec<Value>,
}

/// A response.
pub struct Responses {
    id: String,
    created: u64,
    fields: ResponsesFields,
    context: ResponseContext,
    items: Items,
    /// The end, once it has come.
    status: &'static str,
    /// Events of a stream so far.
    num_events: usize,
    state: Arc<AppState>,
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.state.responses.ended(&self.context.owner, &self.id);
    }
}

impl Responses {
    /// A response without items. Until it is dropped it can be cancelled, if it is to be kept.
    pub fn new(
        state: &Arc<AppState>,
        id: String,
        fields: ResponsesFields,
        functions: Functions,
        context: ResponseContext,
        generation: &ChatGeneration,
    ) -> Self {
        if fields.store != Some(false) {
            state.responses.begun(&context.owner, &id, generation.aborters());
        }
        let (created, items) = (state.clock.unix_seconds(), Items::new(functions));
        Self { id, created, fields, context, items, status: "in_progress", num_events: 0, state: Arc::clone(state) }
    }

    fn send(&mut self, (name, fields): Event, frames: &mut Frames) {
        let mut event = Map::new();
        event.insert("type".into(), name.into());
        event.insert("sequence_number".into(), self.num_events.into());
        self.num_events += 1;
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        frames.event(name, &event);
    }

    fn send_all(&mut self, events: Vec<Event>, frames: &mut Frames) {
        events.into_iter().for_each(|event| self.send(event, frames));
    }

    fn value(&self, generation: &ChatGeneration, status: &'static str, error: Option<&ApiError>) -> Value {
        let fields = &self.fields;
        let params = &generation.outputs()[0].sampling.params;
        let text = fields.text.as_ref();
        let mut text_out = Map::new();
        let format = text.and_then(|text| text.format.clone()).unwrap_or_else(|| json!({ "type": "text" }));
        text_out.insert("format".into(), format);
        if let Some(verbosity) = text.and_then(|text| text.verbosity.as_deref()) {
            text_out.insert("verbosity".into(), verbosity.into());
        }
        let reasoning = fields.reasoning.clone().unwrap_or_default();
        let error = error.map(|error| {
            let code = error.code.unwrap_or("server_error");
            json!({ "code": code, "message": error.message })
        });
        let has_ended = status != "in_progress";
        let object = ResponseObject {
            id: &self.id,
            object: "response",
            created_at: self.created,
            model: fields.model.as_deref().unwrap_or(NO_MODEL),
            output: if has_ended { self.items.output().to_vec() } else { Vec::new() },
            status,
            usage: has_ended.then(|| usage(generation)),
            parallel_tool_calls: fields.parallel_tool_calls.unwrap_or(true),
            tool_choice: fields.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            tools: fields.tools.as_deref().unwrap_or_default(),
            error,
            incomplete_details: incomplete_details(status),
            instructions: fields.instructions.as_deref(),
            max_output_tokens: fields.max_output_tokens.map(|most| most.0),
            previous_response_id: fields.previous_response_id.as_deref(),
            reasoning: json!({ "effort": reasoning.effort, "summary": reasoning.summary }),
            store: fields.store.unwrap_or(true),
            temperature: params.temperature,
            text: text_out.into(),
            top_p: params.top_p,
            truncation: fields.truncation.as_deref().unwrap_or("disabled"),
            user: fields.user.as_deref(),
            metadata: fields.metadata.clone().unwrap_or_default(),
        };
        serde_json::to_value(object).expect("wire types are plain data")
    }

    /// Keep the answer for a request that goes on from it, unless this one wants it forgotten.
    fn keep(&self, object: &Value) {
        if self.fields.store == Some(false) {
            return;
        }
        let mut messages = self.context.history.clone();
        let output = object.get("output").expect("an answer has it");
        let read = read_input(self.items.functions(), output, |_| None, &mut messages);
        read.expect("what was written here can be read here");
        let input = self.fields.input.as_ref().map(items_of).unwrap_or_default();
        let response = StoredResponse::new(object.clone(), messages, self.context.brought.clone(), input);
        self.state.responses.insert(&self.context.owner, self.id.clone(), response);
    }
}

impl Dialect for Responses {
    const WORDS: FinishWords = FinishWords {
        stop_token: "completed",
        stop_text: "completed",
        tool_calls: "completed",
        length: "incomplete",
        abort: None,
    };

    fn open(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        let begun = self.value(generation, "in_progress", None);
        self.send(("response.created", json!({ "response": begun })), frames);
        self.send(("response.in_progress", json!({ "response": begun })), frames);
    }

    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames) {
        let scores = match delta.logprobs.is_empty() {
            true => Vec::new(),
            false => logprobs::chat(&generation.state().tokenizer, &delta.logprobs).content,
        };
        let scores = scores.iter().map(|score| serde_json::to_value(score).expect("wire types are plain data"));
        let events = self.items.take(delta.events, scores.collect());
        self.send_all(events, frames);
        if let Some(outcome) = delta.outcome {
            self.status = outcome.reason(&Self::WORDS);
            let events = self.items.finish(self.status);
            self.send_all(events, frames);
        }
    }

    /// Comments do not hold Codex; this does.
    fn idle(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        let begun = self.value(generation, "in_progress", None);
        self.send(("response.in_progress", json!({ "response": begun })), frames);
    }

    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        let object = self.value(generation, self.status, None);
        self.keep(&object);
        let name = if self.status == "completed" { "response.completed" } else { "response.incomplete" };
        self.send((name, json!({ "response": object })), frames);
    }

    fn fail(&mut self, generation: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        let events = self.items.finish("failed");
        self.send_all(events, frames);
        let object = self.value(generation, "failed", Some(&error));
        self.send(("response.failed", json!({ "response": object })), frames);
    }

    fn whole(self, generation: &ChatGeneration) -> Response {
        let object = self.value(generation, self.status, None);
        self.keep(&object);
        Json(object).into_response()
    }
}

/// Why an answer of this status is not complete: the only reason there is.
pub fn incomplete_details(status: &str) -> Option<Value> {
    (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }))
}

/// Tokens of an answer's prompt and output.
pub fn usage(generation: &ChatGeneration) -> ResponsesUsage {
    let output = &generation.outputs()[0];
    let (input_tokens, output_tokens) = (output.prompt_tokens, output.completion_tokens());
    ResponsesUsage {
        input_tokens,
        input_tokens_details: InputTokensDetails {
            cached_tokens: output.prompt.cached_tokens,
            ..InputTokensDetails::default()
        },
        output_tokens,
        total_tokens: input_tokens + output_tokens,
        ..ResponsesUsage::default()
    }
}

/// The items of an `input`, each with an id.
fn items_of(input: &Value) -> Vec<Value> {
    let message = |text: &str| json!({ "role": "user", "content": [{ "type": "input_text", "text": text }] });
    let items = match input {
        Value::Array(items) => items.clone(),
        Value::String(text) => vec![message(text)],
        other => vec![other.clone()],
    };
    let with_id = |mut item: Value| {
        if let Some(fields) = item.as_object_mut() {
            fields.entry("type").or_insert_with(|| "message".into());
            fields.entry("id").or_insert_with(|| format!("msg_{}", new_id()).into());
        }
        item
    };
    items.into_iter().map(with_id).collect()
}
