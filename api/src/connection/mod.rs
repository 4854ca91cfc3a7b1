//! Connections: accepted and told apart by `front.rs`, served up to a bound (`places.rs`), read within a time, cut
//! off when their client no longer reads (`client_socket.rs`).

mod client_socket;
mod front;
mod places;
pub mod transport;

use std::{sync::Arc, time::Duration};

use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{runtime::Handle, sync::watch};
use transport::Listener;

use crate::{app, live_recorder, origin_guard::CrossOrigin, state::AppState};

/// Time for connections to end by themselves once the last answers are out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Open files beside connections: weights, the log, runtimes.
const OTHER_FILES: u64 = 128;

/// A connection that is served, one that waits, one that has said nothing and one that was told to go: so many files
/// for each of `--max-connections`, at worst.
const FILES_PER_CONNECTION: u64 = 4;

/// Answer requests until `stop` says so; then let the answers that are under way reach their clients. Connections are
/// accepted, probes answered and the live view's samples taken by the runtime that polls this, requests are answered by
/// `requests`.
pub fn serve<L: Listener>(
    listener: L,
    state: &Arc<AppState>,
    requests: Handle,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<L> {
    let config = &state.config;
    let cross_origin = CrossOrigin::new(config.cross_origin.clone(), listener.is_loopback());
    let front = front::Front {
        probes: app::probe_router(Arc::clone(state), &cross_origin),
        routes: app::router(Arc::clone(state), &cross_origin),
        requests,
        root_path: config.fastapi_root_path.clone(),
        max_connections: allow_files(config.max_connections),
        max_per_address: config.max_connections_per_address,
        read_timeout: Duration::from_secs_f64(config.request_read_timeout),
        slow_client: Duration::from_secs_f64(config.slow_client_timeout),
    };
    let (state, has_ui) = (Arc::clone(state), !config.no_ui);
    async move {
        let closing = GracefulShutdown::new();
        tokio::select! {
            () = front.run(listener, &closing, stop) => {}
            () = live_recorder::record(&state), if has_ui => {}
        }
        if tokio::time::timeout(CLOSE_TIMEOUT, closing.shutdown()).await.is_err() {
            tracing::warn!("some connections did not end within {CLOSE_TIMEOUT:?}; they are cut");
        }
    }
}

/// How many of `wanted` connections the limit of open files allows, raised as far as we may.
fn allow_files(wanted: usize) -> usize {
    let files = FILES_PER_CONNECTION.saturating_mul(wanted as u64).saturating_add(OTHER_FILES);
    let limits = getrlimit(Resource::Nofile);
    let Some(now) = limits.current.filter(|now| *now < files) else { return wanted };
    let raised = limits.maximum.map_or(files, |maximum| maximum.min(files));
    let rlimit = Rlimit { current: Some(raised), maximum: limits.maximum };
    let allowed = if setrlimit(Resource::Nofile, rlimit).is_ok() { raised } else { now };
    if allowed >= files {
        return wanted;
    }
    let fit = (allowed.saturating_sub(OTHER_FILES.min(allowed / 2)) / FILES_PER_CONNECTION).max(1) as usize;
    tracing::warn!("--max-connections {wanted}: the limit of {allowed} open files (ulimit -n) allows {fit}");
    fit
}
