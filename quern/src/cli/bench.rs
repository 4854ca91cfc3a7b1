//! `quern bench`: what was typed, for measurements from inside and from outside.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, Subcommand, parser::ValueSource};
use quern_bench::BenchCommand;

use super::ServeArgs;
use crate::{config::CpuFlags, configure::cookbook::Size};

/// Measurements of speed.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchJob {
    /// Measure decoding and prefill through the engine, without a server, as fractions of what this machine allows
    #[command(infer_long_args = true, args_override_self = true, after_help = OFFLINE_EXAMPLES)]
    Offline(Box<OfflineArgs>),
    /// Measure every kernel in the shapes of Qwen3-Coder-30B-A3B, as fractions of what this machine allows
    #[command(infer_long_args = true)]
    Kernels(KernelsArgs),
    /// What the black-box client measures.
    #[command(flatten)]
    Client(BenchCommand),
}

/// What was typed after `quern bench offline`.
#[derive(Args, Clone, Debug)]
pub struct OfflineArgs {
    /// Random weights in the shape of a published model, instead of a model; nothing is downloaded
    #[arg(long, value_enum, value_name = "SIZE", help_heading = "What is measured", conflicts_with_all = [
        "model", "model_path", "revision", "download_dir", "load_format", "json_model_override_args"])]
    pub shape: Option<Size>,

    /// Layers of that shape [default: all]
    #[arg(long, value_name = "COUNT", requires = "shape", value_parser = clap::value_parser!(u64).range(1..=1000),
        help_heading = "What is measured")]
    pub layers: Option<u64>,

    /// Sequences that are decoded together
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,8",
        value_name = "COUNTS",
        help_heading = "What is measured"
    )]
    pub batch_sizes: Vec<usize>,

    /// Tokens that each of them holds already
    #[arg(long, value_delimiter = ',', default_value = "32", value_name = "TOKENS", help_heading = "What is measured")]
    pub depths: Vec<usize>,

    /// Lengths of prompts that are read
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "512",
        value_name = "TOKENS",
        help_heading = "What is measured"
    )]
    pub prompt_lens: Vec<usize>,

    /// Steps of decoding that are measured
    #[arg(long, default_value_t = 40, value_name = "COUNT", help_heading = "What is measured")]
    pub steps: usize,

    /// Times that each prompt is read
    #[arg(long, default_value_t = 5, value_name = "COUNT", help_heading = "What is measured")]
    pub repeats: usize,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub output: OutputArgs,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub serve: ServeArgs,
}

/// What was typed after `quern bench kernels`.
#[derive(Args, Clone, Debug)]
pub struct KernelsArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cpu: CpuFlags,

    /// Only rows whose name holds this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub output: OutputArgs,
}

/// Where results go.
#[derive(Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// A line of JSON a row instead of the table
    #[arg(long, help_heading = "Results")]
    pub json: bool,

    /// Write a page with the figures
    #[arg(long, value_name = "FILE.html", help_heading = "Results")]
    pub report: Option<PathBuf>,
}

/// Flags of `quern serve` that change what is measured offline; the others are hidden and refused.
pub(super) const OFFLINE_FLAGS: [&str; 18] = [
    "model-path",
    "revision",
    "download-dir",
    "weight-cache",
    "load-format",
    "json-model-override-args",
    "context-length",
    "dtype",
    "quantization",
    "kv-cache-dtype",
    "mem-fraction-static",
    "max-total-tokens",
    "page-size",
    "chunked-prefill-size",
    "max-prefill-tokens",
    "max-running-requests",
    "cpu-threads",
    "cpu-isa",
];

/// A typed flag of `quern bench offline` that would change nothing.
pub(super) fn ignored_flag(command: &Command, typed: &ArgMatches) -> Option<String> {
    let offline = command.find_subcommand("bench")?.find_subcommand("offline")?;
    let hidden = offline.get_arguments().filter(|arg| arg.is_hide_set());
    let mut ignored = hidden.filter(|arg| typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine));
    Some(ignored.next()?.get_long()?.to_owned())
}

const OFFLINE_EXAMPLES: &str = "\
Examples:
  quern bench offline
      The small model inside this program.
  quern bench offline --shape 30b --layers 4 --batch-sizes 1,8,32 --depths 32,4096 --prompt-lens 512,2048
      Four layers of Qwen3-Coder-30B-A3B in bf16, 6 GB of random numbers.
  quern bench offline --model qwen3-coder.gguf --depths 0,4096 --report report.html

\"of peak\" is the larger of bytes ÷ bandwidth and operations ÷ peak,
both measured first on the same threads, divided by the median; experts are counted as uniform routing touches them.";
