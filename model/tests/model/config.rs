//! `config.json`: the official ones are understood, wrong ones name the field, and nothing in one makes
//! us panic, whatever numbers stand there.

use proptest::prelude::*;
use quern_backend::{KvFormat, QuantFormat};
use quern_model::{
    GenerationConfig, ModelConfig,
    config::{ConfigError, RopeConfig, TensorLayout},
};
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
    assert_eq!(small.network().total_params(), 30_532_122_624);
    assert_eq!(small.network().active_params() / 10_000_000, 304, "3.04 B, the head among them");
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
    assert_eq!(large.network().total_params() / 10_000_000, 48_015, "480.15 B");
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
    assert_eq!(config.network().total_params(), u64::MAX);
    assert_eq!(config.kv_bytes_per_token(KvFormat::F32), u64::MAX);
}

/// The positions of a config with these fields, under these overrides.
fn rope(fields: Value, overrides: Value) -> Result<RopeConfig, String> {
    let mut config = coder_30b();
    for name in ["rope_theta", "rope_scaling"] {
        config.as_object_mut().unwrap().remove(name);
    }
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let config = ModelConfig::overridden(config.as_object().unwrap().clone(), overrides.as_object().unwrap());
    config.map(|config| config.rope).map_err(|error| error.to_string())
}

#[test]
fn positions_are_the_same_in_every_spelling_and_place() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144});
    let older = json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 262_144});
    let with_theta = |theta: f64, object: &Value| {
        let mut object = object.clone();
        object["rope_theta"] = theta.into();
        object
    };
    let wanted = rope(json!({"rope_theta": 1e7, "rope_scaling": yarn}), json!({})).unwrap();
    assert!(wanted.theta == 1e7 && wanted.yarn.as_ref().is_some_and(|yarn| yarn.factor == 4.0));
    let newer = json!({"rope_parameters": {"rope_theta": 1e7, "rope_type": "default"}});
    let plain = json!({"rope_theta": 1e7, "rope_scaling": null});
    for (file, overrides) in [
        (json!({"rope_theta": 1e7, "rope_scaling": older}), json!({})),
        (json!({"rope_parameters": with_theta(1e7, &yarn)}), json!({})),
        (json!({"rope_theta": 1e7, "rope_scaling": older, "rope_parameters": with_theta(1e7, &yarn)}), json!({})),
        // What guides print, over files of either age; the base of the frequencies stays.
        (newer.clone(), json!({"rope_scaling": yarn})),
        (newer.clone(), json!({"rope_parameters": yarn})),
        (plain.clone(), json!({"rope_scaling": older})),
        (plain.clone(), json!({"rope_parameters": yarn})),
        (json!({"rope_parameters": with_theta(5e6, &yarn)}), json!({"rope_theta": 1e7})),
        (json!({"rope_theta": 5e6, "rope_scaling": yarn}), json!({"rope_parameters": {"rope_theta": 1e7}})),
        (json!({"rope_theta": 1e7, "rope_scaling": {"type": "yarn", "factor": 2.0}}), json!({"rope_scaling": yarn})),
    ] {
        assert_eq!(rope(file.clone(), overrides.clone()).as_ref(), Ok(&wanted), "{file} {overrides}");
    }
    let unstretched = rope(plain, json!({})).unwrap();
    assert_eq!(rope(newer, json!({})).as_ref(), Ok(&unstretched));
    for nothing in [json!({"rope_scaling": null}), json!({"rope_parameters": null})] {
        let file = json!({"rope_theta": 1e7, "rope_scaling": yarn});
        assert_eq!(rope(file, nothing).as_ref(), Ok(&unstretched), "null takes it away");
    }
    assert!(wanted.to_string().contains("stretched 4 times") && unstretched.to_string().contains("theta 10000000"));
}

