//! Numbers by a table or with exponents: MXFP4, NVFP4, and what bitsandbytes keeps; what their scales and states cannot be.

use half::bf16;
use serde_json::{Value, json};

use crate::packed_checkpoint::{ROWS, checkpoint, query, refusal};

#[test]
fn exponents_that_are_no_numbers_are_named() {
    let quantization = json!({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}}}});
    let with = |exponent: u8| {
        let codes = ("U8", vec![ROWS, 32], vec![0x21; ROWS * 32]);
        let exponents = ("U8", vec![ROWS, 2], vec![exponent; ROWS * 2]);
        checkpoint(64, &quantization, vec![("weight_packed", codes), ("weight_scale", exponents)]).unwrap()
    };
    // 0.5 and 1 in turns, the first in the low bits.
    for exponent in [0u8, 1, 2, 127, 254] {
        let scale = 2f64.powi(i32::from(exponent) - 127);
        let wanted: Vec<f32> = (0..ROWS * 64).map(|i| ([0.5, 1.0][i % 2] * scale) as f32).collect();
        assert_eq!(query(&with(exponent)).unwrap(), wanted, "{exponent}");
    }
    let error = refusal(query(&with(255)));
    assert!(error.contains("q_proj.weight_scale"), "{error}");
}

#[test]
fn scales_and_factors_of_nvfp4_that_mean_nothing_are_named() {
    let modelopt = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
    let compressed = json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}}});
    let with = |quantization: &Value, scale: u8, factor: f32| {
        let names = match quantization["quant_method"] == "modelopt" {
            true => ["weight", "weight_scale", "weight_scale_2"],
            false => ["weight_packed", "weight_scale", "weight_global_scale"],
        };
        let codes = ("U8", vec![ROWS, 32], vec![0x21; ROWS * 32]);
        let scales = ("F8_E4M3", vec![ROWS, 4], vec![scale; ROWS * 4]);
        let factor = ("F32", vec![1], factor.to_le_bytes().to_vec());
        checkpoint(64, quantization, names.into_iter().zip([codes, scales, factor]).collect())
    };
    // 0.5 and 1 in turns, the first in the low bits; 0x38 is 1, 0x01 is 2^-9.
    for (scale, number) in [(0x38, 1.0), (0x01, 0.001_953_125), (0x7e, 448.0), (0, 0.0), (0x80, 0.0)] {
        let wanted: Vec<f32> = (0..ROWS * 64).map(|i| [0.5, 1.0][i % 2] * (number * 0.25)).collect();
        assert_eq!(query(&with(&modelopt, scale, 0.25).unwrap()).unwrap(), wanted, "{scale:#x}");
        assert_eq!(query(&with(&compressed, scale, 4.0).unwrap()).unwrap(), wanted, "{scale:#x}");
    }
    for scale in [0x7f, 0xff, 0xb8] {
        let error = refusal(query(&with(&modelopt, scale, 1.0).unwrap()));
        assert!(error.contains("q_proj.weight_scale"), "{scale:#x}: {error}");
    }
    for factor in [f32::NAN, f32::INFINITY] {
        let error = refusal(with(&modelopt, 0x38, factor));
        assert!(error.contains("q_proj.weight_scale_2"), "{factor}: {error}");
    }
    for factor in [f32::NAN, f32::INFINITY, 0.0] {
        let error = refusal(with(&compressed, 0x38, factor));
        assert!(error.contains("q_proj.weight_global_scale"), "{factor}: {error}");
    }
}

#[test]
fn bytes_of_bitsandbytes_in_another_order_are_refused() {
    let quantization = json!({"quant_method": "bitsandbytes", "load_in_8bit": true});
    let with = |format: u8| {
        let largest = (0..ROWS).flat_map(|row| (row as f32).to_le_bytes()).collect();
        let tensors = vec![
            ("weight", ("I8", vec![ROWS, 64], vec![0xfe; ROWS * 64])),
            ("SCB", ("F32", vec![ROWS], largest)),
            ("weight_format", ("U8", vec![], vec![format])),
        ];
        checkpoint(64, &quantization, tensors)
    };
    let wanted = |i: usize| bf16::from_f32(-2.0 * (i / 64) as f32 * 7.874_016e-3).to_f32();
    assert_eq!(query(&with(0).unwrap()).unwrap(), (0..ROWS * 64).map(wanted).collect::<Vec<_>>());
    let error = refusal(with(2));
    assert!(error.contains("q_proj.weight_format") && error.contains("format 2"), "{error}");
}

#[test]
fn states_of_nf4_that_say_something_else_are_named() {
    let quantization = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    let with = |change: &[(&str, Value)]| {
        let mut state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "nested_blocksize": 256,
            "nested_dtype": "float32", "nested_offset": 0.25});
        for (field, value) in change {
            state[*field] = value.clone();
        }
        let floats = |numbers: Vec<f32>| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            ("F32", vec![numbers.len()], bytes)
        };
        let state = state.to_string().into_bytes();
        let tensors = vec![
            ("weight", ("U8", vec![ROWS * 32, 1], vec![0x12; ROWS * 32])),
            ("weight.quant_map", floats((0..16).map(|i| i as f32).collect())),
            ("weight.absmax", ("U8", vec![ROWS], (0..ROWS as u8).collect())),
            ("weight.nested_quant_map", floats((0..256).map(|i| i as f32 / 256.0).collect())),
            ("weight.nested_absmax", floats(vec![0.5])),
            ("weight.quant_state.bitsandbytes__nf4", ("U8", vec![state.len()], state)),
        ];
        checkpoint(64, &quantization, tensors)
    };
    // The first of two in the high bits.
    let wanted = |i: usize| bf16::from_f32([1.0, 2.0][i % 2] * ((i / 64) as f32 / 512.0 + 0.25)).to_f32();
    assert_eq!(query(&with(&[]).unwrap()).unwrap(), (0..ROWS * 64).map(wanted).collect::<Vec<_>>());
    for (field, value) in [
        ("blocksize", json!(128)),
        ("quant_type", json!("fp4")),
        ("dtype", json!("float16")),
        ("nested_blocksize", json!(128)),
        ("nested_offset", Value::Null),
    ] {
        let error = refusal(with(&[(field, value)]));
        assert!(error.contains("q_proj.weight.quant_state") && error.contains(field), "{error}");
    }
}
