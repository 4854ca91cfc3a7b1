//! Tools that take one text under a grammar of their client's.

use crate::support::{FACTORY, TOKENIZER, generate, matches};
use quern_text::{
    CallChoice, GrammarSpec, INPUT_GRAMMAR, Specials, ToolFormat, ToolParser, ToolSchemas, tool::ParsedMessage,
};
use serde_json::{Value, json};

/// Patches, in the form that coding agents describe to their models.
const PATCH: &str = r#"start: "*** Begin Patch" LF hunk+ "*** End Patch" LF?
hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change?
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change: ("@@" LF | change_line)+
change_line: ("+" | "-" | " ") /(.*)/ LF
%import common.LF
"#;

fn tool(name: &str, syntax: &str, definition: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]});
    json!({
        "type": "function",
        "function": {"name": name, "parameters": parameters},
        INPUT_GRAMMAR: {"syntax": syntax, "definition": definition},
    })
}

fn call(name: &str, input: &str) -> String {
    format!("<tool_call>\n<function={name}>\n<parameter=input>\n{input}\n</parameter>\n</function>\n</tool_call>")
}

fn spec(tools: &[Value], choice: CallChoice) -> GrammarSpec {
    GrammarSpec::ToolCalls { tools: tools.to_vec(), choice, parallel: false }
}

fn input_of(tools: &[Value], output: &str) -> String {
    let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, ToolSchemas::new(tools).into());
    let mut events = parser.push(output);
    events.extend(parser.finish(false));
    let calls = ParsedMessage::from_events(events).calls;
    assert_eq!(calls.len(), 1, "{output}");
    let arguments: Value = serde_json::from_str(&calls[0].arguments).expect("JSON");
    arguments["input"].as_str().unwrap_or_else(|| panic!("{arguments}")).to_owned()
}

#[test]
fn the_input_obeys_the_grammar_whatever_the_choice() {
    let tools = [tool("apply_patch", "lark", PATCH), tool("sum", "regex", "[0-9]+( [+*] [0-9]+)*")];
    let patch = "*** Begin Patch\n*** Update File: a.py\n@@\n-print(1)\n+print(\"two\")\n*** End Patch";
    let named = |name: &str| CallChoice::Named(name.into());
    for choice in [CallChoice::Required, CallChoice::AutoStrict, named("apply_patch")] {
        let spec = spec(&tools, choice);
        for good in [patch, "*** Begin Patch\n*** Add File: b\n+\n*** Delete File: c\n*** End Patch\n"] {
            assert!(matches(&spec, &call("apply_patch", good)), "{good}");
        }
        for bad in [
            "",
            "print(1)",
            "*** Begin Patch\n*** End Patch",
            "*** Begin Patch\n*** Add File: b\nno sign\n*** End Patch",
            &format!("{patch}\nmore"),
        ] {
            assert!(!matches(&spec, &call("apply_patch", bad)), "{bad}");
        }
    }
    for choice in [CallChoice::Required, CallChoice::AutoStrict, named("sum")] {
        let spec = spec(&tools, choice);
        for (input, fits) in [("12 + 3 * 4", true), ("7", true), ("", false), ("12 +", false), ("x", false)] {
            assert_eq!(matches(&spec, &call("sum", input)), fits, "{input:?}");
        }
    }
    assert!(matches(&spec(&tools, CallChoice::AutoStrict), "No call at all."));
}

#[test]
fn the_parser_reads_the_input_that_was_written() {
    let tools = [tool("apply_patch", "lark", PATCH), tool("words", "regex", "(?s:(a|\n|<|/|parameter>){0,12})")];
    let ends = TOKENIZER.encode("\n*** End Patch\n</parameter>", Specials::AsText);
    let mut calls = 0;
    for name in ["apply_patch", "words"] {
        let spec = spec(&tools, CallChoice::Named(name.into()));
        for seed in 0..40 {
            let Some(output) = generate(&spec, seed, 400, &ends) else { continue };
            assert_eq!(call(name, &input_of(&tools, &output)), output, "seed {seed}");
            calls += 1;
        }
    }
    assert!(calls > 20, "only {calls} calls");
}

#[test]
fn grammars_that_cannot_be_used_are_refused_with_their_tool() {
    let deep = format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    let long = format!("start: \"{}\"", "a".repeat(300 << 10));
    for (syntax, definition, words) in [
        ("lark", "start: begin", "begin"),
        ("lark", "", ""),
        ("lark", "begin: \"a\"", "start"),
        ("lark", "start: \"a\" }\nstart: \"b\"", ""),
        ("lark", deep.as_str(), ""),
        ("lark", long.as_str(), "bytes"),
        ("regex", "(a", ""),
        ("regex", "(?=a)", ""),
        ("gbnf", "root ::= \"a\"", "lark and regex are"),
    ] {
        let error = FACTORY.compile(&spec(&[tool("f", syntax, definition)], CallChoice::Required)).err();
        let shown = definition.chars().take(40).collect::<String>();
        let message = error.unwrap_or_else(|| panic!("{shown} compiles")).to_string();
        assert!(message.contains(words), "{shown}: {message}");
    }
}
