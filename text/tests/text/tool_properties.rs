//! What holds of tool-call parsing for all texts: no cut matters, rendering is undone, nothing panics.

use std::sync::Arc;

use proptest::prelude::*;
use quern_text::{ParsedMessage, ToolCall, ToolEvent, ToolFormat, ToolParser, ToolSchemas, tool::render};
use serde_json::{Map, Value, json};

/// Parameters of the tools below.
const NAMES: &[&str] = &["s", "t", "u", "i", "f", "b", "o", "a", "m", "x", "y"];

fn schemas() -> Arc<ToolSchemas> {
    let properties = json!({
        "s": {"type": "string"}, "t": {"type": "string"}, "u": {"type": "string"},
        "i": {"type": "integer"}, "f": {"type": "number"}, "b": {"type": "boolean"},
        "o": {"type": "object"}, "a": {"type": ["array", "null"]}, "m": {"type": ["string", "null"]},
    });
    let inner = json!({"x": {"type": "string"}, "y": {"type": "string"}});
    Arc::new(ToolSchemas::new(&[
        json!({"function": {"name": "f", "parameters": {"properties": properties}}}),
        json!({"function": {"name": "inner", "parameters": {"properties": inner}}}),
    ]))
}

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

fn parse(format: ToolFormat, pieces: &[impl AsRef<str>], cut: bool) -> Vec<ToolEvent> {
    let mut parser = ToolParser::new(format, schemas());
    let mut events: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece.as_ref())).collect();
    events.extend(parser.finish(cut));
    joined(events)
}

/// Text made of what parsers stumble over.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("<tool_call>"),
        Just("</tool_call>"),
        Just("<function=f>"),
        Just("<function=g>"),
        Just("<function=inner>"),
        Just("</function>"),
        Just("<parameter=s>"),
        Just("<parameter=i>"),
        Just("<parameter=x>"),
        Just("<parameter=m>"),
        Just("</parameter>"),
        Just("</parameter1>"),
        Just("</parameter"),
        Just("<"),
        Just("</"),
        Just("<func"),
        Just("\n"),
        Just("\n"),
        Just("\n"),
        Just(" "),
        Just("text"),
        Just("é🦀"),
        Just("null"),
        Just("\""),
        Just("\\"),
        Just("{\"name\": \"f\", \"arguments\": {\"a\": \"b\"}}"),
        Just("{"),
        Just("}"),
        Just("["),
        Just(">"),
        Just("<tool_call>\n<function=f>\n<parameter=s>\n"),
        Just("\n</parameter>\n</function>\n</tool_call>"),
        Just("\n</parameter>\n<parameter=t>\n"),
        Just("1"),
        Just("True"),
        Just("\r\n"),
        Just("\u{a0}"),
    ]
    .prop_map(str::to_string)
}

fn pieces() -> impl Strategy<Value = Vec<String>> {
    let long = prop::collection::vec(Just("words ".to_string()), 20..60).prop_map(|words| words.concat());
    prop::collection::vec(prop_oneof![40 => fragment(), 1 => long, 1 => "\\PC{0,5}".boxed()], 0..40)
}

/// Ways of cutting a text: characters, and pieces of random lengths.
fn recut(text: &str, seed: u64) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut state = seed | 1;
    for c in text.chars() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if (state >> 33).is_multiple_of(5) {
            out.push(String::new());
        }
        out.last_mut().expect("not empty").push(c);
    }
    out
}