#[test]
fn positions_that_contradict_one_another_or_have_no_kind_are_refused() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    for (file, parts) in [
        (
            json!({"rope_scaling": yarn, "rope_parameters": {"rope_type": "default", "rope_theta": 1e7}}),
            ["rope_scaling", "rope_parameters"],
        ),
        (
            json!({"rope_scaling": yarn, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}),
            ["rope_parameters.factor", "4.0"],
        ),
        (json!({"rope_scaling": yarn, "rope_parameters": {"rope_theta": 1e7}}), ["rope_scaling", "rope_parameters"]),
        (json!({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e7}}), ["rope_theta", "1000000"]),
        (
            json!({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}}),
            ["rope_scaling.rope_type", "linear"],
        ),
        (json!({"rope_scaling": {"factor": 4.0}}), ["rope_scaling", "yarn"]),
        (json!({"rope_parameters": {"rope_theta": 1e7, "original_max_position_embeddings": 4096}}), ["type", "yarn"]),
        (
            json!({"rope_parameters": {"rope_theta": 1e7, "partial_rotary_factor": 0.25}}),
            ["partial_rotary_factor", "0.25"],
        ),
        (json!({"rope_scaling": [1]}), ["rope_scaling", "object"]),
    ] {
        let error = rope(file.clone(), json!({})).expect_err(&file.to_string());
        assert!(parts.iter().all(|part| error.contains(part)) && error.lines().count() == 1, "{file}: {error}");
    }
    let error = rope(json!({"rope_theta": 1e7}), json!({"rope_scaling": {"factor": 4.0}})).unwrap_err();
    assert!(error.contains("type"), "{error}");
}

#[test]
fn overrides_are_merged_into_objects() {
    let mut config = coder_30b();
    config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [64, 64]});
    let overridden =
        |overrides: Value| ModelConfig::overridden(config.as_object().unwrap().clone(), overrides.as_object().unwrap());
    assert!(overridden(json!({})).is_err());
    assert!(overridden(json!({"quantization_config": {"weight_block_size": [128, 128]}})).unwrap().is_fp8());
    assert!(!overridden(json!({"quantization_config": null})).unwrap().is_fp8());
    assert_eq!(overridden(json!({"quantization_config": null, "vocab_size": 7})).unwrap().vocab_size, 7);
}

#[test]
fn quantised_checkpoints_of_others_are_named_with_what_works() {
    for (quantization, parts) in [
        (json!({"quant_method": "awq", "bits": 3}), ["awq", "3 bits"]),
        (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), ["awq", "gemv"]),
        (json!({"quant_method": "awq", "bits": 4, "zero_point": false}), ["awq", "zero_point"]),
        (json!({"quant_method": "gptq", "bits": 5}), ["gptq", "5 bits"]),
        (json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), ["gptq", "marlin"]),
        (json!({"quant_method": "auto-round", "bits": 6}), ["auto-round", "6 bits"]),
        (json!({"quant_method": "auto-round", "bits": 4, "data_type": "nv_fp"}), ["auto-round", "4 bits"]),
        (json!({"quant_method": "bitsandbytes"}), ["bitsandbytes", "load_in_8bit"]),
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "af4"}),
            ["bitsandbytes, af4", "bnb_4bit_quant_type"],
        ),
        (json!({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}), ["modelopt", "NVFP4_AWQ"]),
        (json!({"quant_method": "mxfp4"}), ["mxfp4", "quant_method"]),
        (json!({"quant_method": "fp8", "weight_block_size": [64, 64]}), ["FP8", "weight_block_size"]),
        (json!({"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e5m2"}), ["FP8", "e5m2"]),
        (json!({"group_size": 64, "bits": 7}), ["7-bit MLX", "quant_method"]),
        (json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}), ["4-bit MLX", "nvfp4"]),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
            "weights": {"num_bits": 3, "type": "int", "strategy": "group"}}}}),
            ["pack-quantized", "int of 3 bits"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
            "weights": {"num_bits": 6, "type": "int", "strategy": "group", "symmetric": false}}}}),
            ["asymmetric", "int of 6 bits"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 32}}}}),
            ["nvfp4-pack-quantized", "float of 4 bits"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {"group_0": {
            "format": null, "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}}}),
            ["marlin-24", "int of 4 bits"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}},
            "transform_config": {"config_groups": {"u": {"type": "hadamard", "apply": [{"location": "weight_output"}]}}}}),
            ["behind transforms (u)", "transform_config"],
        ),
        (json!({"quant_method": "compressed-tensors", "config_groups": {}}), ["compressed-tensors", "quant_method"]),
    ] {
        let error = parse(&with("quantization_config", quantization.clone())).expect_err("refused").to_string();
        for part in parts.iter().chain(&["FP8", "GGUF", "--quantization q4_k_m"]) {
            assert!(error.contains(part), "{quantization}: {part}: {error}");
        }
    }
    let error = parse(&with("quantization", json!({"group_size": 64, "bits": 7}))).unwrap_err().to_string();
    assert!(error.contains("7-bit MLX") && error.contains("`quantization`"), "{error}");
}

