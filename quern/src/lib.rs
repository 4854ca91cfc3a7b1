//! The `quern` program: command line, start-up, HTTP, wire types, wiring.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod app;
pub mod auth;
pub mod bench;
pub mod ceiling;
pub mod cli;
pub mod config;
pub mod configure;
pub mod connection;
pub mod constraint;
pub mod convert;
pub mod dialogue;
pub mod doctor;
pub mod generate;
pub mod grammars;
pub mod hub;
pub mod latency;
pub mod limits;
pub mod listen;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod model_files;
pub mod page;
pub mod progress;
pub mod prompt;
pub mod protocol;
pub mod recent_log;
pub mod resolve;
pub mod response_store;
pub mod root_path;
pub mod routes;
pub mod sampling;
pub mod shipped;
pub mod shutdown;
pub mod start;
pub mod start_error;
pub mod stopwatch;
pub mod stream;
pub mod summary;
pub mod translated;
pub mod warmup;
pub mod weight_cache;
