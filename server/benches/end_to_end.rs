//! Decoding and prefill of whole steps through the engine, as a fraction of what the machine allows.
//!
//! `cargo bench -p quern-server --bench end_to_end [-- --layers N --threads N --fp8]`. The network is
//! Qwen3-Coder-30B-A3B's with fewer layers (four take 6 GB in bf16) and random weights; each row of
//! the table is a step's time from outside the engine. "of roof" is the larger of bytes ÷ bandwidth and
//! operations ÷ peak, both measured first on the same threads, divided by the median. Experts are counted
//! as uniform routing touches them: E·(1 − (1 − k/E)^B).

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use quern_backend::{DType, SamplingParams};
use quern_cpu::{CpuBackend, CpuConfig, Roof};
use quern_engine::{EngineConfig, EngineHandle, GenerateRequest, Policy, RequestHandle, TokenEvent};
use quern_model::{Checkpoint, GenerationConfig, ModelConfig, StepLimits};
use serde_json::json;

const PAGE: usize = 32;
const CHUNK: usize = 512;

/// Steps of a decoding row, after [`WARM_UP`] others.
const STEPS: usize = 40;
const WARM_UP: usize = 3;

/// Times each prefill is measured.
const PREFILLS: usize = 5;

fn main() {
    let (mut layers, mut cpu, mut fp8) = (4, CpuConfig::default(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number behind the flag");
        match argument.as_str() {
            "--layers" => layers = number(),
            "--threads" => cpu.threads = Some(number()),
            "--fp8" => fp8 = true,
            // What cargo passes.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let backend = CpuBackend::new(cpu).unwrap_or_else(|e| panic!("{e}"));
    let roof = Roof::measure(&backend).expect("half a GiB of memory");
    let peak = roof.bf16_flops.unwrap_or(roof.f32_flops);
    println!("{} threads, {}, {layers} layers, {}", backend.threads(), backend.isa(), if fp8 { "fp8" } else { "bf16" });
    println!("roof: read {:.1} GB/s, products {:.0} GFLOP/s", roof.read_bytes_per_s / 1e9, peak / 1e9);

    let work = Work::new(layers, fp8);
    let engine = work.engine(backend);
    println!("{:32} {:>10} {:>21} {:>9} {:>8}", "work", "median", "p10 – p90", "tok/s", "of roof");
    let row = |name: String, tokens: usize, bytes: f64, flops: f64, mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize];
        let least = (bytes / roof.read_bytes_per_s).max(flops / peak);
        println!(
            "{name:32} {:>7.2} ms {:>8.2} – {:>7.2} ms {:>9.1} {:>6.0} %",
            at(0.5) * 1e3,
            at(0.1) * 1e3,
            at(0.9) * 1e3,
            tokens as f64 / at(0.5),
            100.0 * least / at(0.5),
        );
    };
    for (batch, depth) in [(1, 32), (1, 4096), (8, 32), (32, 32)] {
        let seconds = decode(&engine, batch, depth);
        let (bytes, flops) = (work.step_bytes(batch, batch * depth), work.flops(batch, batch));
        row(format!("decode, batch {batch} at {depth}"), batch, bytes, flops, seconds);
    }
    for tokens in [512, 2048] {
        let seconds = prefill(&engine, tokens);
        let steps = tokens.div_ceil(CHUNK);
        let bytes = steps as f64 * work.step_bytes(CHUNK, 0);
        row(format!("prefill, {tokens} tokens"), tokens, bytes, work.flops(tokens, 1), seconds);
    }
    engine.shutdown();
}

/// The network and what a step of it takes.
struct Work {
    config: ModelConfig,
    bytes_per_weight: f64,
}

impl Work {
    fn new(layers: usize, fp8: bool) -> Self {
        let mut config = json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151_936,
            "hidden_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 4,
            "head_dim": 128, "intermediate_size": 5472, "moe_intermediate_size": 768, "num_experts": 128,
            "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e7, "max_position_embeddings": 262_144,
            "tie_word_embeddings": false, "attention_bias": false, "eos_token_id": 151_645, "torch_dtype": "bfloat16",
        });
        if fp8 {
            config["quantization_config"] = json!({
                "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                "modules_to_not_convert": ["lm_head"],
            });
        }
        let config = ModelConfig::from_json(config.as_object().expect("an object")).unwrap_or_else(|e| panic!("{e}"));
        Self { config, bytes_per_weight: if fp8 { 1.0 } else { 2.0 } }
    }

    fn engine(&self, backend: CpuBackend) -> EngineHandle {
        let config = EngineConfig {
            page_size: PAGE,
            num_pages: 16_384 / PAGE,
            max_running: 32,
            max_queued: None,
            chunk_tokens: CHUNK,
            max_prefill_tokens: 16_384,
            balanced_context: 8192,
            policy: Policy::Fcfs,
            prefix_cache: false,
            conservativeness: 0.0,
            decode_log_interval: u64::MAX,
        };
        let limits = StepLimits {
            max_tokens: config.step_tokens(),
            max_logit_rows: 32,
            page_size: PAGE,
            num_pages: config.num_pages,
            kv_dtype: DType::BF16,
        };
        let checkpoint = Checkpoint::dummy(self.config.clone(), GenerationConfig::default());
        let model =
            quern_model::load(&checkpoint, Arc::new(backend), limits, &mut |_| {}).expect("room for the weights");
        quern_engine::start(model, config).expect("a thread")
    }

    fn attention_params(&self) -> f64 {
        let heads = &self.config.heads;
        (self.config.hidden * (heads.qkv_dim() + heads.q_dim())) as f64
    }

    fn expert_params(&self) -> f64 {
        let moe = self.config.moe.as_ref().expect("a sparse network");
        (3 * moe.inner * self.config.hidden) as f64
    }

    /// Bytes read by a step of `rows` tokens that see `kv_tokens` keys and values in all.
    fn step_bytes(&self, rows: usize, kv_tokens: usize) -> f64 {
        let moe = self.config.moe.as_ref().expect("a sparse network");
        let (experts, top_k) = (moe.num_experts as f64, moe.top_k as f64);
        let touched = experts * (1.0 - (1.0 - top_k / experts).powi(rows as i32));
        let layer = (self.attention_params() + touched * self.expert_params()) * self.bytes_per_weight;
        let head = (self.config.vocab_size * self.config.hidden * 2) as f64;
        let kv = (kv_tokens as u64 * self.config.kv_bytes_per_token(DType::BF16)) as f64;
        layer * self.config.num_layers as f64 + head + kv
    }

    /// Operations of the products for `rows` tokens, `sampled` of them with logits.
    fn flops(&self, rows: usize, sampled: usize) -> f64 {
        let moe = self.config.moe.as_ref().expect("a sparse network");
        let layer = self.attention_params() + moe.top_k as f64 * self.expert_params();
        let head = (self.config.vocab_size * self.config.hidden * sampled) as f64;
        2.0 * (rows as f64 * layer * self.config.num_layers as f64 + head)
    }
}

