//! Wire types of `/v1/messages`, and what its requests say in the words of `/v1/chat/completions`.
//!
//! Blocks become text, calls and results; what only steers Anthropic's own service (`cache_control`,
//! `metadata`, `thinking`, `context_management`, `output_config.effort`) is read over. A block or a field
//! whose loss would change the answer is refused.

use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    error::ApiError,
    scalar::{Int, Texts, shown},
};

/// Longest message of a refusal, as in SGLang.
const MAX_ERROR_CHARS: usize = 500;

/// Claude Code begins the system's text with a line `x-anthropic-billing-header: …` that changes from
/// request to request. It is bookkeeping of Anthropic's service; with it, no prefix would ever be found in
/// the cache. Any header of that family counts.
const BOOKKEEPING: &str = "x-anthropic-";

/// What a request says beside its sampling. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "Anthropic's names")]
pub struct MessagesFields {
    pub model: Option<String>,
    pub max_tokens: Option<Int>,
    pub messages: Option<Vec<Value>>,
    pub system: Option<Value>,
    pub stop_sequences: Option<Texts>,
    pub stream: Option<bool>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<ToolChoice>,
    pub output_config: Option<OutputConfig>,
    pub cache_salt: Option<String>,
}

/// Whether and which tools are to be called.
#[derive(Clone, Debug, Default, Deserialize)]
#[allow(missing_docs, reason = "Anthropic's names")]
pub struct ToolChoice {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: Option<String>,
    pub disable_parallel_tool_use: Option<bool>,
}

/// The form of the answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OutputConfig {
    /// `{type: "json_schema", schema}`.
    pub format: Option<Value>,
}

impl MessagesFields {
    /// The conversation as chat messages.
    pub fn chat_messages(&self) -> Result<Vec<Value>, ApiError> {
        let given = self.messages.as_deref();
        let given = given.ok_or_else(|| ApiError::schema("missing field `messages`").about("messages"))?;
        if given.is_empty() {
            return Err(ApiError::invalid("Messages cannot be empty.").about("messages"));
        }
        let mut out = Vec::with_capacity(given.len() + 1);
        if let Some(system) = &self.system {
            let text = system_text(system, "system")?;
            if !text.is_empty() {
                out.push(json!({ "role": "system", "content": text }));
            }
        }
        for (index, message) in given.iter().enumerate() {
            let path = format!("messages[{index}]");
            let content = message.get("content").unwrap_or(&Value::Null);
            match message.get("role").and_then(Value::as_str) {
                Some("user") => user(content, &path, &mut out)?,
                Some("assistant") => out.push(assistant(content, &path)?),
                Some("system" | "developer") => {
                    let text = system_text(content, &format!("{path}.content"))?;
                    out.push(json!({ "role": "system", "content": text }));
                }
                _ => {
                    let role = shown(message.get("role").unwrap_or(&Value::Null));
                    let message = format!("{path}.role: user, assistant or system is wanted, not {role}.");
                    return Err(ApiError::schema(message).about(&path));
                }
            }
        }
        Ok(out)
    }

    /// Whether the last message is the beginning of the answer.
    pub fn begins_the_answer(&self) -> Result<bool, ApiError> {
        let Some(last) = self.messages.as_deref().unwrap_or_default().last() else { return Ok(false) };
        if last["role"] != "assistant" {
            return Ok(false);
        }
        let calls = |block: &Value| block["type"] == "tool_use";
        if last["content"].as_array().is_some_and(|blocks| blocks.iter().any(calls)) {
            let message = "messages: the last one calls tools (`tool_use`); their `tool_result`s must follow it.";
            return Err(ApiError::invalid(message).about("messages"));
        }
        Ok(true)
    }

    /// The tools as functions. Tools that Anthropic's service knows by their `type` have no `input_schema`;
    /// nobody describes or runs them here, so the model is not told of them.
    pub fn chat_tools(&self) -> Result<Vec<Value>, ApiError> {
        let mut functions = Vec::new();
        for (index, tool) in self.tools.iter().flatten().enumerate() {
            let schema = tool.get("input_schema").unwrap_or(&Value::Null);
            let is_custom = matches!(tool.get("type"), None | Some(Value::Null)) || tool["type"] == "custom";
            if !schema.is_object() && is_custom {
                // Left out, the client's own tool would never be called, and nobody would hear why.
                let path = format!("tools[{index}].input_schema");
                let message = format!("{path}: a JSON Schema object is wanted, not {}.", shown(schema));
                return Err(ApiError::schema(message).about(&path));
            }
            if !schema.is_object() {
                continue;
            }
            let mut function = Map::new();
            for (from, to) in [("name", "name"), ("description", "description"), ("input_schema", "parameters")] {
                function.insert(to.into(), tool.get(from).cloned().unwrap_or_default());
            }
            if let Some(strict) = tool.get("strict").filter(|strict| !strict.is_null()) {
                function.insert("strict".into(), strict.clone());
            }
            functions.push(json!({ "type": "function", "function": function }));
        }
        Ok(functions)
    }

