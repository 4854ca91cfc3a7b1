//! [`Metrics`]: what `/metrics` shows, under SGLang's names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use quern_engine::EngineHandle;

use crate::{
    config::ApiConfig,
    latency::{Counts, Latencies},
    log_queue::LOG,
};

/// SGLang's buckets, seconds.
const TTFT: &[f64] =
    &[0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0];
const ITL: &[f64] = &[
    0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025, 0.030, 0.035, 0.040, 0.060, 0.080, 0.1, 0.2, 0.4, 0.6, 0.8,
    1.0, 2.0, 4.0, 6.0, 8.0,
];
const E2E_MORE: &[f64] = &[600.0, 1200.0, 1800.0, 2400.0];
/// Tokens.
const TOKENS: &[f64] = &[
    100.0, 300.0, 500.0, 700.0, 1000.0, 1500.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0, 7000.0, 8000.0, 9000.0,
    10000.0, 12000.0, 15000.0, 20000.0, 30000.0, 40000.0, 60000.0, 80000.0, 100_000.0, 200_000.0, 300_000.0,
];

/// Whether a request streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Streaming {
    is_streaming: &'static str,
}

impl From<bool> for Streaming {
    fn from(stream: bool) -> Self {
        Self { is_streaming: if stream { "true" } else { "false" } }
    }
}

/// One answered HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    endpoint: String,
    status_code: u16,
    method: String,
}

type ByStreaming<M> = Family<Streaming, M>;
type Histograms = Family<Streaming, Histogram, BucketsOf>;

