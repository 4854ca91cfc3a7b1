//! From the text of a parameter to JSON, by the type its schema states.
//!
//! Total: what does not convert stays the text it was. Numbers are read as Python reads them (blanks
//! around, a leading `+`, `1_000`, `007`), integers keep every digit, and what JSON cannot write (`nan`,
//! `inf`) is text. Objects and arrays are JSON, or what Python's `repr` prints, since templates print
//! earlier calls that way.

use serde_json::{Map, Number, Value as Json};

use super::schema::{ScalarKind, ValueType};
use crate::json;

/// Nesting of a Python literal; `serde_json` allows as much for JSON.
const MAX_DEPTH: usize = 128;

/// Longest text that may still become `null`.
const NULL_BYTES: usize = 4;

/// What the beginning of a value says about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prospect {
    /// It may yet become either.
    Open,
    /// Text for certain, to be given out as it comes.
    Text,
    /// To be converted when it is complete.
    Whole,
}

impl ValueType {
    /// Whether a value that begins with `start` can be given out as text.
    pub(super) fn prospect(&self, start: &str) -> Prospect {
        if !self.text || self.kinds.iter().any(|kind| *kind != ScalarKind::Container) {
            return Prospect::Whole;
        }
        let start_of_null = || "None".starts_with(start) || "null".starts_with(&start.to_ascii_lowercase());
        let may_be_null = self.nullable && start.len() <= NULL_BYTES && start_of_null();
        if start.is_empty() || may_be_null {
            return Prospect::Open;
        }
        if !self.kinds.is_empty() && start.starts_with(['{', '[']) { Prospect::Whole } else { Prospect::Text }
    }

    /// The JSON text of a complete value.
    pub(super) fn convert(&self, text: &str) -> String {
        let (nullable, trimmed) = if self.text { (self.nullable, text) } else { (true, text.trim()) };
        // `null` in any case, or Python's `None`.
        if nullable && (trimmed == "None" || trimmed.eq_ignore_ascii_case("null")) {
            return "null".into();
        }
        self.kinds.iter().find_map(|kind| kind.convert(text.trim())).unwrap_or_else(|| {
            let mut out = String::with_capacity(text.len() + 2);
            json::write_string(text, &mut out);
            out
        })
    }
}

impl ScalarKind {
    fn convert(self, text: &str) -> Option<String> {
        match self {
            ScalarKind::Integer => integer(text).or_else(|| integral_float(text)),
            ScalarKind::Number => integer(text).or_else(|| Some(json::float_repr(float(text)?))),
            ScalarKind::Boolean => {
                let text = text.to_ascii_lowercase();
                (text == "true" || text == "false").then_some(text)
            }
            ScalarKind::Container | ScalarKind::Other => {
                let parsed = serde_json::from_str(text).ok().or_else(|| python_literal(text))?;
                Some(json::dumps_parsed(&parsed))
            }
        }
    }
}

/// `int(text)`.
fn integer(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) if text.starts_with('-') => ("-", digits),
        Some(digits) => ("", digits),
        None => ("", text),
    };
    let digits = without_underscores(digits)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match digits.trim_start_matches('0') {
        "" => Some("0".into()),
        digits => Some(format!("{sign}{digits}")),
    }
}

/// `3.0` where an integer is wanted, as far as floats count exactly.
fn integral_float(text: &str) -> Option<String> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    let x = float(text)?;
    (x.fract() == 0.0 && x.abs() <= EXACT).then(|| format!("{}", x as i64))
}

/// `float(text)`, if it is finite.
fn float(text: &str) -> Option<f64> {
    let text = without_underscores(text)?;
    let is_number = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    text.parse().ok().filter(|x: &f64| is_number && x.is_finite())
}

/// Python's underscores: each between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |i: Option<usize>| i.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let between = |i: usize| digit(i.checked_sub(1)) && digit(Some(i + 1));
    let fine = bytes.iter().enumerate().all(|(i, b)| *b != b'_' || between(i));
    fine.then(|| text.replace('_', ""))
}

