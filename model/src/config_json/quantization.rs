//! `quantization_config`: a [`Quantization`] out of the fields that each program which quantises writes.

use std::path::Path;

use quern_backend::{DType, QuantFormat};
use serde_json::{Map, Value, json};

use crate::{
    config::{ConfigError, Fields, Quantization, TensorLayout},
    foreign::Foreign,
    json_file::read_object,
};

/// What a config says of quantised weights, if it says anything; `dtype` is what it says of others.
pub(super) fn read(fields: &Fields<'_>, dtype: DType) -> Result<Option<Quantization>, ConfigError> {
    let Some(config) = fields.object("quantization_config")? else {
        // MLX's own name for it, beside which it writes the usual one only lately.
        let mlx = fields.object("quantization")?;
        return mlx.map(|mlx| self::mlx(mlx, dtype, "`quantization` in config.json")).transpose();
    };
    let named = |field: &str| config.get(field).and_then(Value::as_str);
    let mut quantization = match named("quant_method") {
        Some("fp8") => fp8(config)?,
        Some("fbgemm_fp8") => {
            Quantization { has_row_scales: true, ..Quantization::of(TensorLayout::Fp8, QuantFormat::Fp8Block128) }
        }
        Some("modelopt") if named("quant_algo").is_some_and(Foreign::modelopt_is_fp8) => Quantization {
            has_row_scales: named("quant_algo").is_some_and(Foreign::modelopt_has_row_scales),
            ..Quantization::of(TensorLayout::Fp8, QuantFormat::Fp8Block128)
        },
        Some("modelopt") if named("quant_algo").is_some_and(Foreign::modelopt_is_nvfp4) => {
            Quantization::of(TensorLayout::ModelOpt, QuantFormat::Nvfp4)
        }
        Some("compressed-tensors") => compressed_tensors(config, dtype)?,
        Some("awq") => awq(config)?,
        Some("gptq") => gptq(config, dtype)?,
        Some("auto-round") => auto_round(config, dtype)?,
        Some("bitsandbytes") => bitsandbytes(config, dtype)?,
        None if config.get("bits").is_some() => mlx(config, dtype, "quantization_config.quant_method is absent")?,
        _ => return Err(Foreign::method(config).into()),
    };
    if let Some(Value::Array(names)) = config.get("modules_to_not_convert") {
        quantization.modules_to_not_convert = names.iter().filter_map(Value::as_str).map(str::to_string).collect();
    }
    Ok(Some(quantization))
}

/// Lay what ModelOpt writes into `hf_quant_config.json` of `dir` under `config`, which may say nothing of it.
pub(super) fn add_modelopt(dir: &Path, config: &mut Map<String, Value>) {
    let says = |field: &str| config.get(field).is_some_and(|value| !value.is_null());
    if says("quantization_config") || says("quantization") {
        return;
    }
    let file = read_object(&dir.join("hf_quant_config.json")).unwrap_or_default();
    if let Some(algorithm) = file.get("quantization").and_then(|quantization| quantization.get("quant_algo")) {
        config.insert("quantization_config".into(), json!({"quant_method": "modelopt", "quant_algo": algorithm}));
    }
}

/// Weights that are not served, by what was seen of them.
fn other(what: impl Into<String>, seen: impl Into<String>) -> ConfigError {
    Foreign::encoding(what, seen).into()
}

fn fp8(config: &Map<String, Value>) -> Result<Quantization, ConfigError> {
    let format = config.get("fmt").and_then(Value::as_str);
    if let Some(format) = format.filter(|format| *format != "e4m3") {
        let seen = format!("quantization_config.fmt = {format}; e4m3 is supported");
        return Err(other("FP8 of another kind", seen));
    }
    match config.get("weight_block_size") {
        // A scale a matrix, or a row.
        None | Some(Value::Null) => {}
        Some(size) if *size == json!([128, 128]) => {}
        Some(size) => {
            let seen = format!("quantization_config.weight_block_size = {size}; [128, 128] is supported");
            return Err(other("FP8 in other blocks", seen));
        }
    }
    Ok(Quantization::of(TensorLayout::Fp8, QuantFormat::Fp8Block128))
}

