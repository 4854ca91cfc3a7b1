//! From what was typed to what is decided: [`resolve`].

use std::hash::{BuildHasher, Hasher, RandomState};

use quern_api::config::ToolCallParser;
use quern_backend::{KvFormat, KvSpec, Precision, QuantFormat};
use quern_model::{Checkpoint, ModelConfig};

use crate::{
    cli::ServeArgs,
    config::{
        Compute, Config, EngineSettings, LoadFormat, RefusedFlag, ResolveError,
        api::ApiFacts,
        engine::PoolFacts,
        model::{ModelPaths, Numbers},
        parallel::ParallelOptions,
    },
    environment::longer_context_is_allowed,
    machine::Machine,
    memory::PoolError,
    request_memory::{LEAST_REQUEST_MEMORY, RequestDemand},
};

/// What the decisions depend on beside the command line.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The network's numbers.
    pub network: &'a ModelConfig,
    /// Its weights.
    pub weights: WeightFacts,
    /// Where they come from.
    pub load_format: LoadFormat,
    /// Where the files are.
    pub places: ModelPaths,
    /// The parser for the calls that the chat template writes, if it writes any.
    pub template_parser: Option<ToolCallParser>,
    /// What the computer has and allows.
    pub host: Host,
}

/// What the place of weights depends on.
#[derive(Clone, Debug)]
pub struct WeightFacts {
    /// Bytes of them on all ranks together.
    pub bytes: u64,
    /// Their encodings.
    pub formats: Vec<QuantFormat>,
    /// Whether some are in FP8 with a scale for each row.
    pub has_row_scales: bool,
}

impl WeightFacts {
    /// Those of `checkpoint` as it is held, divided as `parallel` says.
    ///
    /// # Errors
    /// If it cannot be divided like that, or a tensor is missing.
    pub fn of(checkpoint: &Checkpoint, parallel: ParallelOptions) -> Result<Self, ResolveError> {
        Ok(Self {
            bytes: parallel.weight_bytes(checkpoint)?,
            formats: checkpoint.formats(),
            has_row_scales: checkpoint.has_row_scales(),
        })
    }
}

/// What the computer has and allows.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Memory and cores.
    pub machine: Machine,
    /// `SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1` is set.
    pub allow_longer_context: bool,
    /// The GPU that is to compute if it can hold the model.
    pub gpu: Option<GpuHost>,
}

/// A GPU, and what it can hold.
#[derive(Clone, Copy, Debug)]
pub struct GpuHost {
    /// Whose.
    pub compute: Compute,
    /// Whether `--device` names it: then a model that it cannot hold is refused, and not left to the CPU.
    pub is_asked_for: bool,
    /// Bytes of its memory that are not in use.
    pub available_bytes: u64,
    /// Encodings of weights that it multiplies.
    pub weights: &'static [QuantFormat],
    /// Encodings of keys and values that it attends to.
    pub pages: &'static [KvFormat],
    /// Least rows that share a scale of FP8 weights.
    pub min_scale_rows: usize,
    /// Most experts of a layer.
    pub max_experts: usize,
    /// Most features of a head.
    pub max_head_dim: usize,
    /// Bytes of keys and values of one token over all layers, as its pages hold them.
    pub kv_bytes_per_token: fn(&KvSpec) -> u64,
}

impl Host {
    /// This one, now, without its GPUs, and the share of its memory that one of `processes` has.
    pub fn probe(processes: usize) -> Self {
        let mut machine = Machine::probe();
        machine.available_bytes = machine.available_bytes.map(|bytes| bytes / processes.max(1) as u64);
        Self { machine, allow_longer_context: longer_context_is_allowed(), gpu: None }
    }

    /// Bytes of one token's keys and values where they are computed, on all ranks together.
    fn kv_bytes_per_token(&self, network: &ModelConfig, format: KvFormat, parallel: ParallelOptions) -> u64 {
        let (num_layers, heads) = (network.num_layers, network.heads);
        match self.gpu {
            None => parallel.kv_bytes_per_token(network, format),
            Some(gpu) => (gpu.kv_bytes_per_token)(&KvSpec { num_layers, heads, page_size: 1, num_pages: 1, format }),
        }
    }
}

