//! From the messages and tools of a chat request to what templates expect.
//!
//! The rules are SGLang's (0.5.23, `serving_chat.py`): content parts become text, `null` content becomes
//! `""`, other nulls are dropped, the arguments of earlier tool calls are objects again, and tools always
//! carry `description` and `parameters`.

use serde_json::{Map, Value};

/// A conversation that cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversationError {
    /// A message is no object.
    #[error("messages[{index}] is not an object")]
    NotAnObject {
        /// Which.
        index: usize,
    },
    /// A message without a role, or with one that is no string.
    #[error("messages[{index}].role: expected a string")]
    Role {
        /// Which.
        index: usize,
    },
    /// A part of a kind that a text model cannot read.
    #[error("messages[{index}].content[{part}]: type {kind:?} is not supported; supported: text")]
    Part {
        /// Which message.
        index: usize,
        /// Which part.
        part: usize,
        /// Its type.
        kind: String,
    },
    /// Content that is neither text nor parts.
    #[error("messages[{index}].content: expected a string, a list of parts, or null")]
    Content {
        /// Which.
        index: usize,
    },
    /// Arguments that are no JSON.
    #[error(
        "Assistant tool call function.arguments must be valid JSON. (messages[{index}].tool_calls[{call}]: {cause})"
    )]
    ArgumentsNotJson {
        /// Which message.
        index: usize,
        /// Which call.
        call: usize,
        /// The parser's words.
        cause: String,
    },
    /// Arguments that are JSON but no object.
    #[error("Assistant tool call function.arguments must be a JSON object. (messages[{index}].tool_calls[{call}])")]
    ArgumentsNotObject {
        /// Which message.
        index: usize,
        /// Which call.
        call: usize,
    },
    /// A tool without a named function.
    #[error("tools[{index}].function.name: expected a string")]
    Tool {
        /// Which.
        index: usize,
    },
}

/// Messages as templates expect them.
pub fn messages(request: &[Value]) -> Result<Vec<Value>, ConversationError> {
    request.iter().enumerate().map(|(index, message)| self::message(index, message)).collect()
}

/// Tools as templates expect them: `{type, function: {…, description, parameters}}`.
pub fn tools(request: &[Value]) -> Result<Vec<Value>, ConversationError> {
    request.iter().enumerate().map(|(index, tool)| self::tool(index, tool)).collect()
}

fn message(index: usize, message: &Value) -> Result<Value, ConversationError> {
    let Value::Object(fields) = message else { return Err(ConversationError::NotAnObject { index }) };
    let Some(role) = fields.get("role").and_then(Value::as_str) else { return Err(ConversationError::Role { index }) };
    let mut out = Map::new();
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("role", _) => out.insert(key.clone(), template_role(&role.to_lowercase()).into()),
            ("content", _) => out.insert(key.clone(), content(index, value)?.into()),
            (_, Value::Null) => None,
            ("tool_calls", Value::Array(calls)) => out.insert(key.clone(), tool_calls(index, calls)?),
            _ => out.insert(key.clone(), value.clone()),
        };
    }
    // Assistants that only called tools often leave it out.
    out.entry("content").or_insert_with(|| "".into());
    Ok(out.into())
}

/// OpenAI renamed the system's role; models know the old name.
fn template_role(role: &str) -> &str {
    if role == "developer" { "system" } else { role }
}

/// Text of a message's content; parts are joined by a space.
fn content(index: usize, content: &Value) -> Result<String, ConversationError> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().enumerate().map(|(part, value)| match value {
                Value::String(text) => Ok(text.clone()),
                _ => match (value.get("type").and_then(Value::as_str), value.get("text").and_then(Value::as_str)) {
                    (Some("text" | "input_text" | "output_text") | None, Some(text)) => Ok(text.to_string()),
                    (kind, _) => {
                        let kind = kind.unwrap_or("(none)").to_string();
                        Err(ConversationError::Part { index, part, kind })
                    }
                },
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join(" "))
        }
        _ => Err(ConversationError::Content { index }),
    }
}

fn tool_calls(index: usize, calls: &[Value]) -> Result<Value, ConversationError> {
    let parsed = calls.iter().enumerate().map(|(call, value)| {
        let mut value = value.clone();
        let Some(arguments) = value.pointer_mut("/function/arguments") else { return Ok(value) };
        if let Value::String(text) = arguments {
            // Clients send "" for a call without arguments.
            let text = if text.trim().is_empty() { "{}" } else { text };
            let parsed = serde_json::from_str(text);
            *arguments =
                parsed.map_err(|e| ConversationError::ArgumentsNotJson { index, call, cause: e.to_string() })?;
        }
        match arguments {
            Value::Object(_) => Ok(value),
            Value::Null => {
                *arguments = Value::Object(Map::new());
                Ok(value)
            }
            _ => Err(ConversationError::ArgumentsNotObject { index, call }),
        }
    });
    parsed.collect()
}

fn tool(index: usize, tool: &Value) -> Result<Value, ConversationError> {
    let function = tool.get("function").and_then(Value::as_object);
    let Some(function) = function.filter(|f| f.get("name").is_some_and(Value::is_string)) else {
        return Err(ConversationError::Tool { index });
    };
    let mut function = function.clone();
    function.retain(|key, value| !value.is_null() || key == "description" || key == "parameters");
    for key in ["description", "parameters"] {
        function.entry(key).or_insert(Value::Null);
    }
    let kind = tool.get("type").filter(|kind| kind.is_string()).cloned().unwrap_or_else(|| "function".into());
    Ok(serde_json::json!({ "type": kind, "function": function }))
}