/// Every group of modules must be of a kind that is served; the first says how most are computed with.
fn compressed_tensors(config: &Map<String, Value>, dtype: DType) -> Result<Quantization, ConfigError> {
    if let Some(transforms) = config.get("transform_config").filter(|transforms| !is_empty(transforms)) {
        let named = transforms.get("config_groups").unwrap_or(transforms).as_object().into_iter().flat_map(Map::keys);
        let named = named.map(String::as_str).collect::<Vec<_>>().join(", ");
        let seen = "quantization_config.transform_config; only weights without transforms are served";
        return Err(other(format!("compressed-tensors behind transforms ({named})"), seen));
    }
    let groups = config.get("config_groups").and_then(Value::as_object).filter(|groups| !groups.is_empty());
    let mut quantization: Option<Quantization> = None;
    for group in groups.into_iter().flat_map(Map::values) {
        let format = group_format(config, group);
        let weights = group.get("weights").and_then(Value::as_object);
        let Some(kind) = weights.and_then(|weights| compressed(weights, format, dtype)) else {
            return Err(Foreign::compressed_tensors(format, group).into());
        };
        let found = quantization.get_or_insert_with(|| Quantization::of(TensorLayout::CompressedTensors, kind));
        found.groups.push(weights.and_then(group_size));
        let order = weights.and_then(|weights| weights.get("actorder"));
        let by_activations = order.is_some_and(|order| {
            *order == json!(true) || order.as_str().is_some_and(|order| ["group", "dynamic"].contains(&order))
        });
        found.act_order |= by_activations;
        if by_activations && weights.and_then(group_size).is_some() {
            found.format = QuantFormat::plain(dtype);
        }
        let strategy = weights.and_then(|weights| weights.get("strategy")).and_then(Value::as_str);
        found.has_row_scales |= kind == QuantFormat::Fp8Block128 && strategy == Some("channel");
    }
    quantization.ok_or_else(|| Foreign::method(config).into())
}

/// Whether a value says nothing: null, or objects and lists of such.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(values) => values.iter().all(is_empty),
        _ => false,
    }
}

/// The `format` of a `group` of modules: its own, or that of all groups, which a null leaves as it is.
fn group_format<'a>(config: &'a Map<String, Value>, group: &'a Value) -> Option<&'a str> {
    let format = |of: Option<&'a Value>| of.filter(|format| !format.is_null());
    format(group.get("format")).or(format(config.get("format"))).and_then(Value::as_str)
}

/// The encoding that matrices of a group of compressed-tensors are computed with, if it is one that is served.
fn compressed(weights: &Map<String, Value>, format: Option<&str>, dtype: DType) -> Option<QuantFormat> {
    let text = |field: &str| weights.get(field).and_then(Value::as_str);
    let is = |field: &str, value: Value| weights.get(field) == Some(&value);
    let symmetric = !is("symmetric", json!(false));
    if is("dynamic", json!(true)) {
        return None;
    }
    let strategy = text("strategy").or_else(|| group_size(weights).map(|_| "group"));
    let packed = |of: &str| matches!(format, None | Some("mixed-precision")) || format == Some(of);
    match (text("type")?, weights.get("num_bits")?.as_u64()?, strategy) {
        ("float", 8, Some("tensor" | "channel")) if symmetric => {
            matches!(format, None | Some("float-quantized" | "naive-quantized" | "mixed-precision"))
                .then_some(QuantFormat::Fp8Block128)
        }
        ("float", 8, Some("block")) if symmetric && is("block_structure", json!([128, 128])) => {
            matches!(format, None | Some("float-quantized" | "naive-quantized" | "mixed-precision"))
                .then_some(QuantFormat::Fp8Block128)
        }
        ("float", 4, Some("group")) if symmetric && format == Some("mxfp4-pack-quantized") => Some(QuantFormat::Mxfp4),
        ("float", 4, Some("tensor_group")) if symmetric && format == Some("nvfp4-pack-quantized") => {
            (group_size(weights) == Some(16)).then_some(QuantFormat::Nvfp4)
        }
        ("int", 4, Some("group" | "channel" | "tensor")) if packed("pack-quantized") => {
            Some(if symmetric { QuantFormat::Q4_0 } else { QuantFormat::Q5_0 })
        }
        ("int", 8, Some("group" | "channel" | "tensor")) if packed("pack-quantized") || packed("int-quantized") => {
            // Numbers of 9 bits, which no blocks hold.
            Some(if symmetric { QuantFormat::Q8_0 } else { QuantFormat::plain(dtype) })
        }
        _ => None,
    }
}

