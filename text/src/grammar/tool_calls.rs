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
//!   neither of them appears in the text between calls. Where there must be a call, or one is the only thing
//!   that may stand in place of an answer, it begins at once and with both.
//! - Parameters come in the order of the schema.
//! - A text value ends at the first `⏎</parameter>⏎` that a `<parameter=` or `</function>` follows, and holds
//!   nothing else that ends a value or opens a call in it.
//! - Other values are JSON, or the names of an `enum` as they stand.
//! - A tool with an [`INPUT_GRAMMAR`] takes one text, `input`, that is a sentence of it. A regular one ends where any
//!   text value would; one in Lark may itself write what reads as the value's end, and then ends there.

use serde_json::{Value, json};

use super::{
    bounds, ebnf, json_schema,
    lark::{Lark, literal, one_of, regex},
    spec::{CallChoice, GrammarSpec},
    structural_tag,
};

/// Most parameters of one tool: each is a step of a recursion in llguidance's compiler.
const MAX_PARAMETERS: usize = 128;

/// Most tools.
const MAX_TOOLS: usize = 512;

/// Nesting of references and alternatives in one schema.
const MAX_DEPTH: usize = 32;

/// Schemas looked at for one tool. Real tools have tens; references that double end here.
const MAX_VISITS: usize = 4096;

/// What text between calls cannot hold: the beginning of a call, and thoughts; nor, at its own beginning,
/// markup after which the call before it would not have ended.
const BEGINS_CALL: &str =
    concat!(r"(?s:.*(<tool_call>|<function=|</?think>).*", r"|\s*(<parameter=|</(parameter|function|tool_call)).*)",);

/// What a text value cannot hold, because the parser takes it for markup.
const MARKUP: &str = concat!(
    r"(?s:.*</parameter[^<>\s]*>?\s*(<parameter=|</function>|</tool_call>).*",
    r"|(.*\n)?(<parameter=|</function>|</tool_call>).*",
    r"|.*<function=.*)",
);

const ANY_TEXT: &str = "(?s:.*)";

/// The key, beside a tool's `function`, of `{syntax, definition}`: what the tool's only parameter, `input`, obeys.
/// `syntax` is `lark` (llguidance's dialect, as OpenAI's custom tools have it) or `regex`.
pub const INPUT_GRAMMAR: &str = "input_grammar";

/// The grammar of an answer that calls `tools`.
pub(super) fn to_lark(lark: Lark, tools: &[Value], choice: &CallChoice, parallel: bool) -> Result<String, String> {
    let mut calls = ToolCallWriter { lark };
    let tools = declared(tools)?;
    if let CallChoice::Named(name) = choice {
        let tool = tools.iter().find(|tool| tool.name == name).ok_or_else(|| format!("no tool is named {name}"))?;
        let call = calls.call(tool, true)?;
        let head = literal("<tool_call>\n<function=");
        return Ok(calls.lark.finish(&format!("{head} {call}")));
    }
    let strict_only = *choice != CallChoice::Required;
    let bodies = tools.iter().map(|tool| calls.call(tool, tool.strict || !strict_only));
    let call = calls_rule(bodies.collect::<Result<Vec<_>, _>>()?, &mut calls.lark);
    let begin = literal("<tool_call>\n<function=");
    if let CallChoice::OrAnswer(answer) = choice {
        let answer = answer_rule(&mut calls.lark, answer)?;
        let more = format!("{} {begin} {call}", regex("\n{1,2}"));
        let more = if parallel { format!(" ({more})*") } else { String::new() };
        return Ok(calls.lark.finish(&format!("{answer} | {begin} {call}{more}")));
    }
    let text = format!("{} & ~{}", regex(ANY_TEXT), regex(BEGINS_CALL));
    let text = calls.lark.terminal(&text);
    let head = calls.lark.until(&text, &regex("(<tool_call>\n)?<function="));
    let start = match (choice, parallel) {
        (CallChoice::Required, false) => format!("{begin} {call}"),
        (CallChoice::Required, true) => format!("{begin} {call} ({head} {call})* {text}?"),
        (_, false) => format!("{head} {call} | {text}?"),
        (_, true) => format!("({head} {call})* {text}?"),
    };
    Ok(calls.lark.finish(&start))
}

/// The grammar of one call's parameters under `schema`, up to and including `</function>`'s place: for
/// structural tags that say `qwen_xml_parameter`. `end` follows the last parameter.
pub(super) fn parameters(lark: &mut Lark, schema: &Value, end: &str) -> Result<String, String> {
    let mut calls = ToolCallWriter { lark: std::mem::take(lark) };
    let parameters = Parameters::of(schema);
    let rule = calls.parameters(&parameters, end);
    *lark = calls.lark;
    rule
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

/// A name must survive in a tag.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    const MAX_BYTES: usize = 256;
    if name.is_empty() || name.len() > MAX_BYTES || name.contains(['<', '>', '\n', '\r']) {
        let shown: String = name.chars().take(40).collect();
        return Err(format!("the {what} name {shown:?} cannot be written in a tag"));
    }
    Ok(())
}

