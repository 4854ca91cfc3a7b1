//! A server, from the command line to the last request.

use std::{
    env, future,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use quern_api::{
    AppState, connection,
    listen::{self, BoundAddress},
};
use quern_engine::FailureObserver;
use quern_ranks::{NodeEvent, Peers};
use serde_json::json;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    cli::ServeArgs,
    config::LogSettings,
    crash_dump::CrashDumps,
    launched::{self, Launched},
    logging,
    machine::{self, Machine},
    nodes::{self, Follower},
    roofline::{self, Unmeasured},
    shutdown::{self, ShutdownCause, Signals},
    start::{self, Chosen, Prepared},
    start_error::StartError,
    summary, warmup,
};

/// Time for threads that still compute at the end; their results are dropped.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads beside those of the runtime of requests (one a core) and the two teams that check and multiply weights: the
/// log's, the front's, the start's, the engine's, the peaks', that of crash dumps; three of grammars, two of their
/// compilers, four that render.
const FIXED_THREADS: usize = 15;

/// Threads that prepare requests and answers, of which each may be long.
const MAX_BLOCKING_THREADS: usize = 512;

/// Fewest of them: they wait for nothing but processors.
const MIN_BLOCKING_THREADS: usize = 8;

/// Addresses that such a thread takes: its stack and what it allocates first.
const BLOCKING_THREAD_BYTES: u64 = 4 << 20;

/// Reading a model walks templates and schemas of any depth.
const START_STACK_BYTES: usize = 16 << 20;

/// Serve until a signal ends it.
///
/// # Errors
/// If the server does not start, or stops with a failure.
pub fn run(mut args: ServeArgs) -> Result<(), StartError> {
    let began = Instant::now();
    let launcher = launched::settle(&mut args, |name| env::var(name).ok())?;
    check_threads(&args)?;
    let LogSettings { log_level, log_level_http, .. } = args.log.settings();
    logging::init(log_level, log_level_http).map_err(StartError::Thread)?;
    // Before the threads are started that keep to its share of the cores.
    let launcher = launcher.filter(|_| !args.print_config);
    let launched = launcher.map(|launcher| Launched::connect(&launcher, &args)).transpose()?.map(Arc::new);
    // Handles signals, accepts connections and answers probes, whatever happens on the threads of requests.
    let mut front = runtime::Builder::new_multi_thread();
    let front = built(front.worker_threads(1).thread_name("front").enable_all())?;
    let mut requests = runtime::Builder::new_multi_thread();
    requests.max_blocking_threads(blocking_threads(Machine::probe().available_bytes));
    let requests = built(requests.enable_all())?;
    let outcome = front.block_on(live(args, requests.handle().clone(), began, launched.clone()));
    requests.shutdown_timeout(LEFTOVERS_TIMEOUT);
    front.shutdown_timeout(LEFTOVERS_TIMEOUT);
    // One that was lost parts from nobody.
    if let Some(launched) = launched.filter(|_| matches!(outcome, Ok(()) | Err(StartError::NodeLeft))) {
        launched.part();
    }
    outcome
}

/// The runtime, whose library panics where the system refuses a thread that it gave when that was tried before.
fn built(builder: &mut runtime::Builder) -> Result<Runtime, StartError> {
    let built = catch_unwind(AssertUnwindSafe(|| builder.build()));
    built.unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into())).map_err(StartError::Thread)
}

/// As many as an eighth of the memory has room for.
fn blocking_threads(available_bytes: Option<u64>) -> usize {
    let fit = available_bytes.map_or(u64::MAX, |bytes| bytes / 8 / BLOCKING_THREAD_BYTES);
    usize::try_from(fit).unwrap_or(usize::MAX).clamp(MIN_BLOCKING_THREADS, MAX_BLOCKING_THREADS)
}

/// Threads are started deep inside libraries, some of which panic where the system refuses one: try it first.
fn check_threads(args: &ServeArgs) -> Result<(), StartError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = args.device.cpu.threads(&Machine::probe());
    let parallel = args.device.parallel.options();
    let ranks = if parallel.is_divided() { parallel.tp_size / parallel.nnodes.max(1) } else { 0 };
    let of_ranks = if ranks > 0 { 2 * ranks + workers + parallel.nnodes } else { 0 };
    Ok(machine::check_threads(FIXED_THREADS + cores + 2 * workers + of_ranks)?)
}