fn awq(config: &Map<String, Value>) -> Result<Quantization, ConfigError> {
    let version = config.get("version").and_then(Value::as_str).unwrap_or("gemm").to_ascii_lowercase();
    let bits = either(config, ["bits", "w_bit"]).and_then(Value::as_u64);
    let has_zeros = config.get("zero_point").and_then(Value::as_bool) != Some(false);
    if bits != Some(4) || version != "gemm" || !has_zeros {
        let bits = bits.map_or_else(|| "?".to_owned(), |bits| bits.to_string());
        let what = format!("awq, {bits} bits, version {version}, zero_point {has_zeros}");
        return Err(other(what, "quantization_config; of awq, 4 bits in version gemm with zero points are served"));
    }
    Ok(Quantization { groups: group_sizes(config), ..Quantization::of(TensorLayout::Awq, QuantFormat::Q5_0) })
}

fn gptq(config: &Map<String, Value>, dtype: DType) -> Result<Quantization, ConfigError> {
    let format = config.get("checkpoint_format").and_then(Value::as_str).unwrap_or("gptq");
    let marlin = config.get("is_marlin_format") == Some(&json!(true));
    let zero_offset = match format {
        "gptq" if !marlin => 1,
        "gptq_v2" => 0,
        _ => {
            let format = if marlin { "marlin" } else { format };
            let seen = "quantization_config.checkpoint_format; gptq and gptq_v2 are served";
            return Err(other(format!("gptq in the layout {format}"), seen));
        }
    };
    gptq_layout(config, "gptq", zero_offset, dtype)
}

fn gptq_layout(
    config: &Map<String, Value>,
    method: &str,
    zero_offset: u8,
    dtype: DType,
) -> Result<Quantization, ConfigError> {
    let symmetric = config.get("sym").and_then(Value::as_bool).unwrap_or(true);
    let bits = config.get("bits").and_then(Value::as_u64);
    let format = match (bits, symmetric) {
        (Some(2..=4), true) | (Some(2 | 3), false) => QuantFormat::Q4_0,
        (Some(4), false) => QuantFormat::Q5_0,
        (Some(8), true) => QuantFormat::Q8_0,
        // Numbers of 9 bits, which no blocks hold.
        (Some(8), false) => QuantFormat::plain(dtype),
        _ => {
            let bits = bits.map_or_else(|| "?".to_owned(), |bits| bits.to_string());
            let what = format!("{method}, {bits} bits, sym {symmetric}");
            let seen = format!("quantization_config; of {method}, 2, 3, 4 and 8 bits are served");
            return Err(other(what, seen));
        }
    };
    let layout = TensorLayout::Gptq { symmetric, zero_offset };
    let act_order = config.get("desc_act") == Some(&json!(true));
    // Columns of several groups share no block, unless groups were made before columns were put in order.
    let scattered = act_order && group_size(config).is_some() && config.get("static_groups") != Some(&json!(true));
    let format = if scattered { QuantFormat::plain(dtype) } else { format };
    Ok(Quantization { groups: group_sizes(config), act_order, ..Quantization::of(layout, format) })
}