/// Seconds of each step that decodes `batch` sequences of `depth` tokens together.
fn decode(engine: &EngineHandle, batch: usize, depth: usize) -> Vec<f64> {
    let tokens = WARM_UP + STEPS + 1;
    let running: Vec<_> = (0..batch).map(|i| submit(engine, prompt(depth, i), tokens)).collect();
    // The last sequence's tokens come at the ends of the steps that all of them share.
    let arrivals: Vec<Instant> = running[batch - 1].1.iter().collect();
    let times = arrivals[arrivals.len() - STEPS - 1..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
    times.collect()
}

/// Seconds from a prompt of `tokens` to its first token.
fn prefill(engine: &EngineHandle, tokens: usize) -> Vec<f64> {
    let one = |i| {
        let start = Instant::now();
        let (_handle, arrivals) = submit(engine, prompt(tokens, i), 1);
        arrivals.recv_timeout(Duration::from_secs(600)).expect("a first token");
        start.elapsed().as_secs_f64()
    };
    (0..PREFILLS).map(one).collect()
}

/// Tokens that route to all experts.
fn prompt(tokens: usize, seed: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((i * 7919 + seed * 104_729) % 151_000) as u32).collect()
}

/// A greedy request, and when each of its tokens came.
fn submit(engine: &EngineHandle, prompt: Vec<u32>, max_new_tokens: usize) -> (RequestHandle, mpsc::Receiver<Instant>) {
    let (arrived, arrivals) = mpsc::channel();
    let request = GenerateRequest {
        id: String::new(),
        prompt,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        seed: 0,
        max_new_tokens,
        min_new_tokens: 0,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        logprobs: None,
        namespace: None,
        grammar: None,
    };
    let sink = move |event: TokenEvent| match event {
        TokenEvent::Token { .. } => drop(arrived.send(Instant::now())),
        TokenEvent::Failed(cause) => panic!("{cause}"),
        TokenEvent::Prefilled(_) | TokenEvent::Retracted | TokenEvent::Finished(_) => {}
    };
    (engine.submit(request, Box::new(sink)).expect("an idle engine"), arrivals)
}