/// From the first signal that could come to the last answer.
async fn live(
    args: ServeArgs,
    requests: Handle,
    began: Instant,
    launched: Option<Arc<Launched>>,
) -> Result<(), StartError> {
    let mut signals = Signals::listen().map_err(StartError::Thread)?;
    let (report, started) = oneshot::channel();
    // Stays open where there are no other nodes.
    let (events, mut heard) = mpsc::unbounded_channel();
    let (handle, hears) = (requests.clone(), events.clone());
    let node = args.device.parallel.options().node_rank;
    let begin = move || {
        let _inside = handle.enter();
        // The receiver is gone after a signal.
        let _ = report.send(start(&args, &handle, began, launched.as_deref(), hears));
    };
    thread::Builder::new()
        .name("start".into())
        .stack_size(START_STACK_BYTES)
        .spawn(begin)
        .map_err(StartError::Thread)?;
    let started = tokio::select! {
        started = started => started.map_err(|_| StartError::Panicked)??,
        name = signals.next() => {
            tracing::info!("{name}: the server ends before it was ready.");
            return Ok(());
        }
        event = heard.recv() => return match event {
            Some(NodeEvent::Lost(lost)) => Err(lost.into()),
            _ => Err(StartError::NodeLeft),
        },
    };
    let loaded = match started {
        None => return Ok(()),
        Some(Started::Follower(follower)) => return follower.run(signals, node).await,
        Some(Started::Server(loaded)) => loaded,
    };
    let Loaded { state, address, skip_warmup, unmeasured, crash_dumps, peers } = *loaded;

    let listener = address.listen()?;
    let address = listener.local_addr().map_err(StartError::Serve)?;
    tracing::info!("Listening on http://{address} (press CTRL+C to stop)");
    if !listen::is_loopback(address) && !state.keys.are_required() {
        tracing::warn!(
            "everyone who can reach {address} may use this server: there is no --api-key (--host 127.0.0.1 keeps it to \
             this machine)"
        );
    }
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(connection::serve(listener, &state, requests, stopped));
    let (leaving, left) = oneshot::channel();
    let engine = state.engine.clone();
    let watched = tokio::spawn(async move {
        let _stays_open = events;
        let mut leaving = Some(leaving);
        while let Some(event) = heard.recv().await {
            match event {
                NodeEvent::Lost(lost) => engine.fail(lost.to_string()),
                // Of several the first counts.
                NodeEvent::Leaving(node) => drop(leaving.take().map(|leaving| leaving.send(node))),
                NodeEvent::Goodbye => {}
            }
        }
    });
    let left = async {
        match left.await {
            Ok(node) => node,
            Err(_) => future::pending().await,
        }
    };
    let mut drained = tokio::spawn(shutdown::run(Arc::clone(&state), signals, left, stop));
    let panicked = |panic| StartError::Serve(io::Error::other(panic));
    let warm_up = async {
        match skip_warmup {
            true => Ok(()),
            false => warmup::run(&state.engine, &state.tokenizer).await,
        }
    };
    let cause = tokio::select! {
        warm = warm_up => {
            warm?;
            state.set_ready(true);
            tracing::info!("The server is fired up and ready to roll!");
            if let Some(machine) = unmeasured {
                roofline::measure_beside(Arc::clone(&state), machine).map_err(StartError::Thread)?;
            }
            drained.await.map_err(panicked)?
        }
        ended = &mut drained => ended.map_err(panicked)?,
    };
    server.await.map_err(panicked)?;
    if let Some(dumps) = crash_dumps {
        dumps.flush();
    }
    watched.abort();
    if let Some(peers) = peers.filter(|_| cause != ShutdownCause::EngineDown) {
        peers.goodbye();
    }
    tracing::info!("The server has shut down.");
    match cause {
        ShutdownCause::Signal => Ok(()),
        ShutdownCause::NodeLeft => Err(StartError::NodeLeft),
        ShutdownCause::EngineDown => Err(StartError::EngineDown),
    }
}

