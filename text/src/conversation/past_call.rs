//! Calls of tools that stand in a conversation's history, as templates expect them.
//!
//! Clients keep what a model wrote, and models write broken JSON. Its client has told the model so by the
//! call's result; were the call refused here, every later turn of the conversation would be.

use serde_json::{Map, Value, json};

use crate::json::parse;

/// The parameter that stands for arguments that are no object.
const RAW: &str = "arguments";

/// Arguments that were encoded as a string, as a string, as a string …
const MAX_ENCODINGS: usize = 4;

/// The arguments of a call as an object: parsed where they are text, `{}` where there are none, and under
/// one key, as they are, where they are anything but an object. Says whether they were an object.
pub fn arguments(given: Option<&Value>) -> (Map<String, Value>, bool) {
    let mut value = given.cloned().unwrap_or_default();
    for _ in 0..MAX_ENCODINGS {
        let Value::String(text) = &value else { break };
        match parse(text.as_bytes()) {
            Ok(inner) => value = inner,
            Err(_) => break,
        }
    }
    match value {
        Value::Object(fields) => (fields, true),
        Value::Null => (Map::new(), true),
        // PHP's empty array is its empty object.
        Value::Array(items) if items.is_empty() => (Map::new(), true),
        // Clients send "" for a call without arguments.
        Value::String(text) if text.trim().is_empty() => (Map::new(), true),
        other => (Map::from_iter([(RAW.to_owned(), other)]), false),
    }
}

/// A call in the form `{…, function: {name, arguments: {…}}}`, and whether its arguments were an object.
/// `None` where nothing has a name.
pub fn read(call: &Value) -> Option<(Value, bool)> {
    let fields = call.as_object()?;
    // Chat's function calls, its custom ones, and bare ones.
    let called = ["function", "custom"].into_iter().find_map(|key| call.get(key).filter(|inner| inner.is_object()));
    let called = called.unwrap_or(call);
    let name = called.get("name").and_then(Value::as_str)?;
    let (arguments, was_object) = match (called.get("arguments"), called.get("input")) {
        (None, Some(Value::String(input))) => (Map::from_iter([("input".to_owned(), input.as_str().into())]), true),
        (given, input) => arguments(given.or(input)),
    };
    let mut out = fields.clone();
    for key in ["custom", "name", "arguments", "input"] {
        out.remove(key);
    }
    out.retain(|_, value| !value.is_null());
    out.insert("type".into(), "function".into());
    let mut function = match call.get("function") {
        Some(Value::Object(function)) => function.clone(),
        _ => Map::new(),
    };
    function.insert("name".into(), name.into());
    function.insert("arguments".into(), arguments.into());
    out.insert("function".into(), function.into());
    Some((out.into(), was_object))
}

/// The call of a message of the time before tools, `function_call: {name, arguments}`.
pub fn legacy(call: &Value) -> Option<(Value, bool)> {
    read(&json!({ "function": call }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object_whatever_the_model_wrote() {
        let read = |given: Value| {
            let (fields, was_object) = arguments(Some(&given));
            (Value::from(fields), was_object)
        };
        for (given, wanted) in [
            (json!({"a": 1}), json!({"a": 1})),
            (json!("{\"a\": 1}"), json!({"a": 1})),
            (json!("\"{\\\"a\\\": 1}\""), json!({"a": 1})),
            (json!("{\"a\": \"\\ud83d\"}"), json!({"a": "\u{fffd}"})),
            (json!(" "), json!({})),
            (json!(null), json!({})),
            (json!([]), json!({})),
            (json!("[]"), json!({})),
            (json!("null"), json!({})),
        ] {
            assert_eq!(read(given.clone()), (wanted, true), "{given}");
        }
        for (given, raw) in [
            (json!("{\"a\": "), json!("{\"a\": ")),
            (json!("{\"a\": 1}{\"b\": 2}"), json!("{\"a\": 1}{\"b\": 2}")),
            (json!("{\"q\": \"say \"hi\"\"}"), json!("{\"q\": \"say \"hi\"\"}")),
            (json!("5"), json!(5)),
            (json!([1]), json!([1])),
            (json!(true), json!(true)),
        ] {
            assert_eq!(read(given.clone()), (json!({ RAW: raw }), false), "{given}");
        }
        assert_eq!(arguments(None), (Map::new(), true));
    }

    #[test]
    fn calls_of_every_form_have_one() {
        let wanted = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}});
        for call in [
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}),
            json!({"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}),
            json!({"id": "c", "type": null, "name": "f", "arguments": {"a": 1}}),
            json!({"id": "c", "type": "tool_use", "name": "f", "input": {"a": 1}}),
        ] {
            assert_eq!(read(&call), Some((wanted.clone(), true)), "{call}");
        }
        let custom = read(&json!({"id": "c", "type": "custom", "custom": {"name": "f", "input": "*** Begin"}}));
        assert_eq!(custom.unwrap().0["function"], json!({"name": "f", "arguments": {"input": "*** Begin"}}));
        assert_eq!(legacy(&json!({"name": "f", "arguments": ""})).unwrap().0["function"]["name"], "f");
        for nameless in [json!(null), json!({}), json!({"function": null}), json!({"function": {"name": 3}})] {
            assert_eq!(read(&nameless), None);
        }
    }
}
