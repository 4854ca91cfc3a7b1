//! Events of a tool parser, and the message that they add up to.

use serde_json::Value as Json;

use crate::json;

/// A step of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text for the reader.
    Content(String),
    /// A call begins. Calls are numbered from 0 and come one after the other.
    CallStart {
        /// Which.
        index: usize,
        /// The function's name.
        name: String,
    },
    /// More of its arguments' JSON text.
    Arguments {
        /// Which call.
        index: usize,
        /// The next fragment.
        json: String,
    },
    /// The call is complete: its fragments are a JSON object.
    CallEnd {
        /// Which.
        index: usize,
    },
    /// The text ended within the call. It must not be carried out: a value may be half there.
    CallCut {
        /// Which.
        index: usize,
        /// Bytes of the fragments that hold complete parameters only. With a `}` after them they are a
        /// JSON object; 0 if no parameter was complete.
        complete_bytes: usize,
    },
}

/// A call: a function's name and its arguments as JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The function.
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

/// The whole answer. Streams and whole answers come from the same events, so they agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedMessage {
    /// Text outside calls.
    pub content: Option<String>,
    /// The complete calls.
    pub calls: Vec<ToolCall>,
    /// The call that the end of the text cut, with those of its parameters that were complete.
    pub cut: Option<ToolCall>,
}

impl ParsedMessage {
    /// Add up events.
    pub fn from_events(events: impl IntoIterator<Item = ToolEvent>) -> Self {
        let mut message = Self::default();
        let mut open = ToolCall::default();
        for event in events {
            match event {
                ToolEvent::Content(text) => message.content.get_or_insert_default().push_str(&text),
                ToolEvent::CallStart { name, .. } => open = ToolCall { name, arguments: String::new() },
                ToolEvent::Arguments { json, .. } => open.arguments.push_str(&json),
                ToolEvent::CallEnd { .. } => message.calls.push(std::mem::take(&mut open)),
                ToolEvent::CallCut { complete_bytes, .. } => {
                    open.arguments.truncate(complete_bytes);
                    open.arguments.push_str(if complete_bytes == 0 { "{}" } else { "}" });
                    message.cut = Some(std::mem::take(&mut open));
                }
            }
        }
        message
    }
}

/// A call as Qwen3-Coder's template writes it: the inverse of parsing.
///
/// Text stands as it is, objects and arrays as JSON, other values as Python's `str`. `None` if the
/// arguments are no JSON object.
pub fn render(call: &ToolCall) -> Option<String> {
    let Ok(Json::Object(arguments)) = serde_json::from_str(&call.arguments) else { return None };
    let mut out = format!("<tool_call>\n<function={}>\n", call.name);
    for (name, value) in &arguments {
        let value = match value {
            Json::String(text) => text.clone(),
            Json::Array(_) | Json::Object(_) => json::dumps_parsed(value),
            scalar => json::python_str(&json::to_template(scalar), usize::MAX).unwrap_or_default(),
        };
        out += &format!("<parameter={name}>\n{value}\n</parameter>\n");
    }
    Some(out + "</function>\n</tool_call>")
}
