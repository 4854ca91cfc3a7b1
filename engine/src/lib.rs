//! Token ids in, token ids out: requests, sequences, the scheduler, the prefix cache and the pages.
//!
//! Knows no text and no HTTP. The [`scheduler`] has no clock, thread, channel or randomness; the
//! [`engine`]'s thread around it owns them.

#![forbid(unsafe_code)]

mod admission;
mod audit;
mod budget;
pub mod config;
pub mod engine;
pub mod failure;
mod fair_shares;
pub mod fake;
pub mod kv_pool;
pub mod log;
pub mod metrics;
pub mod new_token_ratio;
pub mod radix_cache;
pub mod request;
mod request_book;
pub mod scheduler;
pub mod sequence;
pub mod stats;
pub mod step_plan;
mod step_turn;
pub mod stepped;
pub mod tenant;
mod turns;
mod waiting_queue;

// Types of `backend` and `model` in this crate's interface, for crates that depend on neither.
pub use quern_backend::{
    DeviceFault, LogitFault, LogitTask, LogprobsOf, RowOutput, RowTask, SamplingParams, TokenMask,
};
pub use quern_model::{ForwardBatch, ForwardError, Model, SampleBatch, StepCost, StepOutput, Work};

pub use config::{EngineConfig, Policy};
pub use engine::{Aborter, EngineHandle, Flow, RequestHandle, start, start_observed};
pub use failure::{FailureObserver, FailureReport};
pub use metrics::{EngineMetrics, EngineState, MetricsSnapshot};
pub use request::{
    EventSink, FailCause, FinishReason, GenerateRequest, Grammar, GrammarError, LogprobRequest, PromptReport,
    SubmitError, TokenEvent, TokenLogprobs,
};
pub use sequence::SequenceReport;
pub use stepped::SteppedEngine;
pub use tenant::{AbortScope, Tenant};
