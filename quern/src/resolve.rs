//! From what was typed to what is decided: [`resolve`].

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::PathBuf,
};

use quern_api::{
    ApiConfig,
    config::{Secret, ToolCallParser},
};
use quern_backend::{DType, KvFormat, Precision};
use quern_model::ModelConfig;
use quern_text::JsonBlanks;

use crate::{
    cli::{
        RefusedFlag, ServeArgs,
        serve::{GrammarChoice, ToolCalls},
    },
    config::{Config, LoadFormat},
    defaults::{MAX_RUNNING_REQUESTS, MEM_FRACTION},
    machine::Machine,
    memory::{PoolDemand, PoolError},
    shipped,
    typed::{LONGER_CONTEXT, Typed, longer_context_is_allowed, refuse},
};

/// Tokens of a step: enough for matrix products to be bound by arithmetic, and little enough that the
/// requests that decode beside a long prompt are not held up for long.
const CHUNK_TOKENS: usize = 512;
/// SGLang keeps six tokens of every context to itself; two more leave room for one of prompt and one
/// of output.
const MIN_CONTEXT: u64 = 8;

/// What the decisions depend on beside the command line.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The model's numbers.
    pub model: &'a ModelConfig,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Where they come from.
    pub load_format: LoadFormat,
    /// Where its files are; `None`: inside the binary.
    pub model_dir: Option<PathBuf>,
    /// Where the tokenizer's files are; `None`: inside the binary.
    pub tokenizer_dir: Option<PathBuf>,
    /// The parser for the calls that the chat template writes, if it writes any.
    pub template_parser: Option<ToolCallParser>,
    /// Memory and cores.
    pub machine: Machine,
    /// `SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1` is set.
    pub allow_longer_context: bool,
}

impl<'a> Facts<'a> {
    /// What is known of a model that has no template and lies nowhere, on this machine.
    pub fn of(model: &'a ModelConfig, weight_bytes: u64, load_format: LoadFormat) -> Self {
        Self {
            model,
            weight_bytes,
            load_format,
            model_dir: None,
            tokenizer_dir: None,
            template_parser: None,
            machine: Machine::probe(),
            allow_longer_context: longer_context_is_allowed(),
        }
    }
}

/// A command line that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A flag asks for what is not built or not possible.
    #[error(transparent)]
    Flag(#[from] RefusedFlag),
    /// The KV pool does not fit.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// What was decided, and lines for the log about what was asked for and is not quite that.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What was decided.
    pub config: Config,
    /// Lines for the log.
    pub notes: Vec<String>,
}