/// Calls begin, go on and end in order, and what is complete is a JSON object.
fn assert_well_formed(events: &[ToolEvent], text: &str) {
    let mut open = None;
    let mut begun = 0;
    let mut arguments = String::new();
    for event in events {
        match event {
            ToolEvent::Content(_) => assert_eq!(open, None, "content within a call: {text:?}"),
            ToolEvent::CallStart { index, .. } => {
                assert_eq!((open, *index), (None, begun), "{text:?}");
                (open, begun) = (Some(*index), begun + 1);
                arguments.clear();
            }
            ToolEvent::Arguments { index, json } => {
                assert_eq!(open, Some(*index), "{text:?}");
                arguments.push_str(json);
            }
            ToolEvent::CallEnd { index } => {
                assert_eq!(open.take(), Some(*index), "{text:?}");
                let parsed: Result<Map<String, Value>, _> = serde_json::from_str(&arguments);
                assert!(parsed.is_ok(), "{arguments:?} of {text:?}");
            }
            ToolEvent::CallCut { index, complete_bytes } => {
                assert_eq!(open.take(), Some(*index), "{text:?}");
                let complete = if *complete_bytes == 0 { "{" } else { &arguments[..*complete_bytes] };
                let parsed: Result<Map<String, Value>, _> = serde_json::from_str(&format!("{complete}}}"));
                assert!(parsed.is_ok(), "{complete:?} of {text:?}");
            }
        }
    }
    assert_eq!(open, None, "a call without an end: {text:?}");
}

/// Whether the markup can carry `text` as the value of a parameter.
///
/// It has no escapes, so it cannot where the text holds what would end it: a tag that is followed, blanks
/// aside, by another, or a line that starts `<parameter=NAME>` with a name the call still lacks. (That is
/// a little less than the parser can do: whole calls survive too, see below.)
fn representable(text: &str) -> bool {
    let tags = ["<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter"];
    let blank = |c: char| " \t\r\n".contains(c);
    let at_tag = |text: &str| tags.iter().any(|tag| text.starts_with(tag));
    text.match_indices('<').all(|(i, _)| {
        let here = &text[i..];
        let Some(tag) = tags.iter().find(|tag| here.starts_with(*tag)) else { return true };
        let end = if *tag == "</parameter" { tag.len() } else { here.find('>').map_or(here.len(), |end| end + 1) };
        let rest =
            here[end..].trim_start_matches(|c: char| *tag == "</parameter" && (c.is_ascii_alphanumeric() || c == '_'));
        let rest = rest.strip_prefix('>').unwrap_or(rest);
        let line_start = i == 0 || text[..i].ends_with('\n');
        let opens =
            *tag == "<parameter=" && line_start && NAMES.iter().any(|n| here.starts_with(&format!("<parameter={n}>")));
        !at_tag(rest.trim_start_matches(blank)) && !opens
    })
}

fn text_value() -> impl Strategy<Value = String> {
    let any = prop::collection::vec(prop_oneof![4 => fragment(), 1 => ".{0,8}".boxed()], 0..12);
    any.prop_map(|parts| parts.concat()).prop_filter("not representable", |text| representable(text))
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~é\n]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z<>]{1,4}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-zé]{1,4}", json_value(), 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
}

