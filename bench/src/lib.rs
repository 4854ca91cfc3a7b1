//! `quern bench` and `quern eval`: how fast and how right a server answers, seen from outside.
//!
//! A black box's client: it depends on no other crate of ours and knows servers only by their HTTP
//! interfaces, so that it measures SGLang, vLLM or llama.cpp as it measures Quern.

#![forbid(unsafe_code)]

pub mod backend;
pub mod client;
mod command;
pub mod cpu_time;
pub mod data_file;
pub mod dataset;
pub mod endpoint;
mod error;
pub mod eval;
pub mod goodput;
pub mod layout;
pub mod load;
pub mod measurement;
pub mod metrics;
pub mod output;
pub mod progress;
pub mod random;
pub mod record;
pub mod report;
pub mod request;
pub mod run_file;
pub mod serving;
#[cfg(test)]
#[path = "../../tests/skip.rs"]
mod skip;
pub mod sse;
pub mod stall;
pub mod statistics;
pub mod tokens;

pub use command::{BenchCommand, Command, run};
pub use error::BenchError;