/// What `ast.literal_eval` reads: dictionaries, lists, tuples, strings, numbers, `True`, `False`, `None`
/// (and, since models mix the two, JSON's `true`, `false`, `null`). Tuples become arrays and keys strings,
/// as `json.dumps` has it.
fn python_literal(text: &str) -> Option<Json> {
    let mut reader = Literal { rest: text };
    let value = reader.value(0)?;
    reader.blanks();
    reader.rest.is_empty().then_some(value)
}

struct Literal<'a> {
    rest: &'a str,
}

impl Literal<'_> {
    fn value(&mut self, depth: usize) -> Option<Json> {
        self.blanks();
        match self.rest.chars().next()? {
            _ if depth > MAX_DEPTH => None,
            '{' => self.dictionary(depth),
            '[' => Some(Json::Array(self.items(']', depth)?.0)),
            '(' => {
                let (mut items, comma) = self.items(')', depth)?;
                // One value in parentheses is that value, unless a comma makes it a tuple.
                if items.len() == 1 && !comma { items.pop() } else { Some(Json::Array(items)) }
            }
            '\'' | '"' => self.string().map(Json::String),
            _ => self.word(),
        }
    }

    /// Items up to `close`, and whether a comma came last.
    fn items(&mut self, close: char, depth: usize) -> Option<(Vec<Json>, bool)> {
        self.rest = &self.rest[1..];
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            self.blanks();
            if self.take(close) {
                return Some((items, comma));
            }
            if !items.is_empty() && !comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            self.blanks();
            comma = self.take(',');
        }
    }

    fn dictionary(&mut self, depth: usize) -> Option<Json> {
        self.rest = &self.rest[1..];
        let mut fields = Map::new();
        let mut comma = true;
        loop {
            self.blanks();
            if self.take('}') {
                return Some(Json::Object(fields));
            }
            if !comma {
                return None;
            }
            let key = match self.value(depth + 1)? {
                Json::String(key) => key,
                Json::Array(_) | Json::Object(_) => return None,
                scalar => json::dumps_parsed(&scalar),
            };
            self.blanks();
            if !self.take(':') {
                return None;
            }
            let value = self.value(depth + 1)?;
            fields.insert(key, value);
            self.blanks();
            comma = self.take(',');
        }
    }

    fn string(&mut self) -> Option<String> {
        let mark = self.rest.chars().next()?;
        let mut chars = self.rest[1..].char_indices();
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            if c == mark {
                self.rest = &self.rest[1 + i + 1..];
                return Some(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let letter = chars.next()?.1;
            match letter {
                'x' | 'u' | 'U' => {
                    let digits = if letter == 'x' {
                        2
                    } else if letter == 'u' {
                        4
                    } else {
                        8
                    };
                    let code = (0..digits).try_fold(0, |code, _| Some(code * 16 + chars.next()?.1.to_digit(16)?))?;
                    out.push(char::from_u32(code)?);
                }
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                '\n' => {}
                c @ ('\\' | '\'' | '"') => out.push(c),
                c => out.extend(['\\', c]),
            }
        }
        None
    }

    fn word(&mut self) -> Option<Json> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-._".contains(c));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "True" | "true" => return Some(Json::Bool(true)),
            "False" | "false" => return Some(Json::Bool(false)),
            "None" | "null" => return Some(Json::Null),
            _ => {}
        }
        let written = integer(word).or_else(|| float(word).map(json::float_repr))?;
        written.parse::<Number>().ok().map(Json::Number)
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ScalarKind, cases: &[(&str, &str)]) {
        let value_type = ValueType { kinds: vec![kind], ..ValueType::default() };
        for (text, want) in cases {
            assert_eq!(value_type.convert(text), *want, "{kind:?} of {text:?}");
            let parsed: Result<Json, _> = serde_json::from_str(want);
            assert!(parsed.is_ok(), "{want} is JSON");
        }
    }

    #[test]
    fn integers_keep_every_digit() {
        let huge = "123456789".repeat(100);
        check(
            ScalarKind::Integer,
            &[
                ("7", "7"),
                (" +7\n", "7"),
                ("-007", "-7"),
                ("-0", "0"),
                ("1_000", "1000"),
                ("9007199254740993", "9007199254740993"),
                ("18446744073709551615", "18446744073709551615"),
                (&huge, &huge),
                ("3.0", "3"),
                ("null", "null"),
                ("None", "null"),
                ("3.5", "\"3.5\""),
                ("1__0", "\"1__0\""),
                ("_1", "\"_1\""),
                ("three", "\"three\""),
                ("", "\"\""),
                ("-", "\"-\""),
                ("1e400", "\"1e400\""),
            ],
        );
    }

    #[test]
    fn numbers_print_as_python_prints_them() {
        check(
            ScalarKind::Number,
            &[
                ("3", "3"),
                ("-2.50", "-2.5"),
                ("5.0", "5.0"),
                (".5", "0.5"),
                ("1e5", "100000.0"),
                ("1E22", "1e+22"),
                ("12345678901234567890123", "12345678901234567890123"),
                ("inf", "\"inf\""),
                ("NaN", "\"NaN\""),
                ("1e999", "\"1e999\""),
                ("infinity", "\"infinity\""),
                ("1.2.3", "\"1.2.3\""),
            ],
        );
    }

    #[test]
    fn booleans_are_the_two_words_and_nothing_else() {
        let cases = [("true", "true"), ("False", "false"), ("TRUE\n", "true"), ("yes", "\"yes\""), ("1", "\"1\"")];
        check(ScalarKind::Boolean, &cases);
    }

    #[test]
    fn containers_are_json_or_python() {
        check(
            ScalarKind::Container,
            &[
                (r#"{"a":[1,2.0,null,true],"b":{}}"#, r#"{"a": [1, 2.0, null, true], "b": {}}"#),
                (
                    "{'a': True, 'b': None, 1: (1, 2), 'c': ('x'), 'd': (1,)}",
                    r#"{"a": true, "b": null, "1": [1, 2], "c": "x", "d": [1]}"#,
                ),
                (r"['it\'s', 'a\n\x41\u00e9\\d\d', -1_0, 1.50,]", r#"["it's", "a\nAé\\d\\d", -10, 1.5]"#),
                ("[true, 'é']", r#"[true, "é"]"#),
                ("()", "[]"),
                ("[1 2]", "\"[1 2]\""),
                ("[1,,2]", "\"[1,,2]\""),
                ("{'a' 1}", "\"{'a' 1}\""),
                ("['open", "\"['open\""),
                ("[nan]", "\"[nan]\""),
                ("[1] x", "\"[1] x\""),
                ("null", "null"),
            ],
        );
        let deep = "[".repeat(100_000);
        check(ScalarKind::Container, &[(&deep, &format!("\"{deep}\""))]);
        let deep = format!("{}'x'{}", "[".repeat(300), "]".repeat(300));
        check(ScalarKind::Container, &[(&deep, &format!("\"{deep}\""))]);
    }

    #[test]
    fn text_is_known_as_early_as_its_type_allows() {
        let text = ValueType::text();
        assert_eq!(text.prospect("n"), Prospect::Text);
        assert_eq!(text.convert("null"), "\"null\"");
        let nullable = ValueType { nullable: true, ..ValueType::text() };
        let cases = [("", Prospect::Open), ("No", Prospect::Open), ("NULL", Prospect::Open), ("Nope", Prospect::Text)];
        for (start, want) in cases {
            assert_eq!(nullable.prospect(start), want, "{start:?}");
        }
        assert_eq!(nullable.prospect("null!"), Prospect::Text);
        assert_eq!((nullable.convert("None"), nullable.convert("none")), ("null".into(), "\"none\"".into()));
        let mixed = ValueType { kinds: vec![ScalarKind::Container], ..ValueType::text() };
        assert_eq!((mixed.prospect("[\"a"), mixed.prospect("a[")), (Prospect::Whole, Prospect::Text));
        assert_eq!(mixed.convert("[\"a\",1]"), "[\"a\", 1]");
        assert_eq!(mixed.convert("[ ] todo"), "\"[ ] todo\"");
    }
}
