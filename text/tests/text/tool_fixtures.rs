//! The shared cases of tool-call output, read from the reference fixtures where they are present.

use std::sync::Arc;

use quern_text::{ParsedMessage, ToolCall, ToolFormat, ToolParser, ToolSchemas};
use serde_json::Value;

/// Cases that are answered otherwise, for the reason in the documentation of `quern_text::tool`.
const DISAGREED: &[&str] = &["duplicate_param"];

fn parse(schemas: &Arc<ToolSchemas>, pieces: &[&str], cut: bool) -> ParsedMessage {
    let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, schemas.clone());
    let mut events: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish(cut));
    ParsedMessage::from_events(events)
}

/// Numbers count by value (`5.0` is `5`), as in the case's own comparison; big integers by digits.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64() == b.as_f64() && a.as_u64() == b.as_u64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && equal(a, b))
        }
        _ => a == b,
    }
}

fn call_is(call: &ToolCall, want: &Value) -> bool {
    let arguments = serde_json::from_str(&call.arguments).expect("arguments are JSON");
    want["name"] == *call.name && equal(&arguments, &want["arguments"])
}

fn as_wanted(got: &ParsedMessage, want: &Value) -> bool {
    // The cases compare content without the blanks around it.
    let content = got.content.as_deref().unwrap_or("").trim();
    let calls = want["calls"].as_array().expect("calls");
    content == want["content"].as_str().unwrap_or("")
        && got.calls.len() == calls.len()
        && got.calls.iter().zip(calls).all(|(call, want)| call_is(call, want))
        && match (&got.cut, want.get("partial")) {
            (Some(call), Some(want)) => call_is(call, want),
            (None, None) => true,
            _ => false,
        }
}

#[test]
fn the_shared_cases_come_out_as_wanted_however_they_are_cut() {
    let Some(dir) = crate::reference::folder("oracle/toolcalls") else { return };
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let tools: Vec<Value> = serde_json::from_str(&read("tools.json")).expect("tools");
    let schemas = Arc::new(ToolSchemas::new(&tools));
    let cases: Vec<Value> = read("cases.jsonl").lines().map(|l| serde_json::from_str(l).expect("a case")).collect();
    assert!(cases.len() >= 64);
    let mut other = Vec::new();
    for case in &cases {
        let (id, text) = (case["id"].as_str().expect("an id"), case["text"].as_str().expect("a text"));
        let cut = case["want"]["finish"] == "length";
        let whole = parse(&schemas, &[text], cut);
        if !as_wanted(&whole, &case["want"]) {
            println!("{id}: {whole:?}\n  wanted {}", case["want"]);
            other.push(id);
        }
        let bounds: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        for &at in &bounds {
            assert_eq!(parse(&schemas, &[&text[..at], &text[at..]], cut), whole, "{id} cut at {at}");
        }
        let chars: Vec<&str> = bounds.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        assert_eq!(parse(&schemas, &chars, cut), whole, "{id} by character");
    }
    assert_eq!(other, DISAGREED, "of {} cases", cases.len());
}
