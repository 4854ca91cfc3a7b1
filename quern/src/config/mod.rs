//! [`Config`]: what was decided before the first byte of a model is loaded, and the flags that it was decided by.
//!
//! Each file has the flags of one part: their names, help and defaults, and how what was typed becomes what is decided.
//! A part whose name ends in `Options` is decided as it was typed, and is one struct. One that depends on the model or
//! the machine is two, `…Flags` and `…Settings`: the latter has no "auto" left, never changes, is printed by
//! `--print-config` and served by `/server_info`.

pub mod api;
pub mod cross_origin;
pub mod device;
pub mod engine;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod model;
pub mod names;
pub mod nodes;
pub mod parallel;
pub mod refused;
pub mod values;

use std::fmt;

use quern_api::ApiConfig;
use serde::{Serialize, Serializer};

pub use self::{
    api::ApiFlags,
    device::{Compute, CpuFlags, CpuIsa, DeviceFlags, DeviceSettings},
    engine::{EngineFlags, EngineSettings, SchedulePolicy},
    listen::ListenOptions,
    log::{LogFlags, LogLevel, LogSettings},
    metrics::MetricsFlags,
    model::{LoadFormat, ModelFlags, ModelSettings},
    nodes::{DistTransport, NodeOptions},
    parallel::{ParallelFlags, ParallelOptions},
    refused::{RefusedFlag, ResolveError},
};

/// Everything that was decided. Field names are those of the flags, as `/server_info` shows them, all on one level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Which model it is, and what is made of its numbers.
    #[serde(flatten)]
    pub model: ModelSettings,
    /// What the API is told.
    #[serde(flatten)]
    pub api: ApiConfig,
    /// Where the server listens.
    #[serde(flatten)]
    pub listen: ListenOptions,
    /// The pool of keys and values, and the order of work.
    #[serde(flatten)]
    pub engine: EngineSettings,
    /// What computes.
    #[serde(flatten)]
    pub device: DeviceSettings,
    /// What is logged.
    #[serde(flatten)]
    pub log: LogSettings,
}

fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
