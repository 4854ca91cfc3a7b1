//! [`ApiFlags`]: what the API is told.

use std::path::PathBuf;

use clap::Args;
use quern_api::{
    ApiConfig, api_keys,
    config::{GrammarBackend, LOGPROBS_MODES, SamplingDefaults, Secret, ToolCallParser},
};
use quern_backend::LogprobsOf;
use quern_text::{GrammarFactory, JsonBlanks, tool::ToolFormat};
use serde_json::{Map, Value};

use super::{
    cross_origin::CrossOriginFlags,
    metrics::MetricsFlags,
    model::TemplateOptions,
    names::Names,
    refused::RefusedFlag,
    values::{json_object, positive_seconds, positive_size, seconds, size},
};
use crate::request_memory::RequestMemory;

/// What was typed about the API and its requests.
#[derive(Args, Clone, Debug)]
pub struct ApiFlags {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub card: CardFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub server: ServerFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub template: TemplateOptions,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub requests: RequestFlags,
}

/// What clients are told of the model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct CardFlags {
    /// The model's name in /v1/models [default: --model-path]
    #[arg(long, value_name = "NAME", value_parser = model_name)]
    pub served_model_name: Option<String>,

    /// A label for the weights, echoed in responses
    #[arg(long, value_name = "LABEL", default_value = "default")]
    pub weight_version: String,
}

/// What bounds connections and their requests.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerFlags {
    /// Path prefix a reverse proxy puts before every route
    #[arg(long, value_name = "PATH", default_value = "", value_parser = root_path)]
    pub fastapi_root_path: String,

    /// Key clients must send as `Authorization: Bearer KEY`; several with commas, or by repeating the flag. Each key has
    /// prefixes, stored responses and an equal share of the engine of its own
    #[arg(long, value_name = "KEY", value_parser = key, value_delimiter = ',', action = clap::ArgAction::Append)]
    pub api_key: Vec<Secret>,

    /// A file of such keys, one a line; POST /reload_api_keys reads it again
    #[arg(long, value_name = "FILE", value_parser = key_file)]
    pub api_key_file: Option<PathBuf>,

    /// One cache of prefixes for all keys: quicker where they ask alike, but each can find out what others asked
    #[arg(long)]
    pub shared_prefix_cache: bool,

    /// Key of administrative endpoints such as /flush_cache and /abort_request
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub admin_api_key: Option<Secret>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cross_origin: CrossOriginFlags,

    /// Largest request body, bytes
    #[arg(long, value_name = "BYTES", value_parser = positive_size, default_value = "32Mi")]
    pub max_request_bytes: usize,

    /// Most answers of /v1/responses kept for requests that go on from them; 0 keeps none
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub response_store_entries: usize,

    /// Their size at most, bytes
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "64Mi")]
    pub response_store_bytes: usize,

    /// Most connections at once. Idle ones give way to further ones, the oldest first; where none is idle, they wait
    #[arg(long, value_name = "N", default_value = "1024", value_parser = positive_size)]
    pub max_connections: usize,

    /// Most connections of one client's address, its idle ones giving way too; further ones are answered 503. Not
    /// behind a reverse proxy, whose clients all have its address [default: no limit]
    #[arg(long, value_name = "N", value_parser = positive_size)]
    pub max_connections_per_address: Option<usize>,

    /// Time in which a request's head and body must arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub request_read_timeout: f64,

    /// A client that reads nothing of its stream for this long is cut off
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub slow_client_timeout: f64,

    /// A stream that has nothing to say for this long (a long prompt is being read) sends an empty piece, so
    /// that its client does not give up
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive_seconds)]
    pub stream_keep_alive: f64,

    /// After SIGTERM, how long running requests may go on
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub drain_timeout: f64,

    /// Do not serve the page (playground, live view, command generator), only the API
    #[arg(long)]
    pub no_ui: bool,
}

