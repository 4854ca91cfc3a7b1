//! `quern doctor`: what was typed.

use clap::Args;

use crate::config::CpuFlags;

/// Measure this machine and say what it allows a model.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// A directory, a .gguf file or a hub id, of which only the configuration and the headers of GGUF files are fetched [default: the published
    /// Qwen3-Coder models]
    #[arg(long = "model", visible_alias = "model-path", value_name = "MODEL")]
    pub model: Option<String>,

    /// Branch, tag or commit on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cpu: CpuFlags,

    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}
