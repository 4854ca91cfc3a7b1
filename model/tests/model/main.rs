//! Checkpoints and networks, a subject a file. One program, since each takes as long to link as to run.

mod checkpoint;
mod config;
mod demo;
mod gguf;
mod golden;
mod packed;
mod packed_checkpoint;
mod packed_floats;
mod packed_int_groups;
mod split;
#[path = "../support/mod.rs"]
mod support;
