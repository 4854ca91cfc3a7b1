//! What rendering may cost: [`fuel`] for its work, [`writable`] for a value, [`BoundedOutput`] for all that it writes.

use std::io;

use minijinja::State;
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
