//! [`RequestMemory`]: the memory that requests may take beside weights and KV pool.

use quern_api::config::MAX_REQUEST_MEMORY;

use crate::memory::gib;

/// What the server has beside weights, pool and requests, bytes: its program, tokenizer and grammars, the activations of a
/// step, the stacks of its threads.
const SERVER_BYTES: u64 = 96 << 20;

/// Least memory for what requests hold: a body of 64 KiB, whatever it says, and its neighbours.
const LEAST_HELD_MEMORY: u64 = 8 << 20;

/// The least that is to be left beside weights and pool, bytes.
pub const LEAST_REQUEST_MEMORY: u64 = SERVER_BYTES + 2 * LEAST_HELD_MEMORY;

/// A body takes this many times its size as values, if it is text for the most part.
const VALUES_PER_BYTE: u64 = 2;

/// What requests find.
#[derive(Clone, Copy, Debug)]
pub struct RequestDemand {
    /// Memory that can be allocated beside weights and pool, bytes; `None`: unknown.
    pub free_bytes: Option<u64>,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
}

/// What requests may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMemory {
    /// Memory for the bodies and log-probabilities of all requests, bytes.
    pub max_request_memory: usize,
    /// Most bytes of one body.
    pub max_request_bytes: usize,
    /// A line for the log, where that is less than was asked for.
    pub note: Option<String>,
}

/// Nothing is left for requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "beside weights and KV cache {} of memory is left, and serving requests needs {}: raise the limit of memory (ulimit \
     -v, a container's memory.max), or lower --max-total-tokens or --mem-fraction-static",
    gib(*free_bytes), gib(LEAST_REQUEST_MEMORY)
)]
pub struct NoRequestMemory {
    free_bytes: u64,
}

impl RequestDemand {
    /// As much for bodies and log-probabilities as is useful, and at most half of what is left: text, prompts, stored
    /// responses and compiled grammars have the other half.
    ///
    /// # Errors
    /// If no request could be served.
    pub fn memory(&self) -> Result<RequestMemory, NoRequestMemory> {
        let wanted = (MAX_REQUEST_MEMORY as u64).max((self.max_request_bytes as u64).saturating_mul(4));
        let fits = match self.free_bytes {
            None => wanted,
            Some(free_bytes) => {
                let most = free_bytes.saturating_sub(SERVER_BYTES) / 2;
                if most < LEAST_HELD_MEMORY {
                    return Err(NoRequestMemory { free_bytes });
                }
                most.min(wanted)
            }
        };
        let longest = (fits / VALUES_PER_BYTE).min(self.max_request_bytes as u64);
        let note = (longest < self.max_request_bytes as u64).then(|| {
            format!(
                "--max-request-bytes {}: bodies of {longest} bytes fit into memory, which has {} for those of all \
                 requests; longer ones are refused.",
                self.max_request_bytes,
                gib(fits)
            )
        });
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(RequestMemory { max_request_memory: size(fits), max_request_bytes: size(longest), note })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEMAND: RequestDemand = RequestDemand { free_bytes: None, max_request_bytes: 32 << 20 };

    fn memory(free_bytes: u64) -> RequestMemory {
        RequestDemand { free_bytes: Some(free_bytes), ..DEMAND }.memory().unwrap()
    }

    #[test]
    fn where_there_is_enough_bodies_have_what_is_useful() {
        assert_eq!(memory(8 << 30), DEMAND.memory().unwrap());
        assert_eq!(
            memory(8 << 30),
            RequestMemory { max_request_memory: 1 << 30, max_request_bytes: 32 << 20, note: None }
        );
        let large = RequestDemand { max_request_bytes: 1 << 30, ..DEMAND };
        assert_eq!(large.memory().unwrap().max_request_memory, 4 << 30);
    }

    #[test]
    fn where_there_is_little_bodies_are_fewer_and_then_shorter() {
        let few = memory(SERVER_BYTES + (256 << 20));
        assert_eq!((few.max_request_memory, few.max_request_bytes, few.note), (128 << 20, 32 << 20, None));
        let short = memory(SERVER_BYTES + (32 << 20));
        assert_eq!((short.max_request_memory, short.max_request_bytes), (16 << 20, 8 << 20));
        let note = short.note.unwrap();
        assert!(note.contains("--max-request-bytes 33554432") && note.contains("8388608"), "{note}");
    }

    #[test]
    fn where_there_is_nothing_the_start_is_refused_with_numbers_and_flags() {
        let refused = RequestDemand { free_bytes: Some(50 << 20), ..DEMAND }.memory().unwrap_err().to_string();
        for part in ["50.0 MB", "112.0 MB", "ulimit -v", "--max-total-tokens", "--mem-fraction-static"] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }

    proptest! {
        #[test]
        fn nothing_takes_more_than_there_is(free in 0u64..1 << 40, most in 1usize..1 << 36) {
            let demand = RequestDemand { free_bytes: Some(free), max_request_bytes: most };
            if let Ok(memory) = demand.memory() {
                prop_assert!(memory.max_request_memory as u64 + SERVER_BYTES <= free);
                prop_assert!(memory.max_request_bytes <= memory.max_request_memory && memory.max_request_bytes > 0);
            }
        }
    }
}
