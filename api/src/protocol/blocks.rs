//! From the messages of `/v1/messages` to those of `/v1/chat/completions`: blocks become text, calls and results.
//!
//! Blocks of the history are never refused, since they come back with every later turn; only those of a new
//! message, the last one and the user's, are.

use quern_text::conversation::{ContentPart, part};
use serde_json::{Value, json};

use super::{error::ApiError, scalar::shown};

/// Claude Code begins the system's text with a line `x-anthropic-billing-header: …` that changes from
/// request to request. It is bookkeeping of Anthropic's service; with it, no prefix would ever be found in
/// the cache. Any header of that family counts.
const BOOKKEEPING: &str = "x-anthropic-";

/// The conversation as chat messages, the system's words first.
///
/// # Errors
/// If a block is malformed, or of a kind that a new message may not have.
pub fn chat_messages(system: Option<&Value>, given: &[Value]) -> Result<Vec<Value>, ApiError> {
    let mut out = Vec::with_capacity(given.len() + 1);
    if let Some(system) = system {
        let text = system_text(system, "system")?;
        if !text.is_empty() {
            out.push(json!({ "role": "system", "content": text }));
        }
    }
    for (index, message) in given.iter().enumerate() {
        let path = format!("messages[{index}]");
        let is_last = index + 1 == given.len();
        let content = message.get("content").unwrap_or(&Value::Null);
        match message.get("role").and_then(Value::as_str) {
            Some("user") => user(content, &path, is_last, &mut out)?,
            Some("assistant") => assistant(content, &mut out),
            Some("system" | "developer") => {
                let text = system_text(content, &format!("{path}.content"))?;
                out.push(json!({ "role": "system", "content": text }));
            }
            _ if is_last => {
                let role = shown(message.get("role").unwrap_or(&Value::Null));
                let message = format!("{path}.role: user, assistant or system is wanted, not {role}.");
                return Err(ApiError::schema(message).about(&path));
            }
            Some(role) => out.push(json!({ "role": role, "content": part::history_text(content) })),
            None => out.push(json!({ "role": "user", "content": part::history_text(content) })),
        }
    }
    Ok(out)
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
    let texts = match content {
        Value::Bool(_) | Value::Number(_) => return Err(no_content(content, path)),
        Value::Array(blocks) => blocks.iter().filter_map(|block| ContentPart::read(block).in_history()).collect(),
        other => vec![part::history_text(other)],
    };
    Ok(texts.into_iter().map(kept).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n"))
}

/// The user's words and the results of tools, in their order. Results are messages of their own.
fn user(content: &Value, path: &str, is_last: bool, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let is_result = |block: &Value| block["type"] == "tool_result";
    let blocks = match content {
        Value::Array(blocks) => blocks.as_slice(),
        Value::Bool(_) | Value::Number(_) if is_last => return Err(no_content(content, &format!("{path}.content"))),
        Value::Object(_) => std::slice::from_ref(content),
        other => {
            out.push(json!({ "role": "user", "content": part::history_text(other) }));
            return Ok(());
        }
    };
    // What comes with results is what tools made.
    let has_results = blocks.iter().any(is_result);
    let is_new = is_last && !has_results;
    let mut words = Vec::new();
    let say = |words: &mut Vec<String>, out: &mut Vec<Value>| {
        if !words.is_empty() || !has_results {
            out.push(json!({ "role": "user", "content": std::mem::take(words).join("\n") }));
        }
    };
    for (index, block) in blocks.iter().enumerate() {
        if !is_result(block) {
            match ContentPart::read(block) {
                ContentPart::Unreadable { kind, .. } if is_new => {
                    return Err(refused(&kind, &format!("{path}.content[{index}]")));
                }
                read => words.extend(read.in_history()),
            }
            continue;
        }
        say(&mut words, out);
        out.push(result(block));
    }
    say(&mut words, out);
    Ok(())
}

fn no_content(content: &Value, path: &str) -> ApiError {
    let message = format!("{path}: a string or a list of blocks is wanted, not {}.", shown(content));
    ApiError::schema(message).about(path)
}

fn refused(kind: &str, path: &str) -> ApiError {
    if kind == "text" {
        return ApiError::schema(format!("{path}: a block of type text without its text.")).about(path);
    }
    let message = format!(
        "{path}: a block of type {kind:?} is not supported here; supported: text, documents of text, search_result, \
         tool_use in the assistant's messages and tool_result in the user's."
    );
    ApiError::unsupported(path, message)
}

/// What a tool has said.
fn result(block: &Value) -> Value {
    let mut text = part::history_text(block.get("content").unwrap_or(&Value::Null));
    // Most clients say in the text that it is an error; of the others' the model would not know.
    if block["is_error"] == true && !text.to_lowercase().contains("error") {
        text = format!("Error: {text}");
    }
    json!({ "role": "tool", "tool_call_id": block["tool_use_id"], "content": text })
}

/// The assistant's words and calls. Tools that Anthropic's service runs have their results in the same
/// message; here they are messages of their own, as of any tool.
fn assistant(content: &Value, out: &mut Vec<Value>) {
    let Value::Array(blocks) = content else {
        out.push(json!({ "role": "assistant", "content": part::history_text(content) }));
        return;
    };
    let mut said = Said::default();
    let begun = out.len();
    for block in blocks {
        match block.get("type").and_then(Value::as_str).unwrap_or_default() {
            "tool_use" | "server_tool_use" | "mcp_tool_use" => {
                let function =
                    json!({ "name": block["name"], "arguments": block.get("input").unwrap_or(&Value::Null) });
                said.calls.push(json!({ "id": block["id"], "type": "function", "function": function }));
            }
            kind if kind.ends_with("tool_result") => {
                if !said.is_empty() {
                    said.flush(out);
                }
                out.push(result(block));
            }
            _ => match ContentPart::read(block) {
                ContentPart::Thought(thought) => said.thoughts.push(thought),
                read => said.words.extend(read.in_history()),
            },
        }
    }
    if !said.is_empty() || out.len() == begun {
        said.flush(out);
    }
}

/// An assistant's message in the making.
#[derive(Default)]
struct Said {
    words: Vec<String>,
    thoughts: Vec<String>,
    calls: Vec<Value>,
}

impl Said {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.thoughts.is_empty() && self.calls.is_empty()
    }

    fn flush(&mut self, out: &mut Vec<Value>) {
        let Self { words, thoughts, calls } = std::mem::take(self);
        let mut message = json!({ "role": "assistant", "content": words.join("\n") });
        if !thoughts.is_empty() {
            message["reasoning_content"] = thoughts.join("\n").into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        out.push(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(body: Value) -> Result<Vec<Value>, ApiError> {
        chat_messages(body.get("system"), body["messages"].as_array().expect("messages"))
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
    fn only_what_is_new_is_refused_and_by_its_place() {
        let image = json!({"type": "image", "source": {"type": "base64", "data": ""}});
        for (message, place) in [
            (json!({"role": "user", "content": [image]}), "messages[0].content[0]"),
            (json!({"role": "user", "content": 3}), "messages[0].content"),
            (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0]"),
            (json!({"role": "tool", "content": "x"}), "messages[0].role"),
        ] {
            let error = chat(json!({"messages": [message]})).unwrap_err();
            assert!(error.message.starts_with(place) && error.status == 400, "{error}");
            chat(json!({"messages": [message, {"role": "user", "content": "never mind"}]})).expect("history");
        }
        let result = json!({"type": "tool_result", "tool_use_id": "a", "content": [image]});
        let line = "[image omitted: this model reads text only]";
        let wanted = json!([
            {"role": "tool", "tool_call_id": "a", "content": line},
            {"role": "user", "content": format!("{line}\nsee")},
        ]);
        let text = json!({"type": "text", "text": "see"});
        assert_eq!(
            json!(chat(json!({"messages": [{"role": "user", "content": [result, image, text]}]})).unwrap()),
            wanted
        );
    }

    #[test]
    fn tools_of_the_service_have_calls_and_results() {
        let messages = chat(json!({"messages": [
            {"role": "user", "content": "search"},
            {"role": "assistant", "content": [
                {"type": "redacted_thinking", "data": "…"},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": [
                    {"type": "web_search_result", "url": "u", "title": "T", "encrypted_content": "…"},
                ]},
                {"type": "text", "text": "Found."},
                {"type": "container_upload", "file_id": "f"},
                {"type": "novelty", "x": 1},
            ]},
            {"role": "assistant", "content": []},
            {"role": "user", "content": "and?"},
        ]}));
        let call =
            json!({"id": "s", "type": "function", "function": {"name": "web_search", "arguments": {"query": "x"}}});
        let omitted = |what: &str| format!("[{what} omitted: this model reads text only]");
        let wanted = json!([
            {"role": "user", "content": "search"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "s", "content": "T\nu"},
            {"role": "assistant", "content": format!("Found.\n{}\n{}", omitted("file"), omitted("novelty"))},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "and?"},
        ]);
        assert_eq!(json!(messages.unwrap()), wanted);
    }
}
