//! What rendering may cost: [`fuel`] for its work, [`writable`] for a value, [`BoundedOutput`] for all that it writes,
//! [`bounded`] for what is gone through without being written, [`shallow`] for what is kept.

use std::{cell::Cell, io};

use minijinja::{
    Error, ErrorKind, State,
    value::{Value, ValueKind},
};
use serde_json::Value as Json;

use super::prompt::ChatPrompt;

/// Longest prompt that a template may write.
pub(super) const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// Work that any render may take: an instruction, or 64 bytes of what is made and gone through, cost one.
const LEAST_FUEL: u64 = 2_000_000;

/// What each byte of the input adds, so that a small request cannot cost what a large one may.
const FUEL_PER_BYTE: u64 = 16;

/// The most: a conversation of a hundred thousand messages needs less.
pub(super) const MOST_FUEL: u64 = 20_000_000;

/// Bytes of JSON, or of Python's way to write a value, that a unit of fuel pays for.
const WRITTEN_PER_FUEL: u64 = 4;

/// What rendering `prompt` may cost.
pub(super) fn fuel(prompt: &ChatPrompt) -> u64 {
    fn bytes(value: &Json) -> u64 {
        const EACH: u64 = 8;
        EACH + match value {
            Json::String(text) => text.len() as u64,
            Json::Array(items) => items.iter().map(bytes).sum(),
            Json::Object(fields) => fields.iter().map(|(key, value)| key.len() as u64 + bytes(value)).sum(),
            _ => 0,
        }
    }
    let given: u64 = prompt.values().map(bytes).sum();
    given.saturating_mul(FUEL_PER_BYTE).saturating_add(LEAST_FUEL).min(MOST_FUEL)
}

/// Bytes that a value may take when it is written out whole: a value that holds another many times is larger than the
/// memory it takes.
pub(super) fn writable(state: &State) -> usize {
    let left = state.fuel_levels().map_or(MOST_FUEL, |(_, left)| left);
    usize::try_from(left.saturating_mul(WRITTEN_PER_FUEL)).unwrap_or(usize::MAX).min(MAX_OUTPUT_BYTES)
}

/// What going through a value costs, in bytes of [`writable`].
const VALUE_BYTES: usize = 32;

/// Values within values. Jinja's own ways to write, compare and look up a value have no bound of their depth.
const MAX_DEPTH: usize = 128;

thread_local! {
    /// Values that the render of this thread has gone through.
    static GONE_THROUGH: Cell<u64> = const { Cell::new(0) };
}

/// A render begins on this thread.
pub(super) fn begin() {
    GONE_THROUGH.set(0);
}

/// Values that a render may go through, all that are [`bounded`] or [`shallow`] together: one for each unit of its fuel.
fn most_values(state: &State) -> u64 {
    state.fuel_levels().map_or(MOST_FUEL, |(used, left)| used + left)
}

/// Refuse a value that is longer, on paper, than the render may yet write, or nested deeper than anything that has an
/// end.
///
/// # Errors
/// If it is.
pub(super) fn bounded(state: &State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return Ok(());
    }
    go_through(value, writable(state), most_values(state), &mut 0, 0)
}

/// Refuse a value that is nested deeper than anything that has an end, or that holds so many others that it was not made
/// one by one: to free a list in a list in a list takes as much stack as they are deep. What is neither list nor dict is
/// not looked at. A namespace may be in no other value, since one that came to hold itself would never be freed; `depth`:
/// 1 where `value` is about to be in one, else 0.
///
/// # Errors
/// If it is.
pub(super) fn shallow(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    go_into(value, most_values(state), depth)
}

fn go_into(value: &Value, most: u64, depth: usize) -> Result<(), Error> {
    let Some(object) = value.as_object() else { return Ok(()) };
    if !matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) {
        return Ok(());
    }
    if depth > 0 && object.type_name().ends_with("::Namespace") {
        return Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot be kept in another value"));
    }
    enter(most, depth)?;
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        match is_map {
            true => go_into(&value.get_item(&item)?, most, depth + 1)?,
            false => go_into(&item, most, depth + 1)?,
        }
    }
    Ok(())
}

/// Count a value, this deep in another.
fn enter(most: u64, depth: usize) -> Result<(), Error> {
    let gone_through = GONE_THROUGH.get() + 1;
    GONE_THROUGH.set(gone_through);
    if gone_through > most {
        return Err(ErrorKind::OutOfFuel.into());
    }
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("a value is nested deeper than {MAX_DEPTH}")));
    }
    Ok(())
}

fn go_through(value: &Value, limit: usize, most: u64, bytes: &mut usize, depth: usize) -> Result<(), Error> {
    enter(most, depth)?;
    *bytes += VALUE_BYTES + value.as_str().map_or(0, str::len);
    if *bytes > limit {
        return Err(ErrorKind::OutOfFuel.into());
    }
    match value.kind() {
        ValueKind::Map => {
            for key in value.try_iter()? {
                go_through(&key, limit, most, bytes, depth + 1)?;
                go_through(&value.get_item(&key)?, limit, most, bytes, depth + 1)?;
            }
        }
        ValueKind::Seq | ValueKind::Iterable if value.as_object().is_some() => {
            for item in value.try_iter()? {
                go_through(&item, limit, most, bytes, depth + 1)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Output with an end.
#[derive(Default)]
pub(super) struct BoundedOutput {
    pub(super) bytes: Vec<u8>,
    pub(super) full: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_OUTPUT_BYTES {
            self.full = true;
            return Err(io::Error::other("the output is full"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
