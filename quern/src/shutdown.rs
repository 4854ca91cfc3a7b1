//! The end: from the first signal to the last answer.

use std::{sync::Arc, time::Duration};

use quern_api::AppState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// How often a drain looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often it says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Signals that end the server.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listen for SIGTERM and SIGINT from now on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Wait for a signal, then drain: no new requests, the running ones may go on for `--drain-timeout`, what
/// is left then ends with an abort that its client hears of. A second signal ends the wait. At last the
/// connections are told to stop.
pub async fn run(state: Arc<AppState>, mut signals: Signals, stop: watch::Sender<bool>) {
    let name = signals.next().await;
    drain(&state, name, &mut signals).await;
    // Whoever still waits hears `finish_reason: "abort"`.
    state.engine.shutdown();
    let _ = stop.send(true);
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
