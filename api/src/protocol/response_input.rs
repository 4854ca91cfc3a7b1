//! From the `input` of `/v1/responses` to chat messages: items become messages, calls and results.
//!
//! Items of the history are never refused, since they come back with every later turn: what is no text
//! becomes a line, what only its maker can read is read over. Only the last item may be refused.

use quern_text::conversation::{ContentPart, part};
use serde_json::{Value, json};

use super::{compaction, error::ApiError, responses::Functions, scalar::shown};

/// Tools that came with items of the conversation rather than with the request.
pub fn tools_of_input(input: &Value) -> Vec<Value> {
    let brings = |item: &&Value| item["type"] == "additional_tools" || item["type"] == "tool_search_output";
    let items = input.as_array().into_iter().flatten().filter(brings);
    items.filter_map(|item| item["tools"].as_array()).flatten().cloned().collect()
}

/// Whether it names items of earlier answers by their ids.
pub fn refers_to_items(input: &Value) -> bool {
    let items = input.as_array().map_or(std::slice::from_ref(input), Vec::as_slice);
    items.iter().any(|item| item["type"] == "item_reference")
}

/// Append what `input` says to `messages`. Calls belong to the assistant's message before them. `find` looks
/// up an item by its id.
///
/// # Errors
/// If an item is malformed, of a kind that is not supported, or refers to one that is not stored.
pub fn read_input(
    functions: &Functions,
    input: &Value,
    find: impl Fn(&str) -> Option<Value>,
    messages: &mut Vec<Value>,
) -> Result<(), ApiError> {
    let items = match input {
        Value::String(text) => {
            messages.push(json!({ "role": "user", "content": text }));
            return Ok(());
        }
        Value::Array(items) => items.as_slice(),
        Value::Object(_) => std::slice::from_ref(input),
        other => {
            let message = format!("input: a string or a list of items is wanted, not {}.", shown(other));
            return Err(ApiError::schema(message).about("input"));
        }
    };
    for (index, item) in items.iter().enumerate() {
        let reader = ItemReader { functions, path: format!("input[{index}]"), is_last: index + 1 == items.len() };
        if item["type"] != "item_reference" {
            reader.item(item, messages)?;
            continue;
        }
        let id = item["id"].as_str().unwrap_or_default();
        match find(id) {
            Some(found) => reader.item(&found, messages)?,
            None if reader.is_last => {
                let message = format!("{}: Item with id '{id}' not found.", reader.path);
                return Err(ApiError::invalid(message).about("input"));
            }
            // Answers are kept for a while, in memory; the conversation goes on without this one.
            None => {
                tracing::warn!("{}: item '{id}' is not kept any more; a line says so", reader.path);
                messages.push(json!({ "role": "user", "content": "[an earlier item is not kept any more]" }));
            }
        }
    }
    Ok(())
}

/// Reads one item.
struct ItemReader<'a> {
    functions: &'a Functions,
    path: String,
    is_last: bool,
}

