//! [`Command`]: the client's part of the command line.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{
    error::BenchError,
    eval::{self, EvalCommand},
    report::{self, ReportArgs},
    serving::{self, ServingArgs},
};

/// The client's part of the command line.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Measure how fast a server answers.
    #[command(skip)]
    Bench(BenchCommand),
    /// `quern bench serving`, as it is spelt in `python -m sglang.bench_serving`
    #[command(name = "bench_serving", hide = true, infer_long_args = true, args_override_self = true)]
    BenchServing(Box<ServingArgs>),
    /// Judge how right a server answers
    #[command(subcommand)]
    Eval(EvalCommand),
}

/// Measurements of speed.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Send a load of requests and print SGLang's figures
    #[command(alias = "bench_serving", infer_long_args = true, args_override_self = true, after_help = EXAMPLES)]
    Serving(Box<ServingArgs>),
    /// Put measurements side by side on a page
    #[command(infer_long_args = true)]
    Report(ReportArgs),
}

const EXAMPLES: &str = "\
Examples:
  quern bench serving --dataset-name random-ids --random-input-len 1000 --random-output-len 1000 \\
      --num-prompts 10,80,320 --max-concurrency 1,16,64 --report report.html
      Three levels of concurrency, one after the other, and a page with charts.
  quern bench serving --backend vllm-chat --base-url http://10.0.0.7:8000 --dataset-name agent --num-prompts 20
      Another server, asked as twenty coding agents would.
  quern bench serving --dataset-name random-ids --request-rate 4 --goodput ttft:500 tpot:50
      Four requests a second at random times; how many are answered as fast as promised?

Flags may be shortened to a prefix that no other flag has. The exit status is 1 if a request failed.
Environment: OPENAI_API_KEY (sent as a bearer token), API_KEY (sent as it is), ANTHROPIC_API_KEY; HF_HOME,
HF_ENDPOINT and HF_HUB_OFFLINE for published data sets.";

/// Threads of the client. One reads some hundred thousand tokens a second; a second keeps times exact while the
/// first parses.
const THREADS: usize = 2;

/// Do what was typed.
///
/// # Errors
/// If it cannot be done at all.
pub fn run(command: &Command) -> Result<ExitCode, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Bench(BenchCommand::Serving(args)) | Command::BenchServing(args) => serving::run(args).await,
            Command::Bench(BenchCommand::Report(args)) => report::run(args),
            Command::Eval(command) => eval::run(command).await,
        }
    })
}
