//! [`Swarm`]: the configuration of a world, drawn from its seed, so that each run tries other combinations.

use std::path::PathBuf;

use quern_api::{ApiConfig, config::Secret};
use quern_engine::{EngineConfig, Policy, fake};

use crate::{rng::Rng, support};

/// How a world ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// When everybody has got what he wanted.
    Idle,
    /// Drained as by SIGTERM, while requests run.
    Drain,
    /// Ended at once with all its connections, as by SIGKILL.
    Kill,
}

pub(crate) struct Swarm {
    pub(crate) api: ApiConfig,
    pub(crate) engine: EngineConfig,
    pub(crate) clients: usize,
    /// Clients of each key, or of each address.
    pub(crate) num_keys: usize,
    /// Percent of requests with a fault of the client.
    pub(crate) client_faults: f64,
    /// Mean time between faults of the engine; `None`: none. Rarer than what ends it for good, unless `is_doomed`.
    pub(crate) engine_fault_ms: Option<f64>,
    pub(crate) is_doomed: bool,
    /// Mean time between two requests of a client.
    pub(crate) think_ms: f64,
    /// Tokens of the longest output that is asked for.
    pub(crate) longest_output: usize,
    /// Bytes that a connection holds on their way, each direction.
    pub(crate) wire_bytes: usize,
    pub(crate) step_ms: u64,
    /// Whether there are fewer connections than clients may want.
    pub(crate) is_tight: bool,
    /// Whether the queue is bounded.
    pub(crate) has_bounded_queue: bool,
    pub(crate) ending: Ending,
}

impl Swarm {
    pub(crate) fn new(rng: &mut Rng, key_file: PathBuf) -> Self {
        let clients = rng.between(2, 24);
        let num_keys = *rng.pick(&[0, 0, 1, 2, 3]);
        let is_tight = rng.percent(20.0);
        let has_bounded_queue = rng.percent(25.0);
        let page_size = *rng.pick(&[1, 2, 4, 7, 16]);
        // The largest request has some 200 tokens; small pools are full all the time.
        let num_pages = (rng.between(260, 1600)).div_ceil(page_size);
        let chunk = rng.between(8, 128);
        let engine = EngineConfig {
            max_running: rng.between(1, 24),
            max_queued: has_bounded_queue.then(|| rng.between(1, 8)),
            max_queued_tokens: has_bounded_queue.then(|| rng.between(200, 2000)),
            chunk_tokens: chunk,
            max_prefill_tokens: chunk.max(rng.between(8, 256)),
            balanced_context: *rng.pick(&[16, 256, usize::MAX]),
            policy: *rng.pick(&[Policy::Fcfs, Policy::Lpm]),
            prefix_cache: rng.percent(85.0),
            conservativeness: *rng.pick(&[0.1, 0.5, 1.0]),
            ..fake::engine_config(page_size, num_pages)
        };
        let keys = (0..num_keys.min(2)).map(|index| Secret::new(key(index))).collect();
        let api = ApiConfig {
            context_length: 256.min(engine.pool_tokens()),
            random_seed: rng.next(),
            api_key: keys,
            // The last key comes from a file, which changes.
            api_key_file: (num_keys > 2).then_some(key_file),
            shared_prefix_cache: rng.percent(20.0),
            admin_api_key: rng.percent(50.0).then(|| Secret::new(ADMIN_KEY)),
            max_request_bytes: 32 << 10,
            response_store_entries: *rng.pick(&[0, 2, 64]),
            max_connections: if is_tight { rng.between(2, 8) } else { 256 },
            max_connections_per_address: (is_tight && rng.percent(50.0)).then(|| rng.between(1, 4)),
            request_read_timeout: *rng.pick(&[5.0, 30.0, 60.0]),
            slow_client_timeout: *rng.pick(&[3.0, 20.0, 60.0]),
            stream_keep_alive: *rng.pick(&[0.5, 10.0]),
            drain_timeout: *rng.pick(&[0.2, 5.0, 60.0]),
            stream_interval: *rng.pick(&[1, 1, 3]),
            ..support::parsing()
        };
        let is_doomed = rng.percent(5.0);
        let has_engine_faults = is_doomed || rng.percent(60.0);
        Self {
            clients,
            num_keys,
            client_faults: *rng.pick(&[0.0, 5.0, 15.0, 40.0]),
            engine_fault_ms: has_engine_faults.then_some(if is_doomed { 20_000.0 } else { 200_000.0 }),
            is_doomed,
            think_ms: *rng.pick(&[20.0, 400.0, 5_000.0, 60_000.0]),
            longest_output: *rng.pick(&[6, 6, 24, 90]),
            wire_bytes: *rng.pick(&[64, 700, 4 << 10, 64 << 10]),
            step_ms: *rng.pick(&[5, 20, 20, 80]),
            is_tight,
            has_bounded_queue,
            ending: *rng.pick(&[Ending::Idle, Ending::Idle, Ending::Drain, Ending::Drain, Ending::Kill]),
            api,
            engine,
        }
    }
}

impl Swarm {
    /// A world in which nobody does what he should not.
    pub(crate) fn quiet() -> Self {
        Self {
            api: ApiConfig { context_length: 256, random_seed: 7, ..support::parsing() },
            engine: EngineConfig { max_running: 4, ..fake::engine_config(4, 128) },
            clients: 3,
            num_keys: 0,
            client_faults: 0.0,
            engine_fault_ms: None,
            is_doomed: false,
            think_ms: 100.0,
            longest_output: 90,
            wire_bytes: 700,
            step_ms: 20,
            is_tight: false,
            has_bounded_queue: false,
            ending: Ending::Idle,
        }
    }
}

pub(crate) const ADMIN_KEY: &str = "the-admins-key";

/// The key of a tenant.
pub(crate) fn key(index: usize) -> String {
    format!("key-of-tenant-{index}")
}