    /// `tool_choice` in chat's words.
    pub fn chat_tool_choice(&self) -> Result<Option<Value>, ApiError> {
        let Some(choice) = &self.tool_choice else { return Ok(None) };
        let wrong = |message: String| Err(ApiError::schema(message).about("tool_choice"));
        match (choice.kind.as_str(), &choice.name) {
            ("auto", _) => Ok(Some("auto".into())),
            ("any", _) => Ok(Some("required".into())),
            ("none", _) => Ok(Some("none".into())),
            ("tool", Some(name)) => Ok(Some(json!({ "type": "function", "function": { "name": name } }))),
            ("tool", None) => wrong("tool_choice.name: a tool's name is wanted where type is tool.".into()),
            (other, _) => wrong(format!("tool_choice.type must be auto, any, tool or none, got {other:?}.")),
        }
    }

    /// `output_config.format` in chat's words.
    pub fn chat_response_format(&self) -> Option<Value> {
        let format = self.output_config.as_ref()?.format.as_ref()?;
        Some(match format.get("schema") {
            Some(schema) => {
                json!({ "type": format["type"], "json_schema": { "name": "output", "schema": schema, "strict": true } })
            }
            None => format.clone(),
        })
    }
}

/// Text of the system's instructions, without bookkeeping.
fn system_text(content: &Value, path: &str) -> Result<String, ApiError> {
    // A header's name has no blanks; what merely speaks of such headers is the system's own text.
    let is_bookkeeping = |text: &str| {
        let name = text.strip_prefix(BOOKKEEPING).and_then(|rest| rest.split_once(':'));
        name.is_some_and(|(name, _)| !name.contains(char::is_whitespace))
    };
    let kept = |text: String| {
        let mut rest = text.as_str();
        while is_bookkeeping(rest) {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
        rest.to_owned()
    };
    let texts = texts(content, path)?.into_iter().map(kept).filter(|text| !text.is_empty());
    Ok(texts.collect::<Vec<_>>().join("\n"))
}

/// The user's words and the results of tools, in their order. Results are messages of their own.
fn user(content: &Value, path: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let is_result = |block: &Value| block["type"] == "tool_result";
    let blocks = match content {
        Value::Array(blocks) if blocks.iter().any(is_result) => blocks,
        _ => {
            let text = texts(content, &format!("{path}.content"))?.join("\n");
            out.push(json!({ "role": "user", "content": text }));
            return Ok(());
        }
    };
    let mut words = Vec::new();
    let say = |words: &mut Vec<String>, out: &mut Vec<Value>| {
        if !words.is_empty() {
            out.push(json!({ "role": "user", "content": std::mem::take(words).join("\n") }));
        }
    };
    for (index, block) in blocks.iter().enumerate() {
        let path = format!("{path}.content[{index}]");
        if !is_result(block) {
            words.push(text(block, &path)?);
            continue;
        }
        say(&mut words, out);
        let mut result = match block.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(content) => texts(content, &format!("{path}.content"))?.join("\n"),
        };
        // Most clients say in the text that it is an error; of the others' the model would not know.
        if block["is_error"] == true && !result.to_lowercase().contains("error") {
            result = format!("Error: {result}");
        }
        out.push(json!({ "role": "tool", "tool_call_id": block["tool_use_id"], "content": result }));
    }
    say(&mut words, out);
    Ok(())
}

