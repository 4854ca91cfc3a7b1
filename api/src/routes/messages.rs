//! `/v1/messages` and `/v1/messages/count_tokens`, Anthropic's.
//!
//! Where SGLang (0.5.23) and Anthropic differ, Anthropic's form is kept, since its clients read it: a
//! matched stop sequence is named, and an answer that was aborted is an error rather than an end of turn.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use quern_text::tool::ToolEvent;
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::chat::NO_MODEL;
use crate::{
    dialogue::{Dialogue, End},
    generate::Matched,
    protocol::{
        ApiError, Body,
        body::ContentType,
        messages::{
            BlockDelta, ContentBlock, Message, MessageEnd, MessagesError, MessagesEvent, MessagesFields, MessagesUsage,
        },
        sampling::SamplingFields,
        scalar::Int,
        unbuilt::UNBUILT_FIELDS,
    },
    request_id::new_id,
    state::AppState,
    stream::{self, Frames},
    translated::Translated,
};

/// Fields that ask for what nobody does here.
const UNSERVED: &[(&str, &str)] =
    &[("mcp_servers", "the server calls no other servers"), ("container", "the server runs no containers")];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/messages", post(messages)).route("/v1/messages/count_tokens", post(count_tokens))
}

async fn messages(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, MessagesError> {
    let (fields, mut conversation) = read(&state, request).await?;
    match fields.max_tokens {
        // -1 asks for as many as there is room for.
        Some(Int(-1 | 1..)) => {}
        Some(Int(n)) => return Err(ApiError::invalid(format!("max_tokens must be at least 1, got {n}.")).into()),
        None => return Err(ApiError::schema("missing field `max_tokens`").into()),
    }
    conversation.continue_final_message = fields.begins_the_answer()?;
    let id = format!("msg_{}", new_id());
    let streams = fields.stream.unwrap_or(false);
    let begun = conversation.begin(&state, id.clone(), streams).await;
    let named =
        |error: ApiError| error.renamed("stop", "stop_sequences").renamed("response_format", "output_config.format");
    let dialogue = begun.map_err(named)?;
    let model = fields.model.unwrap_or_else(|| NO_MODEL.into());
    let answer = Answer { id, model, dialogue, blocks: Blocks::default(), state };
    if streams { Ok(stream::response(|frames| answer.stream(frames))) } else { Ok(answer.whole().await?) }
}

async fn count_tokens(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, MessagesError> {
    let (fields, mut conversation) = read(&state, request).await?;
    // Clients count unfinished histories too: one that ends in a call is counted, though it is not answered.
    conversation.continue_final_message = fields.begins_the_answer().unwrap_or(false);
    // What must be called changes what may be written, not what is read.
    conversation.tool_choice = conversation.tool_choice.filter(|choice| choice == "none");
    let ids = conversation.conversation()?.tokenise_any(&state).await?;
    Ok(Json(json!({ "input_tokens": ids.len() })))
}

async fn read(state: &AppState, request: Request) -> Result<(MessagesFields, Translated), MessagesError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    if body.get("thread").is_some() {
        return Err(MessagesError::thread());
    }
    body.refuse(UNBUILT_FIELDS)?;
    body.refuse(UNSERVED)?;
    let fields: MessagesFields = body.read()?;
    let mut sampling: SamplingFields = body.read()?;
    if let Some(stops) = &fields.stop_sequences {
        sampling.stop.get_or_insert_default().0.extend(stops.0.iter().cloned());
    }
    let conversation = Translated {
        messages: fields.chat_messages()?,
        tools: fields.chat_tools()?,
        tool_choice: fields.chat_tool_choice()?,
        parallel_tool_calls: fields.tool_choice.as_ref().and_then(|c| c.disable_parallel_tool_use).map(|off| !off),
        response_format: fields.chat_response_format(),
        cache_salt: fields.cache_salt.clone(),
        sampling,
        ..Translated::default()
    };
    Ok((fields, conversation))
}

/// An answer in the making.
struct Answer {
    id: String,
    model: String,
    dialogue: Dialogue,
    blocks: Blocks,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut end = None;
        while let Some((_, turn)) = self.dialogue.next().await {
            turn.said.into_iter().for_each(|said| drop(self.blocks.take(said)));
            end = turn.end;
        }
        let _ = self.blocks.finish();
        let MessageEnd { stop_reason, stop_sequence } = message_end(end)?;
        let content = self.blocks.content();
        Ok(Json(Message { content, stop_reason: Some(stop_reason), stop_sequence, ..self.message() }).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        let mut begun = false;
        let mut end = None;
        loop {
            let turn = match timeout(self.state.keep_alive(), self.dialogue.next()).await {
                Ok(Some((_, turn))) => turn,
                Ok(None) => break,
                Err(_) => {
                    send(&frames, MessagesEvent::Ping {}).await;
                    continue;
                }
            };
            if !begun && (!turn.said.is_empty() || turn.end.is_some()) {
                // Not before it is known how much of the prompt was cached.
                begun = true;
                let usage = MessagesUsage { output_tokens: 0, ..self.usage() };
                let message = Message { usage, ..self.message() };
                send(&frames, MessagesEvent::MessageStart { message }).await;
            }
            for said in turn.said {
                for event in self.blocks.take(said) {
                    send(&frames, event).await;
                }
            }
            end = turn.end;
        }
        let outcome = message_end(end);
        // Where nothing was said there is an empty block, unless something went wrong.
        let last = if outcome.is_ok() { self.blocks.finish() } else { self.blocks.close().into_iter().collect() };
        for event in last {
            send(&frames, event).await;
        }
        match outcome {
            Ok(delta) => send(&frames, MessagesEvent::MessageDelta { delta, usage: self.usage() }).await,
            Err(error) => frames.event("error", &MessagesError::from(error).body()).await,
        }
        send(&frames, MessagesEvent::MessageStop {}).await;
    }

    /// The answer before its first word.
    fn message(&self) -> Message<'_> {
        Message {
            id: &self.id,
            kind: "message",
            role: "assistant",
            content: Vec::new(),
            model: &self.model,
            stop_reason: None,
            stop_sequence: None,
            usage: self.usage(),
        }
    }

    fn usage(&self) -> MessagesUsage {
        let output = &self.dialogue.outputs()[0];
        let cached = output.prompt.cached_tokens;
        MessagesUsage {
            input_tokens: output.prompt_tokens - cached,
            cache_read_input_tokens: cached,
            output_tokens: output.completion_tokens(),
            ..MessagesUsage::default()
        }
    }
}

