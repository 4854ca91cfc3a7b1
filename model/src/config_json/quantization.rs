//! `quantization_config`: the one encoding of quantised safetensors that is served, FP8 in blocks of 128 × 128.

use serde_json::{Map, Value, json};

use crate::{
    config::{ConfigError, Fields},
    foreign::Foreign,
};

/// Whether the weights are in FP8, and the modules that are not.
pub(super) fn read(fields: &Fields<'_>) -> Result<(bool, Vec<String>), ConfigError> {
    let Some(quantization) = fields.object("quantization_config")? else {
        // MLX's own name for it, beside which it writes the usual one only lately.
        return match fields.object("quantization")? {
            Some(mlx) => {
                let bits =
                    mlx.get("bits").and_then(Value::as_u64).map_or_else(String::new, |bits| format!("{bits}-bit "));
                Err(Foreign::encoding(format!("{bits}MLX"), "`quantization` in config.json").into())
            }
            None => Ok((false, Vec::new())),
        };
    };
    let named = |field: &str| quantization.get(field).and_then(Value::as_str);
    let of = |what: &str, seen: String| Err(Foreign::encoding(what, seen).into());
    match named("quant_method") {
        Some("fp8") => {
            if let Some(format) = named("fmt").filter(|format| *format != "e4m3") {
                return of("FP8 of another kind", format!("quantization_config.fmt = {format}; e4m3 is supported"));
            }
            match quantization.get("weight_block_size") {
                Some(size) if *size == json!([128, 128]) => {}
                None | Some(Value::Null) => {
                    let seen = "quantization_config.weight_block_size is absent; [128, 128] is supported";
                    return of("FP8 with one scale a tensor or row", seen.into());
                }
                Some(size) => {
                    let seen = format!("quantization_config.weight_block_size = {size}; [128, 128] is supported");
                    return of("FP8 in other blocks", seen);
                }
            }
        }
        Some("compressed-tensors") if is_fp8_in_blocks(quantization) => {}
        _ => return Err(Foreign::method(quantization).into()),
    }
    let modules = match quantization.get("modules_to_not_convert") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        _ => Vec::new(),
    };
    Ok((true, modules))
}

/// Whether compressed-tensors names FP8 as Qwen's own checkpoints have it: only the names of the scales differ.
fn is_fp8_in_blocks(quantization: &Map<String, Value>) -> bool {
    let fits = |group: &Value| {
        let is = |field: &str, value: Value| group.pointer(&format!("/weights/{field}")) == Some(&value);
        is("type", json!("float"))
            && is("num_bits", json!(8))
            && is("strategy", json!("block"))
            && is("block_structure", json!([128, 128]))
            && !is("symmetric", json!(false))
            && !is("dynamic", json!(true))
    };
    let groups = quantization.get("config_groups").and_then(Value::as_object);
    let format = quantization.get("format").and_then(Value::as_str);
    matches!(format, None | Some("float-quantized" | "naive-quantized"))
        && groups.is_some_and(|groups| !groups.is_empty() && groups.values().all(fits))
}
