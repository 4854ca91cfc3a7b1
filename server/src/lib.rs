//! The `quern` program: command line, start-up, HTTP, wire types, wiring.

#![forbid(unsafe_code)]

pub mod config;
