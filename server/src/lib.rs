//! The `quern` program: command line, start-up, HTTP, wire types, wiring.

#![forbid(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod hub;
pub mod listen;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod model_files;
pub mod progress;
pub mod resolve;
pub mod shipped;
pub mod start;
pub mod start_error;
pub mod summary;
pub mod warmup;
