//! Tool calls in model output: the cases that break parsers, each at every split point.

use std::sync::Arc;

use quern_text::{ParsedMessage, ToolCall, ToolEvent, ToolFormat, ToolParser, ToolSchemas};
use serde_json::{Value, json};

fn tools() -> Vec<Value> {
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "description": "…", "parameters": parameters}});
    let text = json!({"type": "string"});
    vec![
        tool("run", json!({"type": "object", "properties": {"code": text, "shell": text}})),
        tool(
            "replace",
            json!({"type": "object", "properties": {
                "file": text, "before": text, "after": text, "lines": {"type": "array", "items": {"type": "integer"}},
            }}),
        ),
        tool(
            "mix",
            json!({"type": "object", "properties": {
                "i": {"type": "integer"}, "f": {"type": "float"}, "b": {"type": "boolean"},
                "list": {"type": "array"}, "obj": {"type": "object"}, "s": text,
                "maybe_list": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                "maybe_int": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "maybe_text": {"type": ["string", "null"]},
                "either_obj": {"oneOf": [{"$ref": "#/$defs/O"}, {"type": "null"}]},
                "text_or_list": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                "deep": {"anyOf": [{"anyOf": [{"type": "null"}, {"type": "array"}]}, {"type": "null"}]},
            }, "$defs": {"O": {"type": "object", "properties": {"k": {"type": "integer"}}}}}),
        ),
        tool(
            "rooted",
            json!({"oneOf": [{"$ref": "#/$defs/A"}, {"properties": {"m": {"type": "number"}}}],
                   "$defs": {"A": {"properties": {"n": {"type": "integer"}}}}}),
        ),
        tool("now", json!({"type": "object", "properties": {}})),
    ]
}

fn events(format: ToolFormat, pieces: &[&str], cut: bool) -> Vec<ToolEvent> {
    let mut parser = ToolParser::new(format, Arc::new(ToolSchemas::new(&tools())));
    let mut events: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish(cut));
    events
}