/// What a tool takes.
struct Parameters {
    /// The whole schema, which references point into.
    root: Value,
    /// Name and schema, in order.
    known: Vec<(String, Value)>,
    required: Vec<String>,
    /// Others may be given too, and none are known.
    open: bool,
}

impl Parameters {
    fn of(root: &Value) -> Self {
        let mut this = Self { root: root.clone(), known: Vec::new(), required: Vec::new(), open: false };
        this.collect(root, 0, true, &mut 0);
        this.required.retain(|name| this.known.iter().any(|(known, _)| known == name));
        this.open = this.known.is_empty()
            && root.is_object()
            && root.get("additionalProperties").is_some_and(|more| more != false);
        this
    }

    /// Add the properties of `schema` and of what it refers to; of one name the first counts. Alternatives
    /// add theirs as optional ones.
    fn collect(&mut self, schema: &Value, depth: usize, certain: bool, visits: &mut usize) {
        *visits += 1;
        if depth > MAX_DEPTH || *visits > MAX_VISITS || self.known.len() > MAX_PARAMETERS {
            return;
        }
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if !self.known.iter().any(|(known, _)| known == name) {
                self.known.push((name.clone(), schema.clone()));
            }
        }
        if certain {
            let names = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            self.required.extend(names.filter_map(Value::as_str).map(String::from));
        }
        if let Some(target) = resolve(&self.root, schema).cloned() {
            self.collect(&target, depth + 1, certain, visits);
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for branch in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.collect(branch, depth + 1, certain && key == "allOf", visits);
            }
        }
    }
}

/// The schema that `schema` refers to.
fn resolve<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

struct ToolCallWriter {
    lark: Lark,
}

impl ToolCallWriter {
    /// What follows `<function=` in a call of `tool`.
    fn call(&mut self, tool: &Tool<'_>, strict: bool) -> Result<String, String> {
        let head = literal(&format!("{}>\n", tool.name));
        if !strict {
            let text = self.lark.terminal(&regex(ANY_TEXT));
            let rest = self.lark.until(&text, &literal("</function>\n</tool_call>"));
            return Ok(self.lark.rule(&format!("{head} {rest}")));
        }
        let about = |cause| format!("tool {}: {cause}", tool.name);
        if let Some(grammar) = tool.input {
            let input = self.input(grammar).map_err(about)?;
            return Ok(self.lark.rule(&format!("{head} {input} {}", literal("\n</tool_call>"))));
        }
        let parameters = self.parameters(&tool.parameters, "</function>").map_err(about)?;
        Ok(self.lark.rule(&format!("{head} {parameters} {}", literal("\n</tool_call>"))))
    }

    /// The only parameter of a call, under a grammar of its own, and the end of the function.
    fn input(&mut self, grammar: &Value) -> Result<String, String> {
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
                let body = self.lark.terminal(&format!("{expression} & ~{}", regex(MARKUP)));
                self.lark.until(&body, &literal(END))
            }
            "lark" => {
                bounds::source(definition)?;
                format!("{} {}", self.lark.nested(definition), literal(END))
            }
            other => return Err(format!("syntax {other:?} is not supported; lark and regex are")),
        };
        Ok(format!("{} {value}", literal("<parameter=input>\n")))
    }

    /// All parameters of a call and the `end` after the last.
    fn parameters(&mut self, parameters: &Parameters, end: &str) -> Result<String, String> {
        if parameters.known.len() > MAX_PARAMETERS {
            return Err(format!("it has more than {MAX_PARAMETERS} parameters"));
        }
        if parameters.open {
            return Ok(self.any_parameters(end));
        }
        // Backwards, since each leads to the next. `enter`: what may follow `<parameter=` from here on;
        // `may_end`: no required one is left.
        let mut enter: Option<String> = None;
        let mut may_end = true;
        for (name, schema) in parameters.known.iter().rev() {
            check_name("parameter", name)?;
            let value = self.value(&parameters.root, schema, enter.as_deref(), may_end, end);
            let value = value.map_err(|cause| format!("parameter {name}: {cause}"))?;
            let this = self.lark.rule(&format!("{} {value}", literal(&format!("{name}>\n"))));
            let required = parameters.required.contains(name);
            enter = Some(match enter {
                Some(later) if !required => self.lark.rule(&format!("{this} | {later}")),
                _ => this,
            });
            may_end &= !required;
        }
        let mut options = Vec::new();
        options.extend(enter.map(|enter| format!("{} {enter}", literal("<parameter="))));
        options.extend(may_end.then(|| literal(end)));
        Ok(self.lark.rule(&one_of(&options)))
    }

    /// Parameters of which the schema says nothing.
    fn any_parameters(&mut self, end: &str) -> String {
        let body = self.text_body();
        let again = self.lark.forward();
        let name = regex("[A-Za-z_][A-Za-z0-9_.-]{0,63}>\n");
        let more = self.lark.until(&body, &literal("\n</parameter>\n<parameter="));
        let last = self.lark.until(&body, &literal(&format!("\n</parameter>\n{end}")));
        self.lark.define_forward(&again, &format!("{name} ({more} {again} | {last})"));
        self.lark.rule(&format!("{} {again} | {}", literal("<parameter="), literal(end)))
    }

    /// A value and what follows it: `enter` after another `<parameter=`, or the end of the call.
    fn value(
        &mut self,
        root: &Value,
        schema: &Value,
        enter: Option<&str>,
        may_end: bool,
        end: &str,
    ) -> Result<String, String> {
        let close = "\n</parameter>\n";
        let mut options = Vec::new();
        match kind(root, schema, 0, &mut 0) {
            ValueSyntax::Text => {
                let body = self.text_body();
                if let Some(enter) = enter {
                    let more = self.lark.until(&body, &literal(&format!("{close}<parameter=")));
                    options.push(format!("{more} {enter}"));
                }
                if may_end {
                    options.push(self.lark.until(&body, &literal(&format!("{close}{end}"))));
                }
                Ok(one_of(&options))
            }
            ValueSyntax::Written { texts, json } => {
                let mut values = Vec::new();
                if !texts.is_empty() {
                    // With the tag in one terminal, so that a text may begin like another.
                    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
                    values.push(self.lark.terminal(&format!("{} {}", one_of(&texts), literal(close))));
                }
                if !json.is_empty() {
                    let schema = if json.len() == 1 { json[0].clone() } else { json!({"anyOf": json}) };
                    let json = json_schema::rule(&mut self.lark, root, &schema)?;
                    values.push(self.lark.rule(&format!("{json} {}", literal(close))));
                }
                options.extend(enter.map(|enter| format!("{} {enter}", literal("<parameter="))));
                options.extend(may_end.then(|| literal(end)));
                Ok(format!("{} {}", one_of(&values), one_of(&options)))
            }
        }
    }

    fn text_body(&mut self) -> String {
        self.lark.terminal(&format!("{} & ~{}", regex(ANY_TEXT), regex(MARKUP)))
    }
}

