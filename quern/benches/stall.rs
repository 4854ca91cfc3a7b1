//! What a prompt of 100,000 tokens does to streams beside it and to a short request behind it.
//!
//! `cargo bench -p quern --bench stall [-- --tokens N --threads N --unweighed]`. A small network
//! with random weights whose attention weighs against its matrix products as in Qwen3-Coder-30B-A3B
//! (equal at about 8,000 tokens of context). Four streams write; the table holds the times between their
//! tokens without the prompt and while it is read. `--unweighed` shows chunks that do not get shorter
//! with depth.

use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

use quern_backend::{Device, KvFormat};
use quern_cpu::{CpuBackend, CpuConfig};
use quern_engine::{EngineConfig, EngineHandle, GenerateRequest, RequestHandle, TokenEvent, fake};
use quern_model::{Checkpoint, GenerationConfig, ModelConfig, StepLimits};
use serde_json::json;

const PAGE: usize = 32;
const CHUNK: usize = 512;
const STREAMS: usize = 4;
/// Tokens of a stream that are measured without the prompt.
const ALONE: usize = 300;
const SHORT: usize = 200;

fn main() {
    let (mut tokens, mut cpu, mut weighed) = (100_000, CpuConfig::default(), true);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number behind the flag");
        match argument.as_str() {
            "--tokens" => tokens = number(),
            "--threads" => cpu.threads = Some(number()),
            "--unweighed" => weighed = false,
            // What cargo passes.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let backend = CpuBackend::new(cpu).unwrap_or_else(|e| panic!("{e}"));
    println!("{} threads, {}, chunks of {CHUNK}, weighed by depth: {weighed}", backend.threads(), backend.isa());
    let engine = engine(backend, tokens, weighed);

    let streams: Vec<_> = (0..STREAMS).map(|i| submit(&engine, prompt(32, i), usize::MAX)).collect();
    let heard: Vec<&mpsc::Receiver<Instant>> = streams.iter().map(|(_, arrivals)| arrivals).collect();
    let alone = |arrivals: &&mpsc::Receiver<Instant>| arrivals.iter().skip(10).take(ALONE).collect();
    row("streams alone", &heard.iter().map(alone).collect::<Vec<_>>());

    let began = Instant::now();
    let (_long, long_arrived) = submit(&engine, prompt(tokens, 10), 1);
    let (_short, short_arrived) = submit(&engine, prompt(SHORT, 11), 1);
    let first = short_arrived.recv().expect("a first token");
    println!("{SHORT} tokens behind it: first token after {:.2} s", (first - began).as_secs_f64());
    let end = long_arrived.recv().expect("a first token");
    println!("{tokens} tokens read in {:.1} s", (end - began).as_secs_f64());
    let beside =
        |arrivals: &&mpsc::Receiver<Instant>| arrivals.try_iter().filter(|at| (began..end).contains(at)).collect();
    row("streams beside it", &heard.iter().map(beside).collect::<Vec<_>>());
    drop(streams);
    engine.shutdown();
}

fn row(name: &str, arrivals: &[Vec<Instant>]) {
    let gap = |pair: &[Instant]| (pair[1] - pair[0]).as_secs_f64() * 1e3;
    let mut gaps: Vec<f64> = arrivals.iter().flat_map(|times| times.windows(2).map(gap)).collect();
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    let [median, p99, largest] = [0.5, 0.99, 1.0].map(at);
    println!("{name:18} {:6} gaps: median {median:.2} ms, p99 {p99:.2} ms, largest {largest:.2} ms", gaps.len());
}

fn engine(backend: CpuBackend, tokens: usize, weighed: bool) -> EngineHandle {
    let config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 8192,
        "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "intermediate_size": 512, "moe_intermediate_size": 512, "num_experts": 16,
        "num_experts_per_tok": 2, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e7, "max_position_embeddings": 262_144,
        "tie_word_embeddings": true, "attention_bias": false, "eos_token_id": 8191, "torch_dtype": "bfloat16",
    });
    let config = ModelConfig::from_json(config.as_object().expect("an object")).unwrap_or_else(|e| panic!("{e}"));
    let balanced_context = config.network().balanced_context();
    println!("attention weighs as much as the rest at {balanced_context} tokens of context");
    let engine = EngineConfig {
        max_running: 32,
        chunk_tokens: CHUNK,
        max_prefill_tokens: 16_384,
        balanced_context: if weighed { balanced_context } else { usize::MAX },
        prefix_cache: false,
        conservativeness: 0.0,
        decode_log_interval: u64::MAX,
        ..fake::engine_config(PAGE, (tokens + STREAMS * 100_000) / PAGE)
    };
    let limits = StepLimits {
        max_tokens: engine.step_tokens(),
        max_logit_rows: 32,
        page_size: PAGE,
        num_pages: engine.num_pages,
        kv_format: KvFormat::BF16,
    };
    let checkpoint = Checkpoint::dummy(config, GenerationConfig::default());
    let model = quern_model::load(&checkpoint, Arc::new(backend), limits, &mut |_| {}).expect("room for the weights");
    quern_engine::start(model, engine).expect("a thread")
}

/// Tokens that route to all experts.
fn prompt(tokens: usize, seed: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((i * 7919 + seed * 104_729) % 8190) as u32).collect()
}

/// A greedy request, and when each of its tokens came.
fn submit(engine: &EngineHandle, prompt: Vec<u32>, max_new_tokens: usize) -> (RequestHandle, mpsc::Receiver<Instant>) {
    let (arrived, arrivals) = mpsc::channel();
    let request = GenerateRequest::greedy(prompt, max_new_tokens.min(90_000));
    let sink = move |event: TokenEvent| match event {
        TokenEvent::Token { .. } => drop(arrived.send(Instant::now())),
        TokenEvent::Failed(cause) => eprintln!("{cause}"),
        TokenEvent::Prefilled(_) | TokenEvent::Retracted | TokenEvent::Finished(_) => {}
    };
    (engine.submit(request, Box::new(sink)).expect("an idle engine"), arrivals)
}
