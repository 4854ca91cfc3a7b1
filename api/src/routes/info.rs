//! `/model_info`, `/server_info`, `/v1/loads` and their older names: facts about the server.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value, json};

use crate::{metrics::used_tokens, state::AppState};

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/model_info", get(model_info))
        .route("/get_model_info", get(model_info))
        .route("/server_info", get(server_info))
        .route("/get_server_info", get(server_info))
        .route("/v1/loads", get(loads))
        .route("/get_load", get(load))
        .route("/version", get(|| async { Json(json!({ "version": env!("CARGO_PKG_VERSION") })) }))
        .route("/tokenizer_info", get(tokenizer_info))
}

async fn model_info(State(state): State<Arc<AppState>>) -> Json<Value> {
    let (config, model) = (&state.config, &state.model);
    Json(json!({
        "model_path": model.path,
        "served_model_name": config.served_model_name,
        "tokenizer_path": model.tokenizer_path,
        "is_generation": true,
        "preferred_sampling_params": config.preferred_sampling_params,
        "weight_version": config.weight_version,
        "load_format": model.load_format,
        "reasoning_parser": null,
        "tool_call_parser": config.tool_call_parser,
        "disaggregation_mode": "null",
        "has_image_understanding": false,
        "has_audio_understanding": false,
        "model_type": model.model_type,
        "architectures": [model.architecture],
    }))
}

async fn server_info(State(state): State<Arc<AppState>>) -> Json<Value> {
    let mut info = state.settings.clone();
    let engine = state.engine.config();
    let more = json!({
        "max_total_num_tokens": engine.pool_tokens(),
        "max_req_input_len": state.limits.max_req_input_len(),
        "startup_time": state.startup.as_secs_f64(),
        "internal_states": [internal_state(&state)],
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let (Value::Object(info), Value::Object(more)) = (&mut info, more) {
        info.extend(more);
    }
    Json(info)
}

fn internal_state(state: &AppState) -> Value {
    let (snapshot, engine) = (state.engine.metrics().snapshot(), state.engine.config());
    json!({
        "last_gen_throughput": snapshot.gen_throughput,
        "num_running_reqs": snapshot.scheduler.running,
        "num_waiting_reqs": state.engine.num_queued(),
        "num_used_tokens": used_tokens(&state.engine),
        "new_token_ratio": snapshot.scheduler.new_token_ratio,
        "memory_usage": { "token_capacity": engine.pool_tokens() },
        // Without speculation every step yields one token.
        "avg_spec_accept_length": null,
    })
}

async fn loads(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(json!({
        "timestamp": state.clock.since_1970().as_secs_f64(),
        "version": env!("CARGO_PKG_VERSION"),
        "accelerator": state.model.device,
        "num_accelerators": 1,
        "loads": [rank_load(&state)],
    }))
}

async fn load(State(state): State<Arc<AppState>>) -> Json<Value> {
    Json(json!([rank_load(&state)]))
}

fn rank_load(state: &AppState) -> Value {
    let snapshot = state.engine.metrics().snapshot();
    let (running, waiting) = (snapshot.scheduler.running, state.engine.num_queued());
    json!({
        "dp_rank": 0,
        "num_reqs": running + waiting,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_used_tokens": used_tokens(&state.engine),
        "num_tokens": used_tokens(&state.engine) + snapshot.scheduler.pending_tokens,
        "max_total_num_tokens": state.engine.config().pool_tokens(),
        "token_usage": used_tokens(&state.engine) as f64 / state.engine.config().pool_tokens() as f64,
        "gen_throughput": snapshot.gen_throughput,
    })
}

/// vLLM's: what a client needs to write prompts itself.
async fn tokenizer_info(State(state): State<Arc<AppState>>) -> Json<Value> {
    let config = state.tokenizer.config();
    let mut info = json!({
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": null,
        "pad_token": config.eos_token,
        "eos_token": config.eos_token,
        "chat_template": state.template.as_ref().map(|template| template.source()),
        "model_max_length": state.config.context_length,
        "vocab_size": state.tokenizer.vocab_size(),
    });
    for (name, token) in &config.named_tokens {
        info[*name] = token.as_str().into();
    }
    Json(info)
}