impl ItemReader<'_> {
    fn item(&self, item: &Value, messages: &mut Vec<Value>) -> Result<(), ApiError> {
        let field = |name: &str| item.get(name).and_then(Value::as_str);
        match field("type").unwrap_or("message") {
            "message" | "agent_message" => self.message(item, messages)?,
            "function_call" => call(self.named(item), &item["call_id"], item.get("arguments"), messages),
            "custom_tool_call" => {
                call(self.named(item), &item["call_id"], Some(&json!({ "input": item["input"] })), messages);
            }
            "mcp_call" => {
                call(field("name").map(str::to_owned), &item["id"], item.get("arguments"), messages);
                let said = ["output", "error"].into_iter().find_map(|key| item.get(key).filter(|said| !said.is_null()));
                result(&item["id"], said.unwrap_or(&Value::Null), messages);
            }
            "code_interpreter_call" => {
                let arguments = json!({ "code": item["code"] });
                call(Some("code_interpreter".into()), &item["id"], Some(&arguments), messages);
                let line = |output: &Value| match output.get("logs").and_then(Value::as_str) {
                    Some(logs) => logs.to_owned(),
                    None => part::history_text(output),
                };
                let lines: Vec<_> = item["outputs"].as_array().into_iter().flatten().map(line).collect();
                result(&item["id"], &lines.join("\n").into(), messages);
            }
            "image_generation_call" => {
                messages.push(json!({ "role": "assistant", "content": part::omitted("image") }));
            }
            "tool_search_output" => {
                let names = item["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str());
                result(&item["call_id"], &names.collect::<Vec<_>>().join("\n").into(), messages);
            }
            "compaction" | "compaction_summary" | "context_compaction" => messages.extend(compaction::message(item)),
            // Thoughts that only their maker can read, tools (see `tools_of_input`), and notes that a service's own
            // tool has run.
            "reasoning"
            | "compaction_trigger"
            | "additional_tools"
            | "web_search_call"
            | "file_search_call"
            | "mcp_list_tools"
            | "mcp_approval_request"
            | "mcp_approval_response" => {}
            kind => match (kind.strip_suffix("_call"), kind.strip_suffix("_output")) {
                // Calls that clients carry out, of whichever tool: their arguments have many names.
                (Some(name), _) => {
                    let given = ["arguments", "action", "actions", "operation", "input"].into_iter();
                    let arguments = given.filter_map(|key| item.get(key)).find(|arguments| !arguments.is_null());
                    let name = field("name").unwrap_or(name).to_owned();
                    call(Some(name), item.get("call_id").unwrap_or(&item["id"]), arguments, messages);
                }
                (_, Some(_)) => {
                    let id = item.get("call_id").unwrap_or(&item["id"]);
                    result(id, item.get("output").unwrap_or(&Value::Null), messages);
                }
                _ if self.is_last => {
                    let message = format!(
                        "{}.type: {kind:?} is not supported; message, function_call, function_call_output, \
                         custom_tool_call, custom_tool_call_output, reasoning and item_reference are.",
                        self.path
                    );
                    return Err(ApiError::unsupported("input", message));
                }
                _ => tracing::warn!("{}: an item of type {kind:?} is read over", self.path),
            },
        }
        Ok(())
    }

    fn message(&self, item: &Value, messages: &mut Vec<Value>) -> Result<(), ApiError> {
        let role = match item.get("role").and_then(Value::as_str) {
            Some(role) => role,
            None if self.is_last => {
                return Err(ApiError::schema(format!("{}.role: a string is wanted.", self.path)).about("input"));
            }
            None => "user",
        };
        let content = item.get("content").unwrap_or(&Value::Null);
        if self.is_last && role == "user" {
            self.is_readable(content)?;
        }
        messages.push(json!({ "role": role, "content": part::history_text(content) }));
        Ok(())
    }

    /// Refuse a new content that is not all text.
    fn is_readable(&self, content: &Value) -> Result<(), ApiError> {
        let path = &self.path;
        let parts = match content {
            Value::Null | Value::String(_) => return Ok(()),
            Value::Array(parts) => parts.as_slice(),
            Value::Object(_) => std::slice::from_ref(content),
            other => {
                let message = format!("{path}.content: a string or a list of parts is wanted, not {}.", shown(other));
                return Err(ApiError::schema(message).about("input"));
            }
        };
        for (index, part) in parts.iter().enumerate() {
            if let ContentPart::Unreadable { kind, .. } = ContentPart::read(part) {
                let message = format!("{path}.content[{index}]: type {kind:?} is not supported; supported: text");
                return Err(ApiError::unsupported("input", message));
            }
        }
        Ok(())
    }

    fn named(&self, item: &Value) -> Option<String> {
        let namespace = item.get("namespace").and_then(Value::as_str);
        Some(self.functions.of_model(item.get("name")?.as_str()?, namespace).to_owned())
    }
}

/// A call, with the assistant's words before it. One without a name is read over.
fn call(name: Option<String>, id: &Value, arguments: Option<&Value>, messages: &mut Vec<Value>) {
    let Some(name) = name else { return };
    let function = json!({ "name": name, "arguments": arguments.unwrap_or(&Value::Null) });
    let call = json!({ "id": id, "type": "function", "function": function });
    match messages.last_mut().filter(|last| last["role"] == "assistant").and_then(Value::as_object_mut) {
        Some(last) => {
            let calls = last.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new()));
            calls.as_array_mut().expect("only calls are put there").push(call);
        }
        None => messages.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] })),
    }
}