/// A call of `f` with any of its parameters, in this order.
fn call() -> impl Strategy<Value = ToolCall> {
    let text = || prop::option::of(text_value().prop_map(Value::from));
    let arrays = prop_oneof![prop::collection::vec(json_value(), 0..4).prop_map(Value::from), Just(Value::Null)];
    let maybe = text_value().prop_filter("null", |t| t != "None" && !t.eq_ignore_ascii_case("null"));
    let maybe = prop_oneof![maybe.prop_map(Value::from), Just(Value::Null)];
    let float = any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from);
    (
        text(),
        text(),
        prop::option::of(any::<i64>().prop_map(Value::from)),
        prop::option::of(float),
        prop::option::of(any::<bool>().prop_map(Value::from)),
        prop::option::of(object()),
        prop::option::of(arrays),
        prop::option::of(maybe),
    )
        .prop_map(|(s, t, i, f, b, o, a, m)| {
            let fields = [("s", s), ("t", t), ("i", i), ("f", f), ("b", b), ("o", o), ("a", a), ("m", m)];
            let arguments: Map<String, Value> =
                fields.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect();
            ToolCall { name: "f".into(), arguments: quern_text::json::dumps_parsed(&arguments.into()) }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn no_cut_changes_what_is_said(pieces in pieces(), seed: u64, cut: bool, json: bool) {
        let format = if json { ToolFormat::Json } else { ToolFormat::Qwen3Coder };
        let text = pieces.concat();
        let whole = parse(format, &[&text], cut);
        assert_well_formed(&whole, &text);
        let chars: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(&parse(format, &pieces, cut), &whole, "as made: {:?}", text);
        prop_assert_eq!(&parse(format, &chars, cut), &whole, "by character: {:?}", text);
        prop_assert_eq!(&parse(format, &recut(&text, seed), cut), &whole, "recut: {:?}", text);
    }

    #[test]
    fn text_that_is_no_call_is_given_back(pieces in pieces(), cut: bool) {
        let text = pieces.concat();
        let message = ParsedMessage::from_events(parse(ToolFormat::Qwen3Coder, &[&text], cut));
        if message.calls.is_empty() && message.cut.is_none() && !cut {
            // Only `<tool_call></tool_call>` around nothing is dropped.
            let content = message.content.unwrap_or_default();
            let strip = |text: &str| text.replace("<tool_call>", "").replace("</tool_call>", "").replace([' ', '\n', '\r'], "");
            prop_assert_eq!(strip(&content), strip(&text));
        }
    }

    #[test]
    fn parsing_undoes_rendering(calls in prop::collection::vec(call(), 1..4), before in "[a-z .\n]{0,12}", seed: u64) {
        let rendered: Vec<String> = calls.iter().map(|call| render(call).expect("an object")).collect();
        let text = before.clone() + &rendered.join("\n");
        for pieces in [vec![text.clone()], recut(&text, seed)] {
            let message = ParsedMessage::from_events(parse(ToolFormat::Qwen3Coder, &pieces, false));
            prop_assert_eq!(&message.calls, &calls, "{}", text);
            prop_assert_eq!(message.content.unwrap_or_default(), if before.trim().is_empty() { "" } else { &before });
        }
    }

    #[test]
    fn a_whole_call_inside_a_value_survives(
        x in text_value(), y in text_value(), before in "[a-z\n]{0,6}", after in "[a-z\n]{0,6}", seed: u64,
    ) {
        let inner = ToolCall { name: "inner".into(), arguments: json!({"x": x, "y": y}).to_string() };
        let value = format!("{before}{}{after}", render(&inner).expect("an object"));
        let outer = ToolCall { name: "f".into(), arguments: quern_text::json::dumps_parsed(&json!({"s": value, "t": "t"})) };
        let text = render(&outer).expect("an object");
        let message = ParsedMessage::from_events(parse(ToolFormat::Qwen3Coder, &recut(&text, seed), false));
        prop_assert_eq!(&message.calls, &[outer], "{}", text);
    }

    #[test]
    fn a_call_cut_anywhere_before_its_end_is_never_complete(call in call(), at in 0.0..1.0f64) {
        let text = render(&call).expect("an object");
        let at = (0..=(text.len() as f64 * at) as usize).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let message = ParsedMessage::from_events(parse(ToolFormat::Qwen3Coder, &[&text[..at]], true));
        let complete = call.arguments == "{}" && text[..at].contains("</function>");
        prop_assert_eq!(message.calls.len(), usize::from(complete), "{}", &text[..at]);
        // A tag is one token, so a real answer is never cut within it.
        prop_assert!("<tool_call>".starts_with(&message.content.unwrap_or_default()));
        if let Some(cut) = message.cut {
            let got: Map<String, Value> = serde_json::from_str(&cut.arguments).expect("an object");
            let whole: Map<String, Value> = serde_json::from_str(&call.arguments).expect("an object");
            // The last of them may be a value that quotes `</parameter>` and was cut there.
            let sure = &got.iter().collect::<Vec<_>>()[..got.len().saturating_sub(1)];
            prop_assert!(sure.iter().all(|(name, value)| whole.get(*name) == Some(value)), "{} of {}", cut.arguments, text);
        }
    }
}
