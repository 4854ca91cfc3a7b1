//! [`MemoryPool`]: the memory that the bodies of all requests, and the log-probabilities of their answers, may take
//! together.
//!
//! A body costs more as a tree of values than as text: `{"a":{}}` fifty times as much. So it is counted
//! twice, as bytes while it arrives and as [`tree_bytes`] before it is parsed. Log-probabilities are counted when their
//! request is submitted, as many as it may get. What does not fit now is answered 503; what never
//! fits, 413 for a body and 400 for log-probabilities.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Memory is counted in pieces of this many bytes.
const UNIT: usize = 1 << 10;

/// What is left for requests. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryPool {
    free: Arc<Semaphore>,
    limit: usize,
}

/// Memory that counts as one request's until this is dropped.
#[derive(Debug, Default)]
pub struct HeldMemory {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

/// What a request wants memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldFor {
    /// Its body, as values.
    Body,
    /// The log-probabilities of its answer, until they are sent.
    Scores,
}

impl HeldFor {
    /// Why `bytes` are refused where all requests may have `limit`.
    fn never(self, bytes: usize, limit: usize) -> ApiError {
        let (what, instead) = match self {
            Self::Body => ("The body takes", "Send fewer values in one request."),
            Self::Scores => (
                "The log-probabilities that this request may get take",
                "Ask for a smaller top_logprobs, max_tokens or n.",
            ),
        };
        let message = format!(
            "{what} about {bytes} bytes of memory; the bodies and log-probabilities of all requests may take {limit}. {instead}"
        );
        match self {
            Self::Body => ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message),
            Self::Scores => ApiError::invalid(message).about("top_logprobs"),
        }
    }
}

impl MemoryPool {
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
    /// If all requests together would hold more than the server allows.
    pub fn hold(&self, held: &mut HeldMemory, bytes: usize, purpose: HeldFor) -> Result<(), ApiError> {
        let limit = self.limit;
        if bytes > limit {
            return Err(purpose.never(bytes, limit));
        }
        let more = bytes.div_ceil(UNIT).saturating_sub(held.bytes.div_ceil(UNIT));
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.free).try_acquire_many_owned(more).map_err(|_| {
            ApiError::unavailable(format!(
                "Other requests take the {limit} bytes of memory that bodies and log-probabilities may have together; \
                 try again."
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
    use crate::config::MAX_REQUEST_MEMORY;

    #[test]
    fn requests_share_one_memory_and_give_it_back() {
        let memory = MemoryPool::new(MAX_REQUEST_MEMORY);
        let (mut one, mut other) = (HeldMemory::default(), HeldMemory::default());
        memory.hold(&mut one, memory.limit() - 4096, HeldFor::Body).unwrap();
        memory.hold(&mut one, 10, HeldFor::Body).unwrap();
        memory.hold(&mut other, 1, HeldFor::Scores).unwrap();
        memory.hold(&mut other, 4096, HeldFor::Body).unwrap();
        let full = memory.hold(&mut other, 4097, HeldFor::Scores).unwrap_err();
        assert!(full.status == 503 && full.message.contains("1073741824"), "{full}");
        drop(one);
        memory.hold(&mut other, memory.limit(), HeldFor::Body).unwrap();
        for (purpose, status, instead) in [(HeldFor::Body, 413, "fewer values"), (HeldFor::Scores, 400, "top_logprobs")]
        {
            let never = memory.hold(&mut other, memory.limit() + 1, purpose).unwrap_err();
            let says = |part: &str| never.message.contains(part);
            assert!(never.status == status && says("1073741825") && says(instead), "{never}");
        }
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
