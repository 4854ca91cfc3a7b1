//! [`LogFlags`] and [`LogSettings`]: what is logged.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{names::Names, values::positive_size};

/// What was typed about the log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and metrics")]
pub struct LogFlags {
    /// Least severe level that is logged
    #[arg(long, value_name = "LEVEL", value_parser = Names::<LogLevel>::of_enum(), default_value = "info", ignore_case = true)]
    pub log_level: LogLevel,

    /// The same for the access log [default: --log-level]
    #[arg(long, value_name = "LEVEL", value_parser = Names::<LogLevel>::of_enum(), ignore_case = true)]
    pub log_level_http: Option<LogLevel>,

    /// Steps between two log lines about decoding
    #[arg(long, value_name = "STEPS", default_value = "40", value_parser = positive_size)]
    pub decode_log_interval: usize,

    /// Keep records of internal errors in DIR, the last 64: what a replay needs (configuration, seeds, sampling
    /// parameters, lengths), and nothing of prompts and outputs [default: none, the log has step and seeds]
    #[arg(long, value_name = "DIR")]
    pub crash_dump_folder: Option<PathBuf>,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogSettings {
    /// Least severe level that is logged.
    pub log_level: LogLevel,
    /// The same for the access log.
    pub log_level_http: LogLevel,
    /// Steps between two lines about decoding.
    pub decode_log_interval: usize,
    /// Where records of internal errors are kept; `None`: nowhere.
    pub crash_dump_folder: Option<PathBuf>,
}

impl LogFlags {
    /// What is logged.
    pub fn settings(&self) -> LogSettings {
        let Self { log_level, log_level_http, decode_log_interval, ref crash_dump_folder } = *self;
        let (log_level_http, crash_dump_folder) = (log_level_http.unwrap_or(log_level), crash_dump_folder.clone());
        LogSettings { log_level, log_level_http, decode_log_interval, crash_dump_folder }
    }
}

/// Least severe level that is logged. The further names are Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything
    Trace,
    /// What a developer asks for
    Debug,
    /// An operator's story
    Info,
    /// What deserves attention
    #[value(alias = "warn")]
    Warning,
    /// What failed
    #[value(alias = "critical")]
    Error,
}
