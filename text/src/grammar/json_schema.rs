//! JSON under a schema, as rules of a [`Lark`]: every gap and every number has a bound.
//!
//! A constrained model ends its answer only where the grammar lets it, so whatever may go on for ever will,
//! now and then: whitespace between tokens, the digits of a number, nesting where the schema says nothing. All
//! are bounded here. Strings and arrays are as long as the schema allows; they carry the answer.
//!
//! Objects, arrays, alternatives, references and unbounded scalars are written as rules. What needs
//! llguidance's own compiler of schemas (intersections, patterns, ranges) is handed to it as a `%json` part
//! of the grammar, in the words it knows: see [`part`].
//!
//! Every keyword of JSON Schema only narrows what is valid. `uniqueItems` and formats that are not known
//! are read over, as validators may do; a keyword that would have to be obeyed and cannot be is an error.

mod object;
mod part;
mod union;

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::lark::{Lark, literal, one_of, regex, repeat};

/// Most alternatives and references followed in one schema.
const MAX_VISITS: usize = 10_000;

/// Levels of objects and arrays in a value of which the schema says nothing: models that nest for ever do so
/// there.
const MAX_FREE_DEPTH: usize = 16;

/// Digits of an integer: `u64::MAX` has twenty.
const INTEGER: &str = "-?(0|[1-9][0-9]{0,19})";

/// Digits of a fraction: an `f64` has seventeen that mean something.
const FRACTION: &str = r"(\.[0-9]{1,20})?";

/// Digits of an exponent: that of an `f64` has three.
const EXPONENT: &str = "([eE][-+]?[0-9]{1,3})?";

/// A character of a JSON string: itself, a short escape, or the escapes of a code point.
const CHARACTER: &str = concat!(
    r#"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt]"#,
    r"|\\u([0-9a-cA-Ce-fE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}",
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))",
);

/// Keywords that say what to do with a value rather than which values are valid, and those that only narrow
/// in ways no grammar can follow.
const READ_OVER: [&str; 19] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "examples",
    "id",
    "readOnly",
    "title",
    "uniqueItems",
    "writeOnly",
];

/// Keywords that are not supported.
const UNSUPPORTED: [&str; 14] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Keywords that combine schemas or list values.
const COMBINING: [&str; 6] = ["$ref", "allOf", "anyOf", "const", "enum", "oneOf"];

/// Keywords that bound a value of one type.
const OF_ARRAYS: [&str; 5] = ["additionalItems", "items", "maxItems", "minItems", "prefixItems"];
const OF_NUMBERS: [&str; 5] = ["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"];
const OF_OBJECTS: [&str; 7] = [
    "additionalProperties",
    "maxProperties",
    "minProperties",
    "patternProperties",
    "properties",
    "propertyNames",
    "required",
];
const OF_STRINGS: [&str; 4] = ["format", "maxLength", "minLength", "pattern"];

/// Formats of strings that llguidance has an expression for.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

const TYPES: [&str; 6] = ["object", "array", "string", "number", "boolean", "null"];

/// The rule of JSON that is valid under `schema`, whose references point into `root`.
pub(super) fn rule(lark: &mut Lark, root: &Value, schema: &Value) -> Result<String, String> {
    let mut writer = SchemaWriter { lark, root, references: HashMap::new(), pending: Vec::new(), visits: 0 };
    let rule = writer.value(schema)?;
    while let Some((name, target)) = writer.pending.pop() {
        let body = writer.value(target)?;
        writer.lark.define_forward(&name, &body);
    }
    Ok(rule)
}

/// The rule of any JSON object.
pub(super) fn any_object(lark: &mut Lark) -> Result<String, String> {
    rule(lark, &Value::Null, &serde_json::json!({"type": "object"}))
}

struct SchemaWriter<'a> {
    lark: &'a mut Lark,
    root: &'a Value,
    /// The rule of each reference.
    references: HashMap<String, String>,
    /// Rules that are named and not written yet, and what they refer to.
    pending: Vec<(String, &'a Value)>,
    visits: usize,
}

