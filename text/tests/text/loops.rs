//! Models that repeat themselves under a grammar: their outputs end all the same.

use crate::support::{Dice, ROWS, TOKENIZER, allowed, compile, eos, text, tokens_in};
use quern_text::{CallChoice, GrammarFactory, GrammarMatcher, GrammarSpec};
use serde_json::{Value, json};

/// What a model says that goes through `loops`, saying each as often as it may before it takes any token,
/// one that begins with `liked` if it may, and turns to the next; and whether it ended.
fn stubborn(mut grammar: GrammarMatcher, loops: &[&str], liked: &str, limit: usize) -> (String, bool) {
    let mut dice = Dice(7);
    let mut units = loops.iter().map(|unit| tokens_in(unit)).cycle();
    let (mut unit, mut place) = (units.next().unwrap(), 0);
    let mut said = Vec::new();
    while said.len() < limit {
        let mask = allowed(&grammar.mask().unwrap());
        assert!(!mask.is_empty(), "nothing may follow {:?}", text(&said));
        let token = if mask.contains(&unit[place]) {
            place = (place + 1) % unit.len();
            unit[(place + unit.len() - 1) % unit.len()]
        } else {
            (unit, place) = (units.next().unwrap(), 0);
            let is_liked = |id: &u32| TOKENIZER.token_bytes(*id).is_some_and(|b| b.starts_with(liked.as_bytes()));
            let liked: Vec<u32> = mask.iter().copied().filter(is_liked).collect();
            let from = if liked.is_empty() { &mask } else { &liked };
            from[dice.roll(from.len())]
        };
        let ended = grammar.accept(token).unwrap();
        said.extend((token != eos()).then_some(token));
        if ended {
            return (text(&said), true);
        }
    }
    (text(&said), false)
}

fn of_type(schema: Value) -> GrammarSpec {
    GrammarSpec::JsonSchema(json!({"type": "object", "properties": {"a": schema}, "required": ["a"],
        "additionalProperties": false}))
}

#[test]
fn json_of_a_model_that_loops_is_complete() {
    let loops: [&[&str]; 5] =
        [&["results"], &[";"], &["a b c, "], &["results", ";", "x"], &["{\"a\":", "[1,", "\"b\","]];
    let list = json!({"type": "array", "items": {"type": "string"}});
    let tree = json!({"$ref": "#/$defs/tree"});
    let tree = json!({"type": "object", "properties": {"tree": tree}, "required": ["tree"],
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}});
    for spec in
        [of_type(json!({"type": "string"})), of_type(list), GrammarSpec::JsonSchema(tree), GrammarSpec::JsonObject]
    {
        // Tokens such as `", "` end a string and begin another one.
        for (loops, liked) in loops.iter().flat_map(|loops| [(loops, ""), (loops, "\","), (loops, "\":")]) {
            let (said, ended) = stubborn(compile(&spec), loops, liked, 4000);
            assert!(ended, "{spec:?} {loops:?} {liked}: {said:?}");
            assert!(serde_json::from_str::<Value>(&said).is_ok(), "{said}");
        }
    }
}

#[test]
fn calls_of_a_model_that_loops_are_complete() {
    let parameters = json!({"type": "object", "required": ["path", "text"], "properties": {
        "path": {"type": "string"}, "text": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}}});
    let tools = vec![json!({"type": "function", "function": {"name": "store", "parameters": parameters}})];
    for choice in [CallChoice::Required, CallChoice::Named("store".into())] {
        let spec = GrammarSpec::ToolCalls { tools: tools.clone(), choice, parallel: false };
        for loops in [&["results"][..], &["results", "a b c, ", ";"]] {
            let (said, ended) = stubborn(compile(&spec), loops, "\n</parameter>", 4000);
            assert!(ended && said.ends_with("</function>\n</tool_call>"), "{said:?}");
            assert!(said.contains("<parameter=path>") && said.contains("<parameter=text>"), "{said:?}");
        }
    }
}

#[test]
fn repetition_below_the_bound_and_where_the_output_may_end_is_untouched() {
    let zeros = format!("{{\"a\":\"{}\"}}", "0, ".repeat(GrammarFactory::MAX_REPEATS));
    let rows = format!("{{\"a\":\"{}\"}}", "<td></td><td>x</td>".repeat(20));
    for json in [zeros, rows] {
        assert!(crate::support::matches(&of_type(json!({"type": "string"})), &json), "{json}");
    }
    let (said, ended) = stubborn(compile(&GrammarSpec::Regex("[a-z]+".into())), &["results"], "", 500);
    assert!(!ended && said == "results".repeat(said.len() / 7), "{said:?}");
}

#[test]
fn an_operator_may_let_it_loop() {
    let factory = GrammarFactory::new(&TOKENIZER, ROWS, &[eos()]).unwrap().with_max_repeats(0);
    let grammar = factory.compile(&of_type(json!({"type": "string"}))).unwrap();
    let (said, ended) = stubborn(grammar, &["results"], "", 1000);
    assert!(!ended && said.contains(&"results".repeat(100)), "{said:?}");
}
