//! Constrained JSON: what is let through, and that every walk through it ends.

use std::collections::HashSet;

use crate::support::{Dice, FACTORY, ROWS, TOKENIZER, allowed, compile, eos, matches, text, tokens_in};
use quern_text::{CallChoice, GrammarFactory, GrammarSpec, JsonBlanks};
use serde_json::{Value, json};

/// Most blanks between two tokens of JSON, unless the operator says otherwise.
const MAX_BLANKS: usize = 16;

/// Most digits in a row.
const MAX_DIGITS: usize = 20;

fn object(properties: Value) -> Value {
    let required: Vec<String> = properties.as_object().unwrap().keys().cloned().collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn schema(schema: Value) -> GrammarSpec {
    GrammarSpec::JsonSchema(schema)
}

fn error(spec: &GrammarSpec) -> String {
    FACTORY.compile(spec).err().unwrap_or_else(|| panic!("{spec:?} compiles")).to_string()
}

/// What a model says that likes the tokens of `liked` above all and otherwise takes any: the text and
/// whether it ended.
fn greedy(mut grammar: quern_text::GrammarMatcher, liked: &HashSet<u32>, seed: u64, limit: usize) -> (String, bool) {
    let mut dice = Dice(seed);
    let mut said = Vec::new();
    while said.len() < limit {
        let mask = allowed(&grammar.mask().unwrap());
        let wanted: Vec<u32> = mask.iter().copied().filter(|token| liked.contains(token)).collect();
        let from = if wanted.is_empty() { &mask } else { &wanted };
        let token = from[dice.roll(from.len())];
        let ended = grammar.accept(token).unwrap();
        said.extend((token != eos()).then_some(token));
        if ended {
            return (text(&said), true);
        }
    }
    (text(&said), false)
}

/// Tokens of nothing but these characters.
fn tokens_of(characters: &str) -> HashSet<u32> {
    let is = |id: &u32| {
        let bytes = TOKENIZER.token_bytes(*id).unwrap_or_default();
        !TOKENIZER.is_special(*id) && !bytes.is_empty() && bytes.iter().all(|b| characters.as_bytes().contains(b))
    };
    (0..ROWS as u32).filter(is).collect()
}

/// The longest run outside of strings of characters that `is` says yes to.
fn longest_run(json: &str, is: impl Fn(char) -> bool) -> usize {
    let (mut in_string, mut escaped, mut run, mut longest) = (false, false, 0, 0);
    for c in json.chars() {
        run = if !in_string && is(c) { run + 1 } else { 0 };
        longest = longest.max(run);
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
    }
    longest
}

fn is_blank(c: char) -> bool {
    " \t\n\r".contains(c)
}

/// Schemas of every way to write one: by rules of ours, by llguidance's compiler, and mixed.
fn schemas() -> Vec<Value> {
    vec![
        object(json!({"a": {"type": "boolean"}})),
        object(json!({"a": {"type": "integer"}, "b": {"type": "number"}})),
        object(
            json!({"at": object(json!({"x": {"type": "number", "minimum": 0}, "y": {"type": "number", "exclusiveMinimum": -1, "maximum": 1}}))}),
        ),
        object(json!({"n": {"type": "integer", "minimum": 3}, "m": {"type": ["integer", "null"], "maximum": -3}})),
        json!({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "minProperties": 1, "additionalProperties": false}),
        json!({"allOf": [object(json!({"a": {"type": "number"}})), {"properties": {"a": {"maximum": 5}}}]}),
        json!({"type": "object", "patternProperties": {"^[a-c]$": {"type": "number"}}, "additionalProperties": false, "minProperties": 1}),
        json!({"anyOf": [{"type": "integer"}, {"type": "number", "minimum": 0.5}]}),
    ]
}

#[test]
fn blanks_and_digits_are_bounded_whatever_the_model_likes() {
    let mut ended = 0;
    for (index, schema) in schemas().into_iter().enumerate() {
        for (likes, limit) in
            [(" ", 600), ("\n", 600), (" \t\n\r", 600), ("0123456789", 400), ("0123456789.eE+- \n", 600)]
        {
            let grammar = compile(&GrammarSpec::JsonSchema(schema.clone()));
            let (json, end) = greedy(grammar, &tokens_of(likes), index as u64, limit);
            assert!(longest_run(&json, is_blank) <= MAX_BLANKS, "{likes:?} {schema}: {json:?}");
            assert!(longest_run(&json, |c| c.is_ascii_digit()) <= MAX_DIGITS, "{likes:?} {schema}: {json:?}");
            assert!(end, "{likes:?} {schema} does not end: {json:?}");
            ended += 1;
            let value: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json:?}"));
            jsonschema::validate(&schema, &value).unwrap_or_else(|e| panic!("{e}: {json} under {schema}"));
        }
    }
    assert_eq!(ended, schemas().len() * 5);
    for seed in 0..5 {
        for likes in [" \n", "0123456789", "0123456789. \n"] {
            let (json, _) = greedy(compile(&GrammarSpec::JsonObject), &tokens_of(likes), seed, 300);
            assert!(longest_run(&json, is_blank) <= MAX_BLANKS, "{json:?}");
            assert!(longest_run(&json, |c| c.is_ascii_digit()) <= MAX_DIGITS, "{json:?}");
        }
    }
}

