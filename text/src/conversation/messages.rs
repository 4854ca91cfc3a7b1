//! [`messages`] and [`tools`] of a chat request, as templates expect them.
//!
//! The rules are SGLang's (0.5.23, `serving_chat.py`): content parts become text, `null` content becomes
//! `""`, other nulls are dropped, the arguments of earlier tool calls are objects again, and tools always
//! carry `parameters`.
//!
//! Only what is new is refused: the tools, and the last message. What stands in the history comes back with
//! every later turn, so a refusal would end the conversation; what cannot be read there becomes a line of
//! text ([`ContentPart::in_history`]), and [`TemplateMessages::notes`] says so.

use serde_json::{Map, Value};

use super::{
    parameters::{self, BadParameters},
    part::ContentPart,
    past_call,
};

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
    ContentPart {
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
    /// A tool whose parameters are no JSON Schema.
    #[error("tools[{index}].function.{cause} (of {name:?})")]
    Parameters {
        /// Which.
        index: usize,
        /// Its name.
        name: String,
        /// What is wrong, and where.
        cause: BadParameters,
    },
    /// A tool without a named function.
    #[error("tools[{index}].function.name: expected a string")]
    Tool {
        /// Which.
        index: usize,
    },
}

/// Messages as templates expect them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateMessages {
    /// `{role, content, …}`.
    pub list: Vec<Value>,
    /// What of the history was read otherwise than it stands there, with its place.
    pub notes: Vec<String>,
}

/// Messages as templates expect them.
///
/// # Errors
/// If a message is malformed, or a new one has parts that are no text.
pub fn messages(request: &[Value]) -> Result<TemplateMessages, ConversationError> {
    let mut out = TemplateMessages::default();
    for (index, message) in request.iter().enumerate() {
        let is_last = index + 1 == request.len();
        let read = self::message(index, message, is_last, &mut out.notes)?;
        out.list.extend(read);
    }
    Ok(out)
}

/// Tools as templates expect them: `{type, function: {name, …, parameters}}`.
///
/// # Errors
/// If a tool is malformed.
pub fn tools(request: &[Value]) -> Result<Vec<Value>, ConversationError> {
    request.iter().enumerate().map(|(index, tool)| self::tool(index, tool)).collect()
}

fn message(
    index: usize,
    message: &Value,
    is_last: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Value>, ConversationError> {
    let fields = match message {
        Value::Object(fields) => fields,
        _ if is_last => return Err(ConversationError::NotAnObject { index }),
        _ => {
            notes.push(format!("messages[{index}]: not an object; read over"));
            return Ok(None);
        }
    };
    let role = match fields.get("role").and_then(Value::as_str) {
        Some(role) => template_role(&role.to_lowercase()).to_owned(),
        None if is_last => return Err(ConversationError::Role { index }),
        None => {
            notes.push(format!("messages[{index}]: no role; read as the user's"));
            "user".to_owned()
        }
    };
    let is_new = is_last && role == "user";
    let mut out = Map::new();
    let mut thoughts = Vec::new();
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("role", _) => out.insert(key.clone(), role.as_str().into()),
            ("content", _) => out.insert(key.clone(), content(index, value, is_new, &mut thoughts, notes)?.into()),
            (_, Value::Null) | ("tool_calls" | "function_call", _) => None,
            _ => out.insert(key.clone(), value.clone()),
        };
    }
    out.entry("role").or_insert_with(|| role.into());
    // Assistants that only called tools often leave it out, and those that refused say so elsewhere.
    let said = out.entry("content").or_insert_with(|| "".into());
    if let (Some(""), Some(refusal)) = (said.as_str(), fields.get("refusal").and_then(Value::as_str)) {
        *said = refusal.into();
    }
    if !thoughts.is_empty() {
        out.entry("reasoning_content").or_insert_with(|| thoughts.join("\n").into());
    }
    let calls = tool_calls(index, fields, notes);
    if !calls.is_empty() {
        out.insert("tool_calls".into(), calls.into());
    }
    Ok(Some(out.into()))
}

/// OpenAI renamed the system's role and that of results; models know the one's old name and the other's new.
fn template_role(role: &str) -> &str {
    match role {
        "developer" => "system",
        "function" => "tool",
        other => other,
    }
}

