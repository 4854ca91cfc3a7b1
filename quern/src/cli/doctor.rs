//! `quern doctor`: what was typed.

use clap::Args;

/// Measure this machine and say what it allows a model.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// A directory, a .gguf file or a hub id, of which only the configuration is fetched [default: the published
    /// Qwen3-Coder models]
    #[arg(long = "model", visible_alias = "model-path", value_name = "MODEL")]
    pub model: Option<String>,

    /// Branch, tag or commit on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,

    /// Worker threads [default: physical cores]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub cpu_threads: Option<u16>,

    /// Instruction set [default: the best this CPU has]
    #[arg(long, value_name = "NAME")]
    pub cpu_isa: Option<String>,

    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}