#[test]
fn blanks_and_digits_are_bounded_in_tags_and_in_calls() {
    let form = object(json!({"a": {"type": "integer"}, "b": {"type": "boolean"}}));
    let tag = json!({"format": {"type": "tag", "begin": "<n>", "content": {"type": "json_schema", "json_schema": form}, "end": "</n>"}});
    let old = json!({"structures": [{"begin": "<n>", "schema": form, "end": "</n>"}], "triggers": ["<n>"]});
    let tool = json!({"name": "f", "parameters": object(json!({"at": form, "n": {"type": "integer"}}))});
    let calls = GrammarSpec::ToolCalls { tools: vec![tool], choice: CallChoice::Named("f".into()), parallel: false };
    for (spec, begin) in
        [(GrammarSpec::StructuralTag(tag), "<n>"), (GrammarSpec::StructuralTag(old), "<n>"), (calls, "")]
    {
        for likes in [" \n", "0123456789", "0123456789 \n"] {
            let mut grammar = compile(&spec);
            tokens_in(begin).into_iter().for_each(|token| assert!(!grammar.accept(token).unwrap()));
            // What follows the last tag of the older form is free.
            let (said, _) = greedy(grammar, &tokens_of(likes), 1, 150);
            let json = said.rsplit_once("</n>").map_or(said.as_str(), |(json, _)| json);
            assert!(longest_run(json, is_blank) <= MAX_BLANKS, "{likes:?}: {said:?}");
            assert!(longest_run(json, |c| c.is_ascii_digit()) <= MAX_DIGITS, "{likes:?}: {said:?}");
            assert!(json.contains('}') || json.contains("</function>"), "{likes:?}: {said:?}");
        }
    }
}

#[test]
fn compact_spaced_and_pretty_json_and_the_numbers_in_use_are_let_through() {
    let form =
        schema(json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}, "b": {}}}));
    for spec in [&GrammarSpec::JsonObject, &form] {
        for good in [
            r#"{"a":[1,2.5],"b":{"c":null}}"#,
            r#"{"a": [1, -2.5e10, 0.125, 1E-7, 6.02e+23], "b": "\u00e9 \ud83d\ude00 \" \\ \n"}"#,
            "{\n  \"a\": [\n    1,\n    18446744073709551615,\n    3.141592653589793\n  ],\n  \"b\": {\n    \"c\": {}\n  }\n}",
            "{\r\n\t\"b\" : true\r\n}",
            "{ }",
        ] {
            assert!(matches(spec, good), "{good}");
        }
        for bad in [
            r#"{"a":[01]}"#,
            r#"{"b":1.}"#,
            r#"{"b":.5}"#,
            r#"{"b":"\ud83d"}"#,
            r#"{"b":1,}"#,
            r#"{"b":1} "#,
            r#" {}"#,
            "{\"b\":   1}",
            "{\n\n}",
        ] {
            assert!(!matches(spec, bad), "{bad}");
        }
    }
}