/// AutoRound writes the layouts of the others, and says which.
fn auto_round(config: &Map<String, Value>, dtype: DType) -> Result<Quantization, ConfigError> {
    let text = |field: &str| config.get(field).and_then(Value::as_str);
    let packing = text("packing_format").or(text("backend")).unwrap_or("auto_round:auto_gptq");
    let integers = text("data_type").is_none_or(|kind| kind == "int");
    match packing {
        _ if !integers || packing.contains("marlin") => Err(Foreign::method(config).into()),
        _ if packing.contains("awq") => {
            let bits = config.get("bits").and_then(Value::as_u64);
            if bits != Some(4) {
                return Err(Foreign::method(config).into());
            }
            Ok(Quantization { groups: group_sizes(config), ..Quantization::of(TensorLayout::Awq, QuantFormat::Q5_0) })
        }
        // Its own layout is GPTQ's with zero points as they are.
        _ if packing.contains("gptq") && !packing.contains("gptqmodel") => gptq_layout(config, "auto-round", 1, dtype),
        _ => gptq_layout(config, "auto-round", 0, dtype),
    }
}

/// Of bitsandbytes, both of its forms of 4 bits, and that of 8 bits.
fn bitsandbytes(config: &Map<String, Value>, dtype: DType) -> Result<Quantization, ConfigError> {
    let is = |field: &str| [field, &format!("_{field}")].iter().any(|field| config.get(*field) == Some(&json!(true)));
    let kind = config.get("bnb_4bit_quant_type").and_then(Value::as_str).unwrap_or("fp4");
    let is_served = is("load_in_8bit") || is("load_in_4bit") && ["nf4", "fp4"].contains(&kind);
    if !is_served {
        let what = if is("load_in_4bit") { format!("bitsandbytes, {kind}") } else { "bitsandbytes".into() };
        let seen = "quantization_config.quant_method = bitsandbytes; of it, load_in_8bit and load_in_4bit with \
                    bnb_4bit_quant_type nf4 or fp4 are served";
        return Err(other(what, seen));
    }
    Ok(Quantization::of(TensorLayout::Bitsandbytes, QuantFormat::plain(dtype)))
}

/// What MLX writes into either of its two fields; `seen` names it.
fn mlx(config: &Map<String, Value>, dtype: DType, seen: &str) -> Result<Quantization, ConfigError> {
    let bits = config.get("bits").and_then(Value::as_u64);
    let mode = config.get("mode").and_then(Value::as_str).unwrap_or("affine");
    let format = match (mode, bits) {
        ("affine", Some(2..=4)) => QuantFormat::Q4_1,
        ("affine", Some(5)) => QuantFormat::Q5_1,
        // No blocks of so many bits have a bias.
        ("affine", Some(6 | 8)) => QuantFormat::plain(dtype),
        ("mxfp4", Some(4)) => QuantFormat::Mxfp4,
        _ => {
            let bits = bits.map_or_else(String::new, |bits| format!("{bits}-bit "));
            let mode = if mode == "affine" { String::new() } else { format!(" ({mode})") };
            let seen = format!("{seen}; of MLX, 2 to 6 and 8 bits (affine) and mxfp4 are served");
            return Err(other(format!("{bits}MLX{mode}"), seen));
        }
    };
    Ok(Quantization { groups: group_sizes(config), ..Quantization::of(TensorLayout::Mlx, format) })
}

/// The `group_size` of `weights`, or `q_group_size`, as AutoAWQ called it beside `w_bit`; none or -1 is all of a row.
fn group_size(weights: &Map<String, Value>) -> Option<usize> {
    let size = either(weights, ["group_size", "q_group_size"]).and_then(Value::as_u64);
    size.map(|size| usize::try_from(size).unwrap_or(usize::MAX))
}

/// The first of two fields that says something.
fn either<'a>(of: &'a Map<String, Value>, fields: [&str; 2]) -> Option<&'a Value> {
    fields.into_iter().find_map(|field| of.get(field).filter(|value| !value.is_null()))
}

/// Every `group_size` of `config`, also of single modules.
fn group_sizes(config: &Map<String, Value>) -> Vec<Option<usize>> {
    let mut sizes = vec![group_size(config)];
    for inner in config.values().filter_map(Value::as_object) {
        let new = group_sizes(inner).into_iter().flatten().map(Some);
        sizes.extend(new.filter(|size| !sizes.contains(size)).collect::<Vec<_>>());
    }
    sizes
}
