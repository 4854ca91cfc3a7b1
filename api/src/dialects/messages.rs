//! [`Messages`]: the answers of `/v1/messages`, Anthropic's.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use quern_text::tool::ToolEvent;
use serde_json::Map;
use uuid::Uuid;

use crate::{
    chat_generation::{ChatGeneration, OutputDelta},
    outcome::{FinishWords, Matched, Outcome},
    protocol::{
        ApiError,
        messages::{BlockDelta, ContentBlock, Message, MessageEnd, MessagesError, MessagesEvent, MessagesUsage},
    },
    respond::Dialect,
    stream::Frames,
};

/// A message.
pub struct Messages {
    id: String,
    model: String,
    blocks: Blocks,
    /// Whether a stream has begun it.
    has_begun: bool,
    end: Option<MessageEnd>,
}

impl Messages {
    /// A message that says nothing yet.
    pub fn new(id: String, model: String) -> Self {
        Self { id, model, blocks: Blocks::default(), has_begun: false, end: None }
    }

    /// The message before its first word.
    fn message(&self, generation: &ChatGeneration) -> Message<'_> {
        Message {
            id: &self.id,
            kind: "message",
            role: "assistant",
            content: Vec::new(),
            model: &self.model,
            stop_reason: None,
            stop_sequence: None,
            usage: usage(generation),
        }
    }

    /// Not before it is known how much of the prompt was cached.
    fn begin(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let usage = MessagesUsage { output_tokens: 0, ..usage(generation) };
            send(frames, MessagesEvent::MessageStart { message: Message { usage, ..self.message(generation) } });
        }
    }
}

impl Dialect for Messages {
    const WORDS: FinishWords = FinishWords {
        stop_token: "end_turn",
        stop_text: "stop_sequence",
        tool_calls: "tool_use",
        length: "max_tokens",
        abort: None,
    };

    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames) {
        if delta.events.is_empty() && delta.outcome.is_none() {
            return;
        }
        self.begin(generation, frames);
        for event in delta.events {
            self.blocks.take(event).into_iter().for_each(|event| send(frames, event));
        }
        if let Some(outcome) = delta.outcome {
            self.blocks.finish().into_iter().for_each(|event| send(frames, event));
            let stop_sequence = match &outcome {
                Outcome::Stop(Matched::Text(text)) => Some(text.clone()),
                _ => None,
            };
            self.end = Some(MessageEnd { stop_reason: outcome.reason(&Self::WORDS), stop_sequence });
        }
    }

    fn idle(&mut self, _: &ChatGeneration, frames: &mut Frames) {
        send(frames, MessagesEvent::Ping {});
    }

    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        let delta = self.end.take().expect("it has ended");
        send(frames, MessagesEvent::MessageDelta { delta, usage: usage(generation) });
        send(frames, MessagesEvent::MessageStop {});
    }

    fn fail(&mut self, generation: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        self.begin(generation, frames);
        self.blocks.close().into_iter().for_each(|event| send(frames, event));
        frames.event("error", &MessagesError::from(error).body());
        send(frames, MessagesEvent::MessageStop {});
    }

    fn whole(mut self, generation: &ChatGeneration) -> Response {
        let MessageEnd { stop_reason, stop_sequence } = self.end.take().expect("it has ended");
        let (content, stop_reason) = (self.blocks.content(), Some(stop_reason));
        Json(Message { content, stop_reason, stop_sequence, ..self.message(generation) }).into_response()
    }
}

fn usage(generation: &ChatGeneration) -> MessagesUsage {
    let output = &generation.outputs()[0];
    let cached = output.prompt.cached_tokens;
    MessagesUsage {
        input_tokens: output.prompt_tokens - cached,
        cache_read_input_tokens: cached,
        output_tokens: output.completion_tokens(),
        ..MessagesUsage::default()
    }
}

fn send(frames: &mut Frames, event: MessagesEvent<'_>) {
    frames.event(event.name(), &event);
}

/// The blocks of an answer, whole and streamed alike.
#[derive(Debug, Default)]
struct Blocks {
    written: Vec<WrittenBlock>,
    /// Whether the last one goes on.
    is_open: bool,
}

#[derive(Debug)]
enum WrittenBlock {
    Text(String),
    Call { id: String, name: String, json: String, complete: bool },
}

impl Blocks {
    /// Add an event. Returns what a stream says of it.
    fn take(&mut self, event: ToolEvent) -> Vec<MessagesEvent<'static>> {
        let mut events = Vec::new();
        match event {
            ToolEvent::Content(text) => {
                if !matches!((self.written.last(), self.is_open), (Some(WrittenBlock::Text(_)), true)) {
                    events.extend(self.close());
                    events.push(self.open(WrittenBlock::Text(String::new())));
                }
                let index = self.written.len() - 1;
                if let Some(WrittenBlock::Text(whole)) = self.written.last_mut() {
                    whole.push_str(&text);
                }
                events.push(MessagesEvent::ContentBlockDelta { index, delta: BlockDelta::TextDelta { text } });
            }
            ToolEvent::CallStart { name, .. } => {
                events.extend(self.close());
                let id = format!("toolu_{}", &Uuid::new_v4().simple().to_string()[..24]);
                events.push(self.open(WrittenBlock::Call { id, name, json: String::new(), complete: false }));
            }
            ToolEvent::Arguments { json: partial_json, .. } => {
                if let Some(WrittenBlock::Call { json, .. }) = self.written.last_mut() {
                    json.push_str(&partial_json);
                }
                let delta = BlockDelta::InputJsonDelta { partial_json };
                events.push(MessagesEvent::ContentBlockDelta { index: self.written.len() - 1, delta });
            }
            ToolEvent::CallEnd { .. } => {
                if let Some(WrittenBlock::Call { complete, .. }) = self.written.last_mut() {
                    *complete = true;
                }
                events.extend(self.close());
            }
            // Its `stop_reason` tells a stream's reader that it is not to be carried out.
            ToolEvent::CallCut { .. } => events.extend(self.close()),
        }
        events
    }

    fn open(&mut self, block: WrittenBlock) -> MessagesEvent<'static> {
        let content_block = match &block {
            WrittenBlock::Text(_) => ContentBlock::Text { text: String::new() },
            WrittenBlock::Call { id, name, .. } => {
                ContentBlock::ToolUse { id: id.clone(), name: name.clone(), input: Map::new().into() }
            }
        };
        self.written.push(block);
        self.is_open = true;
        MessagesEvent::ContentBlockStart { index: self.written.len() - 1, content_block }
    }

    fn close(&mut self) -> Option<MessagesEvent<'static>> {
        let was_open = std::mem::take(&mut self.is_open);
        was_open.then(|| MessagesEvent::ContentBlockStop { index: self.written.len() - 1 })
    }

    /// The end. An answer that says nothing has one empty block.
    fn finish(&mut self) -> Vec<MessagesEvent<'static>> {
        let empty = self.written.is_empty().then(|| self.open(WrittenBlock::Text(String::new())));
        empty.into_iter().chain(self.close()).collect()
    }

    /// All that is complete.
    fn content(&self) -> Vec<ContentBlock> {
        let block = |block: &WrittenBlock| match block {
            WrittenBlock::Text(text) => Some(ContentBlock::Text { text: text.clone() }),
            WrittenBlock::Call { complete: false, .. } => None,
            WrittenBlock::Call { id, name, json, .. } => {
                let input = serde_json::from_str(json).expect("complete arguments are a JSON object");
                Some(ContentBlock::ToolUse { id: id.clone(), name: name.clone(), input })
            }
        };
        self.written.iter().filter_map(block).collect()
    }
}
