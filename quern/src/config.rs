//! [`Config`]: what was decided before the first byte of a model is loaded.
//!
//! [`ServeArgs`](crate::cli::ServeArgs) holds what was typed; a `Config` has no "auto" left, never
//! changes, is printed by `--print-config` and served by `/server_info`.

use std::{fmt, path::PathBuf};

use quern_api::{
    ApiConfig,
    config::{GrammarBackend, SamplingDefaults, Secret, ToolCallParser},
};
use quern_backend::KvFormat;
use quern_text::JsonBlanks;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Everything that was decided. Field names are those of the flags, as `/server_info` shows them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    // Model
    /// The model as asked for: a directory, a hub id, or the name of the shipped model.
    pub model_path: String,
    /// Where its files lie; `None`: inside the binary.
    pub model_dir: Option<PathBuf>,
    /// The directory or hub id of the tokenizer, as asked for.
    pub tokenizer_path: String,
    /// Where the tokenizer's files lie; `None`: inside the binary.
    pub tokenizer_dir: Option<PathBuf>,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// The name shown by `/v1/models`.
    pub served_model_name: String,
    /// Echoed in responses.
    pub weight_version: String,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// Merged over `config.json`.
    pub json_model_override_args: Map<String, Value>,
    /// What matrix products are computed in.
    pub dtype: ComputeDtype,
    /// How keys and values are stored.
    #[serde(serialize_with = "shown")]
    pub kv_cache_dtype: KvFormat,
    /// Most tokens of a sequence, prompt and output together.
    pub context_length: usize,
    /// Whether `context_length` was typed. A chat request's own limit may not exceed a typed one.
    pub context_length_is_explicit: bool,

    // Requests
    /// Where a chat request's missing sampling parameters come from.
    pub sampling_defaults: SamplingDefaults,
    /// Defaults for keys that a `/generate` request leaves out of `sampling_params`.
    pub preferred_sampling_params: Option<Map<String, Value>>,
    /// Seeds the requests that bring no seed.
    pub random_seed: u64,
    /// A template file used instead of the checkpoint's.
    pub chat_template: Option<PathBuf>,
    /// Which of several templates in the tokenizer's config to use.
    pub hf_chat_template_name: Option<String>,
    /// Template variables, overridden by a request's `chat_template_kwargs`.
    pub default_chat_template_kwargs: Map<String, Value>,
    /// How tool calls are found in the output; `None`: they stay text.
    pub tool_call_parser: Option<ToolCallParser>,
    /// What constrains outputs; `None`: requests that ask for it are refused.
    pub grammar_backend: Option<GrammarBackend>,
    /// What may stand between the tokens of constrained JSON.
    #[serde(serialize_with = "shown")]
    pub json_blanks: JsonBlanks,
    /// Cut prompts that are too long, instead of refusing them.
    pub allow_auto_truncate: bool,
    /// Send a stream's text every so many tokens; the first token is always sent.
    pub stream_interval: usize,
    /// `/generate` streams send differences instead of the text so far.
    pub incremental_streaming_output: bool,
    /// Streams end with usage even when the request does not ask for it.
    pub stream_response_default_include_usage: bool,

    // Server
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Path prefix a reverse proxy puts before every route.
    pub fastapi_root_path: String,
    /// Key of ordinary endpoints.
    pub api_key: Option<Secret>,
    /// Key of administrative endpoints.
    pub admin_api_key: Option<Secret>,
    /// Skip the request the server sends itself before it is ready.
    pub skip_server_warmup: bool,
    /// Do not measure what this machine can do at best.
    pub skip_peak_measurement: bool,
    /// Serve only the API, not the page.
    pub no_ui: bool,
    /// Largest request body, bytes.
    pub max_request_bytes: usize,
    /// Most answers of `/v1/responses` that are kept for requests that go on from them; 0: none.
    pub response_store_entries: usize,
    /// Their size at most, bytes of JSON.
    pub response_store_bytes: usize,
    /// Most connections at once; idle ones give way to further ones, which wait where there are none.
    pub max_connections: usize,
    /// Most connections of one address; `None`: no limit of its own.
    pub max_connections_per_address: Option<usize>,
    /// A request's head and body must arrive within this time, seconds.
    pub request_read_timeout: f64,
    /// A client that reads nothing of its stream for this time is cut off, seconds.
    pub slow_client_timeout: f64,
    /// A stream that has nothing to say for this time sends an empty piece, seconds.
    pub stream_keep_alive: f64,
    /// After SIGTERM, running requests may go on for this time, seconds.
    pub drain_timeout: f64,

    // Memory and scheduling
    /// Share of the available memory for weights and KV pool.
    pub mem_fraction_static: f64,
    /// Tokens of a KV page.
    pub page_size: usize,
    /// Pages of the KV pool.
    pub num_pages: usize,
    /// Tokens of the KV pool: `num_pages × page_size`.
    pub max_total_num_tokens: usize,
    /// Most requests computed together.
    pub max_running_requests: usize,
    /// Most requests waiting; `None`: no limit.
    pub max_queued_requests: Option<usize>,
    /// Tokens computed per step; longer prompts are computed in several.
    pub chunked_prefill_size: usize,
    /// Prompt tokens admitted per step.
    pub max_prefill_tokens: usize,
    /// Order of the waiting requests.
    pub schedule_policy: SchedulePolicy,
    /// Scales the estimate of what running requests will still need.
    pub schedule_conservativeness: f64,
    /// No prefix reuse.
    pub disable_radix_cache: bool,

    // Machine
    /// Always `cpu`.
    pub device: &'static str,
    /// Worker threads.
    pub cpu_threads: usize,
    /// Instruction set of the kernels; `None`: the best this machine has.
    pub cpu_isa: Option<String>,
    /// Where repacked weights are kept between starts.
    pub weight_cache: Option<PathBuf>,
    /// Ranks that share each layer.
    pub tp_size: usize,
    /// Pipeline stages.
    pub pp_size: usize,
    /// Replicas.
    pub dp_size: usize,
    /// Ranks that share the experts.
    pub ep_size: usize,

    // Logs and metrics
    /// Least severe level that is logged.
    pub log_level: LogLevel,
    /// The same for the access log.
    pub log_level_http: LogLevel,
    /// Steps between two lines about decoding.
    pub decode_log_interval: usize,
    /// Serve `/metrics`.
    pub enable_metrics: bool,
    /// Labels added to every metric.
    pub extra_metric_labels: Vec<(String, String)>,
    /// Upper bounds of the histogram's buckets, seconds, ascending; `None`: the usual ones.
    pub bucket_time_to_first_token: Option<Vec<f64>>,
    /// The same for the time between tokens.
    pub bucket_inter_token_latency: Option<Vec<f64>>,
    /// The same for whole requests.
    pub bucket_e2e_request_latency: Option<Vec<f64>>,
}

