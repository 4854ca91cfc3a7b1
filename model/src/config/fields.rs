//! The fields of a JSON object, typed: a value that is not what it should be is named with what was expected.

use serde_json::{Map, Value};

use super::ConfigError;

/// Largest value of any size in a config; keeps every product of two of them inside 64 bits.
const MAX_SIZE: u64 = 1 << 28;

/// Typed access to the fields of an object.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl Fields<'_> {
    pub(crate) fn wrong(&self, field: &str, found: impl ToString, expected: impl ToString) -> ConfigError {
        ConfigError::Field { field: field.into(), found: found.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn unsupported(&self, field: &str, supported: impl ToString) -> ConfigError {
        let value = self.0.get(field).map_or("absent".into(), shown);
        ConfigError::Unsupported { field: field.into(), value, supported: supported.to_string() }
    }

    pub(crate) fn present(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    pub(crate) fn size(&self, field: &str) -> Result<usize, ConfigError> {
        let expected = format!("a whole number from 1 to {MAX_SIZE}");
        let Some(value) = self.present(field) else { return Err(self.wrong(field, "missing", expected)) };
        // Python writes 4096.0 for what was computed.
        let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0 && *n <= MAX_SIZE as f64);
        match value.as_u64().or(whole.map(|n| n as u64)) {
            Some(n @ 1..=MAX_SIZE) => Ok(n as usize),
            _ => Err(self.wrong(field, shown(value), expected)),
        }
    }

    pub(crate) fn size_or(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        self.present(field).map_or(Ok(default), |_| self.size(field))
    }

    pub(crate) fn number(&self, field: &str, default: f64) -> Result<f64, ConfigError> {
        match self.present(field) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(x),
                _ => Err(self.wrong(field, shown(value), "a positive number")),
            },
        }
    }

    pub(crate) fn flag(&self, field: &str, default: bool) -> Result<bool, ConfigError> {
        match self.present(field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(field, shown(value), "true or false")),
        }
    }

    pub(crate) fn object(&self, field: &str) -> Result<Option<&Map<String, Value>>, ConfigError> {
        match self.present(field) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(value) => Err(self.wrong(field, shown(value), "an object")),
        }
    }
}

/// One id, a list of ids, or nothing.
pub(crate) fn token_ids(value: Option<&Value>, field: &str) -> Result<Vec<u32>, ConfigError> {
    let wrong = |found: &Value| ConfigError::Field {
        field: field.into(),
        found: shown(found),
        expected: "a token id or a list of token ids".into(),
    };
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(v));
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) if ids.len() <= 1024 => ids.iter().map(id).collect(),
        Some(one) => Ok(vec![id(one)?]),
    }
}

/// A value as messages show it.
pub(crate) fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 80 {
        text = text.chars().take(77).collect::<String>() + "...";
    }
    text
}
