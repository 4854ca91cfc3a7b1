//! The `quern` program, from the command line to the last request.

#![forbid(unsafe_code)]

use std::{env, process::ExitCode, sync::Arc, time::Instant};

use quern::{
    bench, ceiling,
    cli::{Cli, CliError, Job, ServeArgs, configure},
    convert, doctor, logging, resolve,
    shutdown::{self, Signals},
    start::{self, Prepared},
    start_error::StartError,
    summary, warmup,
};
use quern_api::{AppState, app, connection, listen::BoundAddress};
use tokio::{runtime::Runtime, sync::watch};

fn main() -> ExitCode {
    let outcome = match Cli::from_arguments(env::args_os()) {
        Ok(Cli { command }) => run(command),
        Err(CliError::Usage(error)) => error.exit(), // with 2, or with 0 for help and version
        Err(CliError::ConfigFile(error)) => Err(error.to_string()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("quern: error: {error}");
        ExitCode::FAILURE
    })
}

fn run(job: Job) -> Result<ExitCode, String> {
    if !matches!(&job, Job::Serve(args) if !args.print_config) {
        // Who reads a table through `head` has seen enough; a server outlives who reads its output.
        sigpipe::reset();
    }
    let done = match job {
        Job::Serve(args) => serve(&args).map_err(|error| error.to_string()),
        Job::Convert(args) => convert::run(&args).map_err(|error| error.to_string()),
        Job::Doctor(args) => doctor::run(&args).map_err(|error| error.to_string()),
        Job::Configure(args) => return Ok(configure::run(&args)),
        Job::Bench(job) => return bench::run(&job).map_err(|error| error.to_string()),
        Job::Client(command) => return quern_bench::run(&command).map_err(|error| error.to_string()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn serve(args: &ServeArgs) -> Result<(), StartError> {
    let began = Instant::now();
    logging::init(resolve::log_level(&args.log_level), resolve::log_level_http(args));
    let runtime = Runtime::new().map_err(StartError::Thread)?;
    let _inside = runtime.enter();

    let prepared = runtime.block_on(Prepared::new(args))?;
    let shown = serde_json::to_string_pretty(&prepared.config).expect("a config is plain data");
    if args.print_config {
        println!("{shown}");
        return Ok(());
    }
    let config = &prepared.config;
    tracing::info!("server_args={}", serde_json::to_string(config).expect("a config is plain data"));
    for line in prepared.notes.iter().chain(&summary::model_lines(config, &prepared.checkpoint)) {
        tracing::info!("{line}");
    }

    let address = BoundAddress::bind(&config.host, config.port)?;
    // The only place that chooses a backend.
    let backend = start::cpu_backend(config, &prepared.checkpoint)?;
    for line in summary::kernel_lines(&backend, &prepared.checkpoint, config) {
        tracing::info!("{line}");
    }
    let skip_warmup = config.skip_server_warmup;
    let ceiling = ceiling::at_start(&backend, &prepared.checkpoint, config);
    let service = prepared.start(Arc::new(backend), ceiling)?;
    if let Some(ceiling) = ceiling {
        tracing::info!("{}", summary::speed_line(ceiling, &service.engine));
    }
    let state = Arc::new(AppState::new(service, began));

    runtime.block_on(async {
        let signals = Signals::listen().map_err(StartError::Thread)?;
        let listener = address.listen()?;
        let address = listener.local_addr().map_err(StartError::Serve)?;
        tracing::info!("Listening on http://{address} (press CTRL+C to stop)");
        let (stop, stopped) = watch::channel(false);
        let server =
            tokio::spawn(connection::serve(listener, app::router(Arc::clone(&state)), Arc::clone(&state), stopped));
        let drained = tokio::spawn(shutdown::run(Arc::clone(&state), signals, stop));
        if !skip_warmup {
            warmup::run(&state.engine, &state.tokenizer).await?;
        }
        state.set_ready(true);
        tracing::info!("The server is fired up and ready to roll!");
        let panicked = |panic| StartError::Serve(std::io::Error::other(panic));
        drained.await.map_err(panicked)?;
        server.await.map_err(panicked)?;
        tracing::info!("The server has shut down.");
        Ok(())
    })
}
