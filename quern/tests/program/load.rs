//! SGLang's own benchmark client, by its requests: three endpoints, 1, 16 and 64 at once, on the real
//! kernels. No errors, exact counts, and every answer is what it would have been alone.

use std::sync::Arc;

use crate::support::{BYTE_MODEL, Server, Setup, config, service, small_engine};
use futures_util::{StreamExt, stream};
use quern::{config::LoadFormat, model_files::ModelFiles};
use quern_backend::{KvFormat, Precision};
use quern_cpu::{CpuBackend, CpuConfig};
use quern_engine::EngineConfig;
use quern_model::StepLimits;
use serde_json::{Map, Value, json};

fn setup() -> Setup {
    Setup {
        api: config(),
        engine: EngineConfig { page_size: 32, num_pages: 1024, chunk_tokens: 128, ..small_engine() },
    }
}

/// Random weights in a small shape, on this CPU.
async fn server() -> Server {
    let setup = setup();
    let files = ModelFiles::Directory(BYTE_MODEL.into());
    let checkpoint = files.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap();
    let backend = CpuBackend::new(CpuConfig { threads: Some(2), isa: None, precision: Precision::Bf16 }).unwrap();
    let limits = StepLimits {
        max_tokens: setup.engine.step_tokens(),
        max_logit_rows: 64,
        page_size: setup.engine.page_size,
        num_pages: setup.engine.num_pages,
        kv_format: KvFormat::BF16,
    };
    let model = quern_model::load(&checkpoint, Arc::new(backend), limits, &mut |_| {}).unwrap();
    Server::over(service(setup, model)).await
}

/// Request `i` of a benchmark run, as `sglang.bench_serving` sends it to this endpoint.
fn request(path: &str, i: usize) -> (Value, usize) {
    let prompt = format!("{} request {i} ", "some text that repeats ".repeat(1 + i % 7));
    let tokens = 1 + (i * 37) % 60;
    let body = match path {
        "/generate" => json!({
            "text": prompt,
            "sampling_params": {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": true},
            "stream": true, "lora_path": null, "return_logprob": false, "return_routed_experts": false,
            "logprob_start_len": -1,
        }),
        "/v1/completions" => json!({
            "model": "m", "prompt": prompt, "best_of": 1, "max_tokens": tokens, "stream": true, "temperature": 0.0,
            "ignore_eos": true, "stream_options": {"include_usage": true},
        }),
        _ => json!({
            "model": "m", "messages": [{"role": "user", "content": prompt}], "max_completion_tokens": tokens,
            "stream": true, "temperature": 0.0, "ignore_eos": true, "stream_options": {"include_usage": true},
        }),
    };
    (body, tokens)
}

/// Text and counted tokens of an answer, as the benchmark reads them.
async fn answer(server: &Server, path: &str, i: usize) -> String {
    let (body, tokens) = request(path, i);
    let frames = server.frames(path, body).await;
    let (text, counted) = match path {
        "/generate" => {
            let last = frames.last().unwrap();
            (last["text"].as_str().unwrap().to_owned(), last["meta_info"]["completion_tokens"].clone())
        }
        _ => {
            let choices = || frames.iter().filter_map(|frame| frame["choices"].get(0));
            let piece =
                |choice: &Value| choice["text"].as_str().or(choice["delta"]["content"].as_str()).map(str::to_owned);
            let usage = frames.iter().rev().find(|frame| frame["usage"].is_object()).unwrap();
            (choices().filter_map(piece).collect(), usage["usage"]["completion_tokens"].clone())
        }
    };
    assert_eq!(counted, tokens, "{path} {i}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn benchmark_runs_complete_exactly_and_every_answer_is_its_solitary_one() {
    let server = server().await;
    for path in ["/generate", "/v1/completions", "/v1/chat/completions"] {
        let mut alone = Vec::new();
        for i in 0..64 {
            alone.push(answer(&server, path, i).await);
        }
        for concurrency in [1, 16, 64] {
            server.get("/flush_cache").await;
            let (server, alone) = (&server, &alone);
            let run = stream::iter(0..64).map(|i| async move { (i, answer(server, path, i).await) });
            let answers: Vec<_> = run.buffer_unordered(concurrency).collect().await;
            for (i, text) in answers {
                assert_eq!(text, alone[i], "{path}, request {i} among {concurrency}");
            }
        }
    }
    server.is_clean().await;
}
