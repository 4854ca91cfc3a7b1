//! Constrained output, driven by a model that says any token the mask allows.

use std::sync::Arc;

use crate::support::{Dice, FACTORY, ROWS, TOKENIZER, allowed, compile, eos, generate, matches, text, tokens_in};
use quern_text::{
    CallChoice, ConstraintError, GrammarFactory, GrammarSpec, ParsedMessage, ToolFormat, ToolParser, ToolSchemas,
};
use serde_json::{Value, json};

fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object"}),
        json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
               "required": ["name", "age"], "additionalProperties": false}),
        json!({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}),
        json!({"enum": ["red", "green", 3, null, true]}),
        json!({"type": "object", "properties": {"kind": {"const": "a"}, "list": {"type": "array", "items": {"type": "boolean"}}},
               "required": ["kind"], "additionalProperties": false}),
        json!({"$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
               "required": ["value", "next"], "additionalProperties": false}}, "$ref": "#/$defs/node"}),
        json!({"anyOf": [{"type": "string", "maxLength": 5}, {"type": "integer", "exclusiveMinimum": 10}]}),
        json!({"type": "string", "pattern": "^[a-f]{2,4}$"}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false, "minItems": 2}),
        json!({"type": ["integer", "null"], "multipleOf": 5}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                         {"properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
    ]
}

#[test]
fn what_a_schema_lets_through_is_valid() {
    let mut ended = 0;
    for schema in schemas() {
        let validator = jsonschema::validator_for(&schema).unwrap();
        let liked = tokens_in("\",:]}{");
        for seed in 0..40 {
            let Some(output) = generate(&GrammarSpec::JsonSchema(schema.clone()), seed, 300, &liked) else { continue };
            ended += 1;
            let value: Value = serde_json::from_str(&output).unwrap_or_else(|e| panic!("seed {seed}: {e}: {output:?}"));
            assert!(validator.is_valid(&value), "seed {seed}: {output} under {schema}");
        }
    }
    assert!(ended > 300, "only {ended} outputs ended");
}

#[test]
fn a_json_object_is_an_object_with_free_blanks() {
    for seed in 0..40 {
        if let Some(output) = generate(&GrammarSpec::JsonObject, seed, 300, &tokens_in("\",:]}{")) {
            assert!(serde_json::from_str::<Value>(&output).unwrap().is_object(), "{output}");
        }
    }
    for good in ["{}", "{ \"a\" : [ 1 , 2 ] }", "{\n  \"a\": {\"b\": null}\n}"] {
        assert!(matches(&GrammarSpec::JsonObject, good), "{good}");
    }
    for bad in ["[]", "1", "{\"a\"}", "{} x", ""] {
        assert!(!matches(&GrammarSpec::JsonObject, bad), "{bad}");
    }
}

#[test]
fn what_an_expression_lets_through_matches_it() {
    for expression in
        ["[0-9]{3}-[0-9]{4}", "(yes|no|maybe)", "a*b+c?", r"\d+\.\d{2}", "é|ü|日本", "(ab|cd)*/x", "[^a-z]{1,5}", ""]
    {
        let spec = GrammarSpec::Regex(expression.into());
        let whole = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
        let ended = (0..20).filter_map(|seed| generate(&spec, seed, 200, &[])).inspect(|output| {
            assert!(whole.is_match(output), "{output:?} under {expression}");
        });
        assert!(ended.count() > 10, "{expression}");
    }
}

