//! JSON and Python's way of printing: between `serde_json` and template values.
//!
//! Templates were written for Python. `tojson` there is `json.dumps(x, ensure_ascii=False)`: separators
//! `", "` and `": "`, keys in their order, no escaping for HTML; floats print as Python's `repr`.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use serde_json::Value as Json;

/// Parse JSON whose strings may hold halves of UTF-16 pairs, escaped (`\ud83d`) or encoded as if they were
/// characters. Clients that cut a text inside an emoji send them, and go on sending them with their history;
/// each half becomes U+FFFD.
///
/// # Errors
/// If it is no JSON.
pub fn parse(text: &[u8]) -> serde_json::Result<Json> {
    serde_json::from_slice(text).or_else(|cause| match without_lone_surrogates(text) {
        Some(mended) => serde_json::from_slice(&mended),
        None => Err(cause),
    })
}

/// `None` where there is none.
fn without_lone_surrogates(text: &[u8]) -> Option<Vec<u8>> {
    let escaped = |at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let is_low = |unit: u16| (0xdc00..0xe000).contains(&unit);
    let mut out = Vec::with_capacity(text.len());
    let (mut at, mut mended) = (0, false);
    while at < text.len() {
        let (kept, length) = match (text[at], escaped(at)) {
            (b'\\', Some(0xd800..0xdc00)) if escaped(at + 6).is_some_and(is_low) => (true, 12),
            (b'\\', Some(0xd800..0xe000)) => (false, 6),
            (b'\\', _) => (true, 2.min(text.len() - at)),
            // UTF-8's bytes of U+D800 to U+DFFF, which are no characters.
            (0xed, _) if matches!(text.get(at + 1..at + 3), Some([0xa0..0xc0, 0x80..0xc0])) => (false, 3),
            _ => (true, 1),
        };
        match kept {
            true => out.extend_from_slice(&text[at..at + length]),
            false => out.extend_from_slice("\u{fffd}".as_bytes()),
        }
        mended |= !kept;
        at += length;
    }
    mended.then_some(out)
}