#[test]
fn an_operator_chooses_the_blanks() {
    let factory = |blanks| GrammarFactory::new(&TOKENIZER, ROWS, &[eos()]).unwrap().with_json_blanks(blanks);
    let any = JsonBlanks::pattern(r"[\n\t ]*").unwrap();
    let forms = [
        schema(object(json!({"a": {"type": "boolean"}}))),
        schema(json!({"allOf": [{"type": "object"}, object(json!({"a": {"type": "boolean"}}))]})),
        GrammarSpec::JsonObject,
    ];
    for (blanks, allowed_text, refused) in [
        (JsonBlanks::None, r#"{"a":true}"#, r#"{"a": true}"#),
        (JsonBlanks::AtMost(3), "{\"a\":   true}", "{\"a\":    true}"),
        (JsonBlanks::pattern(" ").unwrap(), r#"{ "a" : true }"#, "{\n\"a\":true}"),
        (any, "{\n\n\n\t\t      \"a\":                      true}", "{\r\"a\":true}"),
    ] {
        let factory = factory(blanks.clone());
        for form in &forms {
            for (json, wanted) in [(allowed_text, true), (refused, false), (r#"{"a":true}"#, true)] {
                let mut grammar = factory.compile(form).unwrap();
                let taken = tokens_in(json).into_iter().all(|token| grammar.accept(token).is_ok());
                assert_eq!(taken, wanted, "{blanks:?} {form:?}: {json:?}");
            }
        }
    }
    let wrong = JsonBlanks::pattern("[").unwrap_err();
    assert!(!wrong.contains('\n'), "{wrong}");
}

#[test]
fn what_only_narrows_is_read_over() {
    for (name, form, good) in [
        (
            "propertyNames",
            json!({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}}),
            r#"{"a":"b"}"#,
        ),
        (
            "names by a pattern",
            json!({"type": "object", "propertyNames": {"pattern": "^[a-z]$"}, "additionalProperties": {"type": "string"}}),
            r#"{"a":"b"}"#,
        ),
        (
            "listed names",
            json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "string"}}),
            r#"{"a":"b"}"#,
        ),
        ("uniqueItems", json!({"type": "array", "items": {"type": "boolean"}, "uniqueItems": true}), "[true]"),
        ("a format", json!({"type": "string", "format": "path"}), r#""a/b""#),
        ("another format", json!({"type": "string", "format": "uri-reference", "minLength": 2}), r#""ab""#),
        (
            "within an intersection",
            json!({"allOf": [{"type": "object"}, object(json!({"a": {"type": "string", "format": "binary"}, "b": {"type": "array", "uniqueItems": true}}))]}),
            r#"{"a":"x","b":[]}"#,
        ),
    ] {
        assert!(matches(&schema(form.clone()), good), "{name}");
        let parameters = object(json!({"value": form}));
        for choice in [CallChoice::AutoStrict, CallChoice::Required] {
            let tool = json!({"name": "f", "strict": true, "parameters": parameters});
            compile(&GrammarSpec::ToolCalls { tools: vec![tool], choice, parallel: true });
        }
    }
    assert!(!matches(&schema(json!({"type": "object", "propertyNames": {"pattern": "^[a-z]$"}})), r#"{"A":1}"#));
    assert!(!matches(&schema(json!({"type": "object", "propertyNames": {"enum": ["a"]}})), r#"{"b":1}"#));
}

#[test]
fn alternatives_that_exclude_one_another_are_told_apart() {
    let tag = |kind: &str, required: bool| {
        let mut form = object(json!({"kind": {"const": kind, "default": kind}, "m": {"type": "boolean"}}));
        form["required"] = if required { json!(["kind", "m"]) } else { json!(["m"]) };
        form
    };
    let of = |required, more: Value| {
        let mut pet = json!({"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]});
        pet.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut whole = object(json!({"pet": pet}));
        whole["$defs"] = json!({"Cat": tag("cat", required), "Dog": tag("dog", required)});
        schema(whole)
    };
    let discriminator =
        json!({"discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}}});
    for spec in [of(true, json!({})), of(false, discriminator)] {
        assert!(matches(&spec, r#"{"pet":{"kind":"dog","m":true}}"#));
        assert!(!matches(&spec, r#"{"pet":{"kind":"cow","m":true}}"#));
    }
    assert!(matches(&schema(json!({"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]})), "3"));
    let words = error(&of(false, json!({})));
    assert!(words.contains("oneOf: a value may match both alternative 1 and alternative 2"), "{words}");
    assert!(!words.contains("coerce_one_of"), "{words}");
}

#[test]
fn references_are_followed_wherever_they_point() {
    let spec = schema(json!({
        "definitions": {"a/b": {"type": "boolean"}, "list": {"type": "array", "items": {"$ref": "#/definitions/list"}}},
        "type": "object",
        "properties": {"x": {"$ref": "#/definitions/a~1b"}, "y": {"$ref": "#/properties/x"}, "z": {"$ref": "#/definitions/list", "description": "nested"},
            "w": {"allOf": [{"$ref": "#/definitions/list"}, {"maxItems": 1}]}},
        "additionalProperties": false
    }));
    for (json, good) in [
        (r#"{"x":true,"y":false,"z":[[],[[]]],"w":[[]]}"#, true),
        (r#"{"y":1}"#, false),
        (r#"{"w":[[],[]]}"#, false),
        (r#"{"z":[[1]]}"#, false),
    ] {
        assert_eq!(matches(&spec, json), good, "{json}");
    }
}

#[test]
fn what_is_refused_is_refused_in_our_words() {
    let wide = |n: usize| object(Value::Object((0..n).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect()));
    for (form, words) in [
        (json!({"not": {"type": "string"}}), "the keyword \"not\" is not supported"),
        (json!({"type": "teapot"}), "type: \"teapot\" is not the name of a type"),
        (json!({"$ref": "#/$defs/none"}), "$ref: nothing is at \"#/$defs/none\""),
        (json!({"$ref": "https://example.com/a.json"}), "references begin with"),
        (json!({"type": "string", "minLength": 3, "maxLength": 2}), "minLength (3) is more than maxLength (2)"),
        (json!({"type": "array", "items": false, "minItems": 1}), "minItems (1) is more than the 0 items"),
        (
            json!({"type": "object", "required": ["a"], "additionalProperties": false}),
            "the property \"a\" is required and not allowed",
        ),
        (json!({"type": "object", "properties": {"a": 3}}), "a schema is an object or a boolean, not 3"),
        (json!(false), "the schema allows no value"),
        (wide(3000), "an object has 3000 properties; at most 1000 are supported"),
    ] {
        let said = error(&schema(form.clone()));
        assert!(said.contains(words) && !said.contains("coerce_one_of") && said.len() < 300, "{form}: {said}");
    }
}

#[test]
fn an_object_of_many_properties_can_be_written() {
    let wide = |n: usize| object(Value::Object((0..n).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect()));
    let mut optional = wide(500);
    optional["required"] = json!([]);
    // As the server does: each property is a step of a recursion in the compiler.
    let thread = std::thread::Builder::new().stack_size(16 << 20);
    let said = thread.spawn(move || {
        let mut said = Vec::new();
        for form in [wide(1000), optional] {
            let (json, _) = greedy(compile(&schema(form)), &tokens_in("\",:p1").into_iter().collect(), 1, 100);
            said.push(json);
        }
        said
    });
    assert!(said.unwrap().join().unwrap().iter().all(|json| json.starts_with('{')));
}
