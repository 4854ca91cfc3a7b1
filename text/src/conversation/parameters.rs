//! Whether a tool's parameters are a JSON Schema.
//!
//! An unknown type would be read as "anything", and a misspelt one would quietly mean free text.
//! Names of types that clients take from programming languages are known to
//! [`ToolSchemas`](crate::tool::ToolSchemas) and pass.

use serde_json::Value;

/// JSON Schema's types and what clients call them besides.
const TYPES: &[&str] = &[
    "string",
    "str",
    "text",
    "varchar",
    "char",
    "enum",
    "uuid",
    "date",
    "time",
    "datetime",
    "boolean",
    "bool",
    "binary",
    "object",
    "array",
    "arr",
    "map",
    "set",
    "tuple",
    "dict",
    "dictionary",
    "list",
    "null",
    "none",
    "nil",
    "any",
    "integer",
    "int",
    "uint",
    "long",
    "short",
    "byte",
    "unsigned",
    "number",
    "num",
    "numeric",
    "float",
    "double",
    "decimal",
    "optional",
    "union",
    "file",
    "path",
    "url",
    "uri",
    "email",
];

/// Keywords whose value is a schema, or a list of them.
const SCHEMAS: &[&str] = &["items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf", "not"];

/// Keywords whose value holds schemas by name.
const NAMED_SCHEMAS: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];

/// What is wrong with a tool's parameters: the place, from `parameters` on, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct BadParameters {
    /// `parameters.properties.n.type`.
    pub path: String,
    /// In words.
    pub reason: String,
}

/// Judge the parameters of a tool; absent ones are none.
///
/// # Errors
/// If they are no schema of an object, or name a type that does not exist.
pub fn check(parameters: &Value) -> Result<(), BadParameters> {
    let path = "parameters".to_owned();
    match parameters {
        Value::Object(fields) => {
            // Some clients send the properties themselves, among which one may be called `type`.
            let bare = !fields.contains_key("properties") && fields.get("type").is_some_and(Value::is_object);
            if bare {
                fields.iter().try_for_each(|(name, inner)| schema(inner, &format!("{path}.{name}")))
            } else {
                schema(parameters, &path)
            }
        }
        Value::Null => Ok(()),
        // PHP's empty object.
        Value::Array(items) if items.is_empty() => Ok(()),
        other => Err(wrong(path, "a JSON Schema object is wanted", other)),
    }
}

fn schema(value: &Value, path: &str) -> Result<(), BadParameters> {
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Bool(_) | Value::Null => return Ok(()),
        Value::Array(items) if items.is_empty() => return Ok(()),
        other => return Err(wrong(path.to_owned(), "a JSON Schema is wanted", other)),
    };
    match fields.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => known_type(name, &format!("{path}.type"))?,
        Some(Value::Array(names)) => {
            for (index, name) in names.iter().enumerate() {
                let path = format!("{path}.type[{index}]");
                match name {
                    Value::String(name) => known_type(name, &path)?,
                    Value::Null => {}
                    other => return Err(wrong(path, "the name of a type is wanted", other)),
                }
            }
        }
        Some(other) => {
            return Err(wrong(format!("{path}.type"), "the name of a type, or a list of them, is wanted", other));
        }
    }
    for key in SCHEMAS {
        match fields.get(*key) {
            Some(Value::Array(list)) => {
                list.iter().enumerate().try_for_each(|(index, one)| schema(one, &format!("{path}.{key}[{index}]")))?;
            }
            Some(one) => schema(one, &format!("{path}.{key}"))?,
            None => {}
        }
    }
    for key in NAMED_SCHEMAS {
        match fields.get(*key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(named)) => {
                named.iter().try_for_each(|(name, one)| schema(one, &format!("{path}.{key}.{name}")))?;
            }
            Some(Value::Array(items)) if items.is_empty() => {}
            Some(other) => return Err(wrong(format!("{path}.{key}"), "an object of schemas is wanted", other)),
        }
    }
    Ok(())
}

/// `int64` and `list[str]` are types, too.
fn known_type(name: &str, path: &str) -> Result<(), BadParameters> {
    let bare = name.split(['[', '<', '(', ' ', '|', '?']).next().unwrap_or_default().to_lowercase();
    if TYPES.contains(&bare.trim_end_matches(|c: char| c.is_ascii_digit())) || name.is_empty() {
        return Ok(());
    }
    Err(wrong(
        path.to_owned(),
        "a type of JSON Schema is wanted (string, number, integer, boolean, object, array, null)",
        &name.into(),
    ))
}

fn wrong(path: String, wanted: &str, got: &Value) -> BadParameters {
    const LONGEST: usize = 60;
    let got: String = got.to_string().chars().take(LONGEST).collect();
    BadParameters { path, reason: format!("{wanted}, not {got}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_pass_and_what_is_none_is_refused_by_its_place() {
        let n = |schema: Value| json!({"type": "object", "properties": {"n": schema}});
        for good in [
            json!(null),
            json!({}),
            json!([]),
            n(json!({"type": ["integer", "null"], "enum": [1], "default": {"type": "nonsense"}})),
            n(json!({"type": "List[str]"})),
            n(json!({"type": "INT64"})),
            n(json!(true)),
            json!({"properties": []}),
            json!({"type": {"type": "string"}, "n": {"type": "integer"}}),
            json!({"type": "object", "properties": {"type": {"type": "string"}, "properties": {"type": "object"}}}),
            json!({"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}}, "$ref": "#/$defs/A"}),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
        for (bad, place) in [
            (json!("a string"), "parameters: "),
            (json!(7), "parameters: "),
            (json!([1]), "parameters: "),
            (json!({"type": "object", "properties": 3}), "parameters.properties: "),
            (n(json!({"type": "intger"})), "parameters.properties.n.type: "),
            (n(json!({"type": ["string", "nul"]})), "parameters.properties.n.type[1]: "),
            (n(json!({"type": 3})), "parameters.properties.n.type: "),
            (n(json!("string")), "parameters.properties.n: "),
            (n(json!({"type": "array", "items": {"type": "strng"}})), "parameters.properties.n.items.type: "),
            (n(json!({"anyOf": [{"type": "string"}, 3]})), "parameters.properties.n.anyOf[1]: "),
            (json!({"$defs": {"A": {"type": "thing"}}}), "parameters.$defs.A.type: "),
        ] {
            let cause = check(&bad).unwrap_err().to_string();
            assert!(cause.starts_with(place), "{bad}: {cause}");
        }
    }
}