#[test]
fn gbnf_means_what_llama_cpp_and_xgrammar_take_it_for() {
    let arithmetic = r#"
        # Sums of products
        root   ::= expr
        expr   ::= term (ws [-+] ws term)*
        term   ::= factor (ws ("*" | "/") ws factor)*
        factor ::= number | "(" ws expr ws ")"
        number ::= [0-9]+ ("." [0-9]+)?
        ws     ::= " "*
    "#;
    let lists = "root ::= \"- \" item (\"\\n- \" item){1,2}\nitem ::= [^\\n\\x00-\\x1f]{1,8}\n";
    let nested = "root ::= \"[\" (root (\",\" root)*)? \"]\" | \"\\\"\" [a-z\\u00e9]* \"\\\"\"";
    for (grammar, good, bad) in [
        (arithmetic, vec!["1", "1+2", "(1 + 2.5)*3", "((7))"], vec!["", "1+", "(1", "1..2", "a"]),
        (lists, vec!["- a\n- b", "- a\n- b\n- c"], vec!["- a", "- a\n- b\n- c\n- d", "a"]),
        (nested, vec!["[]", "[[],[\"a\"]]", "\"é\"", "[\"\",\"x\"]"], vec!["[", "[,]", "\"A\"", "[]x"]),
        ("root ::= \"a\" | \"b\" root", vec!["a", "bba"], vec!["", "b", "ab"]),
        ("root ::= ([a-c] | \"zoo\")+ end\nend ::= \"z\"", vec!["az", "zooz", "azooz"], vec!["zoo", "z"]),
        (
            "root ::= x{3} y{0,1} z{1,}\nx ::= \"x\"\ny ::= \"y\"\nz ::= \".\" ",
            vec!["xxx.", "xxxy..."],
            vec!["xx.", "xxxyy."],
        ),
        ("root ::= .", vec!["a", "\n", "日"], vec!["", "ab"]),
    ] {
        let spec = GrammarSpec::Ebnf(grammar.into());
        for text in good {
            assert!(matches(&spec, text), "{text:?} under {grammar}");
        }
        for text in bad {
            assert!(!matches(&spec, text), "{text:?} under {grammar}");
        }
        for seed in 0..10 {
            generate(&spec, seed, 100, &[]);
        }
    }
}

#[test]
fn what_gbnf_cannot_say_is_named_with_its_line() {
    for (grammar, cause) in [
        ("", "there is no rule named root"),
        ("root = \"a\"", "line 1: expected ::= after root"),
        ("root ::= a", "the rule a is used and not defined"),
        ("root ::= \"a\"\nroot ::= \"b\"", "line 2: the rule root is defined twice"),
        ("root ::= \"a\"\n  (?=\"b\")", "line 2: look-ahead is not supported"),
        ("root ::= TagDispatch((\"a\", b))", "line 1: TagDispatch is not supported; use structural_tag"),
        ("root ::= (\"a\"", "line 1: expected )"),
        ("root ::= \"a", "line 1: the line ends within quotes or brackets"),
        ("root ::= [z-a]", "line 1: [z-a] is the wrong way round"),
        ("root ::= \"\\q\"", "line 1: the escape \\q is not known"),
        ("root ::= \"a\"{5,2}", "line 1: {5,2}: the second number is the smaller one"),
    ] {
        let error = FACTORY.compile(&GrammarSpec::Ebnf(grammar.into())).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some(&*format!("Failed to compile ebnf grammar: {cause}")), "{grammar}");
    }
}

#[test]
fn a_mask_is_what_trying_each_token_says() {
    let specs = [
        GrammarSpec::JsonObject,
        GrammarSpec::JsonSchema(schemas()[1].clone()),
        GrammarSpec::JsonSchema(schemas()[5].clone()),
        GrammarSpec::Regex("[a-z]{2,5}( [a-z]+)*[.!?]".into()),
        GrammarSpec::Ebnf("root ::= \"(\" root* \")\" | [a-z]+".into()),
        GrammarSpec::ToolCalls { tools: tools(), choice: CallChoice::Required, parallel: true },
        GrammarSpec::ToolCalls { tools: tools(), choice: CallChoice::Named("edit".into()), parallel: true },
    ];
    let mut states = 0;
    for spec in &specs {
        for seed in 0..3 {
            let mut dice = Dice(seed);
            let mut said = Vec::new();
            let mut grammar = compile(spec);
            for _ in 0..12 {
                let mask = allowed(&grammar.clone().mask().unwrap());
                let tried = (0..ROWS as u32).filter(|&token| grammar.clone().accept(token).is_ok());
                assert_eq!(mask, tried.collect::<Vec<_>>(), "after {:?} under {spec:?}", text(&said));
                states += 1;
                let token = mask[dice.roll(mask.len())];
                if grammar.accept(token).unwrap() {
                    break;
                }
                said.push(token);
            }
        }
    }
    assert!(states > 150, "only {states} states");
}