async fn send(frames: &Frames, event: MessagesEvent<'_>) {
    frames.event(event.name(), &event).await;
}

/// The blocks of an answer, whole and streamed alike.
#[derive(Debug, Default)]
struct Blocks {
    written: Vec<Block>,
    /// Whether the last one goes on.
    is_open: bool,
}

#[derive(Debug)]
enum Block {
    Text(String),
    Call { id: String, name: String, json: String, complete: bool },
}

impl Blocks {
    /// Add what was said. Returns what a stream says of it.
    fn take(&mut self, said: ToolEvent) -> Vec<MessagesEvent<'static>> {
        let mut events = Vec::new();
        match said {
            ToolEvent::Content(text) => {
                if !matches!((self.written.last(), self.is_open), (Some(Block::Text(_)), true)) {
                    events.extend(self.close());
                    events.push(self.open(Block::Text(String::new())));
                }
                let index = self.written.len() - 1;
                if let Some(Block::Text(whole)) = self.written.last_mut() {
                    whole.push_str(&text);
                }
                events.push(MessagesEvent::ContentBlockDelta { index, delta: BlockDelta::TextDelta { text } });
            }
            ToolEvent::CallStart { name, .. } => {
                events.extend(self.close());
                let id = format!("toolu_{}", &Uuid::new_v4().simple().to_string()[..24]);
                events.push(self.open(Block::Call { id, name, json: String::new(), complete: false }));
            }
            ToolEvent::Arguments { json: partial_json, .. } => {
                if let Some(Block::Call { json, .. }) = self.written.last_mut() {
                    json.push_str(&partial_json);
                }
                let delta = BlockDelta::InputJsonDelta { partial_json };
                events.push(MessagesEvent::ContentBlockDelta { index: self.written.len() - 1, delta });
            }
            ToolEvent::CallEnd { .. } => {
                if let Some(Block::Call { complete, .. }) = self.written.last_mut() {
                    *complete = true;
                }
                events.extend(self.close());
            }
            // Its `stop_reason` tells a stream's reader that it is not to be carried out.
            ToolEvent::CallCut { .. } => events.extend(self.close()),
        }
        events
    }

    fn open(&mut self, block: Block) -> MessagesEvent<'static> {
        let content_block = match &block {
            Block::Text(_) => ContentBlock::Text { text: String::new() },
            Block::Call { id, name, .. } => {
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
        let empty = self.written.is_empty().then(|| self.open(Block::Text(String::new())));
        empty.into_iter().chain(self.close()).collect()
    }

    /// All that is complete.
    fn content(&self) -> Vec<ContentBlock> {
        let block = |block: &Block| match block {
            Block::Text(text) => Some(ContentBlock::Text { text: text.clone() }),
            Block::Call { complete: false, .. } => None,
            Block::Call { id, name, json, .. } => {
                let input = serde_json::from_str(json).expect("complete arguments are a JSON object");
                Some(ContentBlock::ToolUse { id: id.clone(), name: name.clone(), input })
            }
        };
        self.written.iter().filter_map(block).collect()
    }
}

/// Anthropic's name of an end.
fn message_end(end: Option<End>) -> Result<MessageEnd, ApiError> {
    let (stop_reason, stop_sequence) = match end {
        Some(End::Stop(Matched::Text(text))) => ("stop_sequence", Some(text)),
        Some(End::Stop(Matched::Token(_))) => ("end_turn", None),
        Some(End::ToolCalls(_)) => ("tool_use", None),
        Some(End::Length) => ("max_tokens", None),
        Some(End::Abort(words)) => return Err(ApiError::unavailable(words)),
        Some(End::Failed(error)) => return Err(error),
        None => return Err(ApiError::internal("the answer has no end")),
    };
    Ok(MessageEnd { stop_reason, stop_sequence })
}
