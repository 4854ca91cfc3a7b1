//! The `quern` program: command line, start-up, wiring.

#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod config;
pub mod configure;
pub mod convert;
pub mod cores;
pub mod crash_dump;
pub mod defaults;
pub mod doctor;
pub mod environment;
pub mod gguf_files;
pub mod gpus;
pub mod hub;
pub mod launched;
pub mod local_model;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod model_files;
pub mod models;
pub mod nodes;
pub mod progress;
pub mod request_memory;
pub mod resolve;
pub mod roofline;
pub mod serve;
pub mod shipped;
pub mod shutdown;
pub mod start;
pub mod start_error;
pub mod summary;
pub mod warmup;
pub mod weight_cache;