/// Text of a message's content; parts are joined by a space.
fn content(
    index: usize,
    content: &Value,
    is_new: bool,
    thoughts: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<String, ConversationError> {
    let parts = match content {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts.as_slice(),
        Value::Object(_) => std::slice::from_ref(content),
        _ if is_new => return Err(ConversationError::Content { index }),
        _ => return Ok(content.to_string()),
    };
    let mut texts = Vec::new();
    for (part, value) in parts.iter().enumerate() {
        match ContentPart::read(value) {
            ContentPart::Text(text) => texts.push(text),
            ContentPart::Thought(thought) => thoughts.push(thought),
            ContentPart::Nothing => {}
            ContentPart::Unreadable { kind, .. } if is_new => {
                return Err(ConversationError::ContentPart { index, part, kind });
            }
            unreadable @ ContentPart::Unreadable { .. } => {
                notes.push(format!("messages[{index}].content[{part}]: no text; a line says what it was"));
                texts.extend(unreadable.in_history());
            }
        }
    }
    Ok(texts.join(" "))
}

/// The calls of a message, those of the time before tools too.
fn tool_calls(index: usize, fields: &Map<String, Value>, notes: &mut Vec<String>) -> Vec<Value> {
    let mut out = Vec::new();
    let mut take = |path: String, call: Option<(Value, bool)>| match call {
        Some((call, was_object)) => {
            if !was_object {
                notes.push(format!("{path}: the arguments are no JSON object; the model reads them as they are"));
            }
            out.push(call);
        }
        None => notes.push(format!("{path}: no function's name; read over")),
    };
    let calls = match fields.get("tool_calls") {
        Some(Value::Array(calls)) => calls.as_slice(),
        Some(call @ Value::Object(_)) => std::slice::from_ref(call),
        _ => &[],
    };
    for (call, value) in calls.iter().enumerate() {
        take(format!("messages[{index}].tool_calls[{call}]"), past_call::read(value));
    }
    if let Some(call) = fields.get("function_call").filter(|call| call.is_object()) {
        take(format!("messages[{index}].function_call"), past_call::legacy(call));
    }
    out
}

fn tool(index: usize, tool: &Value) -> Result<Value, ConversationError> {
    let function = tool.get("function").and_then(Value::as_object);
    let Some(function) = function.filter(|f| f.get("name").is_some_and(Value::is_string)) else {
        return Err(ConversationError::Tool { index });
    };
    if let Err(cause) = parameters::check(function.get("parameters").unwrap_or(&Value::Null)) {
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        return Err(ConversationError::Parameters { index, name, cause });
    }
    let mut function = function.clone();
    // A null description would be printed as `None`.
    function.retain(|key, value| !value.is_null() || key == "parameters");
    function.entry("parameters").or_insert(Value::Null);
    let kind = tool.get("type").filter(|kind| kind.is_string()).cloned().unwrap_or_else(|| "function".into());
    Ok(serde_json::json!({ "type": kind, "function": function }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_in_the_history_is_read_and_only_what_is_new_refused() {
        let image = json!({"type": "image_url", "image_url": {"url": "…"}});
        let request = [
            json!({"role": "developer", "content": null}),
            json!(null),
            json!({"content": ["See", image]}),
            json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "refusal", "refusal": "No."}]}),
            json!({"role": "assistant", "function_call": {"name": "f", "arguments": "{\"a\":"}, "tool_calls": [null, 3]}),
            json!({"role": "function", "name": "f", "content": image}),
            json!({"role": "assistant", "content": null, "refusal": "I cannot."}),
            json!({"role": "user", "content": 3}),
            json!({"role": "user", "content": ["never", {"type": "text", "text": null}, {"type": "text", "text": "mind"}]}),
        ];
        let line = "[image omitted: this model reads text only]";
        let call = json!({"type": "function", "function": {"name": "f", "arguments": {"arguments": "{\"a\":"}}});
        let read = messages(&request).expect("readable");
        let wanted = json!([
            {"role": "system", "content": ""},
            {"content": format!("See {line}"), "role": "user"},
            {"role": "assistant", "content": "No.", "reasoning_content": "Hm."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "f", "content": line},
            {"role": "assistant", "content": "I cannot.", "refusal": "I cannot."},
            {"role": "user", "content": "3"},
            {"role": "user", "content": "never mind"},
        ]);
        assert_eq!(json!(read.list), wanted);
        assert_eq!(read.notes.len(), 7, "{:#?}", read.notes);
        let refused = |last: Value| messages(&[request[0].clone(), last]).unwrap_err().to_string();
        assert_eq!(
            refused(json!({"role": "user", "content": ["See", image]})),
            "messages[1].content[1]: type \"image_url\" is not supported; supported: text"
        );
        assert_eq!(refused(json!({"content": "x"})), "messages[1].role: expected a string");
        assert_eq!(refused(json!("x")), "messages[1] is not an object");
        assert!(refused(json!({"role": "user", "content": 3})).contains("messages[1].content"));
        let result = json!({"role": "tool", "tool_call_id": "c", "content": [image]});
        assert_eq!(messages(&[request[0].clone(), result]).expect("a tool's").list[1]["content"], line);
    }
}