impl<'a> SchemaWriter<'a> {
    fn value(&mut self, schema: &Value) -> Result<String, String> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(format!("the schema has more than {MAX_VISITS} parts"));
        }
        let fields = match schema {
            Value::Bool(true) => return self.any(),
            Value::Bool(false) => return Err("the schema allows no value".into()),
            Value::Object(fields) => fields,
            other => return Err(format!("a schema is an object or a boolean, not {}", shown(other))),
        };
        check_keywords(fields)?;
        let combining: Vec<&str> = COMBINING.into_iter().filter(|key| fields.contains_key(*key)).collect();
        let bounding = |key: &&String| {
            let key = key.as_str();
            OF_ARRAYS.contains(&key)
                || OF_NUMBERS.contains(&key)
                || OF_OBJECTS.contains(&key)
                || OF_STRINGS.contains(&key)
        };
        let alone = fields.keys().find(bounding).is_none() && !fields.contains_key("type");
        match combining[..] {
            [] => self.typed(schema, fields),
            [key @ ("enum" | "const")] if fields.keys().find(bounding).is_none() => {
                let one = std::slice::from_ref(&fields[key]);
                let values = if key == "enum" { list(fields, key)? } else { one };
                self.one_of_values(schema, values)
            }
            ["$ref"] if alone => self.reference(&fields["$ref"]),
            ["allOf"] if alone && list(fields, "allOf")?.len() == 1 => self.value(&fields["allOf"][0]),
            [key @ ("anyOf" | "oneOf")] if alone => {
                let options = list(fields, key)?;
                if key == "oneOf" {
                    union::check_one_of(self.root, fields)?;
                }
                let options = options.iter().filter(|option| **option != Value::Bool(false));
                let rules = options.map(|option| self.value(option)).collect::<Result<Vec<_>, _>>()?;
                if rules.is_empty() {
                    return Err(format!("{key} has no alternatives"));
                }
                Ok(self.lark.rule(&one_of(&rules)))
            }
            _ => self.part(schema),
        }
    }

    /// A schema that combines nothing.
    fn typed(&mut self, schema: &Value, fields: &Map<String, Value>) -> Result<String, String> {
        let types: Vec<&str> = match fields.get("type") {
            None if !fields.keys().any(|key| !READ_OVER.contains(&key.as_str()) && is_keyword(key)) => {
                return self.any();
            }
            None => TYPES.to_vec(),
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) if !names.is_empty() => {
                let name = |name: &'_ Value| Err(format!("type: {} is not the name of a type", shown(name)));
                names.iter().map(|n| n.as_str().map_or_else(|| name(n), Ok)).collect::<Result<_, _>>()?
            }
            Some(other) => return Err(format!("type: {} is not the name of a type", shown(other))),
        };
        let mut rules = Vec::with_capacity(types.len());
        for name in types {
            rules.push(match name {
                "null" => literal("null"),
                "boolean" => self.lark.terminal("/true|false/"),
                "string" => self.string(fields)?,
                "integer" | "number" if OF_NUMBERS.iter().any(|key| fields.contains_key(*key)) => {
                    self.part_of_type(fields, name, &OF_NUMBERS)?
                }
                "integer" => self.lark.terminal(&regex(INTEGER)),
                "number" => self.number(),
                "array" => self.array(fields)?,
                "object" => self.object(schema, fields)?,
                other => return Err(format!("type: {other:?} is not the name of a type")),
            });
        }
        Ok(if rules.len() == 1 { rules.remove(0) } else { self.lark.rule(&one_of(&rules)) })
    }

    fn any(&mut self) -> Result<String, String> {
        if let Some(name) = self.lark.known("any JSON") {
            return Ok(name);
        }
        let scalars = [self.lark.terminal("/true|false|null/"), self.number(), self.any_string()].join(" | ");
        let mut value = self.lark.rule(&scalars);
        for _ in 0..MAX_FREE_DEPTH {
            let members = self.members(Vec::new(), &[], Some(&value));
            let items = format!("{value} ({} {value})*", self.comma());
            let array = self.array_of(&items, true);
            value = self.lark.rule(&format!("{scalars} | {members} | {array}"));
        }
        self.lark.know("any JSON", &value);
        Ok(value)
    }

    fn number(&mut self) -> String {
        self.lark.terminal(&regex(&format!("{INTEGER}{FRACTION}{EXPONENT}")))
    }

    fn any_string(&mut self) -> String {
        self.lark.terminal(&regex(&format!("\"{CHARACTER}*\"")))
    }

    fn string(&mut self, fields: &Map<String, Value>) -> Result<String, String> {
        let format = fields.get("format").and_then(Value::as_str).filter(|format| FORMATS.contains(format));
        if fields.contains_key("pattern") || format.is_some() {
            return self.part_of_type(fields, "string", &OF_STRINGS);
        }
        let (least, most) = (count(fields, "minLength")?.unwrap_or(0), count(fields, "maxLength")?);
        check_order("minLength", least, "maxLength", most)?;
        if least == 0 && most.is_none() {
            return Ok(self.any_string());
        }
        let most = most.map_or_else(String::new, |most| most.to_string());
        Ok(self.lark.terminal(&regex(&format!("\"{CHARACTER}{{{least},{most}}}\""))))
    }

    fn one_of_values(&mut self, schema: &Value, values: &[Value]) -> Result<String, String> {
        if values.iter().any(|value| value.is_object() || value.is_array()) {
            return self.part(schema);
        }
        let types: Option<Vec<&str>> = match schema.get("type") {
            None => None,
            Some(Value::Array(names)) => Some(names.iter().filter_map(Value::as_str).collect()),
            Some(name) => Some(name.as_str().into_iter().collect()),
        };
        let fits = |value: &&Value| types.as_ref().is_none_or(|types| types.iter().any(|name| union::is(value, name)));
        let texts: Vec<String> = values.iter().filter(fits).map(|value| literal(&value.to_string())).collect();
        if texts.is_empty() {
            return Err("an enum has no value of its type".into());
        }
        Ok(self.lark.terminal(&one_of(&texts)))
    }

    /// The rule of what a reference points at, written once however often it is pointed at.
    fn reference(&mut self, reference: &Value) -> Result<String, String> {
        let text = reference.as_str().ok_or_else(|| format!("$ref: {} is not a text", shown(reference)))?;
        if let Some(name) = self.references.get(text) {
            return Ok(name.clone());
        }
        let target = union::target(self.root, text)?;
        let name = self.lark.forward();
        self.references.insert(text.to_owned(), name.clone());
        self.pending.push((name.clone(), target));
        Ok(name)
    }

    fn array(&mut self, fields: &Map<String, Value>) -> Result<String, String> {
        // Before 2020-12, `items` as a list was what is `prefixItems` now.
        let (first, rest) = match (fields.get("prefixItems"), fields.get("items")) {
            (None, Some(Value::Array(first))) => (&first[..], fields.get("additionalItems")),
            (None, rest) => (&[][..], rest),
            (Some(_), rest) => (list(fields, "prefixItems")?, rest),
        };
        let (least, most) = (count(fields, "minItems")?.unwrap_or(0), count(fields, "maxItems")?);
        check_order("minItems", least, "maxItems", most)?;
        let first = &first[..first.len().min(most.unwrap_or(usize::MAX))];
        let rest = match rest {
            Some(Value::Bool(false)) => None,
            _ if most == Some(first.len()) => None,
            Some(schema) => Some(self.value(schema)?),
            None => Some(self.any()?),
        };
        if rest.is_none() && least > first.len() {
            return Err(format!("minItems ({least}) is more than the {} items that are allowed", first.len()));
        }
        let comma = self.comma();
        // Backwards: `tail` is what may follow item `i`, with the comma before it.
        let mut tail = match &rest {
            None => String::new(),
            Some(item) => {
                let most = most.map(|most| most - first.len());
                repeat(&format!("({comma} {item})"), least.saturating_sub(first.len()), most)
            }
        };
        if first.is_empty() {
            let Some(item) = rest else { return Ok(self.array_of("", true)) };
            let others = repeat(&format!("({comma} {item})"), least.max(1) - 1, most.map(|most| most - 1));
            return Ok(self.array_of(&format!("{item} {others}"), least == 0));
        }
        for (index, schema) in first.iter().enumerate().rev() {
            let item = self.value(schema)?;
            let with_comma = if index == 0 { String::new() } else { format!("{comma} ") };
            let body = self.lark.rule(&format!("{with_comma}{item} {tail}"));
            tail = if index >= least && index > 0 { format!("{body}?") } else { body };
        }
        Ok(self.array_of(&tail, least == 0))
    }

    /// An array of `items`, or an empty one as well.
    fn array_of(&mut self, items: &str, may_be_empty: bool) -> String {
        self.enclosed("[", items, "]", may_be_empty)
    }

    /// `content` in brackets, or brackets alone as well. No content: those only.
    fn enclosed(&mut self, open: &str, content: &str, close: &str, may_be_empty: bool) -> String {
        let (open, close, gap) = (literal(open), literal(close), self.gap());
        let empty = self.lark.terminal(&format!("{open} {gap} {close}"));
        if content.is_empty() {
            return empty;
        }
        let (open, close) =
            (self.lark.terminal(&format!("{open} {gap}")), self.lark.terminal(&format!("{gap} {close}")));
        let empty = if may_be_empty { format!(" | {empty}") } else { String::new() };
        self.lark.rule(&format!("{open} {content} {close}{empty}"))
    }

    fn comma(&mut self) -> String {
        let gap = self.gap();
        self.lark.terminal(&format!("{gap} \",\" {gap}"))
    }

    fn colon(&mut self) -> String {
        let gap = self.gap();
        self.lark.terminal(&format!("{gap} \":\" {gap}"))
    }

    /// Part of a terminal: what may stand between two tokens. Each gap belongs to one terminal, so that two
    /// of them never meet.
    fn gap(&mut self) -> String {
        match self.lark.blanks().expression() {
            None => String::new(),
            Some(expression) => format!("({})?", regex(&expression)),
        }
    }
}

