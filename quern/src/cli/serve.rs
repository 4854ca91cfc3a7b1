//! [`ServeArgs`]: what was typed after `quern serve`.

use std::path::PathBuf;

use clap::Args;
use quern_api::config::{GrammarBackend, LOGPROBS_MODES, SamplingDefaults, ToolCallParser};
use quern_backend::{KvFormat, LogprobsOf, Precision};
use quern_model::weights::QuantRecipe;
use quern_text::{GrammarFactory, JsonBlanks};
use serde_json::{Map, Value};

use super::{
    choice::{Choice, choices, names},
    compat::CompatArgs,
    cross_origin::CrossOriginArgs,
    human::parse_count,
};
use crate::config::{LoadFormat, LogLevel, SchedulePolicy};

/// What was typed after `quern serve`. Flags have SGLang's names; what each means is said here, what is
/// made of it in [`Config`](crate::config::Config).
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The same as --model-path
    #[arg(value_name = "MODEL", conflicts_with = "model_path")]
    pub model: Option<String>,

    /// A directory, a .gguf file, or an id on the Hugging Face hub: OWNER/NAME, of GGUF files also OWNER/NAME:Q4_K_M or
    /// OWNER/NAME/FILE.gguf (llama.cpp's -hf and -m are known too) [default: the small model inside this program]
    #[arg(long, visible_alias = "model", alias = "hf-repo", value_name = "DIR|FILE|ID", help_heading = "Model")]
    pub model_path: Option<String>,

    /// The tokenizer's directory or hub id [default: the model]
    #[arg(long, value_name = "DIR|ID", help_heading = "Model")]
    pub tokenizer_path: Option<String>,

    /// Branch, tag or commit on the hub [default: main]
    #[arg(long, help_heading = "Model")]
    pub revision: Option<String>,

    /// Where downloads are kept [default: the hub's cache, see HF_HOME and HF_HUB_CACHE]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub download_dir: Option<PathBuf>,

    /// Keep a GGUF model's repacked weights in DIR, as large as the model, so that later starts map them and repack
    /// nothing
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub weight_cache: Option<PathBuf>,

    /// Where weights come from; `dummy` makes random ones and reads only the configuration
    #[arg(long, value_name = "FORMAT", default_value = "auto", help_heading = "Model", value_parser = choices(
        &[("auto", None), ("safetensors", Some(LoadFormat::Safetensors)), ("gguf", Some(LoadFormat::Gguf)),
          ("dummy", Some(LoadFormat::Dummy))],
        &[],
        &["pt", "instanttensor", "npcache", "sharded_state", "presharded", "expert_pack", "bitsandbytes",
          "mistral", "layered", "flash_rl", "remote", "remote_instance", "fastsafetensors", "private",
          "runai_streamer"]))]
    pub load_format: Choice<Option<LoadFormat>>,

    /// JSON object merged over the model's config.json
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object, help_heading = "Model")]
    pub json_model_override_args: Map<String, Value>,

    /// Most tokens of prompt and output together, e.g. 8192, 8k, 32Ki [default: the model's]
    #[arg(long, value_name = "TOKENS", value_parser = parse_count, help_heading = "Model")]
    pub context_length: Option<u64>,

    /// What matrix products are computed in; `auto` follows the checkpoint: bfloat16 (f32 sums) for bf16 and
    /// fp8 weights, float32 for f32 and f16 ones
    #[arg(long, default_value = "auto", help_heading = "Model", value_parser = choices(
        &[("auto", None), ("bfloat16", Some(Precision::Bf16)), ("float32", Some(Precision::F32))],
        &[("float", Some(Precision::F32))],
        &["half", "float16"]))]
    pub dtype: Choice<Option<Precision>>,

    /// How the weights are held: fp8 is what an fp8 checkpoint has anyway; q8_0, q4_0 and q4_k_m are made from
    /// any checkpoint as it is loaded, by llama.cpp's mixtures, and so is q4_best, which is q4_k_m with more bits
    /// for attention and the embedding [default: as the checkpoint has them]
    #[arg(long, value_name = "METHOD", help_heading = "Model", value_parser = choices(
        &quantizations(), &[], QUANTIZATIONS))]
    pub quantization: Option<Choice<Quantization>>,

    /// How keys and values are stored: `auto` follows --dtype; the 8-bit ones hold almost twice the tokens
    /// in the same memory, q8_0 (a scale for each 32) closest to bfloat16, fp8 as SGLang without scales
    #[arg(long, default_value = "auto", help_heading = "Model", value_parser = choices(
        &[("auto", None), ("bfloat16", Some(KvFormat::BF16)), ("fp8_e4m3", Some(KvFormat::F8E4M3)),
          ("fp8_e5m2", Some(KvFormat::F8E5M2)), ("q8_0", Some(KvFormat::Q8_0))],
        &[("bf16", Some(KvFormat::BF16))],
        &["mxfp8", "nvfp4", "fp4_mx_block16", "fp4_e2m1"]))]
    pub kv_cache_dtype: Choice<Option<KvFormat>>,

    /// The model's name in /v1/models [default: --model-path]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub served_model_name: Option<String>,

    /// A label for the weights, echoed in responses
    #[arg(long, value_name = "LABEL", default_value = "default", help_heading = "Model")]
    pub weight_version: String,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    pub host: String,

    /// Port to listen on; 0 lets the system choose and prints the choice
    #[arg(long, default_value_t = 30000, help_heading = "Server")]
    pub port: u16,

    /// Path prefix a reverse proxy puts before every route
    #[arg(long, value_name = "PATH", default_value = "", help_heading = "Server")]
    pub fastapi_root_path: String,

    /// Key clients must send as `Authorization: Bearer KEY`
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub api_key: Option<String>,

    /// Key of administrative endpoints such as /flush_cache and /abort_request
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub admin_api_key: Option<String>,

    /// Which web pages may use the server.
    #[command(flatten)]
    pub cross_origin: CrossOriginArgs,

    /// Largest request body, bytes
    #[arg(long, value_name = "BYTES", value_parser = parse_count, default_value = "32Mi", help_heading = "Server")]
    pub max_request_bytes: u64,

    /// Most answers of /v1/responses kept for requests that go on from them; 0 keeps none
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Server")]
    pub response_store_entries: usize,

    /// Their size at most, bytes
    #[arg(long, value_name = "BYTES", value_parser = parse_count, default_value = "64Mi", help_heading = "Server")]
    pub response_store_bytes: u64,

    /// Most connections at once. Idle ones give way to further ones, the oldest first; where none is idle, they wait
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Server")]
    pub max_connections: usize,

    /// Most connections of one client's address, its idle ones giving way too; further ones are answered 503. Not
    /// behind a reverse proxy, whose clients all have its address [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Server")]
    pub max_connections_per_address: Option<usize>,

    /// Time in which a request's head and body must arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, help_heading = "Server")]
    pub request_read_timeout: f64,

    /// A client that reads nothing of its stream for this long is cut off
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, help_heading = "Server")]
    pub slow_client_timeout: f64,

    /// A stream that has nothing to say for this long (a long prompt is being read) sends an empty piece, so
    /// that its client does not give up
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive_seconds, help_heading = "Server")]
    pub stream_keep_alive: f64,

    /// After SIGTERM, how long running requests may go on
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, help_heading = "Server")]
    pub drain_timeout: f64,

    /// Do not send the first request to ourselves before reporting ready
    #[arg(long, help_heading = "Server")]
    pub skip_server_warmup: bool,

    /// Do not measure what this machine can do at best, which the live view compares with (half a second, while no
    /// request runs)
    #[arg(long, help_heading = "Server")]
    pub skip_peak_measurement: bool,

    /// Do not serve the page (playground, live view, command generator), only the API
    #[arg(long, help_heading = "Server")]
    pub no_ui: bool,

    /// Template file (.jinja) used instead of the checkpoint's
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    pub chat_template: Option<PathBuf>,

    /// Which of several templates of the tokenizer's configuration to use
    #[arg(long, value_name = "NAME", help_heading = "Requests")]
    pub hf_chat_template_name: Option<String>,

    /// JSON object of template variables; a request's chat_template_kwargs override them
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object, help_heading = "Requests")]
    pub default_chat_template_kwargs: Map<String, Value>,

    /// How tool calls are found in the output; `none` leaves them in the text [default: auto, by the chat template]
    #[arg(long, value_name = "NAME", help_heading = "Requests",
          value_parser = choices(&tool_calls(&["auto", "qwen3_coder", "qwen", "hermes", "none"]),
                                 &tool_calls(&["qwen25", "step3p5", "nanbeige"]), TOOL_CALL_PARSERS))]
    pub tool_call_parser: Option<Choice<ToolCalls>>,

    /// What constrains outputs to schemas and grammars; `none` refuses requests that ask for it. (SGLang's
    /// other backends are accepted and mean llguidance.)
    #[arg(long, value_name = "NAME", default_value = "llguidance", help_heading = "Requests",
          value_parser = names(&[("llguidance", GrammarChoice::Llguidance), ("none", GrammarChoice::None)],
                               &[("xgrammar", GrammarChoice::Replaced("xgrammar")),
                                 ("outlines", GrammarChoice::Replaced("outlines"))]))]
    pub grammar_backend: GrammarChoice,

    /// Write constrained JSON without blanks between its tokens
    #[arg(long, help_heading = "Requests", conflicts_with_all = ["constrained_json_whitespace_pattern",
          "constrained_json_max_whitespace_cnt"])]
    pub constrained_json_disable_any_whitespace: bool,

    /// What may stand between two tokens of constrained JSON [default: two spaces, or a line break and 14]
    #[arg(long, value_name = "REGEX", help_heading = "Requests", value_parser = JsonBlanks::pattern,
          conflicts_with = "constrained_json_max_whitespace_cnt")]
    pub constrained_json_whitespace_pattern: Option<JsonBlanks>,

    /// At most this many blanks of any kind between two tokens of constrained JSON
    #[arg(long, value_name = "BLANKS", help_heading = "Requests", value_parser = clap::value_parser!(u32).range(..=1024))]
    pub constrained_json_max_whitespace_cnt: Option<u32>,

    /// Stop a constrained output that repeats one unit more often than this, over 192 bytes or more, where the
    /// grammar does not let it end; 0 lets it loop
    #[arg(long, value_name = "REPEATS", default_value_t = GrammarFactory::MAX_REPEATS, help_heading = "Requests")]
    pub constrained_max_repeats: usize,

    /// Where a chat request's missing sampling parameters come from: the model's generation_config.json (in
    /// a GGUF file, general.sampling.*), or OpenAI's fixed values
    #[arg(long, default_value = "model", help_heading = "Requests", value_parser = names(
        &[("model", SamplingDefaults::Model), ("openai", SamplingDefaults::Openai)], &[]))]
    pub sampling_defaults: SamplingDefaults,

    /// JSON object: defaults for what a /generate request leaves out of sampling_params
    #[arg(long, value_name = "JSON", value_parser = json_object, help_heading = "Requests")]
    pub preferred_sampling_params: Option<Map<String, Value>>,

    /// Cut prompts that are too long instead of refusing them
    #[arg(long, help_heading = "Requests")]
    pub allow_auto_truncate: bool,

    /// Send a stream's text every so many tokens; the first token goes out at once
    #[arg(long, value_name = "TOKENS", default_value_t = 1, help_heading = "Requests")]
    pub stream_interval: usize,

    /// /generate streams send what is new instead of the text so far
    #[arg(long, help_heading = "Requests")]
    pub incremental_streaming_output: bool,

    /// Log-probabilities of sampled tokens: `raw_logprobs` are the model's own, as OpenAI's;
    /// `processed_logprobs` are after penalties, bias and temperature, as SGLang's
    #[arg(long, value_parser = names(&LOGPROBS_MODES, &[]), default_value = "raw_logprobs", help_heading = "Requests")]
    pub logprobs_mode: LogprobsOf,

    /// End every OpenAI stream with usage, asked for or not
    #[arg(long, help_heading = "Requests")]
    pub stream_response_default_include_usage: bool,

    /// Seed of the requests that bring none [default: random]
    #[arg(long, value_name = "SEED", help_heading = "Requests")]
    pub random_seed: Option<u64>,

    /// Share of the available memory for weights and KV pool, between 0 and 1 [default: 0.8]
    #[arg(long, value_name = "SHARE", help_heading = "Memory and scheduling")]
    pub mem_fraction_static: Option<f64>,

    /// Tokens of the KV pool at most [default: what memory allows]
    #[arg(long, value_name = "TOKENS", value_parser = parse_count, help_heading = "Memory and scheduling")]
    pub max_total_tokens: Option<u64>,

    /// Tokens of a KV page; prefixes are reused in whole pages
    #[arg(long, value_name = "TOKENS", default_value_t = 32, help_heading = "Memory and scheduling")]
    pub page_size: usize,

    /// Most requests computed together [default: 256]
    #[arg(long, value_name = "N", help_heading = "Memory and scheduling")]
    pub max_running_requests: Option<usize>,

    /// Most requests waiting; further ones are answered 503 [default: no limit]
    #[arg(long, value_name = "N", help_heading = "Memory and scheduling")]
    pub max_queued_requests: Option<usize>,

    /// Tokens computed per step, in whole pages of --page-size; longer prompts take several steps. -1 computes
    /// every prompt in one [default: 512]
    #[arg(long, value_name = "TOKENS", help_heading = "Memory and scheduling")]
    pub chunked_prefill_size: Option<i64>,

    /// Prompt tokens admitted per step; a longer prompt is admitted alone
    #[arg(long, value_name = "TOKENS", value_parser = parse_count, default_value = "16384",
          help_heading = "Memory and scheduling")]
    pub max_prefill_tokens: u64,

    /// Who goes first: `fcfs` first come, `lpm` longest cached prefix
    #[arg(long, value_name = "POLICY", default_value = "fcfs", help_heading = "Memory and scheduling",
          value_parser = choices(&[("fcfs", SchedulePolicy::Fcfs), ("lpm", SchedulePolicy::Lpm)], &[],
                                 &["random", "dfs-weight", "lof", "priority", "routing-key", "hrrn",
                                                     "shortest-prefill-first"]))]
    pub schedule_policy: Choice<SchedulePolicy>,

    /// Above 1 admits fewer requests at once, below 1 more, at the risk of pausing some
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Memory and scheduling")]
    pub schedule_conservativeness: f64,

    /// Do not reuse the computed prefixes of earlier requests
    #[arg(long, help_heading = "Memory and scheduling")]
    pub disable_radix_cache: bool,

    /// Worker threads [default: one per physical core this process may use]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub cpu_threads: Option<usize>,

    /// Instruction set of the kernels, to compare or to find a fault [default: the best this machine has]
    #[arg(long, value_name = "ISA", help_heading = "Machine",
          value_parser = ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "neon", "neondot"])]
    pub cpu_isa: Option<String>,

    /// Least severe level that is logged
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = names(LOG_LEVELS, OTHER_LEVELS),
          ignore_case = true, help_heading = "Logs and metrics")]
    pub log_level: LogLevel,

    /// The same for the access log [default: --log-level]
    #[arg(long, value_name = "LEVEL", value_parser = names(LOG_LEVELS, OTHER_LEVELS), ignore_case = true,
          help_heading = "Logs and metrics")]
    pub log_level_http: Option<LogLevel>,

    /// Steps between two log lines about decoding
    #[arg(long, value_name = "STEPS", default_value_t = 40, help_heading = "Logs and metrics")]
    pub decode_log_interval: usize,

    /// Serve Prometheus metrics at /metrics
    #[arg(long, help_heading = "Logs and metrics")]
    pub enable_metrics: bool,

    /// JSON object of labels added to every metric
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object, help_heading = "Logs and metrics")]
    pub extra_metric_labels: Map<String, Value>,

    /// Buckets of the time to the first token
    #[arg(long, value_name = "SECONDS", num_args = 1.., help_heading = "Logs and metrics")]
    pub bucket_time_to_first_token: Option<Vec<f64>>,

    /// Buckets of the time between tokens
    #[arg(long, value_name = "SECONDS", num_args = 1.., help_heading = "Logs and metrics")]
    pub bucket_inter_token_latency: Option<Vec<f64>>,

    /// Buckets of the time of whole requests
    #[arg(long, value_name = "SECONDS", num_args = 1.., help_heading = "Logs and metrics")]
    pub bucket_e2e_request_latency: Option<Vec<f64>>,

    /// Print what was decided, as JSON, and exit
    #[arg(long)]
    pub print_config: bool,

    /// Read flags from a YAML file; typed ones win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The rest of SGLang's flags.
    #[command(flatten)]
    pub compat: CompatArgs,
}

