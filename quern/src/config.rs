//! [`Config`]: what was decided before the first byte of a model is loaded.
//!
//! [`ServeArgs`](crate::cli::ServeArgs) holds what was typed; a `Config` has no "auto" left, never
//! changes, is printed by `--print-config` and served by `/server_info`.

use std::{fmt, path::PathBuf};

use quern_api::ApiConfig;
use quern_backend::{KvFormat, Precision};
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
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// Merged over `config.json`.
    pub json_model_override_args: Map<String, Value>,
    /// What matrix products round their inputs to.
    #[serde(serialize_with = "shown")]
    pub dtype: Precision,
    /// How keys and values are stored.
    #[serde(serialize_with = "shown")]
    pub kv_cache_dtype: KvFormat,
    /// A template file used instead of the checkpoint's.
    pub chat_template: Option<PathBuf>,
    /// Which of several templates in the tokenizer's config to use.
    pub hf_chat_template_name: Option<String>,

    // Requests and server
    /// The API's part.
    #[serde(flatten)]
    pub api: ApiConfig,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Skip the request the server sends itself before it is ready.
    pub skip_server_warmup: bool,
    /// Do not measure what this machine can do at best.
    pub skip_peak_measurement: bool,

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
}

impl Default for Config {
    /// What `quern serve` decides when nothing is typed, for a model of 4096 tokens of context, one
    /// worker thread, a pool of 8192 tokens and seed 0.
    fn default() -> Self {
        Self {
            api: ApiConfig::default(),
            model_path: "quern-demo".into(),
            model_dir: None,
            tokenizer_path: "quern-demo".into(),
            tokenizer_dir: None,
            revision: None,
            load_format: LoadFormat::Safetensors,
            json_model_override_args: Map::new(),
            dtype: Precision::Bf16,
            kv_cache_dtype: KvFormat::BF16,
            chat_template: None,
            hf_chat_template_name: None,
            host: "127.0.0.1".into(),
            port: 30000,
            skip_server_warmup: false,
            skip_peak_measurement: false,
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
