//! [`BodyMemory`]: the memory that the bodies of all requests may take together.
//!
//! A body costs more as a tree of values than as text: `{"a":{}}` fifty times as much. So it is counted
//! twice, as bytes while it arrives and as [`tree_bytes`] before it is parsed. What does not fit now is
//! answered 503, what never fits 413.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Memory is counted in pieces of this many bytes.
const UNIT: usize = 1 << 10;

/// What is left for bodies. Clones share it.
#[derive(Clone, Debug)]
pub struct BodyMemory {
    free: Arc<Semaphore>,
    limit: usize,
}

/// Memory that counts as one body's until this is dropped.
#[derive(Debug, Default)]
pub struct HeldMemory {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl BodyMemory {
    /// Memory of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit / UNIT)), limit }
    }

    /// All of it, bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Count `bytes` in all as held, or refuse.
    ///
    /// # Errors
    /// If all bodies together would hold more than the server allows.
    pub fn hold(&self, held: &mut HeldMemory, bytes: usize) -> Result<(), ApiError> {
        let limit = self.limit;
        if bytes > limit {
            let message = format!(
                "The body takes about {bytes} bytes of memory as values; the bodies of all requests may take {limit}. \
                 Send fewer values in one request."
            );
            return Err(ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        let more = bytes.div_ceil(UNIT).saturating_sub(held.bytes.div_ceil(UNIT));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.free).try_acquire_many_owned(more).map_err(|_| {
            ApiError::unavailable(format!(
                "The bodies of other requests take the {limit} bytes of memory set aside for bodies; try again."
            ))
        })?;
        match &mut held.permit {
            None => held.permit = Some(permit),
            Some(held) => held.merge(permit),
        }
        held.bytes = held.bytes.max(bytes);
        Ok(())
    }
}

/// About what `json` takes as a tree of [`Value`]s, itself included; rather too much than too little.
///
/// One pass that counts: a value is stored in its list or object, which may have room for twice as many, and a
/// number keeps its digits apart (16 bytes at least, with the allocator's own); an object that is not
/// empty begins with room for three members, each a key, its hash and a value, and with a table of them.
pub fn tree_bytes(json: &[u8]) -> usize {
    const VALUE: usize = size_of::<Value>();
    const MEMBER: usize = size_of::<String>() + size_of::<u64>() + VALUE;
    let (mut values, mut objects) = (1, 0);
    let (mut in_text, mut escaped, mut before) = (false, false, b' ');
    for &byte in json {
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b',' => values += 1,
            b'[' => values += 1,
            b'{' => (values, objects) = (values + 1, objects + 1),
            // An empty one holds nothing.
            b']' if before == b'[' => values -= 1,
            b'}' if before == b'{' => (values, objects) = (values - 1, objects - 1),
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            before = byte;
        }
    }
    json.len() + values * (VALUE * 3 / 2 + 24) + objects * (3 * MEMBER + 48)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_BODY_MEMORY;

    #[test]
    fn bodies_share_one_memory_and_give_it_back() {
        let memory = BodyMemory::new(MAX_BODY_MEMORY);
        let (mut one, mut other) = (HeldMemory::default(), HeldMemory::default());
        memory.hold(&mut one, memory.limit() - 4096).unwrap();
        memory.hold(&mut one, 10).unwrap();
        memory.hold(&mut other, 1).unwrap();
        memory.hold(&mut other, 4096).unwrap();
        let full = memory.hold(&mut other, 4097).unwrap_err();
        assert!(full.status == 503 && full.message.contains("1073741824"), "{full}");
        drop(one);
        memory.hold(&mut other, memory.limit()).unwrap();
        let never = memory.hold(&mut other, memory.limit() + 1).unwrap_err();
        assert!(never.status == 413 && never.message.contains("1073741825"), "{never}");
    }

    #[test]
    fn what_a_tree_takes_is_counted_rather_too_high() {
        const VALUE: usize = size_of::<Value>();
        let cost = |piece: &str, count: usize| {
            let json = format!("[{}0]", piece.repeat(count));
            serde_json::from_str::<Value>(&json).expect("valid JSON");
            (tree_bytes(json.as_bytes()) - json.len()) / count
        };
        assert!(cost("1,", 1000) >= VALUE + 24, "a number and its digits");
        assert!(cost("[],", 1000) >= VALUE);
        assert!(cost(r#"{"a":{}},"#, 1000) >= 2 * VALUE + 3 * (VALUE + 32));
        // Brackets and commas of a text are text.
        let text = format!(r#"["{}"]"#, r#",{[\"\\"#.repeat(1000));
        assert!(tree_bytes(text.as_bytes()) < text.len() + 4 * VALUE);
    }
}
