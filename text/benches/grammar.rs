//! What constrained output costs: making the factory, compiling, a mask, a token taken.
//!
//! `cargo bench -p quern-text --bench grammar`, with the real vocabulary from the reference fixtures where it
//! is present and the shipped one otherwise. Each text is said token by token twice: by a grammar just
//! compiled, and by one from the cache. Times are of one thread.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use quern_text::{CallChoice, GrammarFactory, GrammarMatcher, GrammarSpec, Specials, Tokenizer};
use serde_json::json;

fn main() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let fixtures = std::env::var_os("QUERN_SHARED").map_or(default, PathBuf::from).join("oracle/tokenizer");
    let (tokenizer, rows) = if fixtures.is_dir() {
        (Tokenizer::from_dir(&fixtures).expect("the fixtures' tokenizer"), 151_936)
    } else {
        eprintln!("no reference fixtures: the shipped vocabulary");
        let json = include_bytes!("../../models/quern-demo/tokenizer.json");
        let config = include_bytes!("../../models/quern-demo/tokenizer_config.json");
        let tokenizer = Tokenizer::from_bytes(json, Some(config)).expect("the shipped tokenizer");
        let rows = tokenizer.vocab_size();
        (tokenizer, rows)
    };
    let eos = tokenizer.eos_id().expect("an end-of-sequence token");
    let began = Instant::now();
    let factory = GrammarFactory::new(&tokenizer, rows, &[eos]).expect("a vocabulary");
    println!("factory for {rows} rows: {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    println!("{:<22} {:>6} {:>9} {:>9} | {:^23} | {:^23}", "", "", "compile", "cached", "mask, µs", "accept, µs");
    println!(
        "{:<22} {:>6} {:>9} {:>9} | {:>7} {:>7} {:>7} | {:>7} {:>7} {:>7}",
        "", "tokens", "ms", "ms", "p50", "p99", "max", "p50", "p99", "max"
    );
    for (name, spec, text) in cases() {
        let tokens = tokenizer.encode(&text, Specials::AsText);
        let began = Instant::now();
        let fresh = factory.compile(&spec).expect("it compiles");
        let compiled = began.elapsed().as_secs_f64() * 1e3;
        let began = Instant::now();
        let cached = factory.compile(&spec).expect("it compiles");
        let cloned = began.elapsed().as_secs_f64() * 1e3;
        for (which, grammar) in [("fresh", fresh), ("cached", cached)] {
            let (masks, accepts) = say(grammar, &tokens);
            let [m, a] = [masks, accepts]
                .map(|times| format!("{:>7.1} {:>7.1} {:>7.1}", at(&times, 0.5), at(&times, 0.99), at(&times, 1.0)));
            println!(
                "{:<22} {:>6} {compiled:>9.2} {cloned:>9.2} | {m} | {a}",
                format!("{name}, {which}"),
                tokens.len()
            );
        }
    }
}

/// Times of masks and of tokens taken, sorted, in microseconds.
fn say(mut grammar: GrammarMatcher, tokens: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let (mut masks, mut accepts) = (Vec::new(), Vec::new());
    for &token in tokens {
        let began = Instant::now();
        let mask = grammar.mask().expect("a mask");
        masks.push(began.elapsed().as_secs_f64() * 1e6);
        assert!(mask[token as usize / 32] >> (token % 32) & 1 == 1, "token {token} is not allowed");
        let began = Instant::now();
        grammar.accept(token).expect("an allowed token");
        accepts.push(began.elapsed().as_secs_f64() * 1e6);
    }
    masks.sort_by(f64::total_cmp);
    accepts.sort_by(f64::total_cmp);
    (masks, accepts)
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * quantile) as usize]
}

fn cases() -> Vec<(&'static str, GrammarSpec, String)> {
    let schema = json!({"type": "object", "properties": {
        "title": {"type": "string"}, "kind": {"enum": ["bug", "feature", "question"]},
        "priority": {"type": "integer", "minimum": 1, "maximum": 5}, "lines": {"type": "array", "items": {"type": "integer"}},
    }, "required": ["title", "kind", "priority", "lines"], "additionalProperties": false});
    let record = json!({"title": "The parser loses the last line of a file that does not end with a line break", "kind": "bug",
        "priority": 3, "lines": (0..40).map(|i| i * 37).collect::<Vec<_>>()});
    let code: String =
        (0..60).map(|i| format!("    if (a[{i}] < b->value && c != \"x{i}\") {{ total += {i} * scale; }}\n")).collect();
    let tools = vec![
        json!({"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {
            "path": {"type": "string"}, "content": {"type": "string"}, "mode": {"type": "integer"}}, "required": ["path", "content"]}}}),
        json!({"type": "function", "function": {"name": "list_files", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}}),
    ];
    let call = format!(
        "I will write the file now.\n\n<tool_call>\n<function=write_file>\n<parameter=path>\nsrc/main.c\n</parameter>\n<parameter=content>\n{code}\n</parameter>\n<parameter=mode>\n420\n</parameter>\n</function>\n</tool_call>"
    );
    let calls = |choice, parallel| GrammarSpec::ToolCalls { tools: tools.clone(), choice, parallel };
    let gbnf = "root ::= object\nvalue ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n\
        object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\n\
        array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n\
        string ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" [0-9a-fA-F]{4}))* \"\\\"\" ws\n\
        number ::= \"-\"? ([0-9] | [1-9] [0-9]*) (\".\" [0-9]+)? ws\nws ::= [ \\t\\n]*\n";
    vec![
        ("json object", GrammarSpec::JsonObject, record.to_string()),
        ("json schema", GrammarSpec::JsonSchema(schema), record.to_string()),
        (
            "regex",
            GrammarSpec::Regex("([a-z]+(, [a-z]+)*[.!?] ?)+".into()),
            "one, two, three. four five? ".replace(" five", "").repeat(20),
        ),
        ("ebnf (json)", GrammarSpec::Ebnf(gbnf.into()), record.to_string()),
        ("tools, required", calls(CallChoice::Required, true), call.clone()),
        ("tools, auto strict", calls(CallChoice::AutoStrict, true), call),
    ]
}