/// A server whose model is in memory.
struct Loaded {
    state: Arc<AppState>,
    address: BoundAddress,
    skip_warmup: bool,
    unmeasured: Option<Unmeasured>,
    crash_dumps: Option<CrashDumps>,
    /// The nodes that follow it.
    peers: Option<Arc<Peers>>,
}

/// What a start comes to.
enum Started {
    /// A server of requests.
    Server(Box<Loaded>),
    /// Another node than the one that serves.
    Follower(Follower),
}

/// Find, read and load the model; `None` if all that was asked for is what was decided.
fn start(
    args: &ServeArgs,
    requests: &Handle,
    began: Instant,
    launched: Option<&Launched>,
    events: mpsc::UnboundedSender<NodeEvent>,
) -> Result<Option<Started>, StartError> {
    let processes = launched.map_or(1, |launched| launched.processes_here);
    let mut prepared = requests.block_on(Prepared::new(args, processes))?;
    let shown = serde_json::to_string_pretty(&prepared.config).expect("a config is plain data");
    if args.print_config {
        writeln!(io::stdout(), "{shown}").map_err(StartError::Output)?;
        return Ok(None);
    }
    let config = &prepared.config;
    tracing::info!("server_args={}", serde_json::to_string(config).expect("a config is plain data"));
    for line in prepared.notes.iter().chain(&summary::model_lines(&config.model, &prepared.checkpoint)) {
        tracing::info!("{line}");
    }
    let address = BoundAddress::bind(&config.listen.host, config.listen.port)?;
    let isa = start::isa_of(&config.device);
    let met = nodes::meet(&mut prepared.config, &prepared.checkpoint, &isa, launched, events)?;
    let config = &prepared.config;
    let peers = met.as_ref().map(|met| Arc::clone(&met.peers));
    // The only place that chooses a backend.
    let chosen = Chosen::new(&config.device, config.model.dtype, &prepared.checkpoint, peers.clone())?;
    for line in summary::kernel_lines(&*chosen.device(), &prepared.checkpoint, config) {
        tracing::info!("{line}");
    }
    for line in summary::rank_lines(&config.device, &prepared.checkpoint, config.model.kv_cache_dtype)? {
        tracing::info!("{line}");
    }
    if let Some(met) = met.filter(|_| config.device.parallel.node_rank > 0) {
        return Ok(Some(Started::Follower(prepared.follow(chosen, &met, address)?)));
    }
    let skip_warmup = config.listen.skip_server_warmup;
    let measures = chosen.device().can_be_measured() && !config.api.no_ui && !config.listen.skip_peak_measurement;
    let unmeasured = measures.then(|| Unmeasured {
        open: chosen.whole(),
        formats: prepared.checkpoint.formats(),
        precision: config.model.dtype,
    });
    let crash_dumps = crash_dumps(&prepared)?;
    let observer = crash_dumps.as_ref().map_or_else(|| Box::new(|_| {}) as FailureObserver, CrashDumps::observer);
    let state = Arc::new(AppState::new(prepared.start(chosen, observer)?, began));
    Ok(Some(Started::Server(Box::new(Loaded { state, address, skip_warmup, unmeasured, crash_dumps, peers }))))
}

/// The folder of `--crash-dump-folder`. Keys are not shown in a configuration.
fn crash_dumps(prepared: &Prepared) -> Result<Option<CrashDumps>, StartError> {
    let Prepared { config, checkpoint, .. } = prepared;
    let Some(folder) = &config.log.crash_dump_folder else { return Ok(None) };
    let identity = json!({
        "architecture": checkpoint.config().architecture.to_string(),
        "parameters": checkpoint.network().total_params(),
        "weight_bytes": checkpoint.weight_bytes(),
        "formats": checkpoint.formats().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "config": config,
    });
    let failed = |cause| StartError::CrashDumps { folder: folder.display().to_string(), cause };
    CrashDumps::start(folder, identity).map(Some).map_err(failed)
}
