//! The `quern` program: what was asked for, done, and an exit status.

#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

use mimalloc::MiMalloc;
use quern::{
    bench,
    cli::{Cli, CliError, Job, configure},
    convert, doctor, logging, models, serve, shutdown,
    start_error::FILE_CUT,
};
#[cfg(target_os = "linux")]
use quern_model::weights::cut_file;

/// Gives memory back to the system after a burst of large bodies, where glibc's keeps it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Without the handler the signal itself ends the process, and nothing names the file.
    #[cfg(target_os = "linux")]
    let _ = cut_file::end_process_by("quern: error: ", FILE_CUT);
    let outcome = match Cli::from_arguments(env::args_os()) {
        Ok(Cli { command }) => run(command),
        Err(CliError::Usage(error)) => error.exit(), // with 2, or with 0 for help and version
        Err(CliError::ConfigFile(error)) => Err(error.to_string()),
    };
    let code = outcome.unwrap_or_else(|error| {
        logging::say(format_args!("quern: error: {error}"));
        ExitCode::FAILURE
    });
    logging::flush();
    code
}

fn run(job: Job) -> Result<ExitCode, String> {
    if !matches!(&job, Job::Serve(args) if !args.print_config) {
        // Who reads a table through `head` has seen enough; a server outlives who reads its output.
        sigpipe::reset();
        shutdown::end_first_process_by_signals().map_err(|error| error.to_string())?;
    }
    let done = match job {
        Job::Serve(args) => {
            let ended = serve::run(*args);
            return Ok(ended.map_or_else(
                |error| {
                    logging::say(format_args!("quern: error: {error}"));
                    ExitCode::from(error.exit_status())
                },
                |()| ExitCode::SUCCESS,
            ));
        }
        Job::Convert(args) => convert::run(&args).map_err(|error| error.to_string()),
        Job::Models(job) => models::run(&job).map_err(|error| error.to_string()),
        Job::Manual(job) => job.run().map_err(|error| error.to_string()),
        Job::Doctor(args) => doctor::run(&args).map_err(|error| error.to_string()),
        Job::Configure(args) => return configure::run(&args).map_err(|error| error.to_string()),
        Job::Bench(job) => return bench::run(&job).map_err(|error| error.to_string()),
        Job::Client(command) => return quern_bench::run(&command).map_err(|error| error.to_string()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
