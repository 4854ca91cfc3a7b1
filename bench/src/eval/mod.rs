//! `quern eval`: how right a server answers.

pub mod demo;
pub mod exam;
pub mod gsm8k;
pub mod humaneval;
pub mod question;
pub mod results;
pub mod sandbox;
pub mod tool_calls;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, builder::TypedValueParser};

use self::{exam::ExamOutcome, question::ChatSampling};
use crate::{error::BenchError, output};

/// The evaluations.
#[derive(Clone, Debug, Subcommand)]
pub enum EvalCommand {
    /// GSM8K with five examples, as `python -m sglang.test.few_shot_gsm8k` asks it
    #[command(alias = "few_shot_gsm8k", alias = "few-shot-gsm8k", infer_long_args = true, args_override_self = true)]
    Gsm8k(gsm8k::Gsm8kArgs),
    /// GSM8K as a chat, as `python -m sglang.test.run_eval --eval-name gsm8k` asks it
    #[command(infer_long_args = true, args_override_self = true)]
    Gsm8kChat(RunEvalArgs),
    /// HumanEval, as `python -m sglang.test.run_eval --eval-name humaneval` asks it
    #[command(infer_long_args = true, args_override_self = true)]
    Humaneval(RunEvalArgs),
    /// Tool calls of your own, compared with those you want
    #[command(infer_long_args = true, args_override_self = true)]
    ToolCalls(tool_calls::ToolCallsArgs),
    /// What Quern's own small model was taught: tools and their results, arithmetic, filling in the middle, JSON
    #[command(infer_long_args = true, args_override_self = true)]
    Demo(demo::DemoArgs),
}

/// Flags that name the server and the results.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The server's address [default: of --host and --port]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub base_url: Option<String>,
    /// The server's host
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    pub host: String,
    /// The server's port
    #[arg(long, default_value_t = 30000, help_heading = "Server")]
    pub port: u16,
    /// Headers to send
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., help_heading = "Server")]
    pub header: Vec<String>,
    /// The model's name [default: the first that the server lists]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub model: Option<String>,
    /// Most questions under way at once
    #[arg(long, alias = "num-threads", default_value_t = 128, value_name = "COUNT", help_heading = "Server")]
    pub parallel: usize,
    /// Where every transcript goes; a run that was broken off is continued [default: eval_NAME_MODEL.jsonl]
    #[arg(long, value_name = "FILE.jsonl", help_heading = "Results")]
    pub output: Option<PathBuf>,
    /// Begin anew, whatever the file holds
    #[arg(long, help_heading = "Results")]
    pub fresh: bool,
}

/// What was typed after an evaluation that SGLang's run_eval has, too.
#[derive(Args, Clone, Debug)]
pub struct RunEvalArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub target: TargetArgs,
    /// The published file [default: fetched once]
    #[arg(long, alias = "gsm8k-data-path", value_name = "FILE")]
    pub data_path: Option<PathBuf>,
    /// Questions to ask [default: all]
    #[arg(long, value_name = "COUNT")]
    pub num_examples: Option<usize>,
    /// Examples before each question of GSM8K
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub num_shots: usize,
    /// How often each problem of HumanEval is asked
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..).map(usize::from))]
    pub num_samples: usize,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    pub max_tokens: usize,
    /// 0 for greedy
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// The part of the probability to sample from
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Run what the model writes for HumanEval, locked up, on this machine
    #[arg(long)]
    pub allow_code_execution: bool,
}

impl RunEvalArgs {
    fn sampling(&self) -> ChatSampling {
        ChatSampling { temperature: self.temperature, top_p: self.top_p, max_tokens: self.max_tokens }
    }
}

/// Run an evaluation and print its result. The exit status is a failure if a question got no answer.
///
/// # Errors
/// If it cannot be run at all.
pub async fn run(command: &EvalCommand) -> Result<ExitCode, BenchError> {
    match command {
        EvalCommand::Gsm8k(args) => gsm8k::run(args).await,
        EvalCommand::Gsm8kChat(args) => gsm8k::run_chatted(args).await,
        EvalCommand::Humaneval(args) => humaneval::run(args).await,
        EvalCommand::ToolCalls(args) => tool_calls::run(args).await,
        EvalCommand::Demo(args) => demo::run(args).await,
    }
}

/// The lines of few_shot_gsm8k, and how sure they are.
fn print_few_shot(outcome: &ExamOutcome) -> Result<(), BenchError> {
    output::line(format_args!("Accuracy: {:.3}", outcome.score()))?;
    output::line(format_args!("Invalid: {:.3}", outcome.invalid()))?;
    output::line(format_args!("Latency: {:.3} s", outcome.latency_s))?;
    output::line(format_args!("Output throughput: {:.3} token/s", outcome.output_throughput()))?;
    output::line(outcome.interval())
}

/// The lines of run_eval.
fn print_run_eval(outcome: &ExamOutcome) -> Result<(), BenchError> {
    output::line(format_args!("Total latency: {:.3} s", outcome.latency_s))?;
    output::line(format_args!("Score: {:.3}", outcome.score()))?;
    output::line(format_args!("Output throughput: {:.3} token/s", outcome.output_throughput()))
}