fn check_keywords(fields: &Map<String, Value>) -> Result<(), String> {
    match fields.keys().find(|key| UNSUPPORTED.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(format!("the keyword {key:?} is not supported")),
    }
}

fn is_keyword(key: &str) -> bool {
    COMBINING.contains(&key)
        || OF_ARRAYS.contains(&key)
        || OF_NUMBERS.contains(&key)
        || OF_OBJECTS.contains(&key)
        || OF_STRINGS.contains(&key)
}

fn list<'f>(fields: &'f Map<String, Value>, key: &str) -> Result<&'f [Value], String> {
    let value = &fields[key];
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{key}: {} is not a list", shown(value)))
}

fn count(fields: &Map<String, Value>, key: &str) -> Result<Option<usize>, String> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64));
    let whole = whole.and_then(|whole| usize::try_from(whole).ok()).filter(|whole| *whole <= i32::MAX as usize);
    whole.map(Some).ok_or_else(|| format!("{key}: {} is not a count", shown(value)))
}

fn check_order(low: &str, least: usize, high: &str, most: Option<usize>) -> Result<(), String> {
    match most.filter(|most| *most < least) {
        Some(most) => Err(format!("{low} ({least}) is more than {high} ({most})")),
        None => Ok(()),
    }
}

/// A value in a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(60).collect::<String>()) }
}