impl GpuHost {
    /// Why it cannot compute `network` with these `weights` and `numbers`, whatever its memory.
    fn unfit(
        &self,
        network: &ModelConfig,
        weights: &WeightFacts,
        numbers: &Numbers,
        parallel: ParallelOptions,
    ) -> Option<String> {
        if parallel.is_divided() {
            return Some(format!("it is one rank, and --tp-size {} divides over those of a CPU", parallel.tp_size));
        }
        let listed = |names: Vec<String>| names.join(", ");
        if let Some(format) = weights.formats.iter().find(|format| !self.weights.contains(format)) {
            let known = listed(self.weights.iter().map(ToString::to_string).collect());
            return Some(format!("it has no kernels for {format} weights; it has for {known}"));
        }
        if weights.has_row_scales && self.min_scale_rows > 1 {
            return Some(
                "it has no kernels for FP8 weights with a scale for each row; it has for FP8 with a scale for each block \
                 of 128 × 128 or for each matrix"
                    .into(),
            );
        }
        let most = self.max_experts;
        if let Some(moe) = network.moe.filter(|moe| moe.num_experts > most) {
            return Some(format!(
                "it computes at most {most} experts in a layer, and the model has {}",
                moe.num_experts
            ));
        }
        let (most, head_dim) = (self.max_head_dim, network.heads.head_dim);
        if head_dim > most {
            return Some(format!("it computes heads of at most {most} features, and the model's have {head_dim}"));
        }
        if numbers.dtype != Precision::Bf16 {
            return Some(format!(
                "its products are of bfloat16, not of {}; --dtype bfloat16 computes so",
                numbers.dtype
            ));
        }
        let format = numbers.kv_cache_dtype;
        (!self.pages.contains(&format)).then(|| {
            let known = listed(self.pages.iter().map(ToString::to_string).collect());
            format!("it keeps no keys and values in {format}; --kv-cache-dtype can be {known}")
        })
    }
}

/// What was decided, and lines for the log about what was asked for and is not quite that.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What was decided.
    pub config: Config,
    /// Lines for the log.
    pub notes: Vec<String>,
}

/// What is decided by the network's configuration: enough to refuse a command line before any weight is here.
///
/// # Errors
/// If a flag and the network do not go together.
pub fn numbers(
    args: &ServeArgs,
    network: &ModelConfig,
    host: &Host,
    notes: &mut Vec<String>,
) -> Result<Numbers, RefusedFlag> {
    let numbers = args.model.numbers(network, host.allow_longer_context, notes)?;
    args.engine.check_page(numbers.context_length)?;
    Ok(numbers)
}

/// What computes and with what pool, once the weights are known: the GPU of `host` if it can hold both, else its CPU,
/// unless the GPU was asked for. The host that is returned is without a GPU where the CPU computes.
///
/// # Errors
/// If the GPU was asked for and cannot hold them, or weights and a pool do not fit into the CPU's memory.
pub fn place(
    args: &ServeArgs,
    numbers: Numbers,
    network: &ModelConfig,
    weights: &WeightFacts,
    host: Host,
    notes: &mut Vec<String>,
) -> Result<(Host, EngineSettings), ResolveError> {
    let mut engine = |host: &Host, available_bytes| {
        let facts = PoolFacts {
            context_length: numbers.context_length,
            kv_bytes_per_token: host.kv_bytes_per_token(
                network,
                numbers.kv_cache_dtype,
                args.device.parallel.options(),
            ),
            weight_bytes: weights.bytes,
            available_bytes,
            // A GPU's memory is not that of requests.
            reserved_bytes: if host.gpu.is_some() { 0 } else { LEAST_REQUEST_MEMORY },
        };
        args.engine.settings(&facts, notes)
    };
    let Some(gpu) = host.gpu else { return Ok((host, engine(&host, host.machine.available_bytes)?)) };
    let reason = match gpu.unfit(network, weights, &numbers, args.device.parallel.options()) {
        Some(reason) => reason,
        None => match engine(&host, Some(gpu.available_bytes)) {
            Ok(engine) => {
                notes.extend(args.device.ignored_by(gpu.compute));
                return Ok((host, engine));
            }
            // No other memory would change that.
            Err(error @ PoolError::Page { .. }) => return Err(error.into()),
            Err(error) => error.to_string(),
        },
    };
    if gpu.is_asked_for {
        return Err(RefusedFlag::new("device", gpu.compute.name(), reason).into());
    }
    let on_cpu = Host { gpu: None, ..host };
    let engine = engine(&on_cpu, host.machine.available_bytes)?;
    notes.push(format!("The CPU computes, not the {} device: {reason}.", gpu.compute.name()));
    Ok((on_cpu, engine))
}

