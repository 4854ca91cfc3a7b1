//! [`Items`]: the parts of an answer of `/v1/responses`, whole and streamed alike.

use quern_text::tool::ToolEvent;
use serde_json::{Value, json};

use super::freeform::Freeform;
use crate::{
    chat_generation::call_id,
    protocol::responses::{FunctionName, Functions, OutputItem, OutputText},
    request_id::new_id,
};

/// An event's name and its fields.
pub type Event = (&'static str, Value);

/// Items in the making. Only the last one goes on.
#[derive(Debug)]
pub struct Items {
    functions: Functions,
    written: Vec<OutputItem>,
    is_open: bool,
    /// The input of the open item, if it is a custom tool's call.
    freeform: Freeform,
}

impl Items {
    /// No parts yet. `functions` tells what the client calls what the model calls.
    pub fn new(functions: Functions) -> Self {
        Self { functions, written: Vec::new(), is_open: false, freeform: Freeform::default() }
    }

    /// What may be called.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// All that is complete.
    pub fn output(&self) -> &[OutputItem] {
        &self.written
    }

    /// Add what is new, with the scores of its tokens. Returns what a stream says of it.
    pub fn take(&mut self, new: Vec<ToolEvent>, mut scores: Vec<Value>) -> Vec<Event> {
        let mut events = Vec::new();
        for event in new {
            match event {
                ToolEvent::Content(text) => self.text(text, std::mem::take(&mut scores), &mut events),
                ToolEvent::CallStart { name, .. } => {
                    self.close("completed", &mut events);
                    let FunctionName { of_client: name, namespace, is_custom, .. } = self.functions.called(&name);
                    let (call_id, status) = (call_id(), "in_progress");
                    let call = if is_custom {
                        self.freeform = Freeform::default();
                        let (id, input) = (format!("ctc_{}", new_id()), String::new());
                        OutputItem::CustomToolCall { id, call_id, name, namespace, input, status }
                    } else {
                        let (id, arguments) = (format!("fc_{}", new_id()), String::new());
                        OutputItem::FunctionCall { id, call_id, name, namespace, arguments, status }
                    };
                    self.open(call, &mut events);
                }
                ToolEvent::Arguments { json, .. } => {
                    let output_index = self.index();
                    match self.written.last_mut() {
                        Some(OutputItem::FunctionCall { id, arguments, .. }) => {
                            arguments.push_str(&json);
                            let fields = json!({ "item_id": id, "output_index": output_index, "delta": json });
                            events.push(("response.function_call_arguments.delta", fields));
                        }
                        Some(OutputItem::CustomToolCall { id, .. }) => {
                            let delta = self.freeform.push(&json);
                            if !delta.is_empty() {
                                events.push(input_delta(id, output_index, &delta));
                            }
                        }
                        _ => {}
                    }
                }
                ToolEvent::CallEnd { .. } => self.close("completed", &mut events),
                // It is never called done, and the answer that follows does not have it: clients carry out
                // what is done, whatever its status.
                ToolEvent::CallCut { .. } => {
                    self.written.pop();
                    self.is_open = false;
                }
            }
        }
        events
    }

    /// The end of an answer with this status. One that says nothing has an empty message.
    pub fn finish(&mut self, status: &'static str) -> Vec<Event> {
        let mut events = Vec::new();
        if self.written.is_empty() && status == "completed" {
            self.open_message(&mut events);
        }
        self.close(if status == "completed" { status } else { "incomplete" }, &mut events);
        events
    }

    fn text(&mut self, delta: String, scores: Vec<Value>, events: &mut Vec<Event>) {
        if !matches!((self.written.last(), self.is_open), (Some(OutputItem::Message { .. }), true)) {
            self.close("completed", events);
            self.open_message(events);
        }
        let output_index = self.index();
        let Some(OutputItem::Message { id, content, .. }) = self.written.last_mut() else { return };
        content[0].text.push_str(&delta);
        content[0].logprobs.extend(scores.iter().cloned());
        let fields = json!({
            "item_id": id, "output_index": output_index, "content_index": 0, "delta": delta, "logprobs": scores,
        });
        events.push(("response.output_text.delta", fields));
    }

    fn open_message(&mut self, events: &mut Vec<Event>) {
        let id = format!("msg_{}", new_id());
        let item = OutputItem::Message {
            id: id.clone(),
            status: "in_progress",
            role: "assistant",
            content: Vec::new(),
            phase: None,
        };
        self.open(item, events);
        let part = OutputText::default();
        let fields = json!({ "item_id": id, "output_index": self.index(), "content_index": 0, "part": part });
        events.push(("response.content_part.added", fields));
        if let Some(OutputItem::Message { content, .. }) = self.written.last_mut() {
            content.push(part);
        }
    }

    fn open(&mut self, item: OutputItem, events: &mut Vec<Event>) {
        self.written.push(item);
        self.is_open = true;
        let fields = json!({ "output_index": self.index(), "item": self.written.last() });
        events.push(("response.output_item.added", fields));
    }

    fn close(&mut self, end: &'static str, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let output_index = self.index();
        let item = self.written.last_mut().expect("an open one is written");
        match item {
            OutputItem::Message { id, status, content, .. } => {
                *status = end;
                let OutputText { text, logprobs, .. } = &content[0];
                let fields = json!({
                    "item_id": id, "output_index": output_index, "content_index": 0, "text": text,
                    "logprobs": logprobs,
                });
                events.push(("response.output_text.done", fields));
                let fields = json!({
                    "item_id": id, "output_index": output_index, "content_index": 0, "part": content[0],
                });
                events.push(("response.content_part.done", fields));
            }
            OutputItem::FunctionCall { id, name, arguments, status, .. } => {
                *status = end;
                let fields = json!({
                    "item_id": id, "output_index": output_index, "name": name, "arguments": arguments,
                });
                events.push(("response.function_call_arguments.done", fields));
            }
            OutputItem::CustomToolCall { id, input, status, .. } => {
                *status = end;
                let (whole, rest) = self.freeform.finish();
                if !rest.is_empty() {
                    events.push(input_delta(id, output_index, &rest));
                }
                *input = whole;
                let fields = json!({ "item_id": id, "output_index": output_index, "input": input });
                events.push(("response.custom_tool_call_input.done", fields));
            }
        }
        events.push(("response.output_item.done", json!({ "output_index": output_index, "item": item })));
    }

    fn index(&self) -> usize {
        self.written.len() - 1
    }
}

fn input_delta(id: &str, output_index: usize, delta: &str) -> Event {
    let fields = json!({ "item_id": id, "output_index": output_index, "delta": delta });
    ("response.custom_tool_call_input.delta", fields)
}
