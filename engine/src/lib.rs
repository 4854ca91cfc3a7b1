//! Token ids in, token ids out: requests, sequences, the scheduler, the prefix cache and the pages.
//!
//! Knows no text and no HTTP. The scheduler has no clock, thread, channel or randomness; the engine
//! thread around it owns them.

#![forbid(unsafe_code)]

pub mod request;

pub use request::{
    EventSink, FailCause, FinishReason, GenerateRequest, Grammar, LogprobRequest, PromptReport, SubmitError,
    TokenEvent, TokenLogprobs,
};