/// Decide everything. `notes`: what the [check](ServeArgs::check) of the command line left to say.
///
/// # Errors
/// If what is asked for is wrong by itself, or for this model or machine.
pub fn resolve(args: &ServeArgs, facts: Facts<'_>, mut notes: Vec<String>) -> Result<Decision, ResolveError> {
    let Facts { network, weights, load_format, places, template_parser, host } = facts;
    let numbers = numbers(args, network, &host, &mut notes)?;
    let (host, engine) = place(args, numbers, network, &weights, host, &mut notes)?;
    let model_path = args.model.path();
    // A GPU has weights and pool in a memory of its own.
    let of_engine = match host.gpu {
        Some(_) => 0,
        None => {
            weights.bytes.saturating_add((engine.max_total_num_tokens as u64).saturating_mul(engine.kv_bytes_per_token))
        }
    };
    let requests = RequestDemand {
        free_bytes: host.machine.available_bytes.map(|available| available.saturating_sub(of_engine)),
        max_request_bytes: args.api.server.max_request_bytes,
    };
    let requests = requests.memory()?;
    notes.extend(requests.note.clone());
    let api_facts = ApiFacts {
        model_path: &model_path,
        context_length: numbers.context_length,
        context_length_is_explicit: args.model.context_length.is_some(),
        template_parser,
        random_seed: random_seed(),
        requests: &requests,
    };
    let config = Config {
        model: args.model.settings(numbers, load_format, places, args.api.template.clone()),
        api: args.api.config(&args.metrics, &api_facts, &mut notes),
        listen: args.listen.clone(),
        engine,
        device: args.device.settings(&host.machine, host.gpu.map(|gpu| gpu.compute)),
        log: args.log.settings(),
    };
    Ok(Decision { config, notes })
}

