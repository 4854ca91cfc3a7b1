//! Field types that accept what Python's servers accept.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

/// A whole number; `16.0` is one, as for pydantic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Int(pub i64);

/// The largest `f64` below which every whole number is exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() <= EXACT).then_some(x as i64);
        let number = value.as_number().and_then(|n| n.as_i64().or_else(|| n.as_f64().and_then(whole)));
        number.map(Self).ok_or_else(|| D::Error::custom(format!("a whole number is wanted, not {}", shown(&value))))
    }
}

/// One text or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Texts(pub Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let texts = match &value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let wrong = || D::Error::custom(format!("a string or a list of strings is wanted, not {}", shown(&value)));
        texts.map(Self).ok_or_else(wrong)
    }
}

/// A value as an error message shows it: short.
pub fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        let parse = |text: &str| serde_json::from_str::<Int>(text).map(|i| i.0).map_err(|e| e.to_string());
        assert_eq!(parse("16"), Ok(16));
        assert_eq!(parse("16.0"), Ok(16));
        assert_eq!(parse("-9223372036854775808"), Ok(i64::MIN));
        for wrong in ["16.5", "1e300", "\"16\"", "true", "9223372036854775808"] {
            assert!(parse(wrong).unwrap_err().contains("whole number"), "{wrong}");
        }
    }

    #[test]
    fn long_values_are_shown_short() {
        assert_eq!(shown(&Value::from("é".repeat(100))).chars().count(), 61);
    }
}