impl Default for Config {
    /// What `quern serve` decides when nothing is typed, for a model of 4096 tokens of context, one
    /// worker thread, a pool of 8192 tokens and seed 0.
    fn default() -> Self {
        Self {
            model_path: "quern-demo".into(),
            model_dir: None,
            tokenizer_path: "quern-demo".into(),
            tokenizer_dir: None,
            revision: None,
            served_model_name: "quern-demo".into(),
            weight_version: "default".into(),
            load_format: LoadFormat::Safetensors,
            json_model_override_args: Map::new(),
            dtype: ComputeDtype::Bfloat16,
            kv_cache_dtype: KvFormat::BF16,
            context_length: 4096,
            context_length_is_explicit: false,
            sampling_defaults: SamplingDefaults::Model,
            preferred_sampling_params: None,
            random_seed: 0,
            chat_template: None,
            hf_chat_template_name: None,
            default_chat_template_kwargs: Map::new(),
            tool_call_parser: None,
            grammar_backend: Some(GrammarBackend::Llguidance),
            json_blanks: JsonBlanks::default(),
            allow_auto_truncate: false,
            stream_interval: 1,
            incremental_streaming_output: false,
            stream_response_default_include_usage: false,
            host: "127.0.0.1".into(),
            port: 30000,
            fastapi_root_path: String::new(),
            api_key: None,
            admin_api_key: None,
            skip_server_warmup: false,
            skip_peak_measurement: false,
            no_ui: false,
            max_request_bytes: 32 << 20,
            response_store_entries: 1024,
            response_store_bytes: 64 << 20,
            max_connections: 1024,
            max_connections_per_address: None,
            request_read_timeout: 60.0,
            slow_client_timeout: 60.0,
            stream_keep_alive: 10.0,
            drain_timeout: 60.0,
            mem_fraction_static: 0.8,
            page_size: 32,
            num_pages: 256,
            max_total_num_tokens: 8192,
            max_running_requests: 256,
            max_queued_requests: None,
            chunked_prefill_size: 512,
            max_prefill_tokens: 16384,
            schedule_policy: SchedulePolicy::Fcfs,
            schedule_conservativeness: 1.0,
            disable_radix_cache: false,
            device: "cpu",
            cpu_threads: 1,
            cpu_isa: None,
            weight_cache: None,
            tp_size: 1,
            pp_size: 1,
            dp_size: 1,
            ep_size: 1,
            log_level: LogLevel::Info,
            log_level_http: LogLevel::Info,
            decode_log_interval: 40,
            enable_metrics: false,
            extra_metric_labels: Vec::new(),
            bucket_time_to_first_token: None,
            bucket_inter_token_latency: None,
            bucket_e2e_request_latency: None,
        }
    }
}

