//! [`ServingArgs`]: what was typed after `quern bench serving`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use super::unsupported::UnsupportedArgs;
use crate::{backend::Backend, dataset::DatasetArgs, goodput::Slo, layout::Layout};

/// What was typed after `quern bench serving`. Flags have the names of SGLang's client and mean what they mean
/// there.
#[derive(Args, Clone, Debug)]
pub struct ServingArgs {
    /// Which server, by which of its interfaces
    #[arg(long, value_enum, default_value = "sglang", help_heading = "Server")]
    pub backend: Backend,
    /// The server's address, such as `https://example.org:8443` [default: of --host and --port]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub base_url: Option<String>,
    /// The server's host
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    pub host: String,
    /// The server's port [default: the usual one of the backend; 30000 for sglang]
    #[arg(long, help_heading = "Server")]
    pub port: Option<u16>,
    /// Headers to send
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., help_heading = "Server")]
    pub header: Vec<String>,
    /// Seconds to wait for the server to come up; 0 not to ask
    #[arg(long, default_value_t = 60, value_name = "SECONDS", help_heading = "Server")]
    pub ready_check_timeout_sec: u64,
    /// The model's name or directory [default: the first that the server lists]
    #[arg(long, value_name = "NAME|DIR", help_heading = "Server")]
    pub model: Option<String>,
    /// The name to send [default: that of --model]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub served_model_name: Option<String>,
    /// The tokenizer's file or directory [default: the model's, or else the server's /tokenize]
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    pub tokenizer: Option<String>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub dataset: DatasetArgs,

    /// Prompts (sessions, where they have several turns); several values go with those of --max-concurrency
    #[arg(long, default_value = "1000", value_delimiter = ',', value_name = "COUNT", help_heading = "Load")]
    pub num_prompts: Vec<usize>,
    /// Requests a second, at random gaps; `inf` for all at once
    #[arg(long, default_value_t = f64::INFINITY, value_name = "RATE", allow_negative_numbers = true, help_heading = "Load")]
    pub request_rate: f64,
    /// Most requests under way at once; several values (1,16,64) are measured one after the other
    #[arg(long, value_delimiter = ',', value_name = "COUNT", help_heading = "Load")]
    pub max_concurrency: Vec<usize>,
    /// Seed of lengths, texts and gaps [default: that of SGLang's client, see --layout]
    #[arg(long, help_heading = "Load")]
    pub seed: Option<u32>,
    /// Requests before the measurement
    #[arg(long, default_value_t = 1, value_name = "COUNT", help_heading = "Load")]
    pub warmup_requests: usize,
    /// Empty the server's cache before the measurement (always done between several)
    #[arg(long, help_heading = "Load")]
    pub flush_cache: bool,
    /// Seconds the server may take until it is idle enough for that
    #[arg(long, default_value_t = 60, value_name = "SECONDS", help_heading = "Load")]
    pub flush_cache_timeout: u64,

    /// Ask for whole answers
    #[arg(long, help_heading = "Sampling")]
    pub disable_stream: bool,
    /// Let the model end its answers
    #[arg(long, help_heading = "Sampling")]
    pub disable_ignore_eos: bool,
    /// 0 for greedy
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling")]
    pub temperature: f64,
    /// Sent when below 1
    #[arg(long, default_value_t = 1.0, help_heading = "Sampling")]
    pub top_p: f64,
    /// Ask /generate for the logarithms of probabilities
    #[arg(long, help_heading = "Sampling")]
    pub return_logprob: bool,
    /// Fields merged into every body
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object, help_heading = "Sampling")]
    pub extra_request_body: Map<String, Value>,

    /// Whose block to print, and whose default seed to take
    #[arg(long, value_enum, default_value = "0.5.8", help_heading = "Results")]
    pub layout: Layout,
    /// Print one object of JSON for each measurement, and all else to standard error
    #[arg(long, help_heading = "Results")]
    pub json: bool,
    /// Append the measurements to this file [default: BACKEND_MMDD_PROMPTS_….jsonl]
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub output_file: Option<PathBuf>,
    /// With what became of each request
    #[arg(long, help_heading = "Results")]
    pub output_details: bool,
    /// Write a page with charts
    #[arg(long, value_name = "FILE.html", help_heading = "Results")]
    pub report: Option<PathBuf>,
    /// Earlier measurements to put beside this one on the page
    #[arg(long, value_name = "FILE.jsonl", num_args = 1.., requires = "report", help_heading = "Results")]
    pub compare: Vec<PathBuf>,
    /// Promises to count the requests by: ttft:MS, tpot:MS, e2el:MS
    #[arg(long, value_name = "PROMISE:MS", num_args = 1.., help_heading = "Results")]
    pub goodput: Vec<Slo>,
    /// Print how much of the prompts came from the server's cache
    #[arg(long, help_heading = "Results")]
    pub cache_report: bool,
    /// A name for this measurement
    #[arg(long, help_heading = "Results")]
    pub tag: Option<String>,
    /// No progress bar
    #[arg(long, help_heading = "Results")]
    pub disable_tqdm: bool,
    /// Print a line as each request begins and one as it ends
    #[arg(long, help_heading = "Results")]
    pub print_requests: bool,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub unsupported: UnsupportedArgs,
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("no object of JSON: {error}"))
}