fn tools() -> Vec<Value> {
    vec![
        json!({"type": "function", "function": {"name": "edit", "parameters": {"type": "object", "properties": {
            "path": {"type": "string"}, "line": {"type": "integer"}, "force": {"type": "boolean"},
            "mode": {"enum": ["w", "wa", "r"]}, "ranges": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
            "at": {"$ref": "#/$defs/point"}, "ratio": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
            "required": ["path", "line"], "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false}}}}}),
        json!({"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}),
        json!({"type": "function", "function": {"name": "say", "parameters": {"type": "object",
            "properties": {"text": {"type": "string"}, "loud": {"type": "boolean"}}, "required": ["loud"]}}}),
    ]
}

/// The markup's own pieces, which a value must not turn into an end.
fn markup() -> Vec<u32> {
    tokens_in("</parameter>\n<parameter=path>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n")
}

fn parse(tools: &[Value], output: &str) -> ParsedMessage {
    let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, Arc::new(ToolSchemas::new(tools)));
    let mut events = parser.push(output);
    events.extend(parser.finish(false));
    ParsedMessage::from_events(events)
}

fn check_calls(tools: &[Value], output: &str, seed: u64) -> usize {
    let parsed = parse(tools, output);
    for call in &parsed.calls {
        let tool = tools.iter().find(|tool| tool["function"]["name"] == call.name.as_str());
        let tool = tool.unwrap_or_else(|| panic!("seed {seed}: {} is not declared: {output}", call.name));
        let mut schema = tool["function"]["parameters"].clone();
        schema["additionalProperties"] = json!(false);
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        if let Err(error) = validator.validate(&arguments) {
            panic!("seed {seed}: {error}: {arguments}\n{output}");
        }
    }
    parsed.calls.len()
}

#[test]
fn the_parser_reads_constrained_calls_as_they_were_meant() {
    let tools = tools();
    let mut calls = 0;
    for parallel in [true, false] {
        let spec = GrammarSpec::ToolCalls { tools: tools.clone(), choice: CallChoice::Required, parallel };
        for seed in 0..120 {
            let Some(output) = generate(&spec, seed, 700, &markup()) else { continue };
            let found = check_calls(&tools, &output, seed);
            assert!(found > 0 && (parallel || found == 1), "seed {seed}: {found} calls in {output}");
            calls += found;
        }
    }
    for tool in &tools {
        let name = tool["function"]["name"].as_str().unwrap();
        let spec =
            GrammarSpec::ToolCalls { tools: tools.clone(), choice: CallChoice::Named(name.into()), parallel: true };
        for seed in 0..40 {
            let Some(output) = generate(&spec, seed, 700, &markup()) else { continue };
            assert!(output.starts_with(&format!("<tool_call>\n<function={name}>\n")), "{output}");
            assert_eq!((check_calls(&tools, &output, seed), parse(&tools, &output).calls[0].name.as_str()), (1, name));
            calls += 1;
        }
    }
    assert!(calls > 80, "only {calls} calls");
}

#[test]
fn a_call_that_must_come_comes_at_once_and_nothing_follows_but_calls() {
    let call = "<tool_call>\n<function=now>\n</function>\n</tool_call>";
    for (choice, may_repeat) in [(CallChoice::Required, true), (CallChoice::Named("now".into()), false)] {
        for parallel in [true, false] {
            let spec = GrammarSpec::ToolCalls { tools: tools(), choice: choice.clone(), parallel };
            assert!(matches(&spec, call));
            for gap in ["\n", "\n\n"] {
                let calls = [call; 3].join(gap);
                assert_eq!(matches(&spec, &calls), may_repeat && parallel, "{choice:?} {gap:?}");
                // A line break commits to nothing.
                assert_eq!(matches(&spec, &format!("{call}{gap}")), may_repeat && parallel, "{choice:?} {gap:?}");
            }
            for bad in [
                "",
                "Sure.",
                &format!("Sure.\n{call}"),
                "<function=now>\n</function>\n</tool_call>",
                &format!("{call} "),
                &format!("{call}\n\n\n"),
                &format!("{call}\nDone."),
                &format!("{call}</tool_call>"),
                &format!("{call}\n</parameter>"),
                &format!("{call}{call}"),
                &format!("{call}\nAnd again.\n{call}"),
            ] {
                assert!(!matches(&spec, bad), "{choice:?}: {bad:?}");
            }
        }
    }
}

#[test]
fn text_after_a_call_does_not_go_on_with_its_markup() {
    let mut tools = tools();
    tools.iter_mut().for_each(|tool| tool["function"]["strict"] = json!(true));
    let spec = GrammarSpec::ToolCalls { tools: tools.clone(), choice: CallChoice::AutoStrict, parallel: true };
    let name = |tool: &&Value| tool["function"]["parameters"]["required"].as_array().is_none_or(Vec::is_empty);
    let tool = tools.iter().find(name).expect("a tool without required parameters");
    let call =
        format!("<tool_call>\n<function={}>\n</function>\n</tool_call>", tool["function"]["name"].as_str().unwrap());
    for markup in ["<parameter=a>\n2", "</parameter>", "</function>\n", "</tool_call>"] {
        for gap in ["", "\n", " \n\n"] {
            assert!(!matches(&spec, &format!("{call}{gap}{markup}")), "{gap:?} {markup:?}");
        }
        let said = format!("{call}\nSee {markup}");
        assert!(matches(&spec, &said), "{markup:?}");
        assert_eq!(check_calls(&tools, &said, 0), 1, "{said}");
    }
}

#[test]
fn a_call_or_an_answer_of_a_form_and_nothing_else() {
    let call = "<tool_call>\n<function=now>\n</function>\n</tool_call>";
    let form = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false});
    let tag = json!({"format": {"type": "tag", "begin": "<n>", "content": {"type": "regex", "pattern": "[0-9]"}, "end": "</n>"}});
    for (answer, good) in [
        (GrammarSpec::JsonSchema(form), "{\"a\": true}"),
        (GrammarSpec::JsonObject, "{\"x\": [1, \"<tool_call>\"]}"),
        (GrammarSpec::Regex("[0-9]{3}".into()), "123"),
        (GrammarSpec::choice(&["yes".into(), "no".into(), "no.".into()]), "no."),
        (GrammarSpec::Ebnf("root ::= \"(\" root \")\" | \"x\"".into()), "((x))"),
        (GrammarSpec::StructuralTag(tag), "<n>1</n>"),
    ] {
        for parallel in [true, false] {
            let choice = CallChoice::OrAnswer(Box::new(answer.clone()));
            let spec = GrammarSpec::ToolCalls { tools: tools(), choice, parallel };
            assert!(matches(&spec, good) && matches(&spec, call), "{good}");
            assert_eq!(matches(&spec, &format!("{call}\n{call}")), parallel);
            for bad in ["", "Sure.", &format!("Sure.\n{call}"), &format!("{good}\n{call}"), &format!("{call}\n{good}")]
            {
                assert!(!matches(&spec, bad), "{bad:?} beside {good}");
            }
        }
    }
}

#[test]
fn strict_tools_follow_their_schemas_and_others_do_as_they_like() {
    let mut tools = tools();
    tools[0]["function"]["strict"] = json!(true);
    let spec = GrammarSpec::ToolCalls { tools, choice: CallChoice::AutoStrict, parallel: true };
    for good in [
        "",
        "No call at all; not even </parameter>.",
        "Yes.\n\n<tool_call>\n<function=edit>\n<parameter=path>\na.rs\n</parameter>\n<parameter=line>\n7\n</parameter>\n</function>\n</tool_call>",
        "<function=edit>\n<parameter=path>\na\n</parameter>\n<parameter=line>\n7\n</parameter>\n</function>\n</tool_call>\n then",
        "<tool_call>\n<function=say>\n<parameter=what>\n7\n</parameter>\n</function>\n</tool_call>",
    ] {
        assert!(matches(&spec, good), "{good}");
    }
    for bad in [
        "<tool_call>\n<function=edit>\n<parameter=line>\n7\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=edit>\n<parameter=path>\na\n</parameter>\n<parameter=line>\nseven\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=other>\n</function>\n</tool_call>",
        "<tool_call>\nText",
    ] {
        assert!(!matches(&spec, bad), "{bad}");
    }
}

#[test]
fn values_of_constrained_calls_may_hold_all_but_markup_in_its_place() {
    let spec = GrammarSpec::ToolCalls { tools: tools(), choice: CallChoice::Named("say".into()), parallel: false };
    let call = |text: &str| {
        format!(
            "<tool_call>\n<function=say>\n<parameter=text>\n{text}\n</parameter>\n<parameter=loud>\ntrue\n</parameter>\n</function>\n</tool_call>"
        )
    };
    for value in [
        "",
        "\n",
        "a\n\nb\n",
        "if a < b && c > d { \"x\" }",
        "ends with </parameter>",
        "</parameter> and </function>",
        "a <tool_call> in prose",
        "<parameter",
        "日本 🎉",
        "\t\\n \u{0} \u{7f}",
    ] {
        assert!(matches(&spec, &call(value)), "{value:?}");
        let parsed = parse(&tools(), &call(value));
        let arguments: Value = serde_json::from_str(&parsed.calls[0].arguments).unwrap();
        assert_eq!(arguments, json!({"text": value, "loud": true}), "{value:?}");
    }
    for value in [
        "a\n</parameter>\n</function>",
        "</function>",
        "x\n<parameter=loud>",
        "<function=now>",
        "</parameter></tool_call>",
    ] {
        assert!(!matches(&spec, &call(value)), "{value:?}");
    }
}

#[test]
fn one_token_may_stand_for_a_tag_that_is_text() {
    let Some(tag) = TOKENIZER.token_id("<tool_call>") else { panic!("the vocabulary has the tag") };
    let spec = GrammarSpec::ToolCalls { tools: tools(), choice: CallChoice::Named("now".into()), parallel: false };
    let mut grammar = compile(&spec);
    assert!(allowed(&grammar.mask().unwrap()).contains(&tag));
    grammar.accept(tag).unwrap();
    let next = allowed(&grammar.mask().unwrap());
    assert!(next.iter().all(|&t| text(&[t]).starts_with('\n')), "{next:?}");
}

#[test]
fn structural_tags_bind_what_follows_their_triggers() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false});
    let old = json!({"structures": [{"begin": "<f=a>", "schema": schema, "end": "</f>"}, {"begin": "<f=b>", "schema": {"type": "boolean"}, "end": "</f>"}], "triggers": ["<f="]});
    let tag = |name: &str, content: Value| json!({"type": "tag", "begin": format!("<f={name}>"), "content": content, "end": "</f>"});
    let of = |schema: &Value| json!({"type": "json_schema", "json_schema": schema});
    let tags = json!([tag("a", of(&schema)), tag("b", of(&json!({"type": "boolean"})))]);
    let new = |more: Value| {
        let mut format = json!({"type": "triggered_tags", "triggers": ["<f="], "tags": tags});
        format.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "structural_tag", "format": format})
    };
    let free = ["", "text", "a <f=a>{\"x\": 1}</f> b <f=b>true</f> c"];
    let bound = ["<f=c>", "<f=a>{\"y\": 1}</f>", "<f=a>{\"x\": 1}", "<f=b>1</f>"];
    let cases: Vec<(Value, Vec<&str>, Vec<&str>)> = vec![
        (old, free.to_vec(), bound.to_vec()),
        (new(json!({})), free.to_vec(), bound.to_vec()),
        (
            new(json!({"at_least_one": true, "stop_after_first": true})),
            vec!["a <f=b>true</f>"],
            vec!["", "text", "<f=b>true</f> x"],
        ),
        (new(json!({"excludes": ["!"]})), vec!["text"], vec!["text!", "<f=b>true</f>!"]),
        (
            json!({"format": {"type": "sequence", "elements": [{"type": "const_string", "value": "A"}, {"type": "regex", "pattern": "[0-9]+"}, {"type": "any_text"}]}}),
            vec!["A1", "A12 and on"],
            vec!["A", "1"],
        ),
        (
            json!({"format": {"type": "or", "elements": [tag("c", json!({"type": "any_text"})), {"type": "grammar", "grammar": "root ::= \"x\" root | \"y\""}]}}),
            vec!["<f=c>any < thing</f>", "xxy"],
            vec!["<f=c>", "xx"],
        ),
        (
            json!({"format": {"type": "tags_with_separator", "tags": tags, "separator": ",", "at_least_one": true}}),
            vec!["<f=b>true</f>", "<f=b>true</f>,<f=b>false</f>"],
            vec!["", "<f=b>true</f>,", "<f=b>true</f><f=b>false</f>"],
        ),
        (
            json!({"format": {"type": "tag", "begin": "<function=f>\n", "content": {"type": "qwen_xml_parameter", "json_schema": schema}, "end": "\n</function>"}}),
            vec!["<function=f>\n<parameter=x>\n3\n</parameter>\n</function>"],
            vec!["<function=f>\n</function>"],
        ),
    ];
    for (tag, good, bad) in cases {
        let spec = GrammarSpec::StructuralTag(tag.clone());
        for text in good {
            assert!(matches(&spec, text), "{text:?} under {tag}");
        }
        for text in bad {
            assert!(!matches(&spec, text), "{text:?} under {tag}");
        }
    }
    for (tag, cause) in [
        (json!({}), "expected `format`"),
        (json!({"structures": [{"begin": "<a>", "end": "</a>"}], "triggers": ["<b"]}), "no trigger begins \"<a>\""),
        (json!({"format": {"type": "sentence"}}), "format sentence is not supported"),
        (
            json!({"format": {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "const_string", "value": "x"}]}}),
            "any_text is supported within a tag",
        ),
    ] {
        let error = FACTORY.compile(&GrammarSpec::StructuralTag(tag)).err().unwrap().to_string();
        assert!(error.starts_with("Failed to compile structural_tag grammar: ") && error.contains(cause), "{error}");
    }
}

