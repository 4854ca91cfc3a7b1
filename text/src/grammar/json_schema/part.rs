//! Schemas that llguidance's own compiler translates, as `%json` parts of a grammar.
//!
//! It refuses what it does not know and bounds no digits; so a schema is put into words it knows first:
//! numbers get bounds, what is read over is left out, and references point at a copy of the whole schema.

use serde_json::{Map, Value, json};

use super::{
    FORMATS, OF_ARRAYS, OF_NUMBERS, OF_OBJECTS, OF_STRINGS, SchemaWriter, check_keywords, object::is_harmless_name,
    union,
};

/// Where the whole schema is in a part that refers to it.
const DOCUMENT: &str = "document";

/// Bound of an integer without one: the largest power of ten of an `i64`, which an `f64` holds exactly.
const INTEGER_BOUND: f64 = 1e18;

/// Bound of a number without one: integers up to here have exact `f64`s.
const NUMBER_BOUND: f64 = 1e15;

/// The step of a number in a range: llguidance computes with its inverse in 32 bits.
const STEP: f64 = 1e-8;

/// Bounds nearer to zero than this leave no room for steps.
const LEAST_BOUND: f64 = 1e-6;

impl SchemaWriter<'_> {
    /// All of `schema`.
    pub(super) fn part(&mut self, schema: &Value) -> Result<String, String> {
        let mut refers = false;
        let Value::Object(mut fields) = plain(self.root, schema, &mut refers)? else {
            return Err("a schema is an object or a boolean".into());
        };
        if refers {
            let mut ignored = false;
            fields.insert("$defs".into(), json!({ DOCUMENT: plain(self.root, self.root, &mut ignored)? }));
        }
        let blanks = match self.lark.blanks().expression() {
            None => json!({ "whitespace_flexible": false }),
            Some(expression) => json!({ "whitespace_pattern": expression }),
        };
        fields.insert("x-guidance".into(), blanks);
        Ok(self.lark.rule(&format!("%json {}", Value::Object(fields))))
    }

    /// What of a schema concerns values of one type.
    pub(super) fn part_of_type(
        &mut self,
        fields: &Map<String, Value>,
        name: &str,
        keywords: &[&str],
    ) -> Result<String, String> {
        let kept = fields.iter().filter(|(key, _)| keywords.contains(&key.as_str()));
        let mut kept: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        kept.insert("type".into(), name.into());
        self.part(&Value::Object(kept))
    }
}

/// `schema` in llguidance's words. `refers` is set if it refers to another.
fn plain(root: &Value, schema: &Value, refers: &mut bool) -> Result<Value, String> {
    let Value::Object(fields) = schema else { return Ok(schema.clone()) };
    check_keywords(fields)?;
    let mut out = Map::new();
    for (key, value) in fields {
        let value = match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                let plain = schemas.iter().map(|(name, schema)| Ok((name.clone(), plain(root, schema, refers)?)));
                Value::Object(plain.collect::<Result<_, String>>()?)
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                if key == "oneOf" {
                    union::check_one_of(root, fields)?;
                }
                Value::Array(schemas.iter().map(|schema| plain(root, schema, refers)).collect::<Result<_, _>>()?)
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => plain(root, schema, refers)?,
            ("propertyNames", names) if is_harmless_name(names) => continue,
            ("propertyNames", _) => return Err("propertyNames is not supported beside other bounds of names".into()),
            ("format", format) if !format.as_str().is_some_and(|format| FORMATS.contains(&format)) => continue,
            ("$ref", Value::String(reference)) => {
                union::target(root, reference)?;
                *refers = true;
                let pointer = reference.trim_start_matches('#').trim_end_matches('/');
                format!("#/$defs/{DOCUMENT}{pointer}").into()
            }
            ("$ref" | "const" | "enum" | "type", value) => value.clone(),
            (key, value) => {
                let is_kept =
                    [&OF_ARRAYS[..], &OF_NUMBERS, &OF_OBJECTS, &OF_STRINGS].iter().any(|all| all.contains(&key));
                if !is_kept {
                    continue;
                }
                value.clone()
            }
        };
        // Alternatives exclude one another, which was seen to above.
        match (key.as_str(), fields.contains_key("anyOf")) {
            ("oneOf", false) => out.insert("anyOf".into(), value),
            ("oneOf", true) => out.insert("allOf".into(), json!([{ "anyOf": value }])),
            _ => out.insert(key.clone(), value),
        };
    }
    bound_digits(&mut out);
    Ok(Value::Object(out))
}

/// Give the numbers of a schema bounds if it has none.
fn bound_digits(fields: &mut Map<String, Value>) {
    let says = |name: &str| match fields.get("type") {
        Some(Value::Array(names)) => names.iter().any(|n| n == name),
        Some(one) => one == name,
        None => false,
    };
    let (integer, number) = (says("integer"), says("number"));
    let exact = ["enum", "const", "$ref"].iter().any(|key| fields.contains_key(*key));
    if !(integer || number) || exact {
        return;
    }
    let most = if number { NUMBER_BOUND } else { INTEGER_BOUND };
    let given = |low: &str, open: &str| {
        [fields.get(low), fields.get(open)].into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>()
    };
    let (least_given, most_given) = (given("minimum", "exclusiveMinimum"), given("maximum", "exclusiveMaximum"));
    let bounds: Vec<f64> = least_given.iter().chain(&most_given).copied().collect();
    if bounds.iter().any(|bound| bound.abs() >= most) {
        return;
    }
    if least_given.is_empty() {
        fields.insert("minimum".into(), json!(-most));
    }
    if most_given.is_empty() {
        fields.insert("maximum".into(), json!(most));
    }
    let fine = bounds.iter().any(|bound| *bound != 0.0 && bound.abs() < LEAST_BOUND);
    if number && !integer && !fine && !fields.contains_key("multipleOf") {
        fields.insert("multipleOf".into(), json!(STEP));
    }
}
