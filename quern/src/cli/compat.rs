//! Flags of SGLang, vLLM and llama-server that Quern does not have: which values are fine, what is said of the rest.
//!
//! A flag of [`TABLE`] is never silently ignored. Asking for what Quern does anyway passes; a value that
//! could change results or limits stops the start; one that tunes machinery Quern does not have passes
//! with a line in the log.

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches,
    builder::{NonEmptyStringValueParser, PossibleValuesParser},
};

use crate::config::RefusedFlag;

/// One flag of the table.
#[derive(Debug)]
pub struct CompatFlag {
    /// Without dashes.
    pub name: &'static str,
    /// Other names, without dashes.
    pub aliases: &'static [&'static str],
    /// What follows it.
    pub takes: Takes,
    /// Values that ask for what happens anyway.
    pub as_is: &'static [&'static str],
    /// What is done about any other value (or about the presence of a switch).
    pub otherwise: Otherwise,
}

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// One value.
    Value,
    /// One value or nothing.
    Optional,
    /// One of these values.
    OneOf(&'static [&'static str]),
    /// One whole number.
    Int,
    /// One number.
    Float,
    /// One or more values.
    Values,
}

/// What is done about a value that is not [`as_is`](CompatFlag::as_is).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// Serve, and log this.
    Note(&'static str),
    /// Stop, and say this.
    Refuse(&'static str),
}

use Otherwise::{Note, Refuse};
use Takes::{Float, Int, Nothing, OneOf, Optional, Value, Values};

const fn flag(name: &'static str, takes: Takes, as_is: &'static [&'static str], otherwise: Otherwise) -> CompatFlag {
    CompatFlag { name, aliases: &[], takes, as_is, otherwise }
}

const fn alias(aliases: &'static [&'static str], flag: CompatFlag) -> CompatFlag {
    CompatFlag { aliases, ..flag }
}

const ONE_REPLICA: &str = "one replica is supported: run that many servers, each with its own --port and its own cores \
     (numactl --cpunodebind=K --membind=K), behind sglang-router (docs/deploy.md); or divide one over them by --tp-size";
const ONE_RANK: &str = "--tp-size and --ep-size divide a network over ranks, and --nnodes or mpirun these over hosts";
const NO_RANKS: &str = "ranks exchange in the memory of a process, over sockets and by MPI, without GPUs";
const ONE_KERNEL_SET: &str = "kernels are chosen for what computes; the summary at start names them";
const NO_GRAPHS: &str = "steps are not recorded as graphs";
const NO_TLS: &str = "TLS is not supported; put a reverse proxy in front";
const NO_SPECULATION: &str = "speculative decoding is not supported";
const NO_LORA: &str = "LoRA adapters are not supported";
const NO_HOST_TIER: &str = "pages stay in the memory of what computes; a second tier is not supported";
const NO_PRIORITY: &str = "priorities are not supported; --schedule-policy fcfs and lpm are";
const NO_REQUEST_LOG: &str = "logging of request contents is not supported";
const NO_SUCH_LAYERS: &str = "the network has no such layers";
const ALL_LAYERS: &str = "all layers are computed by one device; --device says which";
const NO_GPU: &str = "it tunes several GPUs or recorded graphs, and neither is supported";
const NO_EXPERT_RECORD: &str = "how often experts are chosen is not recorded";
const NO_WATCHDOG: &str = "no watchdog ends the server; /health/progress tells";
const OWN_PROCESS: &str = "it tunes processes that are not here";
const NOT_SUPPORTED: &str = "it is not supported";

/// The flags of SGLang 0.5, and the most used of vLLM and llama-server, that [`ServeArgs`](super::ServeArgs) does not
/// have.
pub const TABLE: &[CompatFlag] = &[
    // Model and tokenizer.
    flag("trust-remote-code", Nothing, &[], Note("no code of a checkpoint is ever run")),
    flag(
        "tokenizer-mode",
        OneOf(&["auto", "slow"]),
        &["auto"],
        Refuse("the tokenizer of tokenizer.json is the only one"),
    ),
    flag(
        "tokenizer-backend",
        OneOf(&["huggingface", "fastokens"]),
        &["huggingface"],
        Note("the tokenizer is built in"),
    ),
    flag("tokenizer-worker-num", Int, &["1"], Note("requests are tokenized on a pool of threads")),
    flag("detokenizer-worker-num", Int, &["1"], Note("each stream is detokenized on its own task")),
    flag("skip-tokenizer-init", Nothing, &[], Refuse("the server needs its tokenizer; send input_ids to /generate")),
    flag("model-loader-extra-config", Value, &["{}"], Note("weights are mapped, which needs no tuning")),
    flag("is-embedding", Nothing, &[], Refuse("embeddings are not supported")),
    flag("model-impl", Value, &["auto", "sglang"], Refuse("the built-in implementation is the only one")),
    flag("quantization-param-path", Value, &[], Refuse("a quantized KV cache is not supported")),
    // Server.
    flag("grpc-port", Int, &[], Refuse("gRPC is not supported")),
    flag("enable-http2", Nothing, &[], Refuse("HTTP/2 is not supported")),
    flag("warmups", Value, &[], Refuse("named warm-ups are not supported; one request is always sent at start")),
    flag("ssl-certfile", Value, &[], Refuse(NO_TLS)),
    flag("ssl-keyfile", Value, &[], Refuse(NO_TLS)),
    flag("ssl-ca-certs", Value, &[], Refuse(NO_TLS)),
    flag("ssl-keyfile-password", Value, &[], Refuse(NO_TLS)),
    flag("enable-ssl-refresh", Nothing, &[], Refuse(NO_TLS)),
    // Requests.
    flag("completion-template", Value, &[], Refuse("the tokenizer's own fill-in-the-middle tokens are used")),
    flag("trust-request-chat-template", Nothing, &[], Refuse("templates in requests are not supported")),
    flag("reasoning-parser", Value, &[], Refuse("a reasoning parser is not supported; Qwen3-Coder needs none")),
    flag("enable-cache-report", Nothing, &[], Note("cached tokens are always reported")),
    flag("return-input-ids", Nothing, &[], Refuse("token ids in OpenAI answers are not supported; /generate has them")),
    flag(
        "return-output-ids",
        Nothing,
        &[],
        Refuse("token ids in OpenAI answers are not supported; /generate has them"),
    ),
    flag(
        "enable-response-store",
        Nothing,
        &[],
        Note("answers are kept; --response-store-entries and -bytes bound them"),
    ),
    flag("tool-server", Value, &[], Refuse("the server calls no tools; clients do")),
    flag("enable-custom-logit-processor", Nothing, &[], Refuse("no code of a request is ever run")),
    flag("enable-return-hidden-states", Nothing, &[], Refuse("hidden states are not reported")),
    // Memory and scheduling.
    flag("prefill-max-requests", Int, &[], Refuse("--max-prefill-tokens and --max-running-requests bound a step")),
    flag(
        "radix-eviction-policy",
        OneOf(&["lru", "lfu", "slru", "priority", "tlru"]),
        &["lru"],
        Refuse("the prefix least recently used is evicted"),
    ),
    flag("radix-eviction-policy-config", Value, &["{}"], Refuse("the prefix least recently used is evicted")),
    alias(&["enable-hicache"], flag("enable-hierarchical-cache", Nothing, &[], Refuse(NO_HOST_TIER))),
    flag("hicache-ratio", Float, &["2.0", "2"], Refuse(NO_HOST_TIER)),
    flag("hicache-size", Int, &["0"], Refuse(NO_HOST_TIER)),
    flag("hicache-write-policy", Value, &["write_through"], Refuse(NO_HOST_TIER)),
    flag("hicache-io-backend", Value, &["kernel"], Refuse(NO_HOST_TIER)),
    flag("hicache-mem-layout", Value, &["page_first"], Refuse(NO_HOST_TIER)),
    flag("hicache-storage-backend", Value, &[], Refuse(NO_HOST_TIER)),
    flag("disable-overlap-schedule", Nothing, &[], Note("scheduling takes microseconds and is never overlapped")),
    flag("num-continuous-decode-steps", Int, &["1"], Note("new requests are looked at before every step")),
    flag("scheduler-recv-interval", Int, &["1"], Note("new requests are looked at before every step")),
    flag("enable-mixed-chunk", Nothing, &[], Note("prompts and decodes always share steps")),
    flag("enable-dynamic-chunking", Nothing, &[], Note("a step is filled up to --chunked-prefill-size")),
    flag("enable-priority-scheduling", Nothing, &[], Refuse(NO_PRIORITY)),
    flag("default-priority-value", Int, &[], Refuse(NO_PRIORITY)),
    flag("abort-on-priority-when-disabled", Nothing, &[], Refuse(NO_PRIORITY)),
    flag("schedule-low-priority-values-first", Nothing, &[], Refuse(NO_PRIORITY)),
    flag("priority-scheduling-preemption-threshold", Int, &["10"], Refuse(NO_PRIORITY)),
    flag("disable-priority-preemption", Nothing, &[], Refuse(NO_PRIORITY)),
    flag("retraction-policy", OneOf(&["length", "priority"]), &["length"], Refuse(NO_PRIORITY)),
    flag("disable-chunked-prefix-cache", Nothing, &[], Note("it concerns models with latent attention only")),
    flag("cpu-offload-gb", Float, &["0", "0.0"], Note("weights stay in the memory of what computes")),
    flag("watchdog-timeout", Float, &["300", "300.0"], Refuse(NO_WATCHDOG)),
    flag("sleep-on-idle", Nothing, &[], Note("an idle engine always sleeps")),
    flag("gpu-id-step", Int, &["1"], Refuse("one GPU computes; --base-gpu-id says which")),
    // Parallelism.
    alias(&["pipeline-parallel-size"], flag("pp-size", Int, &["1"], Refuse(ONE_RANK))),
    flag("pp-max-micro-batch-size", Int, &[], Refuse(ONE_RANK)),
    flag("pp-async-batch-depth", Int, &["0"], Refuse(ONE_RANK)),
    alias(&["data-parallel-size"], flag("dp-size", Int, &["1"], Refuse(ONE_REPLICA))),
    alias(&["attention-data-parallel-size"], flag("attn-dp-size", Int, &["1"], Refuse(ONE_RANK))),
    flag("enable-dp-attention", Nothing, &[], Note("there is one replica, whose attention --tp-size divides")),
    alias(&["moe-data-parallel-size"], flag("moe-dp-size", Int, &["1"], Refuse(ONE_RANK))),
    alias(&["attention-context-parallel-size"], flag("attn-cp-size", Int, &["1"], Refuse(ONE_RANK))),
    flag("dcp-size", Int, &["1"], Refuse(ONE_RANK)),
    flag("moe-dense-tp-size", Int, &["1"], Refuse(ONE_RANK)),
    flag("enable-dp-lm-head", Nothing, &[], Refuse(ONE_RANK)),
    flag(
        "load-balance-method",
        OneOf(&["auto", "round_robin", "follow_bootstrap_room", "total_requests", "total_tokens"]),
        &["auto"],
        Note("there is one replica"),
    ),
    flag(
        "nccl-port",
        Int,
        &[],
        Note("nodes meet at --dist-init-addr, and exchange over ports that the system chooses"),
    ),
    flag("moe-a2a-backend", Value, &["none"], Refuse(ONE_RANK)),
    flag("enable-eplb", Nothing, &[], Refuse(ONE_RANK)),
    flag("ep-num-redundant-experts", Int, &["0"], Refuse(ONE_RANK)),
    flag("init-expert-location", Value, &["trivial"], Refuse(ONE_RANK)),
    flag("deepep-mode", OneOf(&["auto", "normal", "low_latency"]), &["auto"], Note(NO_RANKS)),
    flag("enable-two-batch-overlap", Nothing, &[], Note(NO_RANKS)),
    flag("disable-custom-all-reduce", Nothing, &[], Note(NO_RANKS)),
    flag("enable-p2p-check", Nothing, &[], Note(NO_RANKS)),
    // Kernels.
    flag("attention-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("prefill-attention-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("decode-attention-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("sampling-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("fp8-gemm-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("fp4-gemm-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("moe-runner-backend", Value, &["auto"], Note(ONE_KERNEL_SET)),
    flag("cuda-graph-max-bs", Int, &[], Note(NO_GRAPHS)),
    flag("cuda-graph-max-bs-decode", Int, &[], Note(NO_GRAPHS)),
    flag("cuda-graph-bs", Values, &[], Note(NO_GRAPHS)),
    flag("cuda-graph-bs-decode", Values, &[], Note(NO_GRAPHS)),
    flag("cuda-graph-backend-decode", Value, &["disabled"], Note(NO_GRAPHS)),
    flag("cuda-graph-backend-prefill", Value, &["disabled"], Note(NO_GRAPHS)),
    flag("disable-cuda-graph", Nothing, &[], Note(NO_GRAPHS)),
    flag("disable-cuda-graph-padding", Nothing, &[], Note(NO_GRAPHS)),
    flag("enable-torch-compile", Nothing, &[], Note("no kernel is compiled while requests run")),
    flag("torch-compile-max-bs", Int, &["32"], Note("no kernel is compiled while requests run")),
    flag("enable-deterministic-inference", Nothing, &[], Note("results never depend on the batch")),
    // Logs.
    flag("log-requests", Nothing, &[], Refuse(NO_REQUEST_LOG)),
    flag("log-requests-level", OneOf(&["0", "1", "2", "3"]), &["2"], Refuse(NO_REQUEST_LOG)),
    flag("log-requests-format", OneOf(&["text", "json"]), &["text"], Refuse(NO_REQUEST_LOG)),
    flag("log-requests-target", Values, &["stdout"], Refuse(NO_REQUEST_LOG)),
    flag("uvicorn-access-log-exclude-prefixes", Values, &[], Refuse("use --log-level-http to quieten the access log")),
    flag("enable-request-time-stats-logging", Nothing, &[], Refuse(NO_REQUEST_LOG)),
    // Metrics.
    flag("enable-metrics-for-all-schedulers", Nothing, &[], Note("there is one scheduler")),
    flag("prompt-tokens-buckets", Values, &["default"], Refuse("these buckets are fixed")),
    flag("generation-tokens-buckets", Values, &["default"], Refuse("these buckets are fixed")),
    flag("enable-trace", Nothing, &[], Refuse("OpenTelemetry traces are not supported")),
    flag("otlp-traces-endpoint", Value, &["localhost:4317"], Refuse("OpenTelemetry traces are not supported")),
    flag("kv-events-config", Value, &[], Refuse("KV events are not published")),
    flag("export-metrics-to-file", Nothing, &[], Refuse("metrics are served at /metrics only")),
    flag("export-metrics-to-file-dir", Value, &[], Refuse("metrics are served at /metrics only")),
    // Speculative decoding.
    flag("speculative-algorithm", Value, &[], Refuse(NO_SPECULATION)),
    alias(&["speculative-draft-model"], flag("speculative-draft-model-path", Value, &[], Refuse(NO_SPECULATION))),
    flag("speculative-draft-model-revision", Value, &[], Refuse(NO_SPECULATION)),
    flag("speculative-draft-model-quantization", Value, &[], Refuse(NO_SPECULATION)),
    flag("speculative-num-steps", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-eagle-topk", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-num-draft-tokens", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-accept-threshold-single", Float, &["1.0", "1"], Refuse(NO_SPECULATION)),
    flag("speculative-accept-threshold-acc", Float, &["1.0", "1"], Refuse(NO_SPECULATION)),
    flag("speculative-token-map", Value, &[], Refuse(NO_SPECULATION)),
    flag("speculative-attention-mode", Value, &["prefill"], Refuse(NO_SPECULATION)),
    flag("speculative-ngram-min-bfs-breadth", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-ngram-max-bfs-breadth", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-ngram-match-type", Value, &[], Refuse(NO_SPECULATION)),
    flag("speculative-ngram-max-trie-depth", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-ngram-capacity", Int, &[], Refuse(NO_SPECULATION)),
    // LoRA.
    flag("enable-lora", Nothing, &[], Refuse(NO_LORA)),
    flag("lora-paths", Values, &[], Refuse(NO_LORA)),
    flag("max-lora-rank", Int, &[], Refuse(NO_LORA)),
    flag("lora-target-modules", Values, &[], Refuse(NO_LORA)),
    flag("max-loras-per-batch", Int, &["8"], Refuse(NO_LORA)),
    flag("max-loaded-loras", Int, &[], Refuse(NO_LORA)),
    flag("lora-eviction-policy", OneOf(&["lru", "fifo"]), &["lru"], Refuse(NO_LORA)),
    flag("lora-backend", Value, &["csgmv"], Refuse(NO_LORA)),
    flag("max-lora-chunk-size", Int, &["16"], Refuse(NO_LORA)),
    // Other networks than this one: state-space layers, sparse attention, pictures, diffusion.
    flag("mamba-ssm-dtype", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("mamba-full-memory-ratio", Float, &[], Note(NO_SUCH_LAYERS)),
    flag("max-mamba-cache-size", Int, &[], Note(NO_SUCH_LAYERS)),
    flag("mamba-scheduler-strategy", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("mamba-track-interval", Int, &[], Note(NO_SUCH_LAYERS)),
    flag("mamba-backend", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("linear-attn-backend", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("swa-full-tokens-ratio", Float, &[], Note(NO_SUCH_LAYERS)),
    flag("disable-hybrid-swa-memory", Nothing, &[], Note(NO_SUCH_LAYERS)),
    flag("nsa-prefill-backend", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("nsa-decode-backend", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("flashinfer-mla-disable-ragged", Nothing, &[], Note(NO_SUCH_LAYERS)),
    flag("disable-shared-experts-fusion", Nothing, &[], Note(NO_SUCH_LAYERS)),
    flag("mm-attention-backend", Value, &[], Note(NO_SUCH_LAYERS)),
    flag("mm-max-concurrent-calls", Int, &[], Note(NO_SUCH_LAYERS)),
    flag("mm-per-request-timeout", Float, &[], Note(NO_SUCH_LAYERS)),
    flag("keep-mm-feature-on-device", Nothing, &[], Note(NO_SUCH_LAYERS)),
    flag("disable-fast-image-processor", Nothing, &[], Note(NO_SUCH_LAYERS)),
    flag("enable-prefix-mm-cache", Nothing, &[], Note(NO_SUCH_LAYERS)),
    flag("enable-broadcast-mm-inputs-process", Nothing, &[], Note(NO_SUCH_LAYERS)),
    // Machinery of GPUs and of exchanges between them.
    flag("enable-nccl-nvls", Nothing, &[], Note(NO_GPU)),
    flag("enable-symm-mem", Nothing, &[], Note(NO_GPU)),
    flag("enable-torch-symm-mem", Nothing, &[], Note(NO_GPU)),
    flag("enable-mscclpp", Nothing, &[], Note(NO_GPU)),
    flag("enable-flashinfer-allreduce-fusion", Nothing, &[], Note(NO_GPU)),
    flag("enable-single-batch-overlap", Nothing, &[], Note(NO_GPU)),
    flag("tbo-token-distribution-threshold", Float, &[], Note(NO_GPU)),
    flag("eplb-algorithm", Value, &[], Note(NO_GPU)),
    flag("eplb-rebalance-num-iterations", Int, &[], Note(NO_GPU)),
    flag("eplb-rebalance-layers-per-chunk", Int, &[], Note(NO_GPU)),
    flag("ep-dispatch-algorithm", Value, &[], Note(NO_GPU)),
    flag("deepep-config", Value, &[], Note(NO_GPU)),
    flag("mooncake-ib-device", Value, &[], Note(NO_GPU)),
    flag("expert-distribution-recorder-mode", Value, &[], Refuse(NO_EXPERT_RECORD)),
    flag("expert-distribution-recorder-buffer-size", Int, &[], Refuse(NO_EXPERT_RECORD)),
    flag("enable-profile-cuda-graph", Nothing, &[], Note(NO_GPU)),
    flag("enable-cudagraph-gc", Nothing, &[], Note(NO_GPU)),
    flag("enable-layerwise-nvtx-marker", Nothing, &[], Note(NO_GPU)),
    flag("enable-piecewise-cuda-graph", Nothing, &[], Note(NO_GPU)),
    flag("disable-piecewise-cuda-graph", Nothing, &[], Note(NO_GPU)),
    flag("piecewise-cuda-graph-max-tokens", Int, &[], Note(NO_GPU)),
    flag("piecewise-cuda-graph-tokens", Values, &[], Note(NO_GPU)),
    flag("piecewise-cuda-graph-compiler", Value, &[], Note(NO_GPU)),
    flag("triton-attention-num-kv-splits", Int, &[], Note(NO_GPU)),
    flag("triton-attention-reduce-in-fp32", Nothing, &[], Note(NO_GPU)),
    flag("triton-attention-split-tile-size", Int, &[], Note(NO_GPU)),
    flag("disable-flashinfer-autotune", Nothing, &[], Note(NO_GPU)),
    flag("speculative-draft-attention-backend", Value, &[], Note(NO_GPU)),
    flag("enable-memory-saver", Nothing, &[], Note(NO_GPU)),
    flag("enable-weights-cpu-backup", Nothing, &[], Note(NO_GPU)),
    flag("enable-fused-qk-norm-rope", Nothing, &[], Note(NO_GPU)),
    flag("enable-attn-tp-input-scattered", Nothing, &[], Note(NO_GPU)),
    // How SGLang's processes work and tell of themselves.
    flag("show-time-cost", Nothing, &[], Note("latencies are in the access log and at /metrics")),
    flag("enable-dynamic-batch-tokenizer", Nothing, &[], Note(OWN_PROCESS)),
    flag("dynamic-batch-tokenizer-batch-size", Int, &[], Note(OWN_PROCESS)),
    flag("dynamic-batch-tokenizer-batch-timeout", Float, &[], Note(OWN_PROCESS)),
    flag("enable-tokenizer-batch-encode", Nothing, &[], Note(OWN_PROCESS)),
    flag("disable-tokenizer-batch-decode", Nothing, &[], Note(OWN_PROCESS)),
    flag("num-reserved-decode-tokens", Int, &[], Note(OWN_PROCESS)),
    flag("gc-warning-threshold-secs", Float, &[], Note(OWN_PROCESS)),
    flag("disable-outlines-disk-cache", Nothing, &[], Note(OWN_PROCESS)),
    flag("enable-nan-detection", Nothing, &[], Note("logits that are not finite always fail their request")),
    flag("weight-loader-disable-mmap", Nothing, &[], Note("weights are mapped, which needs no tuning")),
    flag("collect-tokens-histogram", Nothing, &[], Refuse("these histograms are not collected")),
    flag("soft-watchdog-timeout", Float, &[], Refuse(NO_WATCHDOG)),
    flag("enable-expert-distribution-metrics", Nothing, &[], Refuse(NO_EXPERT_RECORD)),
    flag("load-watch-interval", Float, &[], Note(OWN_PROCESS)),
    flag("prefill-round-robin-balance", Nothing, &[], Note(OWN_PROCESS)),
    flag("modelopt-export-path", Value, &[], Refuse("quern convert writes quantised files")),
    // What could change answers or is a service of its own.
    flag("enable-double-sparsity", Nothing, &[], Refuse(NOT_SUPPORTED)),
    flag("hybrid-kvcache-ratio", Float, &[], Refuse(NOT_SUPPORTED)),
    flag("torchao-config", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("enable-multimodal", Nothing, &[], Refuse("pictures are not supported")),
    flag("dllm-algorithm", Value, &[], Refuse(NOT_SUPPORTED)),
    flag(
        "rl-on-policy-target",
        Value,
        &[],
        Refuse("it is not supported; --logprobs-mode says what log-probabilities are of"),
    ),
    flag("enable-fp32-lm-head", Nothing, &[], Refuse(NOT_SUPPORTED)),
    flag("delete-ckpt-after-loading", Nothing, &[], Refuse(NOT_SUPPORTED)),
    flag("custom-weight-loader", Values, &[], Refuse(NOT_SUPPORTED)),
    flag("modelopt-quant", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("quantize-and-serve", Nothing, &[], Refuse("it is not supported; --quantization quantises while it loads")),
    flag("enable-lmcache", Nothing, &[], Refuse(NO_HOST_TIER)),
    flag("enable-pdmux", Nothing, &[], Refuse(NOT_SUPPORTED)),
    flag("forward-hooks", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("multi-item-scoring-delimiter", Int, &[], Refuse(NOT_SUPPORTED)),
    flag("enable-return-routed-experts", Nothing, &[], Refuse(NOT_SUPPORTED)),
    flag("debug-tensor-dump-output-folder", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("remote-instance-weight-loader-seed-instance-ip", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("checkpoint-engine-wait-weights-before-ready", Nothing, &[], Refuse(NOT_SUPPORTED)),
    flag("kt-weight-path", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("kt-method", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("kt-cpuinfer", Int, &[], Refuse(NOT_SUPPORTED)),
    flag("kt-threadpool-count", Int, &[], Refuse(NOT_SUPPORTED)),
    flag("kt-num-gpu-experts", Int, &[], Refuse(NOT_SUPPORTED)),
    flag("kt-max-deferred-experts-per-token", Int, &[], Refuse(NOT_SUPPORTED)),
    flag("disaggregation-transfer-backend", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("disaggregation-bootstrap-port", Int, &[], Refuse(NOT_SUPPORTED)),
    flag("disaggregation-ib-device", Value, &[], Refuse(NOT_SUPPORTED)),
    flag("elastic-ep-backend", Value, &[], Refuse(NOT_SUPPORTED)),
    // vLLM's and llama-server's names of flags that are here.
    flag("max-model-len", Value, &[], Refuse("here it is --context-length")),
    flag("ctx-size", Value, &[], Refuse("here it is --context-length")),
    flag("gpu-memory-utilization", Value, &[], Refuse("here it is --mem-fraction-static")),
    flag("max-num-seqs", Value, &[], Refuse("here it is --max-running-requests")),
    flag("max-num-batched-tokens", Value, &[], Refuse("here it is --chunked-prefill-size")),
    flag("block-size", Value, &[], Refuse("here it is --page-size")),
    flag("no-enable-prefix-caching", Nothing, &[], Refuse("here it is --disable-radix-cache")),
    flag("hf-file", Value, &[], Refuse("here it is --model OWNER/NAME/FILE.gguf")),
    flag("model-url", Value, &[], Refuse("here it is --model, for addresses on the Hugging Face hub")),
    flag("offline", Nothing, &[], Refuse("here it is the environment variable HF_HUB_OFFLINE=1")),
    flag("alias", Value, &[], Refuse("here it is --served-model-name")),
    flag("threads", Value, &[], Refuse("here it is --cpu-threads")),
    flag("no-warmup", Nothing, &[], Refuse("here it is --skip-server-warmup")),
    flag("metrics", Nothing, &[], Refuse("here it is --enable-metrics")),
    // Theirs of which none here means the same.
    flag("enable-auto-tool-choice", Nothing, &[], Note("a model that calls tools may always choose to")),
    flag("enable-prefix-caching", Nothing, &[], Note("prefixes are cached unless --disable-radix-cache")),
    flag("enable-chunked-prefill", Nothing, &[], Note("long prompts are always computed in chunks")),
    flag("enable-expert-parallel", Nothing, &[], Note("the layout of experts is --ep-size")),
    flag("disable-log-requests", Nothing, &[], Note("contents of requests are never logged")),
    flag("no-enable-log-requests", Nothing, &[], Note("contents of requests are never logged")),
    flag("enforce-eager", Nothing, &[], Note(NO_GRAPHS)),
    flag("swap-space", Float, &[], Note("pages stay in the memory of what computes")),
    flag("max-seq-len-to-capture", Int, &[], Note(NO_GRAPHS)),
    flag("jinja", Nothing, &[], Note("the model's own template is always rendered")),
    flag("cont-batching", Nothing, &[], Note("requests are always batched continuously")),
    flag("n-gpu-layers", Value, &[], Note(ALL_LAYERS)),
    flag("gpu-layers", Value, &[], Note(ALL_LAYERS)),
    flag("flash-attn", Optional, &[], Note("attention never writes its scores to memory")),
    flag("no-mmap", Nothing, &[], Note("weights are mapped or repacked, as their format needs")),
    flag("mlock", Nothing, &[], Note("weights are mapped; lock memory with the system's limits")),
    flag("batch-size", Int, &[], Note("a step's tokens are --chunked-prefill-size")),
    flag("ubatch-size", Int, &[], Note("a step's tokens are --chunked-prefill-size")),
    flag("n-cpu-moe", Int, &[], Note(ALL_LAYERS)),
    flag("cpu-moe", Nothing, &[], Note(ALL_LAYERS)),
    flag("override-tensor", Value, &[], Note(ALL_LAYERS)),
    flag("slots", Nothing, &[], Note("/slots is always served")),
    flag(
        "parallel",
        Int,
        &[],
        Note("as many run together as --max-running-requests allows; contexts are not divided among them"),
    ),
    flag("threads-batch", Int, &[], Note("all steps use --cpu-threads")),
    flag("limit-mm-per-prompt", Value, &[], Note("the model reads no pictures")),
    flag("mmproj", Value, &[], Refuse("pictures are not supported")),
    flag("model-draft", Value, &[], Refuse(NO_SPECULATION)),
    flag("lora", Value, &[], Refuse(NO_LORA)),
    flag("enable-sleep-mode", Nothing, &[], Refuse("the server does not unload weights; stop and start it")),
    flag("embedding", Nothing, &[], Refuse("embeddings are not supported")),
    flag("embeddings", Nothing, &[], Refuse("embeddings are not supported")),
    flag("reranking", Nothing, &[], Refuse("reranking is not supported")),
    flag("distributed-executor-backend", Value, &["mp", "uni"], Refuse(ONE_RANK)),
    flag("num-speculative-tokens", Int, &[], Refuse(NO_SPECULATION)),
    flag("speculative-config", Value, &[], Refuse(NO_SPECULATION)),
    // Split prefill and decode.
    flag("disaggregation-mode", OneOf(&["null", "prefill", "decode"]), &["null"], Refuse(ONE_RANK)),
];

/// The flags of [`TABLE`] that were typed, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompatArgs {
    typed: Vec<(&'static str, Vec<String>)>,
}

impl CompatArgs {
    /// Lines to log about flags that change nothing here.
    ///
    /// # Errors
    /// The first flag that cannot be served.
    pub fn judge(&self) -> Result<Vec<String>, RefusedFlag> {
        let mut notes = Vec::new();
        for flag in TABLE {
            let Some((_, values)) = self.typed.iter().find(|(name, _)| *name == flag.name) else { continue };
            if !values.is_empty() && values.iter().all(|value| flag.as_is.contains(&value.as_str())) {
                continue;
            }
            let value = values.join(" ");
            match flag.otherwise {
                Refuse(reason) => {
                    let known = match flag.as_is {
                        [] => String::new(),
                        [only, ..] => format!(" (supported: {only})"),
                    };
                    return Err(RefusedFlag { flag: flag.name, value, reason: format!("{reason}{known}") });
                }
                Note(line) if value.is_empty() => notes.push(format!("--{} changes nothing: {line}.", flag.name)),
                Note(line) => notes.push(format!("--{} {value} changes nothing: {line}.", flag.name)),
            }
        }
        Ok(notes)
    }
}

impl Args for CompatArgs {
    fn augment_args(command: Command) -> Command {
        command.args(TABLE.iter().map(|flag| {
            // Hidden: the help describes what is supported.
            let arg = Arg::new(flag.name).long(flag.name).aliases(flag.aliases).hide(true);
            match flag.takes {
                Nothing => arg.action(ArgAction::SetTrue),
                Optional => arg.num_args(0..=1).default_missing_value("on"),
                Value => arg.value_parser(NonEmptyStringValueParser::new()),
                OneOf(choices) => arg.value_parser(PossibleValuesParser::new(choices)),
                Int => arg.value_parser(|text: &str| text.parse::<i64>().map(|_| text.to_owned())),
                Float => arg.value_parser(|text: &str| text.parse::<f64>().map(|_| text.to_owned())),
                Values => arg.num_args(1..).action(ArgAction::Append),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for CompatArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.typed = TABLE
            .iter()
            .filter_map(|flag| match flag.takes {
                Nothing => matches.get_flag(flag.name).then(|| (flag.name, Vec::new())),
                _ => matches.get_many(flag.name).map(|values| (flag.name, values.cloned().collect())),
            })
            .collect();
        Ok(())
    }
}
