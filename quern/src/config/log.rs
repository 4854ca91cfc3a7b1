//! [`LogFlags`] and [`LogSettings`]: what is logged.

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
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogSettings {
    /// Least severe level that is logged.
    pub log_level: LogLevel,
    /// The same for the access log.
    pub log_level_http: LogLevel,
    /// Steps between two lines about decoding.
    pub decode_log_interval: usize,
}

impl LogFlags {
    /// What is logged.
    pub fn settings(&self) -> LogSettings {
        let Self { log_level, log_level_http, decode_log_interval } = *self;
        LogSettings { log_level, log_level_http: log_level_http.unwrap_or(log_level), decode_log_interval }
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