#[test]
fn tools_that_cannot_be_constrained_are_named() {
    let tools =
        |tool: Value| GrammarSpec::ToolCalls { tools: vec![tool], choice: CallChoice::Required, parallel: true };
    let parameters = |parameters: Value| json!({"name": "f", "parameters": parameters});
    for (spec, cause) in [
        (tools(json!({})), "no tools are declared"),
        (tools(json!({"name": "a>b"})), "the tool name \"a>b\" cannot be written in a tag"),
        (
            tools(parameters(json!({"properties": {"a\n": {}}}))),
            "tool f: the parameter name \"a\\n\" cannot be written in a tag",
        ),
        (
            GrammarSpec::ToolCalls { tools: self::tools(), choice: CallChoice::Named("g".into()), parallel: true },
            "no tool is named g",
        ),
    ] {
        let error = FACTORY.compile(&spec).err().unwrap().to_string();
        assert_eq!(error, format!("Failed to compile structural_tag grammar: {cause}"));
    }
}

#[test]
fn the_cache_keeps_what_was_used_last_and_no_more() {
    let factory = GrammarFactory::new(&TOKENIZER, ROWS, &[eos()]).unwrap();
    let spec = |i: usize| GrammarSpec::Regex(format!("a{{{i}}}"));
    for i in 1..200 {
        factory.compile(&spec(i)).unwrap();
        factory.compile(&spec(1)).unwrap();
    }
    assert_eq!(factory.num_cached(), 64);
    // A cached grammar starts anew, however far the last output got.
    let mut first = factory.compile(&spec(2)).unwrap();
    first.accept(tokens_in("a")[0]).unwrap();
    let mut second = factory.compile(&spec(2)).unwrap();
    assert!(!second.is_accepting().unwrap());
    assert!(second.accept(tokens_in("a")[0]).is_ok());
    assert!(second.accept(tokens_in("a")[0]).unwrap());
}

#[test]
fn an_error_says_nothing_of_the_automaton() {
    let mut grammar = compile(&GrammarSpec::Regex("abc".into()));
    let ConstraintError::Step(error) = grammar.accept(tokens_in("z")[0]).unwrap_err() else { panic!("a step fails") };
    assert!(!error.contains('\n') && error.len() < 300, "{error}");
    assert!(grammar.mask().is_err(), "a failed grammar stays failed");
}
