//! [`AppState`]: the state that routes share, made of a [`Service`].

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use quern_engine::{EngineHandle, Work};
use quern_text::{ChatTemplate, GrammarFactory, Tokenizer};
use serde_json::Value;

use crate::{
    api_keys::ApiKeys,
    clock::WallClock,
    config::{ApiConfig, GrammarBackend, SamplingDefaults},
    grammars::Grammars,
    health_check::HealthCheck,
    limits::Limits,
    live_ids::LiveIds,
    live_view::LiveView,
    metrics::Metrics,
    model_card::ModelCard,
    protocol::memory_pool::MemoryPool,
    response_store::ResponseStore,
    sampling::Defaults,
};

/// An engine that runs, and what the API needs to serve it.
pub struct Service {
    /// What was decided for the API.
    pub config: ApiConfig,
    /// The model's numbers and recommended sampling.
    pub model: ModelCard,
    /// The engine.
    pub engine: EngineHandle,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// All that was decided at start, as `/server_info` shows it: an object.
    pub settings: Value,
    /// Makes the table of the command generator, as JSON; takes some tens of milliseconds.
    pub configure_table: fn() -> String,
    /// How often repacked weights could not be kept on disk, or were damaged there.
    pub weight_cache_failures: Arc<AtomicU64>,
}

/// What a machine can do at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Bytes read a second.
    pub read_bytes_per_s: f64,
    /// Operations a second of the model's matrix products.
    pub ops_per_s: f64,
}

impl Peaks {
    /// The least time that `work` takes, seconds.
    pub fn least_s(self, work: Work) -> f64 {
        work.least_s(self.read_bytes_per_s, self.ops_per_s)
    }
}

/// What the routes share.
pub struct AppState {
    /// What was decided for the API.
    pub config: ApiConfig,
    /// The way to the engine.
    pub engine: EngineHandle,
    /// The tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// The model's numbers and recommended sampling.
    pub model: ModelCard,
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
    /// What the page shows of the last hour.
    pub live_view: LiveView,
    /// Memory for what requests hold.
    pub memory: MemoryPool,
    /// Keys of ordinary endpoints, and whom each stands for.
    pub keys: ApiKeys,
    /// Ids of the requests that are alive.
    pub ids: Arc<LiveIds>,
    /// Answers that later requests may go on from.
    pub responses: ResponseStore,
    /// All that was decided at start, as `/server_info` shows it.
    pub settings: Value,
    /// What the machine allows the model, once it is measured.
    pub peaks: OnceLock<Peaks>,
    /// What `/health` finds out.
    pub health: HealthCheck,
    /// Makes the table of the command generator, as JSON.
    pub configure_table: fn() -> String,
    /// The time that answers tell.
    pub clock: WallClock,
    /// When the server started.
    pub started: SystemTime,
    /// How long it took until it was ready.
    pub startup: Duration,
    ready: AtomicBool,
    num_seeds: AtomicU64,
}

impl AppState {
    /// Share `service`, whose start began at `began`; not ready yet.
    pub fn new(service: Service, began: Instant) -> Self {
        let Service { config, model, engine, tokenizer, template, settings, configure_table, weight_cache_failures } =
            service;
        let mut eos_token_ids = model.eos_token_ids.clone();
        eos_token_ids.extend(tokenizer.eos_id().filter(|id| !eos_token_ids.contains(id)));
        let chat_defaults = match config.sampling_defaults {
            SamplingDefaults::Model => Defaults::of_model(&model.recommended),
            SamplingDefaults::Openai => Defaults::default(),
        };
        let tokenizer = Arc::new(tokenizer);
        let grammars = match config.grammar_backend {
            Some(GrammarBackend::Llguidance) => {
                let (blanks, max_repeats) = (config.json_blanks.clone(), config.constrained_max_repeats);
                let cached_bytes = config.max_request_memory / 4;
                let configure = move |factory: GrammarFactory| {
                    factory.with_json_blanks(blanks).with_max_repeats(max_repeats).with_max_cached_bytes(cached_bytes)
                };
                Grammars::start(Arc::clone(&tokenizer), model.vocab_size, eos_token_ids.clone(), configure)
            }
            None => Grammars::none(),
        };
        let clock = WallClock::default();
        Self {
            limits: Limits::new(&config, engine.config().pool_tokens()),
            metrics: Metrics::new(&config, weight_cache_failures),
            live_view: LiveView::default(),
            grammars: Arc::new(grammars),
            tokenizer,
            template,
            model,
            eos_token_ids,
            chat_defaults,
            memory: MemoryPool::new(config.max_request_memory),
            keys: ApiKeys::new(&config),
            ids: Arc::default(),
            responses: ResponseStore::new(config.response_store_entries, config.response_store_bytes),
            settings,
            peaks: OnceLock::new(),
            health: HealthCheck::default(),
            configure_table,
            started: clock.now(),
            clock,
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
        self.model.vocab_size
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
