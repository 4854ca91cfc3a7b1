//! Wire types of `/v1/messages`, and their translation to those of `/v1/chat/completions`.
//!
//! Blocks become text, calls and results; what only steers Anthropic's own service (`cache_control`,
//! `metadata`, `thinking`, `context_management`, `output_config.effort`) is read over. A field whose loss
//! would change the answer is refused.

use axum::response::{IntoResponse, Response};
use quern_text::conversation::parameters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    blocks,
    error::ApiError,
    scalar::{Int, Texts, shown},
};

/// Longest message of a refusal, as in SGLang.
const MAX_ERROR_CHARS: usize = 500;

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
    pub output_format: Option<Value>,
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
    ///
    /// # Errors
    /// If there is none, or one is malformed.
    pub fn chat_messages(&self) -> Result<Vec<Value>, ApiError> {
        let given = self.messages.as_deref();
        let given = given.ok_or_else(|| ApiError::schema("missing field `messages`").about("messages"))?;
        if given.is_empty() {
            return Err(ApiError::invalid("Messages cannot be empty.").about("messages"));
        }
        blocks::chat_messages(self.system.as_ref(), given)
    }

    /// Whether the last message is the beginning of the answer.
    ///
    /// # Errors
    /// If it calls tools: their results must follow it.
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
    /// they are neither described nor run here, so the model is not told of them.
    ///
    /// # Errors
    /// If a tool is malformed.
    pub fn chat_tools(&self) -> Result<Vec<Value>, ApiError> {
        let mut functions = Vec::new();
        for (index, tool) in self.tools.iter().flatten().enumerate() {
            let schema = tool.get("input_schema").unwrap_or(&Value::Null);
            let is_custom = matches!(tool.get("type"), None | Some(Value::Null)) || tool["type"] == "custom";
            if !schema.is_object() && is_custom {
                // Left out, the client's own tool would never be called, without a reason given.
                let path = format!("tools[{index}].input_schema");
                let message = format!("{path}: a JSON Schema object is wanted, not {}.", shown(schema));
                return Err(ApiError::schema(message).about(&path));
            }
            if !schema.is_object() {
                continue;
            }
            if let Err(cause) = parameters::check(schema) {
                let place = cause.path.replacen("parameters", "input_schema", 1);
                let message = format!("tools[{index}].{place}: {} (of {}).", cause.reason, tool["name"]);
                return Err(ApiError::schema(message).about("tools"));
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
    ///
    /// # Errors
    /// If it is malformed.
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

    /// `output_config.format`, or `output_format` as it was called before, in chat's words.
    pub fn chat_response_format(&self) -> Option<Value> {
        let format = self.output_config.as_ref().and_then(|config| config.format.as_ref());
        let format = format.or(self.output_format.as_ref())?;
        Some(match format.get("schema") {
            Some(schema) => {
                json!({ "type": format["type"], "json_schema": { "name": "output", "schema": schema, "strict": true } })
            }
            None => format.clone(),
        })
    }
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
