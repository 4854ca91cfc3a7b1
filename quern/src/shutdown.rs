//! The end: from the first signal to the last answer.

use std::{sync::Arc, task::Poll, thread, time::Duration};

use quern_api::AppState;
use quern_engine::EngineState;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// How often is looked whether a drain is over or the engine has failed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often it says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How long probes of a server whose engine has failed are answered.
pub const DOWN_FOR_PROBES: Duration = Duration::from_secs(1);

/// Signals that end the server.
pub struct Signals(Vec<(&'static str, SignalKind, Signal)>);

impl Signals {
    /// Listen for SIGTERM, SIGINT, SIGQUIT and SIGHUP from now on. A SIGHUP that is ignored stays so: that is what
    /// `nohup` is for.
    ///
    /// # Errors
    /// If no handler can be installed.
    pub fn listen() -> std::io::Result<Self> {
        let kinds = [
            ("SIGTERM", SignalKind::terminate()),
            ("SIGINT", SignalKind::interrupt()),
            ("SIGQUIT", SignalKind::quit()),
            ("SIGHUP", SignalKind::hangup()),
        ];
        let heard = kinds.into_iter().filter(|(_, kind)| *kind != SignalKind::hangup() || !is_ignored(*kind));
        heard.map(|(name, kind)| Ok((name, kind, signal(kind)?))).collect::<std::io::Result<_>>().map(Self)
    }

    /// The next one's name.
    pub async fn next(&mut self) -> &'static str {
        self.next_with_kind().await.0
    }

    async fn next_with_kind(&mut self) -> (&'static str, SignalKind) {
        std::future::poll_fn(|context| {
            let mut heard = self.0.iter_mut().filter_map(|(name, kind, signal)| match signal.poll_recv(context) {
                Poll::Ready(_) => Some((*name, *kind)),
                Poll::Pending => None,
            });
            heard.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Let the signals that end any other process end this one, too, if it is the first of a container: the system keeps
/// from that one every signal that it does not listen for.
///
/// # Errors
/// If there is no thread that could listen.
pub fn end_first_process_by_signals() -> std::io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let listen = move || {
        let (_, kind) = runtime.block_on(signals.next_with_kind());
        std::process::exit(128 + kind.as_raw_value());
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}

/// Whether this process was started with the signal ignored, as far as the system tells.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// Why a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// A signal asked for it.
    Signal,
    /// Its engine has failed for good.
    EngineDown,
    /// A node that it cannot do without was asked to end.
    NodeLeft,
}

/// Wait for a signal, then drain: no new requests, the running ones may go on for `--drain-timeout`, what
/// is left then ends with an abort that its client is told of. A second signal ends the wait. At last the
/// connections are told to stop. An engine that has failed for good ends the server without a signal: what starts the
/// process anew can do more for it.
///
/// `leaving`: resolves to a node that waits for this server to end. It drains as for a signal.
pub async fn run(
    state: Arc<AppState>,
    mut signals: Signals,
    leaving: impl Future<Output = usize>,
    stop: watch::Sender<bool>,
) -> ShutdownCause {
    let cause = tokio::select! {
        name = signals.next() => {
            drain(&state, name, &mut signals).await;
            ShutdownCause::Signal
        }
        node = leaving => {
            drain(&state, &format!("node {node} was asked to end"), &mut signals).await;
            ShutdownCause::NodeLeft
        }
        () = engine_down(&state) => {
            state.set_ready(false);
            // Probes hear why, before they find nobody.
            sleep(DOWN_FOR_PROBES).await;
            ShutdownCause::EngineDown
        }
    };
    // Requests that are still running end with `finish_reason: "abort"`.
    state.engine.shutdown();
    let _ = stop.send(true);
    cause
}

/// Wait until the engine has failed for good and its requests have heard so.
async fn engine_down(state: &AppState) {
    while state.engine.metrics().state() != EngineState::Down || state.engine.num_alive() > 0 {
        sleep(LOOK_EVERY).await;
    }
}

async fn drain(state: &AppState, name: &str, signals: &mut Signals) {
    state.set_ready(false);
    state.engine.drain();
    let alive = || state.engine.num_alive();
    let seconds = state.config.drain_timeout;
    tracing::info!("{name}: no new requests; {} running ones may take {seconds} s more (--drain-timeout)", alive());
    let idle = async {
        let mut reported = Instant::now();
        while alive() > 0 {
            sleep(LOOK_EVERY).await;
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                tracing::info!("{} requests are still running", alive());
            }
        }
    };
    tokio::select! {
        finished = timeout(Duration::from_secs_f64(seconds), idle) => match finished {
            Ok(()) => tracing::info!("all requests have ended"),
            Err(_) => tracing::warn!("{} requests did not end in time and are aborted", alive()),
        },
        second = signals.next() => tracing::warn!("{second}: {} requests are aborted now", alive()),
    }
}
