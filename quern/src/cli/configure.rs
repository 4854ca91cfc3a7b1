//! [`ConfigureArgs`]: what was typed after `quern configure`, and what is printed for it.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use quern_api::page;
use quern_bench::{BenchError, output};
use quern_model::Parallelism;

use crate::{
    config::values::parse_count,
    configure::{
        cookbook::{Platform, Quantization, Recipe, Size, Tools},
        fitting::Fitting,
        hardware::Hardware,
        network::Weights,
        plan::{Plan, Tone},
        table::Table,
    },
    machine::Machine,
};

/// What was typed after `quern configure`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ConfigureArgs {
    /// Which command is wanted; `quern` if none is named.
    #[command(subcommand)]
    pub form: Option<Form>,
    /// Write the page of the generator to a file that needs no server, instead of printing a command
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    quern: QuernArgs,
}

/// The forms of a command.
#[derive(Clone, Debug, Subcommand)]
pub enum Form {
    /// A `quern serve` command
    Quern(QuernArgs),
    /// The command of SGLang's cookbook for Qwen3-Coder
    Sglang(SglangArgs),
    /// Every combination and its answer, as JSON
    Table,
}

/// Choices of Quern's form.
#[derive(Args, Clone, Debug)]
pub struct QuernArgs {
    /// Where it is to run
    #[arg(long, value_enum, default_value = "this")]
    hardware: Hardware,
    /// Which Qwen3-Coder
    #[arg(long, value_enum, default_value = "30b")]
    model_size: Size,
    /// How the weights are stored; by default what fits
    #[arg(long, value_enum)]
    quantization: Option<Weights>,
    /// Whether tool calls are parsed
    #[arg(long, value_enum, default_value = "enabled")]
    tools: Tools,
    /// Tensor-parallel ranks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    tp: u64,
    /// Groups of ranks among which whole experts are dealt out
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    ep: u64,
    /// Most tokens of a request and its answer; by default 32Ki, or what fits
    #[arg(long, value_name = "TOKENS", value_parser = positive_count)]
    context_length: Option<u64>,
    /// Tokens of a KV page
    #[arg(long, value_name = "TOKENS", value_parser = positive_count, default_value = "32")]
    page_size: u64,
    /// Requests that are expected at once; by default 4, or what fits
    #[arg(long, value_name = "N", value_parser = positive_count)]
    concurrency: Option<u64>,
}

/// Choices of the cookbook's form.
#[derive(Args, Clone, Debug)]
pub struct SglangArgs {
    /// Where it is to run: mi300x, mi325x, mi355x, b200 or gb200
    #[arg(long, default_value = "mi300x")]
    hardware: String,
    /// Which Qwen3-Coder
    #[arg(long, value_enum, default_value = "480b")]
    model_size: Size,
    /// How the weights are stored
    #[arg(long, value_enum, default_value = "bf16")]
    quantization: Quantization,
    /// Whether tool calls are parsed
    #[arg(long, value_enum, default_value = "disabled")]
    tools: Tools,
}

/// A count of tokens that a rule can divide by.
fn positive_count(text: &str) -> Result<u64, String> {
    const MOST: u64 = 1 << 32;
    let count = parse_count(text)?;
    if (1..=MOST).contains(&count) { Ok(count) } else { Err(format!("1 to {MOST} is wanted, not {count}")) }
}

/// Print the command on standard output and what there is to say about it on standard error.
///
/// The exit status is a failure if a rule rejects the choices.
///
/// # Errors
/// If it cannot be printed or written.
pub fn run(args: &ConfigureArgs) -> Result<ExitCode, BenchError> {
    match &args.form {
        Some(Form::Sglang(args)) => {
            let command = sglang(args);
            output::line(&command)?;
            Ok(if command.starts_with('#') { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Some(Form::Table) => {
            output::line(Table::json())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Form::Quern(args)) => quern(args),
        None => match &args.html {
            Some(file) => match fs::write(file, page::standalone(&Table::json())) {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => Err(BenchError::Arguments(format!("--html {}: {error}", file.display()))),
            },
            None => quern(&args.quern),
        },
    }
}

fn sglang(args: &SglangArgs) -> String {
    let Ok(platform) = Platform::from_str(&args.hardware, false) else {
        return format!("# Error: Unknown hardware platform: {}", args.hardware);
    };
    let SglangArgs { model_size: size, quantization, tools, .. } = *args;
    Recipe { platform, size, quantization, tools }.output()
}

fn quern(args: &QuernArgs) -> Result<ExitCode, BenchError> {
    let machine = Machine::probe();
    let fitting = Fitting::of(args.hardware, &machine, args.model_size);
    let plan = Plan {
        hardware: args.hardware,
        size: args.model_size,
        weights: args.quantization.unwrap_or(fitting.weights),
        tools: args.tools,
        split: Parallelism { tp: args.tp as usize, ep: args.ep as usize },
        context_length: args.context_length.unwrap_or(fitting.context_length),
        page_size: args.page_size,
        concurrency: args.concurrency.unwrap_or(fitting.concurrency),
    };
    output::line(plan.command())?;
    let notes = plan.notes(&machine);
    for note in &notes {
        output::note(format_args!("# {}", note.text));
    }
    Ok(if notes.iter().any(|note| note.tone == Tone::Bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
