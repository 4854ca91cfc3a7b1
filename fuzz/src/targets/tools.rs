//! Calls of tools in what a model says.

use std::sync::{Arc, LazyLock};

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

/// Any text, cut anywhere, gives the events of the whole text, and arguments that are JSON. The first part names the
/// format and the characters of a piece, and may say that the answer was cut: `qwen3_coder 3 cut`.
pub(super) fn tool_calls(bytes: &[u8]) {
    let Some([how, text]) = super::parts(bytes) else { return };
    let mut words = how.split(' ');
    let format = words.next().and_then(ToolFormat::from_name).unwrap_or(ToolFormat::NAMES[0].1);
    let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(1usize).max(1);
    let cut = words.next() == Some("cut");
    let whole = parse(format, std::iter::once(text), cut);
    let chars: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at: Vec<usize> = chars.iter().copied().step_by(size).chain([text.len()]).collect();
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
}