/// What `--quantization` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// A checkpoint that is fp8 already.
    Fp8,
    /// Weights encoded as they are loaded.
    Recipe(QuantRecipe),
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
    /// The library that is built.
    Llguidance,
    /// Another of SGLang's, whose work llguidance does.
    Replaced(&'static str),
    /// Refuse requests that ask for it.
    None,
}

impl GrammarChoice {
    /// What does the work.
    pub fn backend(self) -> Option<GrammarBackend> {
        (self != Self::None).then_some(GrammarBackend::Llguidance)
    }
}

fn quantizations() -> Vec<(&'static str, Quantization)> {
    let recipes = QuantRecipe::NAMES.into_iter().map(|(name, recipe)| (name, Quantization::Recipe(recipe)));
    [("fp8", Quantization::Fp8)].into_iter().chain(recipes).collect()
}

fn tool_calls(names: &[&'static str]) -> Vec<(&'static str, ToolCalls)> {
    let meaning = |name: &str| match name {
        "auto" => ToolCalls::Auto,
        "none" => ToolCalls::None,
        name => ToolCalls::Parser(ToolCallParser::from_name(name).expect("a parser that is built")),
    };
    names.iter().map(|name| (*name, meaning(name))).collect()
}

const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("trace", LogLevel::Trace),
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warning", LogLevel::Warning),
    ("error", LogLevel::Error),
];

/// Python's names of two of them.
const OTHER_LEVELS: &[(&str, LogLevel)] = &[("warn", LogLevel::Warning), ("critical", LogLevel::Error)];

/// Names that SGLang accepts for `--quantization` and Quern refuses with a reason.
const QUANTIZATIONS: &[&str] = &[
    "mxfp8",
    "w8a8_fp8",
    "w8a8_int8",
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "moe_wna16",
    "bitsandbytes",
    "gguf",
    "modelopt",
    "modelopt_fp8",
    "modelopt_fp4",
    "nvfp4_online",
    "w4afp8",
    "mxfp4",
    "compressed-tensors",
    "quark",
    "auto-round",
    "petit_nvfp4",
    "unquant",
];

/// The same for `--tool-call-parser`.
const TOOL_CALL_PARSERS: &[&str] = &[
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

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("a JSON object is wanted, such as {\"name\": 1}".into()),
        Err(cause) => Err(format!("not JSON: {cause}")),
    }
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    seconds(text).and_then(|value| if value > 0.0 { Ok(value) } else { Err("more than 0 seconds are wanted".into()) })
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1e9).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0 to 1000000000 is wanted".into()),
    }
}