#[test]
fn what_is_announced_of_quantised_weights_is_known() {
    let read = |quantization: Value| {
        let config = parse(&with("quantization_config", quantization.clone()));
        config.unwrap_or_else(|error| panic!("{quantization}: {error}")).quantization.unwrap()
    };
    let weights = |bits: u64, kind: &str, strategy: &str, more: Value| {
        let mut weights = json!({"num_bits": bits, "type": kind, "strategy": strategy});
        weights.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"weights": weights})
    };
    let compressed = |format: &str, group: &Value| json!({"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}});
    let gptq = |symmetric, zero_offset| TensorLayout::Gptq { symmetric, zero_offset };
    for (quantization, layout, format) in [
        (json!({"quant_method": "fp8", "activation_scheme": "static"}), TensorLayout::Fp8, QuantFormat::Fp8Block128),
        (json!({"quant_method": "fbgemm_fp8"}), TensorLayout::Fp8, QuantFormat::Fp8Block128),
        (json!({"quant_method": "modelopt", "quant_algo": "FP8"}), TensorLayout::Fp8, QuantFormat::Fp8Block128),
        (json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), TensorLayout::ModelOpt, QuantFormat::Nvfp4),
        (
            json!({"quant_method": "bitsandbytes", "_load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
            TensorLayout::Bitsandbytes,
            QuantFormat::BF16,
        ),
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}),
            TensorLayout::Bitsandbytes,
            QuantFormat::BF16,
        ),
        (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), TensorLayout::Bitsandbytes, QuantFormat::BF16),
        (
            compressed("nvfp4-pack-quantized", &weights(4, "float", "tensor_group", json!({"group_size": 16}))),
            TensorLayout::CompressedTensors,
            QuantFormat::Nvfp4,
        ),
        (
            compressed("float-quantized", &weights(8, "float", "tensor", json!({}))),
            TensorLayout::CompressedTensors,
            QuantFormat::Fp8Block128,
        ),
        (
            compressed("pack-quantized", &weights(4, "int", "channel", json!({"group_size": null}))),
            TensorLayout::CompressedTensors,
            QuantFormat::Q4_0,
        ),
        (
            compressed("pack-quantized", &weights(4, "int", "group", json!({"group_size": 128, "symmetric": false}))),
            TensorLayout::CompressedTensors,
            QuantFormat::Q5_0,
        ),
        (
            compressed("int-quantized", &weights(8, "int", "channel", json!({}))),
            TensorLayout::CompressedTensors,
            QuantFormat::Q8_0,
        ),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}),
            TensorLayout::Awq,
            QuantFormat::Q5_0,
        ),
        (json!({"quant_method": "gptq", "bits": 4, "sym": true}), gptq(true, 1), QuantFormat::Q4_0),
        (
            json!({"quant_method": "gptq", "bits": 4, "sym": false, "checkpoint_format": "gptq_v2"}),
            gptq(false, 0),
            QuantFormat::Q5_0,
        ),
        (json!({"quant_method": "gptq", "bits": 8}), gptq(true, 1), QuantFormat::Q8_0),
        (json!({"quant_method": "gptq", "bits": 8, "sym": false}), gptq(false, 1), QuantFormat::BF16),
        (json!({"quant_method": "gptq", "bits": 3, "sym": false}), gptq(false, 1), QuantFormat::Q4_0),
        (json!({"quant_method": "gptq", "bits": 2}), gptq(true, 1), QuantFormat::Q4_0),
        // Columns of several groups share no block: where groups were made first, or there is one, none do.
        (
            json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}),
            gptq(true, 1),
            QuantFormat::BF16,
        ),
        (
            json!({"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": true}),
            gptq(true, 1),
            QuantFormat::Q4_0,
        ),
        (
            json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true, "static_groups": true}),
            gptq(true, 1),
            QuantFormat::Q4_0,
        ),
        (
            compressed("pack-quantized", &weights(4, "int", "group", json!({"group_size": 128, "actorder": "group"}))),
            TensorLayout::CompressedTensors,
            QuantFormat::BF16,
        ),
        (
            compressed("pack-quantized", &weights(8, "int", "group", json!({"group_size": 128, "symmetric": false}))),
            TensorLayout::CompressedTensors,
            QuantFormat::BF16,
        ),
        (
            json!({"quant_method": "auto-round", "bits": 4, "sym": false, "packing_format": "auto_round"}),
            gptq(false, 0),
            QuantFormat::Q5_0,
        ),
        (
            json!({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_awq"}),
            TensorLayout::Awq,
            QuantFormat::Q5_0,
        ),
        (json!({"group_size": 64, "bits": 4}), TensorLayout::Mlx, QuantFormat::Q4_1),
        (json!({"group_size": 128, "bits": 3}), TensorLayout::Mlx, QuantFormat::Q4_1),
        (json!({"group_size": 64, "bits": 5}), TensorLayout::Mlx, QuantFormat::Q5_1),
        (json!({"group_size": 64, "bits": 6}), TensorLayout::Mlx, QuantFormat::BF16),
        (json!({"group_size": 32, "bits": 8}), TensorLayout::Mlx, QuantFormat::BF16),
        (json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}), TensorLayout::Mlx, QuantFormat::Mxfp4),
    ] {
        let read = read(quantization.clone());
        assert_eq!((read.layout, read.format), (layout, format), "{quantization}");
    }
    let mixed = json!({"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": {
        "group_0": {"format": "pack-quantized", "weights": {"num_bits": 4, "type": "int", "group_size": 32}},
        "group_1": {"format": "float-quantized", "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}},
    }});
    let mixed = read(mixed);
    assert_eq!((mixed.groups, mixed.has_row_scales), (vec![Some(32), None], true));
    let first_names = json!({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"});
    assert_eq!(read(first_names).groups, [Some(64)]);
    for nothing in [Value::Null, json!({}), json!({"config_groups": {}})] {
        let mut plain = compressed("pack-quantized", &weights(4, "int", "group", json!({"group_size": 32})));
        plain["transform_config"] = nothing;
        assert_eq!(read(plain).format, QuantFormat::Q4_0);
    }
    let mut nothing_of_its_own = weights(4, "float", "group", json!({"group_size": 32}));
    nothing_of_its_own["format"] = Value::Null;
    assert_eq!(read(compressed("mxfp4-pack-quantized", &nothing_of_its_own)).format, QuantFormat::Mxfp4);
    let modelopt = |algorithm: &str| json!({"quant_method": "modelopt", "quant_algo": algorithm});
    for (quantization, has_row_scales) in [
        (json!({"quant_method": "fbgemm_fp8"}), true),
        (modelopt("FP8_PER_CHANNEL_PER_TOKEN"), true),
        (modelopt("FP8"), false),
        (modelopt("FP8_PB_WO"), false),
        (compressed("float-quantized", &weights(8, "float", "channel", json!({}))), true),
        (compressed("float-quantized", &weights(8, "float", "tensor", json!({}))), false),
        (compressed("int-quantized", &weights(8, "int", "channel", json!({}))), false),
        (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), false),
    ] {
        assert_eq!(read(quantization.clone()).has_row_scales, has_row_scales, "{quantization}");
    }
}

#[test]
fn what_modelopt_says_in_a_file_of_its_own_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("config.json", &coder_30b());
    write("hf_quant_config.json", &json!({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}));
    assert!(ModelConfig::open(dir.path(), None).unwrap().is_fp8());
    let off = json!({"quantization_config": null});
    assert!(!ModelConfig::open(dir.path(), off.as_object()).unwrap().is_fp8());
    write("hf_quant_config.json", &json!({"quantization": {"quant_algo": "NVFP4", "group_size": 16}}));
    let nvfp4 = ModelConfig::open(dir.path(), None).unwrap().quantization.unwrap();
    assert_eq!((nvfp4.layout, nvfp4.format), (TensorLayout::ModelOpt, QuantFormat::Nvfp4));
    write("hf_quant_config.json", &json!({"quantization": {"quant_algo": "NVFP4_AWQ"}}));
    let error = ModelConfig::open(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("NVFP4_AWQ") && error.contains("--quantization"), "{error}");
}

