//! The program and the crates together, a subject a file. One program of tests, since each takes as long to link as to run.

#![allow(clippy::duplicate_mod, reason = "support modules of several crates have the one that says what is skipped")]

mod configure;
mod ending;
mod flags;
mod forms;
mod gguf_formats;
mod goldens;
mod gpu;
mod gpu_accuracy;
mod hosts;
mod hub;
mod inside;
mod load;
mod log;
mod manual;
mod measure;
mod model_files;
mod mpi;
#[path = "../../../model/tests/support/mod.rs"]
mod networks;
mod nodes;
#[cfg(target_os = "linux")]
mod output;
mod page;
mod process;
mod quantised;
mod ranks;
mod signals;
#[path = "../../../tests/skip.rs"]
mod skip;
mod start;
#[path = "../../../api/tests/support/mod.rs"]
mod support;
#[path = "../../../gpu/tests/support/mod.rs"]
mod twin;
