//! [`ServeArgs`]: what was typed after `quern serve`.

use std::path::PathBuf;

use clap::Args;

use super::compat::CompatArgs;
use crate::{
    config::{ApiFlags, DeviceFlags, EngineFlags, ListenOptions, LogFlags, MetricsFlags, ModelFlags, RefusedFlag},
    environment,
};

/// What was typed after `quern serve`. Flags have SGLang's names; each is a field of its part in
/// [`config`](crate::config).
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The same as --model-path
    #[arg(id = "model", value_name = "MODEL", conflicts_with = "model_path")]
    pub named: Option<String>,

    /// Print what was decided, as JSON, and exit
    #[arg(long)]
    pub print_config: bool,

    /// Read flags from a YAML file; typed ones win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub model: ModelFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub listen: ListenOptions,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub api: ApiFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub engine: EngineFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub device: DeviceFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub log: LogFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub metrics: MetricsFlags,

    /// Flags of other servers.
    #[command(flatten)]
    pub compat: CompatArgs,
}

impl ServeArgs {
    /// Lines for the log about what changes nothing here.
    ///
    /// # Errors
    /// If what is asked for is not supported, or wrong whatever the model is.
    pub fn check(&self) -> Result<Vec<String>, RefusedFlag> {
        let mut notes = self.compat.judge()?;
        self.api.check()?;
        self.metrics.check()?;
        notes.extend(self.device.check()?);
        notes.extend(environment::ignored());
        Ok(notes)
    }
}
