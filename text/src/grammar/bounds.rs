//! How large a source may be before anything is done with it.

use serde_json::Value;

/// Longest source, in bytes. The largest schemas in public use (FHIR's) are beyond; tools are not.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;

/// Most values in a schema, of any kind.
const MAX_NODES: usize = 50_000;

/// Deepest nesting of groups in a grammar or an expression.
pub(super) const MAX_GROUPS: usize = 64;

/// Refuse text that is too long.
pub(super) fn source(text: &str) -> Result<(), String> {
    match text.len() {
        bytes if bytes > MAX_SOURCE_BYTES => Err(format!("it has {bytes} bytes; at most {MAX_SOURCE_BYTES} are read")),
        _ => Ok(()),
    }
}

/// Refuse a schema that is too large or too deep.
pub(super) fn schema(schema: &Value) -> Result<(), String> {
    let mut nodes = 0;
    let mut bytes = 0;
    let mut todo = vec![(schema, 1)];
    while let Some((value, depth)) = todo.pop() {
        nodes += 1;
        bytes += match value {
            Value::String(text) => text.len(),
            Value::Object(fields) => fields.keys().map(String::len).sum(),
            _ => 0,
        };
        if depth > MAX_DEPTH {
            return Err(format!("the schema is nested more than {MAX_DEPTH} levels deep"));
        }
        if nodes > MAX_NODES {
            return Err(format!("the schema has more than {MAX_NODES} values"));
        }
        if bytes > MAX_SOURCE_BYTES {
            return Err(format!("the schema has more than {MAX_SOURCE_BYTES} bytes of text"));
        }
        match value {
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => todo.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

/// Refuse an expression whose groups are nested too deep for any parser's stack.
pub(super) fn regex(text: &str) -> Result<(), String> {
    source(text)?;
    let (mut depth, mut escaped) = (0_usize, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_GROUPS {
            return Err(format!("its groups are nested more than {MAX_GROUPS} levels deep"));
        }
    }
    Ok(())
}
