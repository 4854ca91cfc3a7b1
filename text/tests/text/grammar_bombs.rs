//! Sources that are meant to hang or crash a compiler: each is answered, and soon.
//!
//! The bound is on the clock and therefore generous: a debug build on a busy machine must keep it.

use std::time::{Duration, Instant};

use quern_text::{CallChoice, GrammarFactory, GrammarSpec, Tokenizer};
use serde_json::{Value, json};

/// `reliability`: an error within half a second, optimised and on a calm machine.
const SOON: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 500 });

fn factory() -> GrammarFactory {
    let json = include_bytes!("../../../models/quern-demo/tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(json, None).unwrap();
    GrammarFactory::new(&tokenizer, tokenizer.vocab_size(), &[tokenizer.token_id("<|im_end|>").unwrap()]).unwrap()
}

fn nested(depth: usize, wrap: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!({"type": "integer"}), |inner, _| wrap(inner))
}

fn bombs() -> Vec<(&'static str, bool, GrammarSpec)> {
    let schema = GrammarSpec::JsonSchema;
    let regex = |text: String| GrammarSpec::Regex(text);
    let ebnf = |text: String| GrammarSpec::Ebnf(text);
    let doubling = |n: usize| {
        let rules: String = (0..n).map(|i| format!("r{i} ::= r{} r{}\n", i + 1, i + 1)).collect();
        format!("root ::= r0\n{rules}r{n} ::= \"a\" | \"b\"\n")
    };
    let chain = |n: usize| {
        let rules: String = (0..n).map(|i| format!("r{i} ::= \"(\" r{} \")\" | root\n", i + 1)).collect();
        format!("root ::= r0\n{rules}r{n} ::= \"a\"\n")
    };
    let tool = |parameters: Value| GrammarSpec::ToolCalls {
        tools: vec![json!({"name": "f", "parameters": parameters})],
        choice: CallChoice::Required,
        parallel: true,
    };
    let wide = |n: usize| Value::Object((0..n).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect());
    let defs = |n: usize| {
        let step = |i: usize| json!({"type": "object", "properties": {"a": {"$ref": format!("#/$defs/d{}", i + 1)}, "b": {"$ref": format!("#/$defs/d{}", i + 1)}}});
        let mut defs: serde_json::Map<String, Value> = (0..n).map(|i| (format!("d{i}"), step(i))).collect();
        defs.insert(format!("d{n}"), json!({"type": "integer"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    let tower = |n: usize| {
        nested(
            n,
            |inner| json!({"oneOf": [{"type": "object", "properties": {"k": inner.clone()}, "required": ["k"]}, {"type": "array", "items": inner}]}),
        )
    };
    let all_of = |n: usize| {
        let branch = |i: usize| json!({"anyOf": (0..6).map(|j| json!({"type": "object", "properties": {format!("p{i}"): {"const": j}}, "required": [format!("p{i}")]})).collect::<Vec<_>>()});
        json!({"allOf": (0..n).map(branch).collect::<Vec<_>>()})
    };
    vec![
        ("schema: 60,000 values", false, schema(json!({"enum": (0..60_000).collect::<Vec<_>>()}))),
        (
            "schema: 30,000 names",
            true,
            schema(json!({"enum": (0..30_000).map(|i| format!("n{i}")).collect::<Vec<_>>()})),
        ),
        ("schema: 100 levels", false, schema(nested(100, |inner| json!({"items": inner})))),
        ("schema: 60 arrays", true, schema(nested(60, |inner| json!({"type": "array", "items": inner})))),
        ("schema: oneOf tower", true, schema(tower(10))),
        ("schema: product of alternatives", true, schema(all_of(12))),
        ("schema: references that double", true, schema(defs(40))),
        ("schema: reference to itself", true, schema(json!({"$ref": "#"}))),
        (
            "schema: references in a circle",
            true,
            schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})),
        ),
        ("schema: allOf of itself", true, schema(json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}))),
        (
            "schema: anyOf of itself",
            true,
            schema(json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]})),
        ),
        ("schema: remote reference", false, schema(json!({"$ref": "https://example.com/schema.json"}))),
        (
            "schema: pattern with counts",
            true,
            schema(json!({"type": "string", "pattern": "^((a{0,1000}){0,1000}){0,1000}$"})),
        ),
        ("schema: pattern of states", true, schema(json!({"type": "string", "pattern": "^(a|b)*a(a|b){300}$"}))),
        ("schema: pattern of look-ahead", false, schema(json!({"type": "string", "pattern": "^(?=a)b$"}))),
        ("schema: false", false, schema(json!(false))),
        ("schema: not a schema", false, schema(json!({"type": "teapot"}))),
        (
            "schema: many items",
            true,
            schema(json!({"type": "array", "items": {"type": "string", "minLength": 5000}, "minItems": 100_000})),
        ),
        ("schema: long string", true, schema(json!({"type": "string", "minLength": 1_000_000}))),
        ("schema: 20,000 properties", true, schema(json!({"type": "object", "properties": wide(20_000)}))),
        (
            "schema: patternProperties",
            true,
            schema(
                json!({"type": "object", "patternProperties": {"^(a+)+$": {}, "^(b|a)*c$": {}, ".*": {"type": "integer"}}}),
            ),
        ),
        ("regex: groups", false, regex("(".repeat(60_000) + "a" + &")".repeat(60_000))),
        ("regex: unclosed groups", false, regex("(".repeat(60))),
        ("regex: counts of counts", true, regex("(((a{1000}){1000}){1000}){1000}".into())),
        ("regex: classes and counts", true, regex(r"(\w{1,500}\W{1,500}){1,500}".into())),
        ("regex: nested stars", true, regex("^+".into())),
        ("regex: (((a*)*)*)*b", true, regex("(((((a*)*)*)*)*)*b".into())),
        ("regex: alternatives", true, regex((0..20_000).map(|i| format!("w{i}|")).collect::<String>() + "x")),
        ("regex: states", true, regex("(a|b)*a(a|b){500}".into())),
        ("regex: 300 KB", false, regex("a".repeat(300 << 10))),
        ("regex: 200 KB", true, regex("a".repeat(200 << 10))),
        ("regex: back-reference", false, regex(r"(a)\1".into())),
        ("ebnf: groups", false, ebnf(format!("root ::= {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000)))),
        ("ebnf: rules that double", true, ebnf(doubling(40))),
        ("ebnf: recursive rules that double", true, ebnf(doubling(40).replace("\"b\"", "\"b\" root"))),
        ("ebnf: chain", false, ebnf(chain(1500))),
        ("ebnf: shorter chain", true, ebnf(chain(150))),
        ("ebnf: left recursion", true, ebnf("root ::= root \"a\" | root root | \"a\"".into())),
        ("ebnf: nothing but itself", false, ebnf("root ::= root".into())),
        ("ebnf: empty loops", true, ebnf("root ::= (\"\" | root*)* \"a\"?".into())),
        ("ebnf: counts of counts", true, ebnf("root ::= ((\"a\"{9999}){9999}){9999}".into())),
        ("ebnf: counts of recursion", true, ebnf("root ::= (\"a\" root{0,200} \"b\"){0,200}".into())),
        ("ebnf: 5,000 rules", false, ebnf((0..5000).map(|i| format!("r{i} ::= \"a\"\n")).collect())),
        ("ebnf: stars", false, ebnf(format!("root ::= \"a\"{}", "*".repeat(60_000)))),
        (
            "tag: formats",
            false,
            GrammarSpec::StructuralTag(
                json!({"format": nested(40, |inner| json!({"type": "sequence", "elements": [inner]}))}),
            ),
        ),
        ("tools: 1,000 parameters", false, tool(json!({"properties": wide(1000)}))),
        ("tools: 128 parameters", true, tool(json!({"properties": wide(128)}))),
        (
            "tools: reference to itself",
            true,
            tool(json!({"$ref": "#", "properties": {"a": {"$ref": "#/properties/a"}}})),
        ),
        (
            "tools: doubling references",
            true,
            tool(json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs(40)["$defs"]})),
        ),
        (
            "tools: doubling alternatives",
            true,
            tool(
                json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "properties": {"x": {"$ref": "#/$defs/a"}}}),
            ),
        ),
        (
            "tools: doubling alternatives of numbers",
            true,
            tool(
                json!({"$defs": (0..40).map(|i| (format!("d{i}"), if i == 39 { json!({"type": "integer"}) } else { let next = json!({"$ref": format!("#/$defs/d{}", i + 1)}); json!({"anyOf": [next, next]}) })).collect::<serde_json::Map<_, _>>(), "properties": {"x": {"$ref": "#/$defs/d0"}}}),
            ),
        ),
        (
            "tools: alternatives of parameters",
            true,
            tool(json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]})),
        ),
    ]
}

#[test]
fn hostile_sources_are_answered_soon() {
    let mut slow = Vec::new();
    for (name, may_compile, spec) in bombs() {
        let factory = factory();
        // As the server does: such sources are deep for a parser's stack.
        let thread = std::thread::Builder::new().stack_size(16 << 20);
        let (outcome, took) = thread
            .spawn(move || {
                let began = Instant::now();
                let outcome = factory.compile(&spec).map(drop);
                (outcome, began.elapsed())
            })
            .unwrap()
            .join()
            .unwrap();
        println!(
            "{name}: {:.0} ms, {}",
            took.as_secs_f64() * 1e3,
            outcome.as_ref().map_or_else(ToString::to_string, |()| "compiles".into())
        );
        assert!(may_compile || outcome.is_err(), "{name} compiles");
        if let Err(error) = outcome {
            let error = error.to_string();
            assert!(error.len() < 500 && !error.contains(".rs:") && !error.contains('\n'), "{name}: {error}");
        }
        slow.extend((took > SOON).then_some((name, took)));
    }
    assert!(slow.is_empty(), "{slow:?}");
}