impl Config {
    /// The API's part of it.
    pub fn api(&self) -> ApiConfig {
        ApiConfig {
            served_model_name: self.served_model_name.clone(),
            weight_version: self.weight_version.clone(),
            context_length: self.context_length,
            context_length_is_explicit: self.context_length_is_explicit,
            sampling_defaults: self.sampling_defaults,
            preferred_sampling_params: self.preferred_sampling_params.clone(),
            random_seed: self.random_seed,
            default_chat_template_kwargs: self.default_chat_template_kwargs.clone(),
            tool_call_parser: self.tool_call_parser,
            grammar_backend: self.grammar_backend,
            json_blanks: self.json_blanks.clone(),
            allow_auto_truncate: self.allow_auto_truncate,
            stream_interval: self.stream_interval,
            incremental_streaming_output: self.incremental_streaming_output,
            stream_response_default_include_usage: self.stream_response_default_include_usage,
            fastapi_root_path: self.fastapi_root_path.clone(),
            api_key: self.api_key.clone(),
            admin_api_key: self.admin_api_key.clone(),
            no_ui: self.no_ui,
            max_request_bytes: self.max_request_bytes,
            response_store_entries: self.response_store_entries,
            response_store_bytes: self.response_store_bytes,
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            request_read_timeout: self.request_read_timeout,
            slow_client_timeout: self.slow_client_timeout,
            stream_keep_alive: self.stream_keep_alive,
            drain_timeout: self.drain_timeout,
            enable_metrics: self.enable_metrics,
            extra_metric_labels: self.extra_metric_labels.clone(),
            bucket_time_to_first_token: self.bucket_time_to_first_token.clone(),
            bucket_inter_token_latency: self.bucket_inter_token_latency.clone(),
            bucket_e2e_request_latency: self.bucket_e2e_request_latency.clone(),
        }
    }
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadFormat {
    /// The model's safetensors files.
    Safetensors,
    /// A file in llama.cpp's format, which has the configuration and the tokenizer too.
    Gguf,
    /// Random numbers.
    Dummy,
}

impl LoadFormat {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Dummy => "dummy",
        }
    }
}

/// What matrix products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// Inputs rounded to bf16, sums in f32.
    Bfloat16,
    /// Everything in f32.
    Float32,
}

impl fmt::Display for ComputeDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bfloat16 => "bfloat16",
            Self::Float32 => "float32",
        })
    }
}

fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Order of the waiting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulePolicy {
    /// First come, first served.
    Fcfs,
    /// Longest cached prefix first.
    Lpm,
}

/// Least severe level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer asks for.
    Debug,
    /// An operator's story.
    Info,
    /// What deserves attention.
    Warning,
    /// What failed.
    Error,
}