/// Content and calls, one line each, after checking that no way of cutting in two or into characters
/// changes them.
fn outcome(format: ToolFormat, text: &str, cut: bool) -> String {
    let parse = |pieces: &[&str]| ParsedMessage::from_events(events(format, pieces, cut));
    let whole = parse(&[text]);
    let bounds: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
    for &at in &bounds {
        assert_eq!(parse(&[&text[..at], &text[at..]]), whole, "{text:?} cut at {at}");
    }
    for size in [1, 3, 20] {
        let chars: Vec<char> = text.chars().collect();
        let pieces: Vec<String> = chars.chunks(size).map(|c| c.iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(parse(&pieces), whole, "{text:?} in pieces of {size}");
    }
    let mut lines = Vec::new();
    lines.extend(whole.content.map(|content| format!("{content:?}")));
    let line = |call: &ToolCall, mark: &str| {
        let parsed: Result<Value, _> = serde_json::from_str(&call.arguments);
        assert!(parsed.is_ok_and(|json| json.is_object()), "{} is a JSON object", call.arguments);
        format!("{mark}{}{}", call.name, call.arguments)
    };
    lines.extend(whole.calls.iter().map(|call| line(call, "")));
    lines.extend(whole.cut.iter().map(|call| line(call, "cut ")));
    lines.join(" | ")
}

#[track_caller]
fn check(text: &str, want: &str) {
    assert_eq!(outcome(ToolFormat::Qwen3Coder, text, false), want, "{text}");
}

#[track_caller]
fn check_cut(text: &str, want: &str) {
    assert_eq!(outcome(ToolFormat::Qwen3Coder, text, true), want, "{text}");
}

/// A call in the template's own layout.
fn call(name: &str, parameters: &[(&str, &str)]) -> String {
    let mut out = format!("<tool_call>\n<function={name}>\n");
    for (name, value) in parameters {
        out += &format!("<parameter={name}>\n{value}\n</parameter>\n");
    }
    out + "</function>\n</tool_call>"
}

/// The value that a call of `run` gets for its `code`.
#[track_caller]
fn check_code(code: &str) {
    let want = |rest: &str| {
        let code = Value::from(code).to_string();
        format!("run{{\"code\": {code}{rest}}}")
    };
    check(&call("run", &[("code", code)]), &want(""));
    check(&call("run", &[("code", code), ("shell", "sh")]), &want(", \"shell\": \"sh\""));
    let twice = call("run", &[("code", code)]) + "\n" + &call("now", &[]);
    check(&twice, &(want("") + " | now{}"));
}

#[test]
fn names_of_formats() {
    for name in ["qwen3_coder", "step3p5", "nanbeige"] {
        assert_eq!(ToolFormat::from_name(name), Some(ToolFormat::Qwen3Coder));
    }
    for name in ["qwen", "qwen25", "hermes"] {
        assert_eq!(ToolFormat::from_name(name), Some(ToolFormat::Json));
    }
    assert_eq!(ToolFormat::from_name("pythonic"), None);
}

#[test]
fn calls_in_the_models_layout() {
    check(
        &("Let me see.\n".to_string() + &call("run", &[("code", "print(1)")])),
        r#""Let me see.\n" | run{"code": "print(1)"}"#,
    );
    let two = call("run", &[("code", "a")]) + "\n" + &call("run", &[("code", "b")]);
    check(&two, r#"run{"code": "a"} | run{"code": "b"}"#);
    check(
        &("One.".to_string() + &two.replace(">\n<tool_call>", ">\nTwo.\n<tool_call>") + "\n\nThree."),
        r#""One.\nTwo.\n\n\nThree." | run{"code": "a"} | run{"code": "b"}"#,
    );
    check(&call("now", &[]), "now{}");
    check("<tool_call><function=now></function></tool_call>", "now{}");
    check(&call("run", &[("code", "Dallas->TX <b> & \"q\" \\")]), r#"run{"code": "Dallas->TX <b> & \"q\" \\"}"#);
    check(&("\n\n".to_string() + &call("now", &[]) + "\n"), "now{}");
    check(&call("run", &[("código \"x\"", "é 日本 🦀\u{200d}")]), r#"run{"código \"x\"": "é 日本 🦀‍"}"#);
}

#[test]
fn types_follow_the_schema() {
    let values =
        [("i", "-12"), ("f", "2.50"), ("b", "True"), ("list", "[1,true,null]"), ("obj", "{\n \"k\": [1.0]\n}")];
    check(&call("mix", &values), r#"mix{"i": -12, "f": 2.5, "b": true, "list": [1, true, null], "obj": {"k": [1.0]}}"#);
    let values =
        [("maybe_list", "[\"a\"]"), ("deep", "['x', [1]]"), ("either_obj", "{'k': None}"), ("maybe_int", "None")];
    check(
        &call("mix", &values),
        r#"mix{"maybe_list": ["a"], "deep": ["x", [1]], "either_obj": {"k": null}, "maybe_int": null}"#,
    );
    check(&call("mix", &[("s", "null"), ("maybe_text", "null")]), r#"mix{"s": "null", "maybe_text": null}"#);
    check(&call("mix", &[("s", "true"), ("maybe_text", "Nullable")]), r#"mix{"s": "true", "maybe_text": "Nullable"}"#);
    check(&call("mix", &[("text_or_list", "[\"a\", \"b\"]")]), r#"mix{"text_or_list": ["a", "b"]}"#);
    check(&call("mix", &[("text_or_list", "03106")]), r#"mix{"text_or_list": "03106"}"#);
    check(
        &call("mix", &[("s", ""), ("i", ""), ("b", "maybe"), ("list", "[1,")]),
        r#"mix{"s": "", "i": "", "b": "maybe", "list": "[1,"}"#,
    );
    let big = [("i", "9007199254740993"), ("maybe_int", "18446744073709551615"), ("f", "inf")];
    check(&call("mix", &big), r#"mix{"i": 9007199254740993, "maybe_int": 18446744073709551615, "f": "inf"}"#);
    check(&call("rooted", &[("n", "1"), ("m", "1.5"), ("o", "1")]), r#"rooted{"n": 1, "m": 1.5, "o": "1"}"#);
    check(&call("elsewhere", &[("n", "1"), ("m", "null")]), r#"elsewhere{"n": "1", "m": "null"}"#);
    check(&call("run", &[("code", "a"), ("code", "b")]), r#"run{"code": "a"}"#);
}

#[test]
fn values_keep_every_byte_but_one_line_break_on_each_side() {
    check_code("def f():\n    if x:\n\treturn  1  \n\n\n");
    check_code("\n\n");
    check_code("");
    check_code("  \t ");
    check_code("a\r\nb\r");
    check_code("\u{0}\u{1b}[0m\u{7f}");
    check(
        "<tool_call><function=run><parameter=code>x = 1</parameter></function></tool_call>",
        r#"run{"code": "x = 1"}"#,
    );
    check("<tool_call><function=run><parameter=code></parameter></function></tool_call>", r#"run{"code": ""}"#);
    check("<tool_call><function=run><parameter=code>\n</parameter></function></tool_call>", r#"run{"code": ""}"#);
}

#[test]
fn tags_inside_values_belong_to_them() {
    check_code("END = \"</parameter>\"");
    check_code("if '</function>' in s or '</tool_call>' in s: pass");
    check_code("re.findall(r'<parameter=(.*?)>(.*?)</parameter>', s)");
    check_code("<parameter name=\"a\">1</parameter>\n<parameter name=\"b\">2</parameter>");
    check_code("<function>\n<name>x</name>\n<parameter>1</parameter>\n</function>");
    check_code(
        "<function>\n<parameter>1</parameter>\n</function>\n<function>\n<parameter>2</parameter>\n</function>\n",
    );
    check_code("</parameter>");
    check_code("</parameter>\n</parameter>");
    check_code("</function>");
    check_code("</tool_call>");
    check_code("text\n</parameter>\n</function>\n</tool_call>");
    check_code("text\n</function>\n</tool_call>");
    check_code("text\n</function>\nmore text");
    check_code("<tool_call>");
    check_code("<function=run>");
    check_code("<tool_call>\n{\"name\": \"run\", \"arguments\": {}}\n</tool_call>\nand so on");
    check_code("x = \"<parameter=shell>\"");
    check_code("</parameters>\n</parameter_list>x");
    check_code("a < b << c <");
    check_code("a\n</parameter>\nb");
    check_code("<parameter=code>\nx");
    check_code("<parameter=shell>, quoted\n  <parameter=shell>\n");
    check_code("{\"tag\": \"</parameter>\", \"next\": \"<parameter=shell>\"}");
    check_code("</paramete");
}

#[test]
fn whole_calls_inside_values_belong_to_them() {
    let inner = call("replace", &[("file", "a"), ("before", "b"), ("after", "c")]);
    check_code(&inner);
    check_code(&format!("```xml\n{inner}\n```\n\nand then\n{inner}\nthe end"));
    check_code(&call("run", &[("code", "x"), ("shell", "y")]));
    check_code(&call("now", &[]));
    check_code(&call("nobody", &[("a", "1")]));
    check_code(&call("run", &[("code", &call("run", &[("code", "three deep")]))]));
    check_code(&format!("s = \"\"\"{inner}\"\"\"\nassert parse(s)"));
    check_code("<function=now>\n</function>\nlater");
}

#[test]
fn half_a_call_inside_a_value_takes_nothing_from_the_call_around_it() {
    let half = "<tool_call>\n<function=other>\n<parameter=x>";
    check(
        &call("replace", &[("file", "t"), ("before", half), ("after", "new")]),
        &format!("replace{{\"file\": \"t\", \"before\": {}, \"after\": \"new\"}}", Value::from(half)),
    );
    let code = Value::from(half);
    check(&call("run", &[("code", half)]), &format!("run{{\"code\": {code}}}"));
}

#[test]
fn missing_and_drifted_tags_are_repaired() {
    let body = "<parameter=code>\nx\n</parameter>\n";
    let want = r#"run{"code": "x"}"#;
    check(&format!("<function=run>\n{body}</function>\n</tool_call>"), want);
    check(&format!("<function=run>\n{body}</function>"), want);
    check(
        &format!("Now:\n\n<function=run>\n{body}</function>\n</tool_call>\nDone."),
        &format!(r#""Now:\n\n\nDone." | {want}"#),
    );
    check(&format!("<tool_call>\n<function=run>\n{body}</function>"), want);
    check(&format!("<tool_call>\n<function=run>\n{body}</tool_call>"), want);
    check(&format!("<tool_call>\n<function=run>\n{body}"), want);
    check("<tool_call>\n<function=run>\n<parameter=code>\nx\n</function>\n</tool_call>", want);
    check("<tool_call>\n<function=run>\n<parameter=code>\nx\n</tool_call>", want);
    let both = r#"run{"code": "x", "shell": "sh"}"#;
    check(
        "<tool_call>\n<function=run>\n<parameter=code>\nx\n<parameter=shell>\nsh\n</parameter>\n</function>\n</tool_call>",
        both,
    );
    for tag in ["</parameter1>", "</parameter_function>", "</parameter"] {
        check(&format!("<tool_call>\n<function=run>\n<parameter=code>\nx\n{tag}\n</function>\n</tool_call>"), want);
    }
    check(
        "<tool_call>\n<function=run>\n<parameter=code>\nx\n</parameters>\n</function>\n</tool_call>",
        r#"run{"code": "x\n</parameters>"}"#,
    );
    let two =
        "<tool_call>\n<function=now>\n</function>\n<function=run>\n".to_string() + body + "</function>\n</tool_call>";
    check(&two, &format!("now{{}} | {want}"));
    check(&two.replace("</function>\n<function", "</function>\n<tool_call>\n<function"), &format!("now{{}} | {want}"));
    check(&format!("<tool_call>\nlet me\n<function=run>\n{body}</function>\nthanks\n</tool_call>"), want);
    check(&format!("<tool_call><function=run>\nargs:\n{body}</function></tool_call>"), want);
    check("<tool_call>\n<function='run'>\n<parameter=\"code\">\nx\n</parameter>\n</function>\n</tool_call>", want);
    check(&format!("<tool_call>\n<function=run>\n{body}</function>\n</tool_call>\n</tool_call>"), want);
    check("<tool_call>\n{\"name\": \"run\", \"arguments\": {\"code\": \"x\"}}\n</tool_call>", want);
}

#[test]
fn what_is_not_a_call_is_content_to_the_byte() {
    for text in [
        "plain",
        " \n ",
        "Wrap it in a <tool_call> tag, then go on.",
        "a < b, <tool, <function, </tool_call> </function> </parameter> <parameter=x> <",
        "The form is <function=NAME> with a name.",
        "Call <function=run> when ready, or <function=elsewhere>\n</function>",
        "<tool_call>\n<function=run",
        "<tool_call>\n<function={run}>\n</function>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>no call at all</tool_call>",
        "<tool_call>{not json}</tool_call> and text",
        "<tool_call>\n{\"nome\": 1}\n</tool_call>",
        "<tool_call>[1, 2]</tool_call>",
        "<tool_call>{\"name\": \"run\", \"arguments\": 3}</tool_call>",
        "<function=run>\nprose instead of parameters",
        "<function=elsewhere>\n<parameter=x>\n1\n</parameter>\n</function>",
        "See <tool",
    ] {
        check(text, &format!("{text:?}"));
    }
    check("Hm.\n<tool_call>\n</tool_call>", r#""Hm.\n""#);
    let long = "words ".repeat(100);
    check(&format!("<tool_call> {long}"), &format!("{:?}", format!("<tool_call> {long}")));
}

#[test]
fn an_answer_that_mentions_a_tag_is_not_held_back() {
    let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, Arc::new(ToolSchemas::new(&tools())));
    let text = format!("Use <tool_call> so: {}", "words ".repeat(100));
    let ParsedMessage { content, .. } = ParsedMessage::from_events(parser.push(&text));
    assert_eq!(content.as_deref(), Some(&text[..]));
}

#[test]
fn a_cut_call_never_looks_complete() {
    check_cut("Working.\n<tool_call>\n<function=ru", r#""Working.\n""#);
    check_cut("Working.\n<tool_call>", r#""Working.\n""#);
    check_cut("<function=ru", "");
    check_cut("See <function=some", r#""See <function=some""#);
    check_cut("<tool_call>\n<function=run>\n", "cut run{}");
    check_cut("<function=run>\n", "cut run{}");
    let whole = call("run", &[("shell", "sh"), ("code", "one\ntwo")]);
    let function_end = whole.find("</function>").expect("a tag");
    for end in 0..whole.len() {
        let got = outcome(ToolFormat::Qwen3Coder, &whole[..end], true);
        let code_end = whole.rfind("</parameter>").expect("a tag") + "</parameter>".len();
        let want = match end {
            _ if end < "<tool_call>\n<function=run>".len() => continue,
            _ if end >= code_end => r#"cut run{"shell": "sh", "code": "one\ntwo"}"#,
            _ if end >= whole.find("<parameter=code>").expect("a tag") + 16 => r#"cut run{"shell": "sh"}"#,
            _ => continue,
        };
        assert_eq!(got, want, "cut after {:?}", &whole[..end]);
    }
    check_cut(&whole, r#"run{"shell": "sh", "code": "one\ntwo"}"#);
    check_cut(&whole[..function_end + 11], r#"cut run{"shell": "sh", "code": "one\ntwo"}"#);
    check_cut("<tool_call>\n<function=now>\n</function>", "now{}");
    let second = call("now", &[]) + "\n" + &call("mix", &[("i", "1")])[..50];
    check_cut(&second, "now{} | cut mix{}");
    // A value that quotes a call is cut where the quoted call ends.
    let quoted = call("run", &[("code", &call("run", &[("code", "x")]))]);
    let end = quoted.find("</tool_call>").expect("a tag") + 12;
    check_cut(&quoted[..end], "cut run{}");
}

#[test]
fn a_model_that_stops_within_a_value_has_not_completed_its_call() {
    check(
        "<tool_call>\n<function=run>\n<parameter=shell>\nsh\n</parameter>\n<parameter=code>\nhalf",
        r#"cut run{"shell": "sh"}"#,
    );
    check("<tool_call>\n<function=run>\n", "cut run{}");
}

#[test]
fn text_streams_as_it_arrives() {
    let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, Arc::new(ToolSchemas::new(&tools())));
    let mut push = |text: &str| match parser.push(text).as_slice() {
        [] => String::new(),
        [ToolEvent::Arguments { index: 0, json }] => json.clone(),
        [ToolEvent::CallStart { index: 0, name }] => name.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(push("<tool_call>\n<function=run>\n<parameter=code>"), "run");
    assert_eq!(push("\nfirst"), r#"{"code": "first"#);
    assert_eq!(push(" \"é\"\n"), r#" \"é\""#);
    assert_eq!(push("second </para"), r"\nsecond ");
    assert_eq!(push("graph> </parameter>"), "</paragraph> ");
    assert_eq!(push("; third\n</parameter>"), "</parameter>; third");
    assert_eq!(push("\n<parameter=shell>\n"), "\"");
    assert_eq!(push("sh"), r#", "shell": "sh"#);
    assert_eq!(push("\n</parameter>\n</function>\n</tool_call>"), "");
    let end = [ToolEvent::Arguments { index: 0, json: "\"}".into() }, ToolEvent::CallEnd { index: 0 }];
    assert_eq!(parser.finish(false), end);
}

#[test]
fn json_calls() {
    let check = |text: &str, want: &str| assert_eq!(outcome(ToolFormat::Json, text, false), want, "{text}");
    let one = r#"<tool_call>
{"name": "run", "arguments": {"code":"a </tool_call> \"b\" \u00e9","n":[1,2.50]}}
</tool_call>"#;
    check(one, r#"run{"code": "a </tool_call> \"b\" é", "n": [1, 2.5]}"#);
    check(
        &format!("Yes.\n{one}\n{one}\nDone."),
        &format!(r#""Yes.\n\nDone." | {0} | {0}"#, &r#"run{"code": "a </tool_call> \"b\" é", "n": [1, 2.5]}"#),
    );
    check(r#"<tool_call>{"arguments": "{\"a\": 1}", "name": "run"}</tool_call>"#, r#"run{"a": 1}"#);
    check(r#"<tool_call>[{"name": "now"}, {"name": "now", "parameters": {}}]</tool_call>"#, "now{} | now{}");
    check("<tool_call>{\"name\": \"run\", \"arguments\": {\"a\": 1}\n</tool_call>", r#"run{"a": 1}"#);
    check(r#"<tool_call>{"name": "run", "arguments": {"a": 1}}"#, r#"run{"a": 1}"#);
    let cut = |text: &str, want: &str| assert_eq!(outcome(ToolFormat::Json, text, true), want, "{text}");
    cut("Hm. <tool_call>\n{\"name\": \"run\", \"arguments\": {\"code\": \"a", "\"Hm. \" | cut run{}");
    cut("Hm. <tool_call>\n{\"name\": \"ru", "\"Hm. \"");
    cut(one, r#"run{"code": "a </tool_call> \"b\" é", "n": [1, 2.5]}"#);
    for text in [
        "<function=run>\n<parameter=code>\nx\n</parameter>\n</function>",
        "<tool_call>\n<function=run>\n</function>\n</tool_call>",
        "a <tool_call> b {\"name\": \"run\"}",
        "<tool_call>{\"name\": \"run\", \"arguments\": {\"a\": ]}}</tool_call>",
        "<tool_call>{\"name\": \"run",
    ] {
        check(text, &format!("{text:?}"));
    }
}
