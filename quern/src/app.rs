//! The HTTP application: what its routes share, and the layers around them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{Router, middleware};
use quern_engine::EngineHandle;
use quern_model::Checkpoint;
use quern_text::{ChatTemplate, Tokenizer};
use tower_http::cors::CorsLayer;

use crate::{
    access_log, auth,
    ceiling::Ceiling,
    config::{Config, GrammarBackend, SamplingDefaults},
    generate::LiveIds,
    grammars::Grammars,
    limits::Limits,
    metrics::Metrics,
    response_store::ResponseStore,
    routes,
    sampling::Defaults,
    start::Started,
};

/// What the routes share.
pub struct AppState {
    /// What was decided at start.
    pub config: Config,
    /// The way to the engine.
    pub engine: EngineHandle,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// The model's numbers and recommended sampling.
    pub checkpoint: Checkpoint,
    /// Tokens that end an output: those of the model's files and the tokenizer's.
    pub eos_token_ids: Vec<u32>,
    /// How long prompts and outputs may be.
    pub limits: Limits,
    /// Sampling of a conversation that leaves it open.
    pub chat_defaults: Defaults,
    /// What outputs may be constrained to.
    pub grammars: Arc<Grammars>,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Ids of the requests that are alive.
    pub ids: Arc<LiveIds>,
    /// Answers that later requests may go on from.
    pub responses: ResponseStore,
    /// What the machine allows the model, where it was measured.
    pub ceiling: Option<Ceiling>,
    /// When the server started.
    pub started: SystemTime,
    /// How long it took until it was ready.
    pub startup: Duration,
    ready: AtomicBool,
    num_seeds: AtomicU64,
}

impl AppState {
    /// Share what was started at `began`; not ready yet.
    pub fn new(started: Started, ceiling: Option<Ceiling>, began: Instant) -> Self {
        let Started { config, engine, tokenizer, template, checkpoint } = started;
        let mut eos_token_ids = checkpoint.eos_token_ids();
        eos_token_ids.extend(tokenizer.eos_id().filter(|id| !eos_token_ids.contains(id)));
        let chat_defaults = match config.sampling_defaults {
            SamplingDefaults::Model => Defaults::of_model(checkpoint.generation()),
            SamplingDefaults::Openai => Defaults::default(),
        };
        let tokenizer = Arc::new(tokenizer);
        let grammars = match config.grammar_backend {
            Some(GrammarBackend::Llguidance) => {
                Grammars::start(Arc::clone(&tokenizer), checkpoint.config().vocab_size, eos_token_ids.clone())
            }
            None => Grammars::none(),
        };
        Self {
            limits: Limits::new(&config),
            metrics: Metrics::new(&config),
            grammars: Arc::new(grammars),
            tokenizer,
            template,
            checkpoint,
            eos_token_ids,
            chat_defaults,
            ids: Arc::default(),
            responses: ResponseStore::new(config.response_store_entries, config.response_store_bytes),
            ceiling,
            started: SystemTime::now(),
            startup: began.elapsed(),
            ready: AtomicBool::new(false),
            num_seeds: AtomicU64::new(0),
            engine,
            config,
        }
    }

    /// From now on, or no longer, requests are welcome.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Tokens that a request may name: the network's, of which the tokenizer may spell fewer.
    pub fn vocab_size(&self) -> usize {
        self.checkpoint.config().vocab_size
    }

    /// After this time without data a stream says something empty. Clients give up after one to five
    /// minutes, and a comment is no data to some of them.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs_f64(self.config.stream_keep_alive)
    }

    /// A seed for a request that brings none: the same sequence of them for the same `--random-seed`.
    pub fn next_seed(&self) -> u64 {
        let n = self.num_seeds.fetch_add(1, Ordering::Relaxed);
        // SplitMix64 (Steele, Lea and Flood 2014): neighbouring counters become unrelated seeds.
        let mut z = self.config.random_seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    since_1970(SystemTime::now()).as_secs()
}

/// Time from 1970 to `time`.
pub fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// All routes and the layers around them, the outermost last.
pub fn router(state: Arc<AppState>) -> Router {
    let routes = routes::all(!state.config.no_ui).with_state(Arc::clone(&state));
    routes
        .layer(middleware::from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(CorsLayer::permissive())
        .layer(middleware::from_fn_with_state(state, access_log::record))
}