fn assistant(content: &Value, path: &str) -> Result<Value, ApiError> {
    let Value::Array(blocks) = content else {
        let text = texts(content, &format!("{path}.content"))?.join("\n");
        return Ok(json!({ "role": "assistant", "content": text }));
    };
    let (mut words, mut thoughts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.iter().enumerate() {
        let path = format!("{path}.content[{index}]");
        match block.get("type").and_then(Value::as_str) {
            Some("tool_use") => {
                let Some(name) = block.get("name").and_then(Value::as_str) else {
                    return Err(ApiError::schema(format!("{path}.name: a string is wanted.")).about(&path));
                };
                let function = json!({ "name": name, "arguments": block.get("input").unwrap_or(&Value::Null) });
                calls.push(json!({ "id": block["id"], "type": "function", "function": function }));
            }
            Some("thinking") => thoughts.extend(block["thinking"].as_str()),
            // Nobody but its maker can read it.
            Some("redacted_thinking") => {}
            _ => words.push(text(block, &path)?),
        }
    }
    let mut message = json!({ "role": "assistant", "content": words.join("\n") });
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

/// The texts of a content: a string, or blocks.
fn texts(content: &Value, path: &str) -> Result<Vec<String>, ApiError> {
    match content {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(blocks) => {
            blocks.iter().enumerate().map(|(index, block)| text(block, &format!("{path}[{index}]"))).collect()
        }
        other => {
            let message = format!("{path}: a string or a list of blocks is wanted, not {}.", shown(other));
            Err(ApiError::schema(message).about(path))
        }
    }
}

/// The text of a block that has one.
fn text(block: &Value, path: &str) -> Result<String, ApiError> {
    let field = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let kind = block.get("type").and_then(Value::as_str).unwrap_or("(none)");
    let found = match kind {
        "text" => field(block, "text"),
        "tool_reference" => field(block, "tool_name"),
        "document" if block.pointer("/source/type").is_some_and(|kind| kind == "text") => {
            let title = field(block, "title").map(|title| format!("{title}\n")).unwrap_or_default();
            field(&block["source"], "data").map(|data| format!("{title}{data}"))
        }
        _ if block.is_string() => block.as_str().map(str::to_owned),
        _ => {
            let message = format!(
                "{path}: a block of type {kind:?} is not supported here; supported: text, documents of plain text, \
                 tool_use in the assistant's messages and tool_result in the user's."
            );
            return Err(ApiError::unsupported(path, message));
        }
    };
    found.ok_or_else(|| ApiError::schema(format!("{path}: a block of type {kind} without its text.")).about(path))
}

/// An answer, whole or about to begin.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "Anthropic's names")]
pub struct Message<'a> {
    pub id: &'a str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub role: &'static str,
    pub content: Vec<ContentBlock>,
    pub model: &'a str,
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<String>,
    pub usage: MessagesUsage,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "Anthropic's names")]
pub enum ContentBlock {
    Text { text: String },
    ToolUse { id: String, name: String, input: Value },
}

/// Tokens of a request. What the cache had is counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "Anthropic's names")]
pub struct MessagesUsage {
    pub input_tokens: usize,
    /// Always 0: every prompt is cached, and none costs more for it.
    pub cache_creation_input_tokens: usize,
    pub cache_read_input_tokens: usize,
    pub output_tokens: usize,
}

/// What a stream says.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "Anthropic's names")]
pub enum MessagesEvent<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: ContentBlock },
    ContentBlockDelta { index: usize, delta: BlockDelta },
    ContentBlockStop { index: usize },
    MessageDelta { delta: MessageEnd, usage: MessagesUsage },
    MessageStop {},
    Ping {},
}

impl MessagesEvent<'_> {
    /// Its name, for the `event:` line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
            Self::Ping {} => "ping",
        }
    }
}

/// What is new of a block.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "Anthropic's names")]
pub enum BlockDelta {
    TextDelta { text: String },
    InputJsonDelta { partial_json: String },
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "Anthropic's names")]
pub struct MessageEnd {
    pub stop_reason: &'static str,
    pub stop_sequence: Option<String>,
}

/// An [`ApiError`] in Anthropic's envelope.
#[derive(Clone, Debug)]
pub struct MessagesError {
    error: ApiError,
    details: Option<Value>,
}

impl MessagesError {
    /// `thread` names messages that the server is to remember. Without them a conversation would go on
    /// without its history; clients that read these details send all of it instead.
    pub fn thread() -> Self {
        let message = "thread: the server remembers no messages; send all of them.";
        let details = json!({ "error_code": "thread_unsupported_request", "unsupported": ["thread"] });
        Self { error: ApiError::unsupported("thread", message), details: Some(details) }
    }

