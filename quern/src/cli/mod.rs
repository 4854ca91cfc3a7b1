//! The command line: [`Cli`] and its subcommands.

pub mod bench;
pub mod compat;
pub mod config_file;
pub mod configure;
pub mod convert;
pub mod doctor;
pub mod manual;
pub mod models;
pub mod serve;

use std::ffi::OsString;

use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

pub use bench::BenchJob;
pub use config_file::ConfigFileError;
pub use convert::ConvertArgs;
pub use doctor::DoctorArgs;
pub use manual::ManualJob;
pub use models::ModelsJob;
pub use serve::ServeArgs;

/// Serve Qwen3-Coder models over HTTP.
#[derive(Clone, Debug, Parser)]
#[command(name = "quern", version, infer_long_args = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Job,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Job {
    /// Serve a model over HTTP, with SGLang's flags and endpoints
    #[command(infer_long_args = true, args_override_self = true, after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Write a checkpoint as one GGUF file, quantised or not
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(ConvertArgs),
    /// What is done with the models of the hub's cache: `pull`, `list` and `rm`.
    #[command(flatten)]
    Models(ModelsJob),
    /// Find the command for a machine and a model, and see what fits
    #[command(infer_long_args = true, args_override_self = true)]
    Configure(Box<configure::ConfigureArgs>),
    /// Measure this machine and say what it allows a model
    Doctor(DoctorArgs),
    /// Measure how fast a server, a model or a kernel is
    #[command(subcommand)]
    Bench(Box<BenchJob>),
    /// What the black-box client does besides: `eval`.
    #[command(flatten)]
    Client(Box<quern_bench::Command>),
    /// What is said about the command line itself: `completions` and `man`.
    #[command(flatten)]
    Manual(ManualJob),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  quern serve
      The small model inside this program, at http://127.0.0.1:30000.
  quern serve --model Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8 --context-length 32k
      Download (once) and serve; the KV pool takes what memory is left.
  quern serve --model ./my-checkpoint --host 0.0.0.0 --api-key SECRET --enable-metrics
  quern serve --config server.yaml --port 8080
      Flags from a file; typed ones win.
  quern serve --model ./my-checkpoint --print-config
      What would be decided on this machine, without serving.

Every other flag of `sglang serve` is known too: it passes if it asks for what happens
anyway, passes with a note if it only tunes machinery that is not here, and otherwise
stops the start and says why. Any flag may be shortened to a prefix that no other flag
has (--tp for --tp-size). Counts may be written 8192, 8k, 25.6k, 8Ki, 1M.

Environment: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE as in
Hugging Face's own tools; RUST_LOG goes before --log-level.

Exit status: 0 after a signal, 1 if it did not start or could not go on, 2 for a command
line that is not understood, 75 if the engine failed for good (start it again).";

const CONVERT_EXAMPLES: &str = "\
Examples:
  quern convert --model Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8 --outfile qwen3-coder.gguf
      Quantise to q4_k_m, one tensor at a time; then quern serve --model qwen3-coder.gguf.
  quern convert --model ./my-checkpoint --outtype bf16 --outfile my.gguf";

/// Why a command line was refused.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Not understood; says so itself, with usage, and exits with 2 (or 0 for `--help`).
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The `--config` file.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
}

impl Cli {
    /// The command line as it is parsed and shown.
    pub fn full_command() -> Command {
        let mut command = Self::command();
        command = command.mut_subcommand("serve", |serve| {
            // `--chunked-prefill-size -1`: a word that is a number is a value, as in argparse.
            serve.mut_args(|arg| if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg })
        });
        let flags_of_serve = flags_of(&command, "serve");
        command.mut_subcommand("bench", |bench| {
            bench.mut_subcommand("offline", |offline| {
                // What concerns the model and the engine; the rest is known, hidden, and refused below.
                offline.mut_args(|arg| {
                    let name = arg.get_long().unwrap_or_default();
                    let hidden =
                        flags_of_serve.iter().any(|flag| flag == name) && !bench::OFFLINE_FLAGS.contains(&name);
                    arg.hide(hidden)
                })
            })
        })
    }

    /// Parse `arguments`, the program's name first, reading the `--config` file if there is one.
    ///
    /// # Errors
    /// If they are not understood, or the file cannot be read.
    pub fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CliError> {
        let mut command = Self::full_command();
        let mut words: Vec<OsString> = arguments.into_iter().collect();
        if words.get(1).is_some_and(|word| word == "serve") {
            let rest = words.split_off(2);
            let serve = command.find_subcommand("serve").expect("declared above");
            let ours = |word: OsString| {
                let known = LLAMA_CPP_WORDS.iter().find(|(theirs, _)| word == *theirs);
                known.map_or(word, |(_, ours)| ours.into())
            };
            words.extend(config_file::expand(rest, |name| is_switch(serve, name))?.into_iter().map(ours));
        }
        let matches = command.try_get_matches_from_mut(words)?;
        if let Some(offline) = matches.subcommand_matches("bench").and_then(|bench| bench.subcommand_matches("offline"))
            && let Some(flag) = bench::ignored_flag(&command, offline)
        {
            let message = format!("--{flag} changes nothing that `quern bench offline` measures; leave it out");
            return Err(command.error(ErrorKind::ArgumentConflict, message).into());
        }
        let mut cli = Self::from_arg_matches(&matches)?;
        let takes_model = match &mut cli.command {
            Job::Serve(args) => Some(&mut **args),
            Job::Bench(bench) => match &mut **bench {
                BenchJob::Offline(args) => Some(&mut args.serve),
                _ => None,
            },
            _ => None,
        };
        if let Some(args) = takes_model {
            args.model.model_path = args.model.model_path.take().or(args.named.take());
        }
        if let Job::Serve(args) = &cli.command
            && let Some(file) = &args.config
        {
            return Err(ConfigFileError::Shortened(file.display().to_string()).into());
        }
        Ok(cli)
    }
}

/// llama-server's flags of one dash in long form. clap knows none of several letters: it would read `-ngl` as three flags,
/// and `-hf` as a call for help.
const LLAMA_CPP_WORDS: [(&str, &str); 19] = [
    ("-m", "--model-path"),
    ("-hf", "--model-path"),
    ("-hfr", "--model-path"),
    ("-hff", "--hf-file"),
    ("-hft", "--hf-token"),
    ("-mu", "--model-url"),
    ("-c", "--ctx-size"),
    ("-t", "--threads"),
    ("-tb", "--threads-batch"),
    ("-np", "--parallel"),
    ("-ngl", "--n-gpu-layers"),
    ("-fa", "--flash-attn"),
    ("-b", "--batch-size"),
    ("-ub", "--ubatch-size"),
    ("-cb", "--cont-batching"),
    ("-ot", "--override-tensor"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-cmoe", "--cpu-moe"),
    ("-a", "--alias"),
];

/// The long names of a subcommand's flags.
fn flags_of(command: &Command, subcommand: &str) -> Vec<String> {
    let subcommand = command.find_subcommand(subcommand).expect("declared above");
    subcommand.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

fn is_switch(command: &Command, name: &str) -> bool {
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name)))
        .is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
}