/// What a call's tool said: text, parts, or a value of its own form, which is shown as JSON.
fn result(id: &Value, output: &Value, messages: &mut Vec<Value>) {
    let is_part = |value: &Value| value.is_null() || value.is_string() || value.get("type").is_some();
    let text = match output {
        Value::Array(parts) if !parts.iter().all(is_part) => output.to_string(),
        Value::Object(_) if !is_part(output) => output.to_string(),
        _ => part::history_text(output),
    };
    messages.push(json!({ "role": "tool", "tool_call_id": id, "content": text }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions() -> Functions {
        let function = |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}});
        let agents = json!({"type": "namespace", "name": "agents", "tools": [function("spawn"), function("ls")]});
        Functions::of(&[function("ls"), agents]).expect("tools")
    }

    fn messages(input: Value) -> Value {
        let mut messages = Vec::new();
        read_input(&functions(), &input, |_| None, &mut messages).expect("readable");
        messages.into()
    }

    #[test]
    fn calls_join_the_message_before_them() {
        let mut messages = Vec::new();
        let input = json!([
            {"role": "user", "content": [{"type": "input_text", "text": "go"}, {"type": "input_text", "text": "on"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "…"},
            {"type": "item_reference", "id": "msg_1"},
            {"type": "function_call", "call_id": "a", "name": "ls", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "ls", "namespace": "agents", "arguments": "{\"x\":1}"},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "y"}]},
            {"type": "function_call", "call_id": "c", "name": "spawn", "namespace": "agents", "arguments": ""},
        ]);
        let find = |id: &str| {
            let content = json!([{"type": "output_text", "text": "Two."}]);
            (id == "msg_1").then(|| json!({"type": "message", "role": "assistant", "content": content}))
        };
        read_input(&functions(), &input, find, &mut messages).unwrap();
        let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let wanted = json!([
            {"role": "user", "content": "go\non"},
            {"role": "assistant", "content": "Two.",
             "tool_calls": [call("a", "ls", "{}"), call("b", "agents__ls", "{\"x\":1}")]},
            {"role": "tool", "tool_call_id": "a", "content": "x"},
            {"role": "tool", "tool_call_id": "b", "content": "y"},
            {"role": "assistant", "content": "", "tool_calls": [call("c", "spawn", "")]},
        ]);
        assert_eq!(json!(messages), wanted);
        for (input, part) in [
            (json!(3), "input: a string"),
            (json!([{"type": "novelty"}]), "input[0].type"),
            (json!([{"type": "item_reference", "id": "x"}]), "'x' not found"),
            (json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input[0].content[0]"),
            (json!([{"content": "x"}]), "input[0].role"),
        ] {
            let error = read_input(&functions(), &input, find, &mut Vec::new()).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn items_of_the_history_are_read_or_read_over() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let between = |items: Value| {
            let mut input = vec![user("a")];
            input.extend(items.as_array().expect("items").iter().cloned());
            input.push(user("b"));
            let mut read = messages(input.into());
            let read = read.as_array_mut().expect("messages");
            assert_eq!((read.remove(0), read.pop()), (user("a"), Some(user("b"))));
            json!(read)
        };
        let called = |name: &str, arguments: Value| {
            json!({"role": "assistant", "content": "", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}},
            ]})
        };
        let said = |text: &str| json!({"role": "tool", "tool_call_id": "c", "content": text});
        let image = "[image omitted: this model reads text only]";
        for (items, wanted) in [
            (
                json!([{"type": "tool_search_call", "call_id": "c", "arguments": {"query": "x"}},
                    {"type": "tool_search_output", "call_id": "c", "tools": [{"type": "function", "name": "f"}]}]),
                json!([called("tool_search", json!({"query": "x"})), said("f")]),
            ),
            (
                json!([{"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
                    {"type": "local_shell_call_output", "call_id": "c", "output": "x"}]),
                json!([called("local_shell", json!({"type": "exec", "command": ["ls"]})), said("x")]),
            ),
            (
                json!([{"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "x"}]}]),
                json!([said("[{\"stdout\":\"x\"}]")]),
            ),
            (
                json!([{"type": "computer_call", "call_id": "c", "action": {"type": "click"}},
                    {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "…"}}]),
                json!([
                    called("computer", json!({"type": "click"})),
                    said("[computer_screenshot omitted: this model reads text only]")
                ]),
            ),
            (
                json!([{"type": "mcp_call", "id": "c", "name": "n", "arguments": "{}", "output": "x"}]),
                json!([called("n", json!("{}")), said("x")]),
            ),
            (
                json!([{"type": "code_interpreter_call", "id": "c", "code": "1", "outputs": [{"type": "logs", "logs": "1"}, {"type": "image"}]}]),
                json!([called("code_interpreter", json!({"code": "1"})), said(&format!("1\n{image}"))]),
            ),
            (
                json!([{"type": "image_generation_call", "id": "i", "result": "AAAA"}]),
                json!([{"role": "assistant", "content": image}]),
            ),
            (
                json!([{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "…"}]}]),
                json!([said(image)]),
            ),
            (
                json!([{"type": "message", "role": "user", "content": [{"type": "input_image"}, {"type": "input_text", "text": "see"}]}]),
                json!([user(&format!("{image}\nsee"))]),
            ),
            (
                json!([{"type": "compaction", "encrypted_content": "…"}, {"type": "additional_tools", "tools": []},
                    {"type": "mcp_list_tools"}, {"type": "novelty"}, {"type": "function_call"}, null]),
                json!([{"role": "user", "content": ""}]),
            ),
            (
                json!([compaction::item("cmp_1", "Half done.")]),
                json!([user("Summary of the conversation so far:\nHalf done.")]),
            ),
            (json!([{"type": "item_reference", "id": "x"}]), json!([user("[an earlier item is not kept any more]")])),
        ] {
            assert_eq!(between(items.clone()), wanted, "{items}");
        }
    }

    #[test]
    fn tools_may_come_with_the_conversation() {
        let function = json!({"type": "function", "name": "f", "parameters": {"type": "object"}});
        let input = json!([{"type": "additional_tools", "tools": [function, function]}, {"type": "tool_search_output", "tools": [function, 3]}]);
        let mut functions = functions();
        functions.extend(&tools_of_input(&input)[..2]);
        assert_eq!(functions.chat_tools.len(), 4);
        assert_eq!(tools_of_input(&json!("text")), Vec::<Value>::new());
    }
}