/// Decide everything.
pub fn resolve(typed: Typed<'_>, facts: &Facts<'_>) -> Result<Decision, ResolveError> {
    let (args, mut notes) = (typed.args, typed.notes.clone());
    let model_path = args.model_path.clone().unwrap_or_else(|| shipped::NAME.into());
    let tokenizer_path = args.tokenizer_path.clone().unwrap_or_else(|| model_path.clone());
    let served_model_name = served_model_name(args, &model_path)?;
    let dtype = dtype(&typed, facts.model.dtype)?;
    let kv_cache_dtype = kv_cache_dtype(&typed, dtype);
    let context_length = context_length(args, facts, &mut notes)?;
    let page_size = page_size(args, context_length)?;
    let chunked_prefill_size = chunked_prefill_size(args, page_size, context_length, &mut notes);
    let wanted_running = args.max_running_requests.unwrap_or(MAX_RUNNING_REQUESTS);
    let mem_fraction_static = args.mem_fraction_static.unwrap_or(MEM_FRACTION);
    let pool = PoolDemand {
        available_bytes: facts.machine.available_bytes,
        fraction: mem_fraction_static,
        weight_bytes: facts.weight_bytes,
        kv_bytes_per_token: facts.model.kv_bytes_per_token(kv_cache_dtype),
        page_size,
        context_length,
        max_running_requests: wanted_running,
        max_total_tokens: args.max_total_tokens,
    }
    .pool()?;
    notes.extend(pool.note);
    let max_total_num_tokens = pool.num_pages * page_size;
    let tool_call_parser = tool_call_parser(typed.tool_calls, facts.template_parser);
    if let (None, Some(found)) = (&args.tool_call_parser, tool_call_parser) {
        let name = found.name();
        notes.push(format!("--tool-call-parser {name}: the chat template writes calls that way."));
    }

    if let GrammarChoice::Replaced(name) = args.grammar_backend {
        notes.push(format!("--grammar-backend {name}: llguidance is built and does its work."));
    }

    let api = ApiConfig {
        served_model_name,
        weight_version: args.weight_version.clone(),
        context_length,
        context_length_is_explicit: args.context_length.is_some(),
        sampling_defaults: args.sampling_defaults,
        preferred_sampling_params: args.preferred_sampling_params.clone(),
        random_seed: args.random_seed.unwrap_or_else(random_seed),
        default_chat_template_kwargs: args.default_chat_template_kwargs.clone(),
        tool_call_parser,
        grammar_backend: args.grammar_backend.backend(),
        json_blanks: json_blanks(args),
        constrained_max_repeats: args.constrained_max_repeats,
        allow_auto_truncate: args.allow_auto_truncate,
        stream_interval: args.stream_interval,
        incremental_streaming_output: args.incremental_streaming_output,
        logprobs_mode: args.logprobs_mode,
        stream_response_default_include_usage: args.stream_response_default_include_usage,
        fastapi_root_path: args.fastapi_root_path.trim_end_matches('/').to_owned(),
        api_key: args.api_key.clone().map(Secret::new),
        admin_api_key: args.admin_api_key.clone().map(Secret::new),
        cross_origin: args.cross_origin.config(),
        no_ui: args.no_ui,
        max_request_bytes: usize::try_from(args.max_request_bytes).unwrap_or(usize::MAX),
        response_store_entries: args.response_store_entries,
        response_store_bytes: usize::try_from(args.response_store_bytes).unwrap_or(usize::MAX),
        max_connections: args.max_connections,
        max_connections_per_address: args.max_connections_per_address,
        request_read_timeout: args.request_read_timeout,
        slow_client_timeout: args.slow_client_timeout,
        stream_keep_alive: args.stream_keep_alive,
        drain_timeout: args.drain_timeout,
        enable_metrics: args.enable_metrics,
        extra_metric_labels: typed.metric_labels,
        bucket_time_to_first_token: args.bucket_time_to_first_token.clone(),
        bucket_inter_token_latency: args.bucket_inter_token_latency.clone(),
        bucket_e2e_request_latency: args.bucket_e2e_request_latency.clone(),
    };
    let config = Config {
        api,
        model_path,
        model_dir: facts.model_dir.clone(),
        tokenizer_path,
        tokenizer_dir: facts.tokenizer_dir.clone(),
        revision: args.revision.clone(),
        load_format: facts.load_format,
        json_model_override_args: args.json_model_override_args.clone(),
        dtype,
        kv_cache_dtype,
        chat_template: args.chat_template.clone(),
        hf_chat_template_name: args.hf_chat_template_name.clone(),
        host: args.host.clone(),
        port: args.port,
        skip_server_warmup: args.skip_server_warmup,
        skip_peak_measurement: args.skip_peak_measurement,
        mem_fraction_static,
        page_size,
        num_pages: pool.num_pages,
        max_total_num_tokens,
        // Every running request holds at least two tokens.
        max_running_requests: wanted_running.min(max_total_num_tokens / 2).max(1),
        max_queued_requests: args.max_queued_requests,
        chunked_prefill_size,
        max_prefill_tokens: usize::try_from(args.max_prefill_tokens).unwrap_or(usize::MAX),
        schedule_policy: typed.schedule_policy,
        schedule_conservativeness: args.schedule_conservativeness,
        disable_radix_cache: args.disable_radix_cache,
        device: "cpu",
        cpu_threads: args.cpu_threads.unwrap_or(facts.machine.cores),
        cpu_isa: args.cpu_isa.clone(),
        weight_cache: args.weight_cache.clone(),
        tp_size: 1,
        pp_size: 1,
        dp_size: 1,
        ep_size: 1,
        log_level: args.log_level,
        log_level_http: args.log_level_http.unwrap_or(args.log_level),
        decode_log_interval: args.decode_log_interval,
    };
    Ok(Decision { config, notes })
}

