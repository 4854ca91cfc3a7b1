//! The parameters of one call in the model's own markup, as a grammar: from the first `<parameter=` to what follows the
//! last. What its values cannot hold, [`tool_calls`](super::tool_calls) says.

use serde_json::{Value, json};

use super::{
    json_schema,
    lark::{Lark, literal, one_of, regex},
};

/// Most parameters of one tool: each is a step of a recursion in llguidance's compiler.
const MAX_PARAMETERS: usize = 128;

/// Nesting of references and alternatives in one schema.
const MAX_DEPTH: usize = 32;

/// Schemas looked at for one tool. Real tools have tens; references that double end here.
const MAX_VISITS: usize = 4096;

/// What a text value cannot hold, because the parser takes it for markup.
pub(super) const MARKUP: &str = concat!(
    r"(?s:.*</parameter[^<>\s]*>?\s*(<parameter=|</function>|</tool_call>).*",
    r"|(.*\n)?(<parameter=|</function>|</tool_call>).*",
    r"|.*<function=.*)",
);

/// Any text.
pub(super) const ANY_TEXT: &str = "(?s:.*)";

/// A name must survive in a tag.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    const MAX_BYTES: usize = 256;
    if name.is_empty() || name.len() > MAX_BYTES || name.contains(['<', '>', '\n', '\r']) {
        let shown: String = name.chars().take(40).collect();
        return Err(format!("the {what} name {shown:?} cannot be written in a tag"));
    }
    Ok(())
}

/// What a tool takes.
pub(super) struct Parameters {
    /// The whole schema, which references point into.
    root: Value,
    /// Name and schema, in order.
    known: Vec<(String, Value)>,
    required: Vec<String>,
    /// Others may be given too, and none are known.
    open: bool,
}

impl Parameters {
    /// As `root`, the schema of a tool's parameters, says.
    pub(super) fn of(root: &Value) -> Self {
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

/// All parameters of a call and the `end` after the last.
pub(super) fn rule(lark: &mut Lark, parameters: &Parameters, end: &str) -> Result<String, String> {
    if parameters.known.len() > MAX_PARAMETERS {
        return Err(format!("it has more than {MAX_PARAMETERS} parameters"));
    }
    if parameters.open {
        return Ok(any_parameters(lark, end));
    }
    // Backwards, since each leads to the next. `enter`: what may follow `<parameter=` from here on;
    // `may_end`: no required one is left.
    let mut enter: Option<String> = None;
    let mut may_end = true;
    for (name, schema) in parameters.known.iter().rev() {
        check_name("parameter", name)?;
        let value = value(lark, &parameters.root, schema, enter.as_deref(), may_end, end);
        let value = value.map_err(|cause| format!("parameter {name}: {cause}"))?;
        let this = lark.rule(&format!("{} {value}", literal(&format!("{name}>\n"))));
        let required = parameters.required.contains(name);
        enter = Some(match enter {
            Some(later) if !required => lark.rule(&format!("{this} | {later}")),
            _ => this,
        });
        may_end &= !required;
    }
    let mut options = Vec::new();
    options.extend(enter.map(|enter| format!("{} {enter}", literal("<parameter="))));
    options.extend(may_end.then(|| literal(end)));
    Ok(lark.rule(&one_of(&options)))
}

/// Parameters of which the schema says nothing.
fn any_parameters(lark: &mut Lark, end: &str) -> String {
    let body = text_body(lark);
    let again = lark.forward();
    let name = regex("[A-Za-z_][A-Za-z0-9_.-]{0,63}>\n");
    let more = lark.until(&body, &literal("\n</parameter>\n<parameter="));
    let last = lark.until(&body, &literal(&format!("\n</parameter>\n{end}")));
    lark.define_forward(&again, &format!("{name} ({more} {again} | {last})"));
    lark.rule(&format!("{} {again} | {}", literal("<parameter="), literal(end)))
}

/// A value and what follows it: `enter` after another `<parameter=`, or the end of the call.
fn value(
    lark: &mut Lark,
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
            let body = text_body(lark);
            if let Some(enter) = enter {
                let more = lark.until(&body, &literal(&format!("{close}<parameter=")));
                options.push(format!("{more} {enter}"));
            }
            if may_end {
                options.push(lark.until(&body, &literal(&format!("{close}{end}"))));
            }
            Ok(one_of(&options))
        }
        ValueSyntax::Written { texts, json } => {
            let mut values = Vec::new();
            if !texts.is_empty() {
                // With the tag in one terminal, so that a text may begin like another.
                let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
                values.push(lark.terminal(&format!("{} {}", one_of(&texts), literal(close))));
            }
            if !json.is_empty() {
                let schema = if json.len() == 1 { json[0].clone() } else { json!({"anyOf": json}) };
                let json = json_schema::rule(lark, root, &schema)?;
                values.push(lark.rule(&format!("{json} {}", literal(close))));
            }
            options.extend(enter.map(|enter| format!("{} {enter}", literal("<parameter="))));
            options.extend(may_end.then(|| literal(end)));
            Ok(format!("{} {}", one_of(&values), one_of(&options)))
        }
    }
}

fn text_body(lark: &mut Lark) -> String {
    lark.terminal(&format!("{} & ~{}", regex(ANY_TEXT), regex(MARKUP)))
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