    /// The body.
    pub fn body(&self) -> Value {
        let status = self.error.status.as_u16();
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 => "request_timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        let message = match self.error.overlong {
            // Clients look for these words to compact their history.
            Some((tokens, maximum)) => format!("prompt is too long: {tokens} tokens > {maximum} maximum"),
            None if kind == "api_error" => "Internal server error".to_owned(),
            None => self.error.message.chars().take(MAX_ERROR_CHARS).collect(),
        };
        let mut error = json!({ "type": kind, "message": message });
        if let Some(details) = &self.details {
            error["details"] = details.clone();
        }
        json!({ "type": "error", "error": error })
    }
}

impl From<ApiError> for MessagesError {
    fn from(error: ApiError) -> Self {
        Self { error, details: None }
    }
}

impl IntoResponse for MessagesError {
    fn into_response(self) -> Response {
        self.error.response(self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: Value) -> Result<Vec<Value>, ApiError> {
        serde_json::from_value::<MessagesFields>(body).unwrap().chat_messages()
    }

    #[test]
    fn results_and_words_of_one_message_keep_their_order() {
        let messages = chat(json!({"messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Two."},
                {"type": "tool_use", "id": "a", "name": "ls", "input": {"path": "."}},
                {"type": "tool_use", "id": "b", "name": "pwd", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
                {"type": "tool_result", "tool_use_id": "b", "is_error": true, "content": "no such thing"},
                {"type": "text", "text": "and now?", "cache_control": {"type": "ephemeral"}},
            ]},
        ]}));
        let call = |id: &str, name: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let calls = [call("a", "ls", json!({"path": "."})), call("b", "pwd", json!({}))];
        let wanted = json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "Two.", "reasoning_content": "hm", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a", "content": "x\ny"},
            {"role": "tool", "tool_call_id": "b", "content": "Error: no such thing"},
            {"role": "user", "content": "and now?"},
        ]);
        assert_eq!(json!(messages.unwrap()), wanted);
    }

    #[test]
    fn the_line_that_changes_with_every_request_is_dropped() {
        let system = |system: Value| {
            let messages = json!([{"role": "user", "content": "x"}]);
            chat(json!({"system": system, "messages": messages})).unwrap().swap_remove(0)["content"].clone()
        };
        let line = "x-anthropic-billing-header: cc_version=2.1.330.fe5; cch=123;";
        let blocks = json!([
            {"type": "text", "text": line},
            {"type": "text", "text": "You are.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be."},
        ]);
        assert_eq!(system(blocks), "You are.\nBe.");
        assert_eq!(system(format!("{line}\nYou are.").into()), "You are.");
        for own in ["An x-anthropic-thing: it is.", "x-anthropic-things are: many", "x-anthropic-thing\nIt: is."] {
            assert_eq!(system(own.into()), own);
        }
        assert_eq!(system(line.into()), "x", "nothing is left, so there is no system message");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_place() {
        let image = json!({"type": "image", "source": {"type": "base64", "data": ""}});
        let result = json!({"type": "tool_result", "tool_use_id": "a", "content": [image]});
        for (message, place) in [
            (json!({"role": "user", "content": [image]}), "messages[0].content[0]"),
            (json!({"role": "user", "content": [result]}), "messages[0].content[0].content[0]"),
            (json!({"role": "user", "content": 3}), "messages[0].content"),
            (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0]"),
            (json!({"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}), "messages[0].content[0].name"),
            (json!({"role": "tool", "content": "x"}), "messages[0].role"),
        ] {
            let error = chat(json!({"messages": [message]})).unwrap_err();
            assert!(error.message.starts_with(place) && error.status == 400, "{error}");
        }
    }

    #[test]
    fn the_status_decides_the_type() {
        let kind = |error: ApiError| MessagesError::from(error).body()["error"]["type"].clone();
        assert_eq!(kind(ApiError::invalid("x")), "invalid_request_error");
        assert_eq!(kind(ApiError::unavailable("x")), "overloaded_error");
        assert_eq!(kind(ApiError::internal("x")), "api_error");
        let body = MessagesError::from(ApiError::overlong(300, 200, "x")).body();
        assert_eq!(body["error"]["message"], "prompt is too long: 300 tokens > 200 maximum");
        assert_eq!(
            MessagesError::from(ApiError::internal("secret")).body()["error"]["message"],
            "Internal server error"
        );
        assert_eq!(MessagesError::thread().body()["error"]["details"]["error_code"], "thread_unsupported_request");
    }
}