/// What requests get that do not say otherwise.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Requests")]
pub struct RequestFlags {
    /// JSON object of template variables; a request's chat_template_kwargs override them
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object)]
    pub default_chat_template_kwargs: Map<String, Value>,

    /// How tool calls are found in the output; `none` leaves them in the text [default: auto, by the chat template]
    #[arg(long, value_name = "NAME",
          value_parser = tool_call_parsers())]
    pub tool_call_parser: Option<ToolCalls>,

    /// What constrains outputs to schemas and grammars; `none` refuses requests that ask for it. (SGLang's
    /// other backends are accepted and mean llguidance.)
    #[arg(long, value_name = "NAME", default_value = "llguidance",
          value_parser = Names::new([("llguidance", GrammarChoice::Llguidance), ("none", GrammarChoice::None)])
              .or(["xgrammar", "outlines"].map(|name| (name, GrammarChoice::Replaced(name)))))]
    pub grammar_backend: GrammarChoice,

    /// Write constrained JSON without blanks between its tokens
    #[arg(long, conflicts_with_all = ["constrained_json_whitespace_pattern",
          "constrained_json_max_whitespace_cnt"])]
    pub constrained_json_disable_any_whitespace: bool,

    /// What may stand between two tokens of constrained JSON [default: two spaces, or a line break and 14]
    #[arg(long, value_name = "REGEX", value_parser = JsonBlanks::pattern,
          conflicts_with = "constrained_json_max_whitespace_cnt")]
    pub constrained_json_whitespace_pattern: Option<JsonBlanks>,

    /// At most this many blanks of any kind between two tokens of constrained JSON
    #[arg(long, value_name = "BLANKS", value_parser = clap::value_parser!(u32).range(..=1024))]
    pub constrained_json_max_whitespace_cnt: Option<u32>,

    /// Stop a constrained output that repeats one unit more often than this, over 192 bytes or more, where the
    /// grammar does not let it end; 0 lets it loop
    #[arg(long, value_name = "REPEATS", default_value_t = GrammarFactory::MAX_REPEATS)]
    pub constrained_max_repeats: usize,

    /// Where a chat request's missing sampling parameters come from: the model's generation_config.json (in
    /// a GGUF file, general.sampling.*), or OpenAI's fixed values
    #[arg(long, default_value = "model", value_parser =
          Names::new([("model", SamplingDefaults::Model), ("openai", SamplingDefaults::Openai)]))]
    pub sampling_defaults: SamplingDefaults,

    /// JSON object: defaults for what a /generate request leaves out of sampling_params
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub preferred_sampling_params: Option<Map<String, Value>>,

    /// Cut prompts that are too long instead of refusing them
    #[arg(long)]
    pub allow_auto_truncate: bool,

    /// Send a stream's text every so many tokens; the first token goes out at once
    #[arg(long, value_name = "TOKENS", default_value = "1", value_parser = positive_size)]
    pub stream_interval: usize,

    /// /generate streams send what is new instead of the text so far
    #[arg(long)]
    pub incremental_streaming_output: bool,

    /// Log-probabilities of sampled tokens: `raw_logprobs` are the model's own, as OpenAI's;
    /// `processed_logprobs` are after penalties, bias and temperature, as SGLang's
    #[arg(long, value_parser = Names::new(LOGPROBS_MODES), default_value = "raw_logprobs")]
    pub logprobs_mode: LogprobsOf,

    /// End every OpenAI stream with usage, asked for or not
    #[arg(long)]
    pub stream_response_default_include_usage: bool,

    /// Seed of the requests that bring none [default: random]
    #[arg(long, value_name = "SEED")]
    pub random_seed: Option<u64>,
}

/// What `--tool-call-parser` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCalls {
    /// The parser for what the chat template writes.
    Auto,
    /// None: calls stay text.
    None,
    /// This one.
    Parser(ToolCallParser),
}

/// What `--grammar-backend` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrammarChoice {
    /// The library that is used.
    Llguidance,
    /// Another of SGLang's, whose work llguidance does.
    Replaced(&'static str),
    /// Refuse requests that ask for it.
    None,
}

/// What the API's configuration depends on beside the command line.
#[derive(Clone, Copy, Debug)]
pub struct ApiFacts<'a> {
    /// The model as asked for.
    pub model_path: &'a str,
    /// Most tokens of a sequence.
    pub context_length: usize,
    /// Whether that was typed.
    pub context_length_is_explicit: bool,
    /// The parser for the calls that the chat template writes, if it writes any.
    pub template_parser: Option<ToolCallParser>,
    /// Seeds the requests that bring no seed, where none is typed.
    pub random_seed: u64,
    /// What the bodies of requests may take.
    pub requests: &'a RequestMemory,
}

impl ApiFlags {
    /// What is decided; `notes` gets lines about what was decided for the operator.
    pub fn config(&self, metrics: &MetricsFlags, facts: &ApiFacts<'_>, notes: &mut Vec<String>) -> ApiConfig {
        let Self { card, server, requests, .. } = self;
        ApiConfig {
            served_model_name: card.served_model_name.clone().unwrap_or_else(|| facts.model_path.to_owned()),
            weight_version: card.weight_version.clone(),
            context_length: facts.context_length,
            context_length_is_explicit: facts.context_length_is_explicit,
            sampling_defaults: requests.sampling_defaults,
            preferred_sampling_params: requests.preferred_sampling_params.clone(),
            random_seed: requests.random_seed.unwrap_or(facts.random_seed),
            default_chat_template_kwargs: requests.default_chat_template_kwargs.clone(),
            tool_call_parser: requests.parser(facts.template_parser, notes),
            grammar_backend: requests.grammars(notes),
            json_blanks: requests.json_blanks(),
            constrained_max_repeats: requests.constrained_max_repeats,
            allow_auto_truncate: requests.allow_auto_truncate,
            stream_interval: requests.stream_interval,
            incremental_streaming_output: requests.incremental_streaming_output,
            logprobs_mode: requests.logprobs_mode,
            stream_response_default_include_usage: requests.stream_response_default_include_usage,
            fastapi_root_path: server.fastapi_root_path.clone(),
            api_key: server.api_key.clone(),
            api_key_file: server.api_key_file.clone(),
            shared_prefix_cache: server.shared_prefix_cache,
            admin_api_key: server.admin_api_key.clone(),
            cross_origin: server.cross_origin.config(),
            no_ui: server.no_ui,
            max_request_bytes: facts.requests.max_request_bytes,
            max_request_memory: facts.requests.max_request_memory,
            response_store_entries: server.response_store_entries,
            response_store_bytes: server.response_store_bytes,
            max_connections: server.max_connections,
            max_connections_per_address: server.max_connections_per_address,
            request_read_timeout: server.request_read_timeout,
            slow_client_timeout: server.slow_client_timeout,
            stream_keep_alive: server.stream_keep_alive,
            drain_timeout: server.drain_timeout,
            enable_metrics: metrics.enable_metrics,
            extra_metric_labels: metrics.extra_metric_labels.clone(),
            bucket_time_to_first_token: metrics.bucket_time_to_first_token.clone(),
            bucket_inter_token_latency: metrics.bucket_inter_token_latency.clone(),
            bucket_e2e_request_latency: metrics.bucket_e2e_request_latency.clone(),
        }
    }

