//! [`ApiConfig`]: the API's resolved configuration, as plain data.

use std::{fmt, path::PathBuf};

use quern_engine::LogprobsOf;
use quern_text::{GrammarFactory, JsonBlanks, tool::ToolFormat};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::cross_origin::CrossOriginConfig;

/// Memory for the bodies and log-probabilities of all requests, bytes, where there is enough.
pub const MAX_REQUEST_MEMORY: usize = 1 << 30;

/// Everything that was decided for the API. Field names are those of the flags, as `/server_info` shows them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ApiConfig {
    /// The name shown by `/v1/models`.
    pub served_model_name: String,
    /// Echoed in responses.
    pub weight_version: String,
    /// Most tokens of a sequence, prompt and output together.
    pub context_length: usize,
    /// Whether `context_length` was typed. A chat request's own limit may not exceed a typed one.
    pub context_length_is_explicit: bool,
    /// Where a chat request's missing sampling parameters come from.
    pub sampling_defaults: SamplingDefaults,
    /// Defaults for keys that a `/generate` request leaves out of `sampling_params`.
    pub preferred_sampling_params: Option<Map<String, Value>>,
    /// Seeds the requests that bring no seed.
    pub random_seed: u64,
    /// Template variables, overridden by a request's `chat_template_kwargs`.
    pub default_chat_template_kwargs: Map<String, Value>,
    /// How tool calls are found in the output; `None`: they stay text.
    pub tool_call_parser: Option<ToolCallParser>,
    /// What constrains outputs; `None`: requests that ask for it are refused.
    pub grammar_backend: Option<GrammarBackend>,
    /// What may stand between the tokens of constrained JSON.
    #[serde(serialize_with = "shown")]
    pub json_blanks: JsonBlanks,
    /// Repeats of one unit in a constrained output before it is stopped from looping; 0: any number.
    pub constrained_max_repeats: usize,
    /// Cut prompts that are too long, instead of refusing them.
    pub allow_auto_truncate: bool,
    /// Send a stream's text every so many tokens; the first token is always sent.
    pub stream_interval: usize,
    /// `/generate` streams send differences instead of the text so far.
    pub incremental_streaming_output: bool,
    /// What the log-probabilities of sampled tokens are of.
    #[serde(serialize_with = "logprobs_mode")]
    pub logprobs_mode: LogprobsOf,
    /// Streams end with usage even when the request does not ask for it.
    pub stream_response_default_include_usage: bool,
    /// Path prefix a reverse proxy puts before every route.
    pub fastapi_root_path: String,
    /// Keys of ordinary endpoints, each a tenant of its own; none: everybody may use them.
    #[serde(serialize_with = "api_keys")]
    pub api_key: Vec<Secret>,
    /// A file of more of them, one a line.
    pub api_key_file: Option<PathBuf>,
    /// All keys share one cache of prefixes.
    pub shared_prefix_cache: bool,
    /// Key of administrative endpoints.
    pub admin_api_key: Option<Secret>,
    /// Which web pages may use the server, and under which names.
    #[serde(flatten)]
    pub cross_origin: CrossOriginConfig,
    /// Serve only the API, not the page.
    pub no_ui: bool,
    /// Largest request body, bytes.
    pub max_request_bytes: usize,
    /// Memory that the bodies of all requests, as values, and their log-probabilities may take, bytes. Compiled grammars
    /// are kept within a quarter of as much beside them.
    pub max_request_memory: usize,
    /// Most answers of `/v1/responses` that are kept for requests that go on from them; 0: none.
    pub response_store_entries: usize,
    /// Their size at most, bytes of JSON.
    pub response_store_bytes: usize,
    /// Most connections at once; further ones wait to be accepted.
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

/// vLLM's names of what log-probabilities are of.
pub const LOGPROBS_MODES: [(&str, LogprobsOf); 2] =
    [("raw_logprobs", LogprobsOf::Model), ("processed_logprobs", LogprobsOf::Sampler)];

fn logprobs_mode<S: Serializer>(value: &LogprobsOf, serializer: S) -> Result<S::Ok, S::Error> {
    let (name, _) = LOGPROBS_MODES.iter().find(|(_, mode)| mode == value).expect("each has a name");
    serializer.serialize_str(name)
}

/// As SGLang shows its one key; several as a list.
fn api_keys<S: Serializer>(keys: &[Secret], serializer: S) -> Result<S::Ok, S::Error> {
    match keys {
        [] => serializer.serialize_none(),
        [key] => key.serialize(serializer),
        keys => serializer.collect_seq(keys),
    }
}

fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Default for ApiConfig {
    /// What `quern serve` decides when nothing is typed, for a model of 4096 tokens of context and seed 0.
    fn default() -> Self {
        Self {
            served_model_name: "quern-demo".into(),
            weight_version: "default".into(),
            context_length: 4096,
            context_length_is_explicit: false,
            sampling_defaults: SamplingDefaults::Model,
            preferred_sampling_params: None,
            random_seed: 0,
            default_chat_template_kwargs: Map::new(),
            tool_call_parser: None,
            grammar_backend: Some(GrammarBackend::Llguidance),
            json_blanks: JsonBlanks::default(),
            constrained_max_repeats: GrammarFactory::MAX_REPEATS,
            allow_auto_truncate: false,
            stream_interval: 1,
            incremental_streaming_output: false,
            logprobs_mode: LogprobsOf::default(),
            stream_response_default_include_usage: false,
            fastapi_root_path: String::new(),
            api_key: Vec::new(),
            api_key_file: None,
            shared_prefix_cache: false,
            admin_api_key: None,
            cross_origin: CrossOriginConfig::default(),
            no_ui: false,
            max_request_bytes: 32 << 20,
            max_request_memory: MAX_REQUEST_MEMORY,
            response_store_entries: 1024,
            response_store_bytes: 64 << 20,
            max_connections: 1024,
            max_connections_per_address: None,
            request_read_timeout: 60.0,
            slow_client_timeout: 60.0,
            stream_keep_alive: 10.0,
            drain_timeout: 60.0,
            enable_metrics: false,
            extra_metric_labels: Vec::new(),
            bucket_time_to_first_token: None,
            bucket_inter_token_latency: None,
            bucket_e2e_request_latency: None,
        }
    }
}

/// Where a chat request's missing sampling parameters come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplingDefaults {
    /// The model's `generation_config.json`.
    Model,
    /// OpenAI's fixed values.
    Openai,
}

/// What constrains outputs to schemas and grammars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GrammarBackend {
    /// The llguidance library.
    Llguidance,
}

/// How tool calls are found in the output, by one of SGLang's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ToolCallParser {
    name: &'static str,
    #[serde(skip)]
    format: ToolFormat,
}

impl ToolCallParser {
    /// The parser of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let (name, format) = ToolFormat::NAMES.iter().find(|(known, _)| *known == name)?;
        Some(Self { name, format: *format })
    }

    /// The parser for the calls that a chat template writes into a conversation's history.
    pub fn of_template(source: &str) -> Option<Self> {
        let name = if source.contains("<function=") {
            "qwen3_coder"
        } else if source.contains("<tool_call>") {
            "hermes"
        } else {
            return None;
        };
        Self::from_name(name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// What it understands.
    pub fn format(self) -> ToolFormat {
        self.format
    }
}

/// A key that is compared but never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keep `key`.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself, to compare with.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}