fn served_model_name(args: &ServeArgs, model_path: &str) -> Result<String, RefusedFlag> {
    // A path or an id may have a `:`; nobody typed it as a name.
    let Some(name) = args.served_model_name.clone() else { return Ok(model_path.to_owned()) };
    if name.contains(':') || name.is_empty() {
        return Err(refuse("served-model-name", name, "a name without `:` is wanted (`base:adapter` names adapters)"));
    }
    Ok(name)
}

fn dtype(typed: &Typed<'_>, stored: DType) -> Result<Precision, RefusedFlag> {
    match (typed.dtype, stored) {
        (None, DType::F32 | DType::F16) | (Some(Precision::F32), _) => Ok(Precision::F32),
        (None | Some(Precision::Bf16), DType::BF16 | DType::F8E4M3) => Ok(Precision::Bf16),
        (Some(Precision::Bf16), _) => Err(refuse(
            "dtype",
            "bfloat16",
            format!("the checkpoint holds {stored:?} weights and they are not rounded; float32 is supported"),
        )),
    }
}

fn kv_cache_dtype(typed: &Typed<'_>, dtype: Precision) -> KvFormat {
    typed.kv_cache_dtype.unwrap_or(match dtype {
        Precision::F32 => KvFormat::F32,
        Precision::Bf16 => KvFormat::BF16,
    })
}

fn context_length(args: &ServeArgs, facts: &Facts<'_>, notes: &mut Vec<String>) -> Result<usize, RefusedFlag> {
    let model_length = facts.model.max_position_embeddings as u64;
    let length = args.context_length.unwrap_or(model_length);
    if length < MIN_CONTEXT {
        return Err(refuse("context-length", length, format!("at least {MIN_CONTEXT} tokens are wanted")));
    }
    if length > model_length {
        if !facts.allow_longer_context {
            return Err(refuse(
                "context-length",
                length,
                format!(
                    "the model was made for {model_length} tokens; beyond them its output degrades. Set \
                     {LONGER_CONTEXT}=1 to serve it anyway"
                ),
            ));
        }
        notes.push(format!("--context-length {length} exceeds the model's {model_length}; output may degrade."));
    }
    // Positions are 32-bit.
    if length > u64::from(u32::MAX) {
        return Err(refuse("context-length", length, format!("at most {} tokens are supported", u32::MAX)));
    }
    Ok(length as usize)
}

fn page_size(args: &ServeArgs, context_length: usize) -> Result<usize, RefusedFlag> {
    if args.page_size > context_length.next_multiple_of(32) {
        let reason = format!("a page larger than the context of {context_length} tokens is never filled");
        return Err(refuse("page-size", args.page_size, reason));
    }
    Ok(args.page_size)
}

/// Whole pages. SGLang's users type what filled their memory, 130172 say: that is rounded and said.
fn chunked_prefill_size(args: &ServeArgs, page_size: usize, context_length: usize, notes: &mut Vec<String>) -> usize {
    let whole = context_length.next_multiple_of(page_size);
    let Some(typed) = args.chunked_prefill_size else { return CHUNK_TOKENS.next_multiple_of(page_size) };
    let Ok(chunk @ 1..) = usize::try_from(typed) else { return whole };
    let rounded = (chunk / page_size).max(1) * page_size;
    if rounded != chunk && rounded <= whole {
        notes.push(format!(
            "--chunked-prefill-size {chunk} is {rounded} here: a step computes whole pages of --page-size {page_size}."
        ));
    }
    rounded.min(whole)
}

/// What may stand between the tokens of constrained JSON. The flags exclude one another.
fn json_blanks(args: &ServeArgs) -> JsonBlanks {
    match (&args.constrained_json_whitespace_pattern, args.constrained_json_max_whitespace_cnt) {
        _ if args.constrained_json_disable_any_whitespace => JsonBlanks::None,
        (Some(pattern), _) => pattern.clone(),
        (None, Some(most)) => JsonBlanks::AtMost(most),
        (None, None) => JsonBlanks::default(),
    }
}

