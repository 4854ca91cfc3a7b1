//! References, and whether the alternatives of a `oneOf` exclude one another.
//!
//! A grammar says "one or another", as `anyOf` does. `oneOf` says the same where no value is valid under
//! two alternatives, or where a `discriminator` tells them apart.

use serde_json::{Map, Value};

/// Chain of references followed, and nesting of alternatives looked at.
const MAX_DEPTH: usize = 16;

/// Most alternatives that are compared with each other.
const MAX_COMPARED: usize = 256;

/// What a reference points at.
pub(super) fn target<'r>(root: &'r Value, reference: &str) -> Result<&'r Value, String> {
    let Some(pointer) = reference.strip_prefix('#') else {
        return Err(format!("$ref: {reference:?} is not in this schema; references begin with \"#\""));
    };
    let pointer = pointer.trim_end_matches('/');
    let found = root.pointer(pointer).or_else(|| root.pointer(&percent_decoded(pointer)?));
    found.ok_or_else(|| format!("$ref: nothing is at {reference:?}"))
}

/// A pointer in a URI may have its characters escaped.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend(before.bytes());
        bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = &after[2..];
    }
    bytes.extend(rest.bytes());
    String::from_utf8(bytes).ok()
}

/// Refuse a `oneOf` of which a value may match two alternatives.
pub(super) fn check_one_of(root: &Value, fields: &Map<String, Value>) -> Result<(), String> {
    let options = fields["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    if fields.contains_key("discriminator") {
        return Ok(());
    }
    if options.len() > MAX_COMPARED {
        return Err(format!("oneOf has {} alternatives; at most {MAX_COMPARED} are supported", options.len()));
    }
    for (i, one) in options.iter().enumerate() {
        let overlaps = |other: &&Value| !are_disjoint(root, one, other, 0);
        if let Some(j) = options[i + 1..].iter().position(|other| overlaps(&other)) {
            return Err(format!(
                "oneOf: a value may match both alternative {} and alternative {}; use anyOf, or give each a required \
                 property with a const of its own",
                i + 1,
                i + j + 2
            ));
        }
    }
    Ok(())
}

/// Whether it is certain that no value is valid under both.
fn are_disjoint(root: &Value, one: &Value, other: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let (one, other) = (resolved(root, one, 0), resolved(root, other, 0));
    for (union, other) in [(one, other), (other, one)] {
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = union.get(key).and_then(Value::as_array) {
                return options.iter().all(|option| are_disjoint(root, option, other, depth + 1));
            }
        }
    }
    if let (Some(a), Some(b)) = (values(one), values(other)) {
        return a.iter().all(|value| !b.contains(value));
    }
    let (types, others) = (types(one), types(other));
    if let (Some(types), Some(others)) = (&types, &others)
        && !types.iter().any(|a| others.iter().any(|b| overlap(a, b)))
    {
        return true;
    }
    let is_object = |types: &Option<Vec<&str>>| types.as_deref() == Some(&["object"][..]);
    if !is_object(&types) || !is_object(&others) {
        return false;
    }
    let required = |schema: &'_ Value| -> Vec<String> {
        let names = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).map(String::from).collect()
    };
    let property = |schema: &Value, name: &str| schema.get("properties").and_then(|p| p.get(name)).cloned();
    let is_closed = |schema: &Value| schema.get("additionalProperties") == Some(&Value::Bool(false));
    required(one).iter().chain(&required(other)).any(|name| match (property(one, name), property(other, name)) {
        (Some(a), Some(b)) => are_disjoint(root, &a, &b, depth + 1),
        (None, Some(_)) => is_closed(one),
        (Some(_), None) => is_closed(other),
        (None, None) => false,
    })
}

/// The schema that a chain of references ends at.
fn resolved<'r>(root: &'r Value, schema: &'r Value, depth: usize) -> &'r Value {
    let reference = schema.get("$ref").and_then(Value::as_str).filter(|_| depth < MAX_DEPTH);
    match reference.and_then(|reference| target(root, reference).ok()) {
        Some(target) => resolved(root, target, depth + 1),
        None => schema,
    }
}

/// The values that a schema lists.
fn values(schema: &Value) -> Option<Vec<Value>> {
    let listed = schema.get("enum").and_then(Value::as_array).cloned();
    schema.get("const").map(|value| vec![value.clone()]).or(listed)
}

/// The types of a schema's values, if it says or shows them.
fn types(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type") {
        Some(Value::String(name)) => Some(vec![name]),
        Some(Value::Array(names)) => names.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn overlap(a: &str, b: &str) -> bool {
    a == b || matches!((a, b), ("integer", "number") | ("number", "integer"))
}

/// Whether `value` is of the type.
pub(super) fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