/// Makes the histograms of a family.
#[derive(Clone)]
struct BucketsOf(Vec<f64>);

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for BucketsOf {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Every figure. Those of requests are counted as they happen, the engine's are read when asked for.
pub struct Metrics {
    registry: Registry,
    prompt_tokens: ByStreaming<Counter>,
    generation_tokens: ByStreaming<Counter>,
    num_requests: ByStreaming<Counter>,
    time_to_first_token: Histograms,
    inter_token_latency: Histogram,
    e2e_request_latency: Histograms,
    time_per_output_token: Histograms,
    prompt_tokens_histogram: Histogram,
    uncached_prompt_tokens_histogram: Histogram,
    generation_tokens_histogram: Histogram,
    http_answers: Family<AnswerLabels, Counter>,
    http_active: Gauge,
    grammar_queue: Gauge,
    log_lines_dropped: Counter,
    weight_cache_failures: Counter,
    /// Where they are counted.
    counted_failures: Arc<AtomicU64>,
    engine: EngineFigures,
    /// For the live view, which wants percentiles of a second.
    first_tokens: Latencies,
    next_tokens: Latencies,
}

/// The engine's, copied at each reading.
#[derive(Default)]
struct EngineFigures {
    gauges: Vec<(FloatGauge, ReadMetric<f64>)>,
    counters: Vec<(Counter, ReadMetric<u64>)>,
}

type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;
type ReadMetric<T> = fn(&EngineHandle) -> T;

impl Metrics {
    /// Register everything; `weight_cache_failures` are counted by the start.
    pub fn new(config: &ApiConfig, weight_cache_failures: Arc<AtomicU64>) -> Self {
        let own = [("model_name", config.served_model_name.as_str()), ("engine_type", "unified")];
        let extra = config.extra_metric_labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let labels =
            own.into_iter().chain(extra).map(|(name, value)| (name.to_owned().into(), value.to_owned().into()));
        let mut registry = Registry::with_labels(labels);

        let or = |given: &Option<Vec<f64>>, usual: &[f64]| given.clone().unwrap_or_else(|| usual.to_vec());
        let ttft = or(&config.bucket_time_to_first_token, TTFT);
        let itl = or(&config.bucket_inter_token_latency, ITL);
        let e2e = or(&config.bucket_e2e_request_latency, &[TTFT, E2E_MORE].concat());
        let tokens = || Histogram::new(TOKENS.iter().copied());
        let this = Self {
            prompt_tokens: Family::default(),
            generation_tokens: Family::default(),
            num_requests: Family::default(),
            time_to_first_token: Family::new_with_constructor(BucketsOf(ttft)),
            inter_token_latency: Histogram::new(itl.iter().copied()),
            e2e_request_latency: Family::new_with_constructor(BucketsOf(e2e)),
            time_per_output_token: Family::new_with_constructor(BucketsOf(itl.clone())),
            prompt_tokens_histogram: tokens(),
            uncached_prompt_tokens_histogram: tokens(),
            generation_tokens_histogram: tokens(),
            http_answers: Family::default(),
            http_active: Gauge::default(),
            grammar_queue: Gauge::default(),
            log_lines_dropped: Counter::default(),
            weight_cache_failures: Counter::default(),
            counted_failures: weight_cache_failures,
            engine: EngineFigures::register(&mut registry),
            registry: Registry::default(),
            first_tokens: Latencies::default(),
            next_tokens: Latencies::default(),
        };
        let mut add = |name: &str, help: &str, metric: Box<dyn Registrable>| metric.register(&mut registry, name, help);
        add("prompt_tokens", "Prompt tokens of ended requests", Box::new(this.prompt_tokens.clone()));
        add("generation_tokens", "Tokens generated", Box::new(this.generation_tokens.clone()));
        add("num_requests", "Requests ended", Box::new(this.num_requests.clone()));
        add("time_to_first_token_seconds", "Time to the first token", Box::new(this.time_to_first_token.clone()));
        add("inter_token_latency_seconds", "Time between tokens", Box::new(this.inter_token_latency.clone()));
        add("e2e_request_latency_seconds", "Time of whole requests", Box::new(this.e2e_request_latency.clone()));
        add(
            "request_time_per_output_token_seconds",
            "Time per token after the first",
            Box::new(this.time_per_output_token.clone()),
        );
        add("prompt_tokens_histogram", "Tokens of prompts", Box::new(this.prompt_tokens_histogram.clone()));
        add(
            "uncached_prompt_tokens_histogram",
            "Tokens of prompts that were computed",
            Box::new(this.uncached_prompt_tokens_histogram.clone()),
        );
        add("generation_tokens_histogram", "Tokens of outputs", Box::new(this.generation_tokens_histogram.clone()));
        add("http_responses", "Answered HTTP requests", Box::new(this.http_answers.clone()));
        add("num_grammar_queue_reqs", "Requests that wait for a grammar", Box::new(this.grammar_queue.clone()));
        add("http_requests_active", "HTTP requests in progress", Box::new(this.http_active.clone()));
        add(
            "log_lines_dropped",
            "Lines of the log that could not be written",
            Box::new(this.log_lines_dropped.clone()),
        );
        add(
            "weight_cache_failures",
            "Times repacked weights could not be kept on disk, or were damaged there",
            Box::new(this.weight_cache_failures.clone()),
        );
        Self { registry, ..this }
    }

    /// A request's first token came.
    pub fn first_token(&self, stream: bool, after: Duration) {
        self.time_to_first_token.get_or_create(&stream.into()).observe(after.as_secs_f64());
        self.first_tokens.observe(after);
    }

    /// Another token came.
    pub fn next_token(&self, after: Duration) {
        self.inter_token_latency.observe(after.as_secs_f64());
        self.next_tokens.observe(after);
    }

    /// Times to first tokens, so far.
    pub fn first_tokens(&self) -> Counts {
        self.first_tokens.counts()
    }

    /// Times between tokens, so far.
    pub fn next_tokens(&self) -> Counts {
        self.next_tokens.counts()
    }

    /// A request ended, its first token `first` and its end `whole` after it came in.
    pub fn ended(
        &self,
        stream: bool,
        prompt: usize,
        cached: usize,
        output: usize,
        first: Option<Duration>,
        whole: Duration,
    ) {
        let streaming = Streaming::from(stream);
        self.num_requests.get_or_create(&streaming).inc();
        self.prompt_tokens.get_or_create(&streaming).inc_by(prompt as u64);
        self.generation_tokens.get_or_create(&streaming).inc_by(output as u64);
        self.e2e_request_latency.get_or_create(&streaming).observe(whole.as_secs_f64());
        self.prompt_tokens_histogram.observe(prompt as f64);
        self.uncached_prompt_tokens_histogram.observe(prompt.saturating_sub(cached) as f64);
        self.generation_tokens_histogram.observe(output as f64);
        if let Some(first) = first.filter(|_| output > 1) {
            let per_token = (whole - first).as_secs_f64() / (output - 1) as f64;
            self.time_per_output_token.get_or_create(&streaming).observe(per_token);
        }
    }

    /// An HTTP request came in.
    pub fn http_began(&self) {
        self.http_active.inc();
    }

    /// It was answered. `endpoint` is the route, not what was typed, so that made-up paths cannot fill memory.
    pub fn http_ended(&self, method: &str, endpoint: &str, status_code: u16) {
        self.http_active.dec();
        let answer = AnswerLabels { endpoint: endpoint.to_owned(), status_code, method: method.to_owned() };
        self.http_answers.get_or_create(&answer).inc();
    }

    /// A request waits for its grammar until what is returned is dropped.
    pub fn waits_for_grammar(&self) -> impl Drop + use<> {
        self.grammar_queue.inc();
        Waiting(self.grammar_queue.clone())
    }

    /// The text that Prometheus reads.
    pub fn text(&self, engine: &EngineHandle) -> String {
        self.engine.read(engine);
        self.log_lines_dropped.inner().store(LOG.num_dropped(), Ordering::Relaxed);
        let failures = self.counted_failures.load(Ordering::Relaxed);
        self.weight_cache_failures.inner().store(failures, Ordering::Relaxed);
        let mut out = String::new();
        encode(&mut out, &self.registry).expect("writing to a string succeeds");
        out
    }
}

struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl EngineFigures {
    fn register(registry: &mut Registry) -> Self {
        let mut this = Self::default();
        let mut gauge = |name: &str, help: &str, read: ReadMetric<f64>| {
            let gauge = Gauge::default();
            registry.register(format!("sglang:{name}"), help, gauge.clone());
            this.gauges.push((gauge, read));
        };
        gauge("num_running_reqs", "Requests that run", |e| e.metrics().snapshot().scheduler.running as f64);
        gauge("num_queue_reqs", "Requests that wait", |e| e.num_queued() as f64);
        gauge("num_used_tokens", "Tokens of the pool that cannot be had now", |e| used_tokens(e) as f64);
        gauge("kv_used_tokens", "The same", |e| used_tokens(e) as f64);
        gauge("kv_available_tokens", "Free tokens of the pool", |e| {
            (e.metrics().snapshot().scheduler.free_pages * e.config().page_size) as f64
        });
        gauge("kv_evictable_tokens", "Cached tokens that could be freed", |e| {
            (e.metrics().snapshot().scheduler.evictable_pages * e.config().page_size) as f64
        });
        gauge("token_usage", "Share of the pool in use", |e| {
            share(used_tokens(e) as u64, e.config().pool_tokens() as u64)
        });
        gauge("full_token_usage", "The same", |e| share(used_tokens(e) as u64, e.config().pool_tokens() as u64));
        gauge("cache_hit_rate", "Share of prompt tokens found in the prefix cache", |e| {
            let scheduler = e.metrics().snapshot().scheduler;
            share(scheduler.cached_tokens, scheduler.prompt_tokens)
        });
        gauge("gen_throughput", "Tokens generated a second", |e| e.metrics().snapshot().gen_throughput);
        gauge("decode_sum_seq_lens", "Tokens of the running requests", |e| {
            e.metrics().snapshot().running_tokens as f64
        });
        gauge("new_token_ratio", "Share of max_new_tokens that admission expects", |e| {
            e.metrics().snapshot().scheduler.new_token_ratio
        });
        gauge("utilization", "Running requests as a share of the most allowed", |e| {
            share(e.metrics().snapshot().scheduler.running as u64, e.config().max_running as u64)
        });
        gauge("is_cuda_graph", "Always 0", |_| 0.0);
        gauge("max_total_num_tokens", "Tokens of the pool", |e| e.config().pool_tokens() as f64);
        gauge("page_size", "Tokens of a page", |e| e.config().page_size as f64);
        gauge("num_pages", "Pages of the pool", |e| e.config().num_pages as f64);
        gauge("last_step_seconds", "Time of the last step", |e| e.metrics().snapshot().last_step_s);
        let mut counter = |name: &str, help: &str, read: ReadMetric<u64>| {
            let counter = Counter::default();
            registry.register(format!("sglang:{name}"), help, counter.clone());
            this.counters.push((counter, read));
        };
        counter("cached_tokens", "Prompt tokens found in the prefix cache", |e| {
            e.metrics().snapshot().scheduler.cached_tokens
        });
        counter("evicted_tokens", "Cached tokens evicted", |e| {
            e.metrics().snapshot().scheduler.evicted_pages * e.config().page_size as u64
        });
        counter("num_aborted_requests", "Requests aborted", |e| e.metrics().snapshot().scheduler.aborted);
        counter("num_failed_requests", "Requests that failed", |e| e.metrics().snapshot().scheduler.failed);
        counter("num_retracted_reqs", "Requests paused for want of pages", |e| {
            e.metrics().snapshot().scheduler.retractions
        });
        counter("engine_restarts", "Restarts of the engine after a failure", |e| e.metrics().num_restarts());
        counter("kv_invariant_violations", "Counts of pages or locks that did not add up", |e| {
            e.metrics().num_invariant_violations()
        });
        counter("scheduler_steps", "Steps computed", |e| e.metrics().snapshot().scheduler.steps);
        this
    }

    fn read(&self, engine: &EngineHandle) {
        for (gauge, read) in &self.gauges {
            gauge.set(read(engine));
        }
        for (counter, read) in &self.counters {
            counter.inner().store(read(engine), Ordering::Relaxed);
        }
    }
}

/// Tokens of pages that are neither free nor evictable.
pub fn used_tokens(engine: &EngineHandle) -> usize {
    let (scheduler, config) = (engine.metrics().snapshot().scheduler, engine.config());
    config.num_pages.saturating_sub(scheduler.free_pages + scheduler.evictable_pages) * config.page_size
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A metric of any kind under one of our names.
trait Registrable {
    fn register(self: Box<Self>, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric> Registrable for M {
    fn register(self: Box<Self>, registry: &mut Registry, name: &str, help: &str) {
        registry.register(format!("sglang:{name}"), help, *self);
    }
}
