//! Calls of tools in the model's own markup, as a grammar.
//!
//! ```text
//! text <tool_call>⏎<function=NAME>⏎<parameter=K>⏎value⏎</parameter>⏎ … </function>⏎</tool_call> text …
//! ```
//!
//! What the grammar lets through, the ordinary parser (`quern_text::tool`) reads as it was meant: names are
//! declared, required parameters are there, values have their types. So wherever the parser would take an
//! end tag, a head or a line for markup, the grammar allows it only as such:
//!
//! - A call begins with `<function=`, with or without `<tool_call>` before it, since models forget that;
//!   neither of them appears in the text between calls.
//! - Where there must be a call, or one is the only thing that may stand in place of an answer, it begins at once and
//!   with both, nothing but line breaks stands between calls, and the turn ends after the last: a model that may talk
//!   around a call that it was made to write may talk until its limit.
//! - Parameters come in the order of the schema.
//! - A text value ends at the first `⏎</parameter>⏎` that a `<parameter=` or `</function>` follows, and holds
//!   nothing else that ends a value or opens a call in it.
//! - Other values are JSON, or the names of an `enum` as they stand.
//! - A tool with an [`INPUT_GRAMMAR`] takes one text, `input`, that is a sentence of it. A regular one ends where any
//!   text value would; one in Lark may itself write what reads as the value's end, and then ends there.

use serde_json::Value;

use super::{
    bounds, ebnf, json_schema,
    lark::{Lark, literal, one_of, regex},
    spec::{CallChoice, GrammarSpec},
    structural_tag,
    tool_parameters::{self, ANY_TEXT, MARKUP, Parameters, check_name},
};

/// Most tools.
const MAX_TOOLS: usize = 512;

/// What text between calls cannot hold: the beginning of a call, and thoughts; nor, at its own beginning,
/// markup after which the call before it would not have ended.
const BEGINS_CALL: &str =
    concat!(r"(?s:.*(<tool_call>|<function=|</?think>).*", r"|\s*(<parameter=|</(parameter|function|tool_call)).*)",);

/// The key, beside a tool's `function`, of `{syntax, definition}`: what the tool's only parameter, `input`, obeys.
/// `syntax` is `lark` (llguidance's dialect, as OpenAI's custom tools have it) or `regex`.
pub const INPUT_GRAMMAR: &str = "input_grammar";

/// The grammar of an answer that calls `tools`.
pub(super) fn to_lark(mut lark: Lark, tools: &[Value], choice: &CallChoice, parallel: bool) -> Result<String, String> {
    let tools = declared(tools)?;
    if let CallChoice::Named(name) = choice {
        let tool = tools.iter().find(|tool| tool.name == name).ok_or_else(|| format!("no tool is named {name}"))?;
        let call = call_rule(&mut lark, tool, true)?;
        let head = literal("<tool_call>\n<function=");
        return Ok(lark.finish(&format!("{head} {call}")));
    }
    let strict_only = *choice != CallChoice::Required;
    let bodies = tools.iter().map(|tool| call_rule(&mut lark, tool, tool.strict || !strict_only));
    let call = calls_rule(bodies.collect::<Result<Vec<_>, _>>()?, &mut lark);
    // Nothing but calls, beginning at once.
    let begin = literal("<tool_call>\n<function=");
    let gap = regex("\n{1,2}");
    // The gap may be the end: after a line break that it did not mean, a model must not have to make another call.
    let more = if parallel { format!(" ({gap} {begin} {call})* {gap}?") } else { String::new() };
    let only_calls = format!("{begin} {call}{more}");
    match choice {
        CallChoice::Required => return Ok(lark.finish(&only_calls)),
        CallChoice::OrAnswer(answer) => {
            let answer = answer_rule(&mut lark, answer)?;
            return Ok(lark.finish(&format!("{answer} | {only_calls}")));
        }
        CallChoice::Named(_) | CallChoice::AutoStrict => {}
    }
    let text = format!("{} & ~{}", regex(ANY_TEXT), regex(BEGINS_CALL));
    let text = lark.terminal(&text);
    let head = lark.until(&text, &regex("(<tool_call>\n)?<function="));
    let start = match parallel {
        false => format!("{head} {call} | {text}?"),
        true => format!("({head} {call})* {text}?"),
    };
    Ok(lark.finish(&start))
}

