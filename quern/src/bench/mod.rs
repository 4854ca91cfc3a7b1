//! `quern bench offline` and `quern bench kernels`: measurements from inside. Those from outside are the crate
//! `quern_bench`.

mod kernels;
mod offline;
pub mod table;

use std::process::ExitCode;

use quern_bench::{BenchError, Command};
use tokio::runtime::Runtime;

use self::table::BenchTable;
use crate::{
    cli::bench::{BenchJob, KernelsArgs},
    config::LogLevel,
    logging, roofline,
    start::for_measuring,
    start_error::StartError,
};

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The model cannot be loaded or the flags do not go together.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The black-box client's, and files of the report.
    #[error(transparent)]
    Client(#[from] BenchError),
    /// The ceilings cannot be measured.
    #[error("measuring this machine takes 1.5 GB of free memory; close something or use a larger machine")]
    Memory,
    /// Nothing is asked for.
    #[error("--batch-sizes and --prompt-lens: at least 1 is wanted")]
    Nothing,
    /// More sequences at once than the engine runs.
    #[error("--batch-sizes {batch}: at most {limit} run at once; raise --max-running-requests or --max-total-tokens")]
    Batch {
        /// As typed.
        batch: usize,
        /// The limit.
        limit: usize,
    },
    /// Longer than the model's context.
    #[error("{tokens} tokens of prompt and output are more than the context of {limit}; see --depths, --prompt-lens")]
    Context {
        /// Prompt and output.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// More than the pool holds.
    #[error(
        "{batch} sequences of {tokens} tokens do not fit into the pool of {pool}; ask for less or raise \
         --max-total-tokens"
    )]
    Pool {
        /// Sequences at once.
        batch: usize,
        /// Tokens of each.
        tokens: usize,
        /// The pool's tokens.
        pool: usize,
    },
    /// The engine failed.
    #[error("the engine: {0}")]
    Engine(String),
}

/// Do what was typed.
///
/// # Errors
/// If it cannot be done at all.
pub fn run(job: &BenchJob) -> Result<ExitCode, MeasureError> {
    let level = LogLevel::Warning;
    match job {
        BenchJob::Client(command) => return Ok(quern_bench::run(&Command::Bench(command.clone()))?),
        BenchJob::Kernels(args) => kernels(args)?,
        BenchJob::Offline(args) => {
            logging::init(level, level).map_err(StartError::Thread)?;
            Runtime::new().map_err(StartError::Thread)?.block_on(offline::run(args))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kernels(args: &KernelsArgs) -> Result<(), MeasureError> {
    let backend = for_measuring(&args.cpu)?;
    let peaks = roofline::measure(&backend).ok_or(MeasureError::Memory)?;
    let lines = [roofline::line(&peaks, &backend)];
    let mut table = BenchTable::begin("Kernels".into(), &lines, args.output.clone())?;
    kernels::run(&backend, peaks, args.only.as_deref(), &mut table)?;
    Ok(table.finish(&[])?)
}