/// A JSON value for templates: object keys keep their order, numbers their kind.
pub fn to_template(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => items.iter().map(to_template).collect::<Vec<_>>().into(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(k, v)| (k.as_str(), to_template(v)))),
        Json::Number(number) => {
            let text = number.to_string();
            match text.parse::<i128>() {
                Ok(integer) => Value::from(integer),
                // Integers beyond 128 bits keep their digits; as text they print alike.
                Err(_) if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') => Value::from(text),
                Err(_) => Value::from(number.as_f64().unwrap_or(f64::INFINITY)),
            }
        }
    }
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`, held to `limit` bytes, of which each value costs some.
///
/// # Errors
/// If it is nested deeper than 128, is longer, or has no JSON.
pub fn dumps(value: &Value, indent: Option<usize>, limit: usize) -> Result<String, minijinja::Error> {
    let mut out = String::new();
    write_json(value, indent, &mut WrittenBudget { limit, values: 0 }, 0, &mut out)?;
    Ok(out)
}

/// How much may be written, of values that hold each other many times.
struct WrittenBudget {
    /// Bytes.
    limit: usize,
    /// Values gone through.
    values: usize,
}

impl WrittenBudget {
    /// What going through a value costs, as bytes: far more than writing one.
    const VALUE: usize = 32;

    /// Go through another value, after what is in `out`.
    fn visit(&mut self, out: &str) -> Result<(), minijinja::Error> {
        self.values += 1;
        match out.len() + self.values * Self::VALUE > self.limit {
            true => Err(minijinja::ErrorKind::OutOfFuel.into()),
            false => Ok(()),
        }
    }
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    budget: &mut WrittenBudget,
    depth: usize,
    out: &mut String,
) -> Result<(), minijinja::Error> {
    budget.visit(out)?;
    let wrong = |what: String| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what);
    if depth > 128 {
        return Err(wrong("tojson: nested deeper than 128".into()));
    }
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                out.push_str(if empty { "" } else { separator });
                empty = false;
                line(out, depth + 1);
                write_string(&python_str(&key, budget.limit)?, out);
                out.push_str(": ");
                write_json(&value.get_item(&key)?, indent, budget, depth + 1, out)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                out.push_str(if empty { "" } else { separator });
                empty = false;
                line(out, depth + 1);
                write_json(&item, indent, budget, depth + 1, out)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push(']');
        }
        kind => return Err(wrong(format!("tojson: a value of kind {kind} is not JSON"))),
    }
    Ok(())
}

/// `json.dumps(value, ensure_ascii=False)` of a parsed JSON value: integers keep their digits, floats print
/// as Python prints them, and what no float can hold (`1e999`) stays as it was written.
pub fn dumps_parsed(value: &Json) -> String {
    let mut out = String::new();
    write_parsed(value, &mut out);
    out
}

fn write_parsed(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Json::String(text) => write_string(text, out),
        Json::Number(number) => {
            let text = number.to_string();
            match number.as_f64().filter(|x| x.is_finite() && text.contains(['.', 'e', 'E'])) {
                Some(x) => out.push_str(&float_repr(x)),
                None => out.push_str(&text),
            }
        }
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_parsed(item, out);
            }
            out.push(']');
        }
        Json::Object(fields) => {
            out.push('{');
            for (i, (key, item)) in fields.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_string(key, out);
                out.push_str(": ");
                write_parsed(item, out);
            }
            out.push('}');
        }
    }
}

/// Append `text` as a JSON string, non-ASCII characters as they are.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    escape(text, out);
    out.push('"');
}

/// Append `text` as the inside of a JSON string. Characters are escaped one by one, so a text may be
/// appended in pieces.
pub fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32).expect("writing to a string succeeds"),
            c => out.push(c),
        }
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float_repr)
}

/// A float as Python prints it: shortest digits, a point or an exponent always, exponent form below 1e-4
/// and from 1e16 on.
pub fn float_repr(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').expect("exponent form has an e");
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = format!("{x}");
    if text.contains('.') { text } else { text + ".0" }
}

/// `str(value)`, held to `limit` bytes, of which each value costs some.
///
/// # Errors
/// If it is longer.
pub fn python_str(value: &Value, limit: usize) -> Result<String, minijinja::Error> {
    Ok(match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_string(),
        ValueKind::Undefined => String::new(),
        _ => {
            let mut out = String::new();
            write_repr(value, &mut WrittenBudget { limit, values: 0 }, 0, &mut out)?;
            out
        }
    })
}

/// Append `repr(value)`.
fn write_repr(
    value: &Value,
    budget: &mut WrittenBudget,
    depth: usize,
    out: &mut String,
) -> Result<(), minijinja::Error> {
    budget.visit(out)?;
    if depth > 128 {
        out.push_str("...");
        return Ok(());
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => out.push_str(&quote(value.as_str().unwrap_or_default())),
        ValueKind::Map if value.as_object().is_some() => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_repr(&key, budget, depth + 1, out)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key).unwrap_or_default(), budget, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_repr(&item, budget, depth + 1, out)?;
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string literal as Python's `repr` writes it: single quotes unless the text has only single ones.
fn quote(text: &str) -> String {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => {
                write!(out, "\\x{:02x}", c as u32).expect("writing to a string succeeds");
            }
            c => out.push(c),
        }
    }
    out.push(mark);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_become_replacement_characters() {
        let wtf8 = [b"\"a", &[0xed, 0xa0, 0xbd][..], b"b\""].concat();
        for (text, wanted) in [
            (&br#""a\ud83d\u2026 b""#[..], "a\u{fffd}… b"),
            (br#""\udc00\uD83D""#, "\u{fffd}\u{fffd}"),
            (br#""\ud83d\ud83d\ude00\\ud83d""#, "\u{fffd}😀\\ud83d"),
            (br#""\ud83d""#, "\u{fffd}"),
            (&wtf8, "a\u{fffd}b"),
        ] {
            assert_eq!(parse(text).expect("JSON"), wanted);
        }
        assert_eq!(parse(br#"{"a\ud83d": "\ud83d\ude00"}"#).expect("JSON"), serde_json::json!({"a\u{fffd}": "😀"}));
        for wrong in [&br#""\ud83d"#[..], br#""\ud83x""#, br#""\u""#, b"\"\\", b"\"\xff\"", b"{"] {
            assert!(parse(wrong).is_err());
        }
    }

    #[test]
    fn floats_print_as_python_prints_them() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e20, "1e+20"),
            (1e-7, "1e-07"),
            (1e16, "1e+16"),
            (123_456_789.5, "123456789.5"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (-2.5e-10, "-2.5e-10"),
            (0.0, "0.0"),
            (1.5e300, "1.5e+300"),
        ];
        for (x, text) in cases {
            assert_eq!(float_repr(x), text);
        }
    }

    #[test]
    fn json_is_spaced_ordered_and_not_escaped_for_html() {
        let json = serde_json::from_str(
            r#"{"b": "<é'\">\n\u0001", "a": [1, 2.0, null, true, {}], "n": 12345678901234567890123}"#,
        );
        let value = to_template(&json.expect("valid JSON"));
        let text = dumps(&value, None, usize::MAX).expect("JSON");
        assert_eq!(text, r#"{"b": "<é'\">\n\u0001", "a": [1, 2.0, null, true, {}], "n": 12345678901234567890123}"#);
        assert_eq!(dumps(&Value::from(vec![1, 2]), Some(2), usize::MAX).expect("JSON"), "[\n  1,\n  2\n]");
    }

    #[test]
    fn parsed_json_prints_as_python_would_print_it() {
        let digits = "9".repeat(60);
        let text = format!(r#"{{"n":{digits},"f":[1.10,1E2,2.0,1e999,-0.0],"é":{{"\u00e9":"\u0001"}}}}"#);
        let json = serde_json::from_str(&text).expect("valid JSON");
        let want = format!(r#"{{"n": {digits}, "f": [1.1, 100.0, 2.0, 1e+999, -0.0], "é": {{"é": "\u0001"}}}}"#);
        assert_eq!(dumps_parsed(&json), want);
    }

    #[test]
    fn lists_and_dicts_print_as_python_prints_them() {
        let json = serde_json::from_str(r#"{"type": ["integer", "null"], "x": {"it's": false}, "n": null, "f": 1.0}"#);
        let value = to_template(&json.expect("valid JSON"));
        assert_eq!(
            python_str(&value, usize::MAX).expect("short"),
            r#"{'type': ['integer', 'null'], 'x': {"it's": False}, 'n': None, 'f': 1.0}"#
        );
    }
}