#[test]
fn what_pythons_json_adds_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        ModelConfig::open(dir.path(), None).map_err(|error| error.to_string())
    };
    let text = coder_30b().to_string();
    let plain = read(&text).unwrap();
    assert_eq!(read(&format!("\u{feff}{text}")).as_ref(), Ok(&plain));
    let more = format!("{{\"a\": NaN, \"b\": [-Infinity, Infinity], \"c\": \"NaN \\\" Infinity\", {}", &text[1..]);
    assert_eq!(read(&more).as_ref(), Ok(&plain));
    let error = read(&text.replace("1e-6", "NaN")).unwrap_err();
    assert!(error.contains("rms_norm_eps") && error.contains("NaN"), "{error}");
    assert!(read(&text.replace("262144", "262144.0")).unwrap() == plain);
    assert!(
        read(&text.replace("[\"Qwen3MoeForCausalLM\"]", "[\"MyModel\", \"Qwen3MoeForCausalLM\"]")).unwrap() == plain
    );
    let error = read(&text.replace("[\"Qwen3MoeForCausalLM\"]", "[\"Qwen3ForCausalLM\", \"Qwen3MoeForCausalLM\"]"));
    assert!(error.unwrap_err().contains("architectures"));
    assert!(read(&text.replace("\"bfloat16\"", "\"auto\"")).unwrap() == plain);
    assert!(read("{\"a\": nan}").is_err());
}

#[test]
fn no_limit_of_candidates_has_three_spellings() {
    let read = |value: Value| GenerationConfig::from_json(json!({"top_k": value, "top_p": 0.5}).as_object().unwrap());
    for off in [json!(-1), json!(0), Value::Null] {
        assert_eq!(read(off).unwrap().top_k, None);
    }
    assert_eq!(read(json!(20)).unwrap().top_k, Some(20));
    for wrong in [json!(-2), json!("20")] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.starts_with("generation_config.json: `top_k`"), "{error}");
    }
    let eos = GenerationConfig::from_json(json!({"eos_token_id": "x"}).as_object().unwrap()).unwrap_err().to_string();
    assert!(eos.starts_with("generation_config.json: `eos_token_id`"), "{eos}");
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
            let network = config.network();
            let _ = (network.total_params(), network.active_params(), network.balanced_context());
            let _ = config.kv_bytes_per_token(KvFormat::F32);
        }
    }
}
