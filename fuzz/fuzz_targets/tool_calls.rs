//! Any text, cut anywhere, gives the events of the whole text, and arguments that are JSON.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use quern_text::{ToolEvent, ToolFormat, ToolParser, ToolSchemas};
use serde_json::{Map, Value, json};

static SCHEMAS: LazyLock<Arc<ToolSchemas>> = LazyLock::new(|| {
    let properties = json!({
        "s": {"type": "string"}, "i": {"type": "integer"}, "f": {"type": "number"}, "b": {"type": "boolean"},
        "o": {"type": "object"}, "a": {"type": ["array", "null"]}, "m": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    });
    Arc::new(ToolSchemas::new(&[json!({"function": {"name": "f", "parameters": {"properties": properties}}})]))
});

/// Events with neighbours joined: what a client has in the end.
fn joined(events: Vec<ToolEvent>) -> Vec<ToolEvent> {
    let mut out: Vec<ToolEvent> = Vec::new();
    for event in events {
        match (out.last_mut(), event) {
            (Some(ToolEvent::Content(before)), ToolEvent::Content(text)) => before.push_str(&text),
            (Some(ToolEvent::Arguments { json, .. }), ToolEvent::Arguments { json: more, .. }) => json.push_str(&more),
            (_, event) => out.push(event),
        }
    }
    out
}

fn parse<'a>(format: ToolFormat, pieces: impl Iterator<Item = &'a str>, cut: bool) -> Vec<ToolEvent> {
    let mut parser = ToolParser::new(format, Arc::clone(&SCHEMAS));
    let mut events: Vec<_> = pieces.flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish(cut));
    joined(events)
}

fuzz_target!(|input: (u8, u8, &str)| {
    let (kind, size, text) = input;
    let format = ToolFormat::NAMES[usize::from(kind) % ToolFormat::NAMES.len()].1;
    let cut = kind >= 128;
    let whole = parse(format, std::iter::once(text), cut);
    let chars: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at: Vec<usize> = chars.iter().copied().step_by(usize::from(size).max(1)).chain([text.len()]).collect();
    let pieces = parse(format, at.windows(2).map(|pair| &text[pair[0]..pair[1]]), cut);
    assert_eq!(whole, pieces);
    let mut arguments = String::new();
    for event in &whole {
        match event {
            ToolEvent::CallStart { .. } => arguments.clear(),
            ToolEvent::Arguments { json, .. } => arguments.push_str(json),
            ToolEvent::CallEnd { .. } => {
                serde_json::from_str::<Map<String, Value>>(&arguments).expect("complete arguments are a JSON object");
            }
            ToolEvent::Content(_) | ToolEvent::CallCut { .. } => {}
        }
    }
});