    /// Refuse what can be refused before a model is looked for.
    ///
    /// # Errors
    /// If the template's file is none.
    pub fn check(&self) -> Result<(), RefusedFlag> {
        self.template.check()
    }
}

impl RequestFlags {
    /// The parser named, or the one that fits the chat template; `none` leaves calls in the text.
    fn parser(&self, fitting: Option<ToolCallParser>, notes: &mut Vec<String>) -> Option<ToolCallParser> {
        match self.tool_call_parser {
            Some(ToolCalls::None) => None,
            Some(ToolCalls::Parser(parser)) => Some(parser),
            Some(ToolCalls::Auto) => fitting,
            None => {
                notes.extend(fitting.map(|found| {
                    format!("--tool-call-parser {}: the chat template writes calls that way.", found.name())
                }));
                fitting
            }
        }
    }

    /// What constrains outputs.
    fn grammars(&self, notes: &mut Vec<String>) -> Option<GrammarBackend> {
        if let GrammarChoice::Replaced(name) = self.grammar_backend {
            notes.push(format!("--grammar-backend {name}: llguidance does its work."));
        }
        (self.grammar_backend != GrammarChoice::None).then_some(GrammarBackend::Llguidance)
    }

    /// What may stand between the tokens of constrained JSON. The flags exclude one another.
    fn json_blanks(&self) -> JsonBlanks {
        match (&self.constrained_json_whitespace_pattern, self.constrained_json_max_whitespace_cnt) {
            _ if self.constrained_json_disable_any_whitespace => JsonBlanks::None,
            (Some(pattern), _) => pattern.clone(),
            (None, Some(most)) => JsonBlanks::AtMost(most),
            (None, None) => JsonBlanks::default(),
        }
    }
}

fn model_name(text: &str) -> Result<String, String> {
    if text.contains(':') || text.is_empty() {
        return Err("a name without `:` is wanted (`base:adapter` names adapters)".into());
    }
    Ok(text.to_owned())
}

fn root_path(text: &str) -> Result<String, String> {
    if !text.is_empty() && !text.starts_with('/') {
        return Err("a path that begins with / is wanted".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn key(text: &str) -> Result<Secret, String> {
    match text {
        "" => Err("an empty key would let everybody in; leave the flag out for that".into()),
        key => Ok(Secret::new(key)),
    }
}

/// A file of keys that can be read now.
fn key_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    api_keys::read(&path).map(|_| path).map_err(|error| error.to_string())
}

fn tool_call_parsers() -> Names<ToolCalls> {
    let parsers = ToolFormat::NAMES
        .iter()
        .filter_map(|(name, _)| Some((*name, ToolCalls::Parser(ToolCallParser::from_name(name)?))));
    let (shown, hidden): (Vec<_>, Vec<_>) =
        parsers.partition(|(name, _)| ["qwen3_coder", "qwen", "hermes"].contains(name));
    let shown = [("auto", ToolCalls::Auto)].into_iter().chain(shown).chain([("none", ToolCalls::None)]);
    Names::new(shown).or(hidden).refusing(UNSUPPORTED_TOOL_CALL_PARSERS)
}

/// Names that SGLang accepts for `--tool-call-parser`.
const UNSUPPORTED_TOOL_CALL_PARSERS: &[&str] = &[
    "llama3",
    "llama4",
    "mistral",
    "pythonic",
    "deepseekv3",
    "deepseekv31",
    "deepseekv32",
    "glm",
    "glm45",
    "glm47",
    "gpt-oss",
    "interns1",
    "kimi_k2",
    "lfm2",
    "mimo",
    "minimax-m2",
    "step3",
    "gigachat3",
    "trinity",
    "gemma4",
];