/// The rule of an answer that calls nothing.
fn answer_rule(lark: &mut Lark, answer: &GrammarSpec) -> Result<String, String> {
    match answer {
        GrammarSpec::JsonObject => json_schema::any_object(lark),
        GrammarSpec::JsonSchema(schema) => {
            bounds::schema(schema)?;
            json_schema::rule(lark, schema, schema)
        }
        GrammarSpec::Regex(expression) => {
            bounds::regex(expression)?;
            Ok(if expression.is_empty() { literal("") } else { lark.terminal_rule(expression) })
        }
        GrammarSpec::Ebnf(source) => Ok(lark.nested(&ebnf::to_lark(source)?)),
        GrammarSpec::StructuralTag(tag) => {
            bounds::schema(tag)?;
            let nested = structural_tag::to_lark(Lark::new(lark.blanks()), tag)?;
            Ok(lark.nested(&nested))
        }
        GrammarSpec::ToolCalls { .. } => Err("an answer cannot consist of calls".into()),
    }
}

fn calls_rule(bodies: Vec<String>, lark: &mut Lark) -> String {
    lark.rule(&one_of(&bodies))
}

/// A tool as its definition has it.
struct Tool<'a> {
    name: &'a str,
    strict: bool,
    parameters: Parameters,
    input: Option<&'a Value>,
}

fn declared(tools: &[Value]) -> Result<Vec<Tool<'_>>, String> {
    let mut declared: Vec<Tool<'_>> = Vec::new();
    for tool in tools {
        let function = tool.get("function").filter(|f| f.is_object()).unwrap_or(tool);
        let Some(name) = function.get("name").and_then(Value::as_str) else { continue };
        check_name("tool", name)?;
        if declared.iter().any(|tool| tool.name == name) {
            continue;
        }
        let input = tool.get(INPUT_GRAMMAR);
        let strict = input.is_some() || function.get("strict") == Some(&Value::Bool(true));
        let parameters = Parameters::of(function.get("parameters").unwrap_or(&Value::Null));
        declared.push(Tool { name, strict, parameters, input });
    }
    match declared.len() {
        0 => Err("no tools are declared".into()),
        tools if tools > MAX_TOOLS => Err(format!("{tools} tools; at most {MAX_TOOLS} can be constrained")),
        _ => Ok(declared),
    }
}

/// What follows `<function=` in a call of `tool`.
fn call_rule(lark: &mut Lark, tool: &Tool<'_>, strict: bool) -> Result<String, String> {
    let head = literal(&format!("{}>\n", tool.name));
    if !strict {
        let text = lark.terminal(&regex(ANY_TEXT));
        let rest = lark.until(&text, &literal("</function>\n</tool_call>"));
        return Ok(lark.rule(&format!("{head} {rest}")));
    }
    let about = |cause| format!("tool {}: {cause}", tool.name);
    if let Some(grammar) = tool.input {
        let input = input_rule(lark, grammar).map_err(about)?;
        return Ok(lark.rule(&format!("{head} {input} {}", literal("\n</tool_call>"))));
    }
    let parameters = tool_parameters::rule(lark, &tool.parameters, "</function>").map_err(about)?;
    Ok(lark.rule(&format!("{head} {parameters} {}", literal("\n</tool_call>"))))
}

/// The only parameter of a call, under a grammar of its own, and the end of the function.
fn input_rule(lark: &mut Lark, grammar: &Value) -> Result<String, String> {
    const END: &str = "\n</parameter>\n</function>";
    let text = |key: &str| grammar[key].as_str().ok_or_else(|| format!("{key}: a text is wanted"));
    let (syntax, definition) = (text("syntax")?, text("definition")?);
    let value = match syntax {
        "regex" => {
            bounds::regex(definition)?;
            // Here, where the tool's name can be said.
            regex_syntax::parse(definition).map_err(|cause| match cause {
                regex_syntax::Error::Parse(cause) => format!("its regular expression: {}", cause.kind()),
                cause => format!("its regular expression: {cause}"),
            })?;
            let expression = if definition.is_empty() { literal("") } else { regex(definition) };
            let body = lark.terminal(&format!("{expression} & ~{}", regex(MARKUP)));
            lark.until(&body, &literal(END))
        }
        "lark" => {
            bounds::source(definition)?;
            format!("{} {}", lark.nested(definition), literal(END))
        }
        other => return Err(format!("syntax {other:?} is not supported; lark and regex are")),
    };
    Ok(format!("{} {value}", literal("<parameter=input>\n")))
}