/// The parser named, or the one that fits the chat template; `none` leaves calls in the text.
fn tool_call_parser(named: ToolCalls, fitting: Option<ToolCallParser>) -> Option<ToolCallParser> {
    match named {
        ToolCalls::Auto => fitting,
        ToolCalls::None => None,
        ToolCalls::Parser(parser) => Some(parser),
    }
}

/// A seed in 0 ..= 2^30, SGLang's range, from the randomness of the standard library's hash keys.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() % ((1 << 30) + 1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::{Cli, Job};

    fn args(line: &str) -> ServeArgs {
        let words = format!("quern serve {line}");
        let Job::Serve(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().command else {
            panic!("not `serve`")
        };
        *args
    }

    fn model(dtype: &str, extra: &str) -> ModelConfig {
        let json = format!(
            r#"{{"architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "intermediate_size": 128,
                "vocab_size": 512, "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
                "hidden_act": "silu", "torch_dtype": "{dtype}"{extra}}}"#
        );
        ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap()
    }

    fn decide(line: &str) -> Result<Decision, String> {
        decide_for(line, &model("bfloat16", ""), Some(1 << 30), false)
    }

    fn decide_for(
        line: &str,
        model: &ModelConfig,
        available_bytes: Option<u64>,
        allow_longer_context: bool,
    ) -> Result<Decision, String> {
        let args = args(line);
        let typed = Typed::new(&args).map_err(|error| error.to_string())?;
        let load_format = typed.load_format(false).map_err(|error| error.to_string())?;
        typed.quantization(model.fp8).map_err(|error| error.to_string())?;
        let model_dir = args.model_path.is_some().then(|| PathBuf::from("/models/m"));
        let facts = Facts {
            model,
            weight_bytes: 1 << 20,
            load_format,
            tokenizer_dir: model_dir.clone(),
            model_dir,
            template_parser: None,
            machine: Machine { available_bytes, cores: 1 },
            allow_longer_context,
        };
        resolve(typed, &facts).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_typed_gives_the_documented_defaults() {
        let config = decide("--random-seed 0 --max-total-tokens 8192").unwrap().config;
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_seed_is_random_within_sglangs_range() {
        let seeds: Vec<u64> = (0..4).map(|_| decide("").unwrap().config.api.random_seed).collect();
        assert!(seeds.iter().all(|seed| *seed <= 1 << 30));
        assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
    }

    #[test]
    fn a_longer_context_needs_the_environments_leave() {
        let error = decide("--context-length 8k").unwrap_err();
        assert!(error.contains("--context-length 8000") && error.contains("4096") && error.contains(LONGER_CONTEXT));
        let allowed = decide_for("--context-length 8k", &model("bfloat16", ""), None, true);
        assert!(allowed.unwrap_err().contains("--max-total-tokens"));
        let allowed = decide_for("--context-length 8k", &model("bfloat16", ""), Some(1 << 30), true).unwrap();
        assert_eq!(allowed.config.api.context_length, 8000);
        assert!(allowed.notes.iter().any(|note| note.contains("8000")), "{:?}", allowed.notes);
        let shorter = decide("--context-length 2Ki").unwrap().config;
        assert_eq!((shorter.api.context_length, shorter.api.context_length_is_explicit), (2048, true));
    }

    #[test]
    fn chunks_are_whole_pages() {
        assert_eq!(decide("--chunked-prefill-size 96").unwrap().config.chunked_prefill_size, 96);
        assert_eq!(decide("--page-size 48").unwrap().config.chunked_prefill_size, 528);
        assert_eq!(decide("--chunked-prefill-size=-1").unwrap().config.chunked_prefill_size, 4096);
        assert_eq!(decide("--chunked-prefill-size 0").unwrap().config.chunked_prefill_size, 4096);
        let rounded = decide("--chunked-prefill-size 100").unwrap();
        assert_eq!(rounded.config.chunked_prefill_size, 96);
        assert!(rounded.notes.iter().any(|note| note.contains("100 is 96")), "{:?}", rounded.notes);
        assert_eq!(decide("--chunked-prefill-size 7").unwrap().config.chunked_prefill_size, 32);
        assert_eq!(decide("--chunked-prefill-size 130172").unwrap().config.chunked_prefill_size, 4096);
    }

    #[test]
    fn the_checkpoint_decides_what_is_computed_in() {
        let f32_model = model("float32", "");
        let of = |line: &str, model: &ModelConfig| {
            decide_for(line, model, Some(1 << 30), false).map(|d| (d.config.dtype, d.config.kv_cache_dtype))
        };
        assert_eq!(of("", &f32_model), Ok((Precision::F32, KvFormat::F32)));
        assert_eq!(of("--kv-cache-dtype bf16", &f32_model), Ok((Precision::F32, KvFormat::BF16)));
        assert!(of("--dtype bfloat16", &f32_model).unwrap_err().contains("F32"));
        let bf16_model = model("bfloat16", "");
        assert_eq!(of("", &bf16_model), Ok((Precision::Bf16, KvFormat::BF16)));
        for (name, format) in [("fp8_e4m3", KvFormat::F8E4M3), ("fp8_e5m2", KvFormat::F8E5M2), ("q8_0", KvFormat::Q8_0)]
        {
            let line = format!("--kv-cache-dtype {name}");
            assert_eq!(of(&line, &bf16_model), Ok((Precision::Bf16, format)));
        }
        assert_eq!(of("--dtype float", &bf16_model), Ok((Precision::F32, KvFormat::F32)));
    }

    #[test]
    fn what_is_not_built_is_refused_with_flag_and_value() {
        for (line, part) in [
            ("--dtype float16", "bfloat16"),
            ("--dtype half", "bfloat16"),
            ("--kv-cache-dtype fp4_e2m1", "fp8_e4m3"),
            ("--load-format gguf", "no .gguf file"),
            ("--quantization awq", "fp8"),
            ("--quantization fp8", "the checkpoint is not fp8"),
            ("--schedule-policy random", "lpm"),
            ("--tool-call-parser mistral", "qwen3_coder"),
            ("--served-model-name a:b", "`:`"),
            ("--mem-fraction-static 1.5", "at most 1"),
            ("--mem-fraction-static nan", "at most 1"),
            ("--page-size 0", "at least 1"),
            ("--page-size 8192", "4096"),
            ("--context-length 3", "at least 8"),
            ("--stream-interval 0", "at least 1"),
            ("--max-running-requests 0", "at least 1"),
            ("--cpu-threads 5000", "1024"),
            ("--schedule-conservativeness -1", "at least 0"),
            ("--schedule-conservativeness inf", "at least 0"),
            ("--chat-template chatml", "no such file"),
            ("--chat-template x.json", ".jinja"),
            ("--fastapi-root-path api", "begins with /"),
            ("--bucket-inter-token-latency 2 1", "ascending"),
            (r#"--extra-metric-labels {"a-b":"c"}"#, "letters"),
            (r#"--extra-metric-labels {"a":1}"#, "string"),
        ] {
            let error = decide(&line.replace(" -1", "=-1")).unwrap_err();
            let flag = line.split_whitespace().next().unwrap();
            assert!(error.starts_with(&format!("{flag} ")) && error.contains(part), "{line}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn running_requests_are_at_most_half_the_pool() {
        let config = decide("--max-total-tokens 64 --max-running-requests 100").unwrap().config;
        assert_eq!((config.max_total_num_tokens, config.max_running_requests), (64, 32));
    }

    #[test]
    fn keys_are_never_shown() {
        let config = decide("--api-key s3cret --admin-api-key hush").unwrap().config;
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("s3cret") && !shown.contains("hush"));
        assert!(shown.contains("***"));
    }

    proptest! {
        #[test]
        fn no_numbers_panic(context: u64, page: usize, chunk: i64, total: u64, running: usize, available: u64) {
            let line = format!(
                "--context-length {context} --page-size {page} --chunked-prefill-size={chunk} \
                 --max-total-tokens {total} --max-running-requests {running}"
            );
            let decided = decide_for(&line, &model("bfloat16", ""), Some(available), true);
            if let Ok(Decision { config, .. }) = decided {
                prop_assert_eq!(config.chunked_prefill_size % config.page_size, 0);
                prop_assert_eq!(config.num_pages * config.page_size, config.max_total_num_tokens);
            }
        }
    }
}
