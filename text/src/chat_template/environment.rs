//! [`environment`]: Jinja with the filters, tests and functions that chat templates expect.

use std::fmt::Write as _;

use minijinja::{
    Environment, ErrorKind, State, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Kwargs, Value},
};

use super::{
    budget::{bounded, shallow, writable},
    guard::{BOUNDED, SHALLOW, TEXT},
};
use crate::json::{dumps, python_str};

/// Widest field of `str.format`.
const MAX_FIELD_WIDTH: usize = 4096;

/// Calls within calls.
const RECURSION_LIMIT: usize = 100;

/// Jinja as transformers sets it up for chat templates.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_recursion_limit(RECURSION_LIMIT);
    env.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" && value.as_str().is_some_and(has_wide_field) {
            let told = format!("format: fields of variable width, or wider than {MAX_FIELD_WIDTH}, are not written");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, told));
        }
        args.iter().try_for_each(|argument| bounded(state, argument))?;
        match (method, value.as_str(), args) {
            ("join", Some(separator), [list]) => joined(separator, list, writable(state)),
            _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
        }
    });
    env.set_formatter(|out, state, value| {
        if !value.is_undefined() {
            out.write_str(&python_str(value, writable(state))?)?;
        }
        Ok(())
    });
    env.add_filter("tojson", |state: &State, value: Value, kwargs: Kwargs| {
        let indent = kwargs.get::<Option<usize>>("indent")?;
        let _ = kwargs.get::<Option<bool>>("ensure_ascii")?;
        kwargs.assert_all_used()?;
        dumps(&value, indent.map(|n| n.min(16)), writable(state))
    });
    env.add_filter("string", |state: &State, value: Value| python_str(&value, writable(state)));
    // In Python `None` is not iterable; here it would be, as an empty sequence.
    env.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    env.add_filter(TEXT, |state: &State, value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => python_str(&value, writable(state)).map(Value::from),
    });
    env.add_filter(BOUNDED, |state: &State, value: Value| bounded(state, &value).map(|()| value));
    env.add_filter(SHALLOW, |state: &State, value: Value, depth: Option<usize>| {
        shallow(state, &value, depth.unwrap_or(0)).map(|()| value)
    });
    env.add_function("raise_exception", |state: &State, message: Value| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, python_str(&message, writable(state))?))
    });
    // Not Jinja's, and it writes all there is.
    env.remove_global("debug");
    env.add_function("range", bounded_range);
    env.add_function("strftime_now", strftime_now);
    env
}

/// `separator.join(list)`, of at most `limit` bytes: a list of one long text many times is short.
fn joined(separator: &str, list: &Value, limit: usize) -> Result<Value, minijinja::Error> {
    let mut out = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        let item = python_str(&item, limit)?;
        if out.len() + separator.len() + item.len() > limit {
            return Err(ErrorKind::OutOfFuel.into());
        }
        out.push_str(if index == 0 { "" } else { separator });
        out.push_str(&item);
    }
    Ok(Value::from(out))
}

/// Whether `str.format` would pad one of the fields in `format` beyond what it is worth, or as an argument says.
fn has_wide_field(format: &str) -> bool {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut wide = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX) > MAX_FIELD_WIDTH);
    let is_nested = format.replace("{{", "").split('{').skip(1).any(|field| !field.contains('}'));
    wide.any(|wide| wide) || is_nested
}

/// The local time by the signs of C's `strftime`, as transformers offers it to templates.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    let written = write!(text, "{}", chrono::Local::now().format(format));
    let refused =
        |_| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: no format: {format:?}"));
    written.map(|()| text).map_err(refused)
}

/// Longest `range` a template may ask for.
const MAX_RANGE: i64 = 1_000_000;

/// Python's `range`, refused when it is long enough to be an attack.
fn bounded_range(start: i64, stop: Option<i64>, step: Option<i64>) -> Result<Vec<i64>, minijinja::Error> {
    let wrong = |what: &str| minijinja::Error::new(ErrorKind::InvalidOperation, format!("range: {what}"));
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(wrong("the step is 0"));
    }
    let length = (i128::from(stop) - i128::from(start)) / i128::from(step);
    if length > i128::from(MAX_RANGE) {
        return Err(wrong("more than 1000000 numbers"));
    }
    let numbers = std::iter::successors(Some(start), |n| n.checked_add(step));
    Ok(numbers.take_while(|n| if step > 0 { *n < stop } else { *n > stop }).collect())
}
