//! `config.json`: the official ones are understood, wrong ones name the field, and nothing in one makes
//! us panic, whatever numbers stand there.

use proptest::prelude::*;
use quern_backend::KvFormat;
use quern_model::{ModelConfig, config::ConfigError};
use serde_json::{Map, Value, json};

/// Qwen3-Coder-30B-A3B-Instruct's numbers.
fn coder_30b() -> Value {
    json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151_936,
        "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "intermediate_size": 5472, "moe_intermediate_size": 768, "num_experts": 128,
        "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10_000_000, "rope_scaling": null,
        "max_position_embeddings": 262_144, "tie_word_embeddings": false, "attention_bias": false,
        "use_sliding_window": false, "eos_token_id": 151_645, "torch_dtype": "bfloat16",
    })
}

fn parse(config: &Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_json(config.as_object().expect("an object"))
}

fn with(field: &str, value: Value) -> Value {
    let mut config = coder_30b();
    config[field] = value;
    config
}

#[test]
fn derived_numbers_are_the_published_ones() {
    let small = parse(&coder_30b()).unwrap();
    assert_eq!(small.total_params(), 30_532_122_624);
    assert_eq!(small.active_params() / 10_000_000, 304, "3.04 B, the head among them");
    assert_eq!(small.kv_bytes_per_token(KvFormat::BF16), 98_304);
    assert_eq!((small.heads.q_dim(), small.heads.kv_dim()), (4096, 512));

    let mut large = coder_30b();
    for (field, value) in [
        ("hidden_size", 6144),
        ("num_hidden_layers", 62),
        ("num_attention_heads", 96),
        ("num_key_value_heads", 8),
        ("intermediate_size", 8192),
        ("moe_intermediate_size", 2560),
        ("num_experts", 160),
    ] {
        large[field] = value.into();
    }
    let large = parse(&large).unwrap();
    assert_eq!(large.total_params() / 10_000_000, 48_015, "480.15 B");
    assert_eq!(large.kv_bytes_per_token(KvFormat::BF16), 253_952);
}

#[test]
fn wrong_fields_are_named_with_what_they_hold() {
    for (field, value) in [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("architectures", json!([])),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(2048.5)),
        ("hidden_size", json!("2048")),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", Value::Null),
        ("num_hidden_layers", json!(1_000_000)),
        ("head_dim", json!(127)),
        ("num_key_value_heads", json!(5)),
        ("num_experts", json!(3000)),
        ("num_experts_per_tok", json!(129)),
        ("num_experts_per_tok", json!(0)),
        ("decoder_sparse_step", json!(0)),
        ("mlp_only_layers", json!(3)),
        ("mlp_only_layers", json!([-1])),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!("x")),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 4.0})),
        ("rms_norm_eps", json!(-1e-6)),
        ("eos_token_id", json!("<|im_end|>")),
        ("eos_token_id", json!([1, -2])),
        ("torch_dtype", json!("int8")),
        ("tie_word_embeddings", json!("no")),
        ("quantization_config", json!({"quant_method": "awq"})),
        ("quantization_config", json!({"quant_method": "fp8", "weight_block_size": [64, 64]})),
        ("quantization_config", json!(7)),
    ] {
        let error = parse(&with(field, value.clone())).expect_err(&format!("{field} = {value}")).to_string();
        let named = [field, "weight_block_size", "quant_method", "rope_type"].iter().any(|name| error.contains(name));
        assert!(named && error.lines().count() == 1, "{field} = {value}: {error}");
    }
}

#[test]
fn older_and_newer_spellings_mean_the_same() {
    let plain = parse(&coder_30b()).unwrap();
    let mut newer = coder_30b();
    newer["dtype"] = newer["torch_dtype"].take();
    newer["unknown_field"] = json!({"x": 1});
    assert_eq!(parse(&newer).unwrap(), plain);
    let several = parse(&with("eos_token_id", json!([151_645, 151_643]))).unwrap();
    assert_eq!(several.eos_token_ids, [151_645, 151_643]);
}

#[test]
fn sizes_beyond_any_memory_are_counted_as_such() {
    let mut config = coder_30b();
    for field in ["vocab_size", "hidden_size", "moe_intermediate_size", "num_attention_heads", "head_dim"] {
        config[field] = (1u64 << 28).into();
    }
    config["num_hidden_layers"] = 1024.into();
    config["num_experts"] = 2048.into();
    config["num_key_value_heads"] = (1u64 << 28).into();
    let config = parse(&config).unwrap();
    assert_eq!(config.total_params(), u64::MAX);
    assert_eq!(config.kv_bytes_per_token(KvFormat::F32), u64::MAX);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..40u64).prop_map(|bits| Value::from(1u64 << bits)),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,8}".prop_map(Value::from),
        Just(json!([])),
        Just(json!([0, 1, 2])),
        Just(json!({"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 1})),
        Just(json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_numbers_make_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..6)) {
        let mut config: Map<String, Value> = coder_30b().as_object().cloned().unwrap();
        let names: Vec<String> = config.keys().cloned().chain(["quantization_config".into()]).collect();
        for (index, value) in changes {
            config.insert(index.get(&names).clone(), value);
        }
        if let Ok(config) = ModelConfig::from_json(&config) {
            let _ = (config.total_params(), config.active_params(), config.kv_bytes_per_token(KvFormat::F32));
        }
    }
}
