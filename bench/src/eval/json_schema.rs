//! [`JsonSchema`]: whether a value is valid under a schema, so that an answer is not judged by the grammar that made it.
//!
//! Few keywords, and no others: a schema that says more is refused when it is read.

use regex::Regex;
use serde_json::{Map, Value};

/// Keywords that are obeyed.
const OBEYED: [&str; 12] = [
    "additionalProperties",
    "anyOf",
    "const",
    "enum",
    "items",
    "maxItems",
    "maximum",
    "minItems",
    "minimum",
    "pattern",
    "properties",
    "required",
];

/// Keywords that bind nothing.
const READ_OVER: [&str; 4] = ["default", "description", "format", "title"];

/// A schema whose every keyword is known.
pub(super) struct JsonSchema(Value);

impl JsonSchema {
    /// `schema`, or the keyword of it that is not known.
    pub(super) fn new(schema: &Value) -> Result<Self, String> {
        check(schema)?;
        Ok(Self(schema.clone()))
    }

    /// Whether `value` is valid.
    pub(super) fn allows(&self, value: &Value) -> bool {
        allows(&self.0, value)
    }
}

fn check(schema: &Value) -> Result<(), String> {
    let Some(fields) = schema.as_object() else {
        return if schema.is_boolean() { Ok(()) } else { Err(format!("{schema} is no schema")) };
    };
    for (key, value) in fields {
        match key.as_str() {
            "properties" => value.as_object().into_iter().flat_map(Map::values).try_for_each(check)?,
            "anyOf" => value.as_array().into_iter().flatten().try_for_each(check)?,
            "items" | "additionalProperties" => check(value)?,
            "pattern" => drop(Regex::new(value.as_str().unwrap_or_default()).map_err(|cause| cause.to_string())?),
            "type" => {}
            key if OBEYED.contains(&key) || READ_OVER.contains(&key) => {}
            key => return Err(format!("the keyword {key:?} of a schema is not known here")),
        }
    }
    Ok(())
}

fn allows(schema: &Value, value: &Value) -> bool {
    let Some(fields) = schema.as_object() else { return *schema == Value::Bool(true) };
    fields.iter().all(|(key, bound)| match key.as_str() {
        "type" => match bound {
            Value::Array(names) => names.iter().any(|name| is_of_type(value, name)),
            name => is_of_type(value, name),
        },
        "enum" => bound.as_array().is_some_and(|values| values.contains(value)),
        "const" => bound == value,
        "anyOf" => bound.as_array().is_some_and(|options| options.iter().any(|option| allows(option, value))),
        "minimum" => value.as_f64().is_none_or(|number| bound.as_f64().is_none_or(|least| number >= least)),
        "maximum" => value.as_f64().is_none_or(|number| bound.as_f64().is_none_or(|most| number <= most)),
        "minItems" => {
            value.as_array().is_none_or(|items| bound.as_u64().is_none_or(|least| items.len() as u64 >= least))
        }
        "maxItems" => value.as_array().is_none_or(|items| bound.as_u64().is_none_or(|most| items.len() as u64 <= most)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| allows(bound, item))),
        "pattern" => value.as_str().is_none_or(|text| {
            bound.as_str().and_then(|pattern| Regex::new(pattern).ok()).is_some_and(|pattern| pattern.is_match(text))
        }),
        "required" => value.as_object().is_none_or(|members| {
            bound.as_array().into_iter().flatten().filter_map(Value::as_str).all(|name| members.contains_key(name))
        }),
        "properties" => value.as_object().is_none_or(|members| {
            let listed = bound.as_object().into_iter().flatten();
            listed
                .filter_map(|(name, schema)| Some((schema, members.get(name)?)))
                .all(|(schema, value)| allows(schema, value))
        }),
        "additionalProperties" => value.as_object().is_none_or(|members| {
            let listed = fields.get("properties").and_then(Value::as_object);
            let others = members.iter().filter(|(name, _)| listed.is_none_or(|listed| !listed.contains_key(*name)));
            others.map(|(_, value)| value).all(|value| allows(bound, value))
        }),
        _ => true,
    })
}

fn is_of_type(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_valid_where_every_keyword_allows_it() {
        let schema = json!({"type": "object", "required": ["name", "tags"], "additionalProperties": false, "properties": {
            "name": {"type": "string", "pattern": "^[A-Z]", "title": "Name"},
            "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
        }});
        let schema = JsonSchema::new(&schema).unwrap();
        assert!(schema.allows(&json!({"name": "Ann", "age": 40.0, "tags": ["a"]})));
        assert!(schema.allows(&json!({"name": "Ann", "age": null, "tags": ["a", "b"]})));
        for wrong in [
            json!([]),
            json!({"name": "Ann"}),
            json!({"name": "ann", "tags": ["a"]}),
            json!({"name": 1, "tags": ["a"]}),
            json!({"name": "Ann", "tags": []}),
            json!({"name": "Ann", "tags": ["a", "a", "a"]}),
            json!({"name": "Ann", "tags": ["c"]}),
            json!({"name": "Ann", "tags": ["a"], "age": 151}),
            json!({"name": "Ann", "tags": ["a"], "age": 1.5}),
            json!({"name": "Ann", "tags": ["a"], "more": 1}),
        ] {
            assert!(!schema.allows(&wrong), "{wrong}");
        }
        assert!(JsonSchema::new(&json!({"properties": {"a": {"not": {}}}})).is_err_and(|cause| cause.contains("not")));
    }
}