/// How a value is written.
enum ValueSyntax {
    /// As it is.
    Text,
    /// As one of these texts, or as JSON under one of these schemas.
    Written { texts: Vec<String>, json: Vec<Value> },
}

/// How values of `schema` are written. Whatever may be any text is text: so the parser takes it, too.
fn kind(root: &Value, schema: &Value, depth: usize, visits: &mut usize) -> ValueSyntax {
    *visits += 1;
    let within = depth <= MAX_DEPTH && *visits <= MAX_VISITS;
    let Some(fields) = schema.as_object().filter(|_| within) else { return ValueSyntax::Text };
    if let Some(values) = fields.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
        return enumerated(values);
    }
    if let Some(value) = fields.get("const") {
        return enumerated(std::slice::from_ref(value));
    }
    if let Some(target) = resolve(root, schema) {
        return kind(root, target, depth + 1, visits);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(branches) = fields.get(key).and_then(Value::as_array).filter(|branches| !branches.is_empty()) {
            let (mut all_texts, mut all_json) = (Vec::new(), Vec::new());
            for branch in branches {
                match kind(root, branch, depth + 1, visits) {
                    ValueSyntax::Text => return ValueSyntax::Text,
                    ValueSyntax::Written { texts, json } => {
                        all_texts.extend(texts);
                        all_json.extend(json);
                    }
                }
            }
            return ValueSyntax::Written { texts: all_texts, json: all_json };
        }
    }
    let is_json =
        |name: &Value| matches!(name.as_str(), Some("integer" | "number" | "boolean" | "object" | "array" | "null"));
    let json = match fields.get("type") {
        Some(Value::Array(names)) => !names.is_empty() && names.iter().all(is_json),
        Some(name) => is_json(name),
        None => {
            let branches = fields.get("allOf").and_then(Value::as_array).into_iter().flatten();
            let special = branches
                .map(|branch| kind(root, branch, depth + 1, visits))
                .find(|k| matches!(k, ValueSyntax::Written { .. }));
            match special {
                Some(ValueSyntax::Written { texts, .. }) if !texts.is_empty() => {
                    return ValueSyntax::Written { texts, json: Vec::new() };
                }
                Some(_) => true,
                None => ["properties", "items", "prefixItems"].iter().any(|key| fields.contains_key(*key)),
            }
        }
    };
    if json { ValueSyntax::Written { texts: Vec::new(), json: vec![schema.clone()] } } else { ValueSyntax::Text }
}

fn enumerated(values: &[Value]) -> ValueSyntax {
    let texts = values.iter().filter_map(Value::as_str).map(String::from).collect();
    let json: Vec<Value> = values.iter().filter(|value| !value.is_string()).cloned().collect();
    ValueSyntax::Written { texts, json: if json.is_empty() { Vec::new() } else { vec![json!({"enum": json})] } }
}