/// A seed in 0 ..= 2^30, SGLang's range, from the randomness of the standard library's hash keys.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() % ((1 << 30) + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use quern_api::ApiConfig;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cli::{Cli, Job},
        environment::LONGER_CONTEXT,
        gpus,
    };

    fn model(dtype: &str, extra: &str) -> ModelConfig {
        let json = format!(
            r#"{{"architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "intermediate_size": 128,
                "vocab_size": 512, "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
                "hidden_act": "silu", "torch_dtype": "{dtype}"{extra}}}"#
        );
        ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap()
    }

    /// What `quern serve` with `line` decides for a small model in bfloat16 and 1 GiB of memory.
    pub(crate) fn decide(line: &str) -> Result<Decision, String> {
        decide_for(line, &model("bfloat16", ""), Some(1 << 30), false)
    }

    /// A GPU with 2 GiB of memory.
    fn gpu(is_asked_for: bool) -> GpuHost {
        gpus::host(Compute::Hip, is_asked_for, 2 << 30)
    }

    fn decide_for(
        line: &str,
        network: &ModelConfig,
        available_bytes: Option<u64>,
        allow_longer_context: bool,
    ) -> Result<Decision, String> {
        decide_on(line, network, available_bytes, allow_longer_context, None)
    }

    fn decide_on(
        line: &str,
        network: &ModelConfig,
        available_bytes: Option<u64>,
        allow_longer_context: bool,
        gpu: Option<GpuHost>,
    ) -> Result<Decision, String> {
        let words = format!("quern serve {line}");
        let parsed =
            Cli::from_arguments(words.split_whitespace().map(Into::into)).map_err(|error| error.to_string())?;
        let Job::Serve(args) = parsed.command else { panic!("not `serve`") };
        let notes = args.check().map_err(|error| error.to_string())?;
        let load_format = args.model.load_format(false).map_err(|error| error.to_string())?;
        args.model.recipe(network.is_fp8()).map_err(|error| error.to_string())?;
        let dir = args.model.model_path.is_some().then(|| PathBuf::from("/models/m"));
        let facts = Facts {
            network,
            weights: WeightFacts {
                bytes: 1 << 20,
                formats: vec![QuantFormat::BF16],
                has_row_scales: network.quantization.as_ref().is_some_and(|stored| stored.has_row_scales),
            },
            load_format,
            places: ModelPaths { model: dir.clone(), tokenizer: dir },
            template_parser: None,
            host: Host { machine: Machine { available_bytes, cores: 1 }, allow_longer_context, gpu },
        };
        resolve(&args, facts, notes).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_typed_gives_the_documented_defaults() {
        let config = decide("--random-seed 0 --max-total-tokens 8192").unwrap().config;
        // Half of what is left of 1 GiB.
        let max_request_memory = config.api.max_request_memory;
        assert!((256 << 20..512 << 20).contains(&max_request_memory), "{max_request_memory}");
        assert_eq!(config.api, ApiConfig { max_request_memory, ..ApiConfig::default() });
        let shown = serde_json::to_value(&config).unwrap();
        for (field, value) in [
            ("model_path", json!("quern-demo")),
            ("model_dir", Value::Null),
            ("tokenizer_path", json!("quern-demo")),
            ("revision", Value::Null),
            ("load_format", json!("safetensors")),
            ("json_model_override_args", json!({})),
            ("dtype", json!("bfloat16")),
            ("kv_cache_dtype", json!("bfloat16")),
            ("chat_template", Value::Null),
            ("host", json!("127.0.0.1")),
            ("port", json!(30000)),
            ("skip_server_warmup", json!(false)),
            ("mem_fraction_static", json!(0.8)),
            ("page_size", json!(32)),
            ("num_pages", json!(256)),
            ("max_total_num_tokens", json!(8192)),
            ("max_running_requests", json!(256)),
            ("max_queued_requests", json!(4096)),
            ("max_queued_tokens", json!(32 << 20)),
            ("chunked_prefill_size", json!(512)),
            ("max_prefill_tokens", json!(16384)),
            ("schedule_policy", json!("fcfs")),
            ("schedule_conservativeness", json!(1.0)),
            ("disable_radix_cache", json!(false)),
            ("device", json!("cpu")),
            ("base_gpu_id", json!(0)),
            ("cpu_threads", json!(1)),
            ("cpu_isa", Value::Null),
            ("weight_cache", Value::Null),
            ("tp_size", json!(1)),
            ("ep_size", json!(1)),
            ("log_level", json!("info")),
            ("log_level_http", json!("info")),
            ("decode_log_interval", json!(40)),
        ] {
            assert_eq!(shown.get(field), Some(&value), "{field}");
        }
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
        assert_eq!(decide("--chunked-prefill-size 96").unwrap().config.engine.chunked_prefill_size, 96);
        assert_eq!(decide("--page-size 48").unwrap().config.engine.chunked_prefill_size, 528);
        assert_eq!(decide("--chunked-prefill-size=-1").unwrap().config.engine.chunked_prefill_size, 4096);
        assert_eq!(decide("--chunked-prefill-size 0").unwrap().config.engine.chunked_prefill_size, 4096);
        let rounded = decide("--chunked-prefill-size 100").unwrap();
        assert_eq!(rounded.config.engine.chunked_prefill_size, 96);
        assert!(rounded.notes.iter().any(|note| note.contains("100 is 96")), "{:?}", rounded.notes);
        assert_eq!(decide("--chunked-prefill-size 7").unwrap().config.engine.chunked_prefill_size, 32);
        assert_eq!(decide("--chunked-prefill-size 130172").unwrap().config.engine.chunked_prefill_size, 4096);
    }

    #[test]
    fn the_checkpoint_decides_what_is_computed_in() {
        let f32_model = model("float32", "");
        let of = |line: &str, model: &ModelConfig| {
            decide_for(line, model, Some(1 << 30), false).map(|d| (d.config.model.dtype, d.config.model.kv_cache_dtype))
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
            let first = error.lines().next().unwrap();
            assert!(first.contains(flag) && first.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_gpu_computes_what_it_can_hold_in_its_own_memory() {
        // So little that the pool is as large as it allows.
        const SCARCE: Option<u64> = Some(1 << 27);
        let network = model("bfloat16", "");
        let on_cpu = |line: &str| decide_for(line, &network, SCARCE, false).unwrap().config;
        let placed =
            |line: &str, network: &ModelConfig, asked| decide_on(line, network, SCARCE, false, Some(gpu(asked)));
        let decision = placed("", &network, false).unwrap();
        assert_eq!(decision.config.device.device, Compute::Hip);
        assert_eq!(on_cpu("").device.device, Compute::Cpu);
        let pool = |config: &Config| config.engine.num_pages;
        assert!(pool(&decision.config) > 2 * pool(&on_cpu("")), "its memory is 16 times this machine's");
        for line in ["--dtype float32 --kv-cache-dtype bfloat16", "--kv-cache-dtype q8_0", "--tp-size 2"] {
            let left = placed(line, &network, false).unwrap();
            assert_eq!(left.config.device.device, Compute::Cpu);
            assert_eq!(pool(&left.config), pool(&on_cpu(line)), "the pool is in this machine's memory");
            assert!(left.notes.iter().any(|note| note.starts_with("The CPU computes")), "{:?}", left.notes);
            let refused = placed(line, &network, true).unwrap_err();
            assert!(refused.starts_with("--device hip: it"), "{refused}");
        }
        let odd = GpuHost { weights: &[QuantFormat::F16], ..gpu(true) };
        let refused = decide_on("", &network, Some(1 << 30), false, Some(odd)).unwrap_err();
        assert_eq!(refused, "--device hip: it has no kernels for bf16 weights; it has for f16");
    }

    #[test]
    fn what_no_kernel_of_a_gpu_computes_is_refused_or_left_to_the_cpu() {
        let moe = |experts: usize| {
            let json = json!({
                "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "intermediate_size": 128,
                "moe_intermediate_size": 32, "num_experts": experts, "num_experts_per_tok": 2, "norm_topk_prob": true,
                "vocab_size": 512, "max_position_embeddings": 4096, "hidden_act": "silu", "torch_dtype": "bfloat16",
            });
            ModelConfig::from_json(json.as_object().unwrap()).unwrap()
        };
        let wide = |head_dim: usize| {
            let mut network = model("bfloat16", "");
            network.heads.head_dim = head_dim;
            network
        };
        let by_rows = model("bfloat16", r#", "quantization_config": {"quant_method": "fbgemm_fp8"}"#);
        let of_blocks = r#", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}"#;
        for network in [&model("bfloat16", of_blocks), &wide(128), &moe(512)] {
            let placed = decide_on("", network, Some(1 << 30), false, Some(gpu(true))).unwrap();
            assert_eq!(placed.config.device.device, Compute::Hip);
        }
        for (network, limit, value) in
            [(&by_rows, "128 × 128", "each row"), (&wide(129), "at most 128", "129"), (&moe(513), "at most 512", "513")]
        {
            let refused = decide_on("", network, Some(1 << 30), false, Some(gpu(true))).unwrap_err();
            assert!(refused.starts_with("--device hip: it "), "{refused}");
            assert!(refused.contains(limit) && refused.contains(value), "{refused}");
            let left = decide_on("", network, Some(1 << 30), false, Some(gpu(false))).unwrap();
            assert_eq!(left.config.device.device, Compute::Cpu);
            assert!(left.notes.iter().any(|note| note.contains(limit) && note.contains(value)), "{:?}", left.notes);
        }
    }

    #[test]
    fn what_only_the_other_device_heeds_is_refused_or_said() {
        let network = model("bfloat16", "");
        let flags = [("--cpu-isa avx2", "avx2"), ("--weight-cache /w", "/w")];
        for (line, value) in flags {
            for device in ["cuda", "hip"] {
                let refused = decide(&format!("{line} --device {device}")).unwrap_err();
                assert!(refused.starts_with(line) && refused.contains(&format!("--device {device}")), "{refused}");
            }
            let on_auto =
                |gpu| decide_on(&format!("{line} --device auto"), &network, Some(1 << 30), false, gpu).unwrap();
            let on_gpu = on_auto(Some(gpu(false)));
            let said: Vec<_> = on_gpu.notes.iter().filter(|note| note.contains(value)).collect();
            assert_eq!(said, [&format!("{line} changes nothing: the hip device computes.")]);
            for on_cpu in [on_auto(None), decide(line).unwrap()] {
                assert!(on_cpu.notes.iter().all(|note| !note.contains("changes nothing")), "{:?}", on_cpu.notes);
            }
        }
        let said =
            |line: &str| decide(line).unwrap().notes.iter().any(|note| note.starts_with("--base-gpu-id 2 changes"));
        assert!(said("--base-gpu-id 2") && said("--base-gpu-id 2 --device cpu"));
        assert!(!said("--base-gpu-id 2 --device auto") && !said("--base-gpu-id 0 --device cpu"));
    }

    #[test]
    fn what_does_not_fit_the_memory_of_a_gpu_is_left_to_the_cpu() {
        let network = model("bfloat16", "");
        let placed = |line: &str, available_bytes, asked| {
            let gpu = GpuHost { available_bytes, ..gpu(asked) };
            decide_on(line, &network, Some(1 << 30), false, Some(gpu))
        };
        // Less than the weights, and less than a request of full length beside them.
        for available_bytes in [1 << 20, 2 << 20] {
            let left = placed("", available_bytes, false).unwrap();
            assert_eq!(left.config.device.device, Compute::Cpu);
            assert_eq!(left.config.engine, decide("").unwrap().config.engine, "the pool is in this machine's memory");
            let notes: Vec<_> = left.notes.iter().filter(|note| note.contains("The CPU computes")).collect();
            assert!(matches!(notes.as_slice(), [note] if note.contains("not the hip device: ")), "{:?}", left.notes);
            let refused = placed("", available_bytes, true).unwrap_err();
            assert!(refused.starts_with("--device hip: ") && refused.contains("--mem-fraction-static"), "{refused}");
        }
        assert_eq!(placed("--max-total-tokens 32", 2 << 20, false).unwrap().config.device.device, Compute::Hip);
        for asked in [false, true] {
            let refused = placed("--max-total-tokens 31", 2 << 30, asked).unwrap_err();
            assert!(refused.starts_with("--max-total-tokens 31"), "{refused}");
        }
    }

    #[test]
    fn the_pool_of_a_gpu_counts_what_its_pages_hold() {
        // Heads of 16 features; pages hold 128 of each, in two layers of two KV heads.
        let network = model("bfloat16", "");
        for (line, bytes) in [("", 2 * 2 * 2 * 128 * 2), ("--kv-cache-dtype fp8_e4m3", 2 * 2 * 2 * 128)] {
            let gpu = GpuHost { available_bytes: 100 << 20, ..gpu(true) };
            let engine = decide_on(line, &network, Some(1 << 30), false, Some(gpu)).unwrap().config.engine;
            assert_eq!(engine.kv_bytes_per_token, bytes, "{line}");
            // The weights are a MiB.
            assert_eq!(engine.num_pages as u64, (79 << 20) / bytes / 32, "{line}");
        }
        assert_eq!(decide("").unwrap().config.engine.kv_bytes_per_token, 2 * 2 * 2 * 16 * 2);
    }

    #[test]
    fn running_requests_are_at_most_half_the_pool() {
        let config = decide("--max-total-tokens 64 --max-running-requests 100").unwrap().config;
        assert_eq!((config.engine.max_total_num_tokens, config.engine.max_running_requests), (64, 32));
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
                let engine = config.engine;
                let page_size = engine.memory.page_size;
                prop_assert_eq!(engine.chunked_prefill_size % page_size, 0);
                prop_assert_eq!(engine.num_pages * page_size, engine.max_total_num_tokens);
            }
        }
    }
}
