//! The `quern` program: command line, start-up, HTTP, wire types, wiring.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod hub;
pub mod machine;
pub mod memory;
pub mod progress;
pub mod resolve;
pub mod shipped;
