//! [`Foreign`]: files of models that are not of the formats served, told by what gives them away, with the nearest
//! thing that works.

use std::path::Path;

use serde_json::{Map, Value};

use crate::json_file::read_object;

/// Files that cannot be served, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be served ({seen}); {instead}")]
pub struct Foreign {
    /// What they are.
    pub what: String,
    /// By what that is known: a file, a field, a tensor's name.
    pub seen: String,
    /// What to do instead.
    pub instead: String,
}

/// What to serve instead of quantised weights in an encoding that is not supported.
const OTHER_ENCODINGS: &str = "served are, of the same model: the official FP8 checkpoint (e.g. \
    Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8) and others in FP8; integers of 4 or 8 bits in groups (compressed-tensors, \
    AWQ, GPTQ, AutoRound); MXFP4 and NVFP4; bitsandbytes and MLX; a GGUF file (e.g. Q4_K_M); or the BF16 checkpoint with \
    --quantization q4_k_m";

/// What to serve instead of a GGUF file in an encoding that is not supported.
pub const OTHER_GGUF: &str = "Take a file of another quantisation of the same model, e.g. Q4_K_M, Q2_K or IQ4_XS; \
    fetching this one again changes nothing.";

impl Foreign {
    /// Weights in the encoding `what`.
    pub(crate) fn encoding(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { what: format!("weights in {}", what.into()), seen: seen.into(), instead: OTHER_ENCODINGS.into() }
    }

    /// What `dir` is if it is no checkpoint: an adapter, pickled weights, an encoding that config.json says nothing of.
    pub(crate) fn in_dir(dir: &Path) -> Option<Self> {
        let has = |name: &str| dir.join(name).exists();
        if has("adapter_config.json") && !has("config.json") {
            return Some(Self::adapter(dir));
        }
        let quantised = read_object(&dir.join("hf_quant_config.json")).ok();
        let algorithm = quantised.as_ref().and_then(|file| file.get("quantization")?.get("quant_algo")?.as_str());
        if let Some(algorithm) = algorithm.filter(|algorithm| !Self::serves_modelopt(algorithm)) {
            let seen = format!("quant_algo in hf_quant_config.json, which ModelOpt writes, is {algorithm}");
            return Some(Self::encoding(algorithm, seen));
        }
        let names =
            || std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        if names().any(|name| name.ends_with(".safetensors") || name.ends_with(".gguf")) {
            return None;
        }
        let pickled = |name: &String| {
            let suffix = Path::new(name).extension().and_then(|suffix| suffix.to_str());
            matches!(suffix, Some("bin" | "pt" | "pth" | "ckpt"))
        };
        names().filter(pickled).min().map(|name| Self {
            what: "pickled weights, which are programs and are never run here".into(),
            seen: format!("it holds {name} and no .safetensors file"),
            instead: "save the model again in safetensors (save_pretrained(…, safe_serialization=True)), or take a \
                      repository that has them"
                .into(),
        })
    }

    /// Whether `algorithm` is one of ModelOpt's that are served.
    fn serves_modelopt(algorithm: &str) -> bool {
        Self::modelopt_is_fp8(algorithm) || Self::modelopt_is_nvfp4(algorithm)
    }

    /// Whether ModelOpt's `algorithm` is FP8 with a scale a matrix, a row or a block.
    pub(crate) fn modelopt_is_fp8(algorithm: &str) -> bool {
        ["fp8", "fp8_pb_wo", "fp8_per_channel_per_token"].iter().any(|served| algorithm.eq_ignore_ascii_case(served))
    }

    /// Whether ModelOpt's `algorithm` is NVFP4.
    pub(crate) fn modelopt_is_nvfp4(algorithm: &str) -> bool {
        algorithm.eq_ignore_ascii_case("nvfp4")
    }

    /// Whether a scale for each row goes with `algorithm`, one that is served.
    pub(crate) fn modelopt_has_row_scales(algorithm: &str) -> bool {
        algorithm.eq_ignore_ascii_case("fp8_per_channel_per_token")
    }

    fn adapter(dir: &Path) -> Self {
        let config = read_object(&dir.join("adapter_config.json")).unwrap_or_default();
        let base = config.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or("its base model");
        Self {
            what: "an adapter (LoRA), which is no model by itself".into(),
            seen: format!("adapter_config.json names the model it belongs to: {base}"),
            instead: format!(
                "serve {base}, or merge the adapter into it (PEFT's merge_and_unload) and serve the result"
            ),
        }
    }

    /// The encoding that gives itself away by the name of a tensor.
    pub(crate) fn of_tensors<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        /// A part of a name, and what it belongs to; the first that occurs counts.
        const SIGNS: [(&str, &str); 11] = [
            (".g_idx", "GPTQ"),
            (".weight_packed", "compressed-tensors (int4 or NVFP4, packed)"),
            (".weight_scale_2", "NVFP4 (ModelOpt)"),
            (".qweight", "AWQ or GPTQ"),
            (".quant_state.", "bitsandbytes"),
            (".absmax", "bitsandbytes"),
            ("switch_mlp.", "MLX"),
            (".biases", "MLX"),
            ("_proj_blocks", "MXFP4"),
            (".trellis", "EXL3"),
            (".weight_scale", "compressed-tensors or ModelOpt"),
        ];
        let found = SIGNS.into_iter().find_map(|(sign, what)| {
            names.clone().find(|name| name.contains(sign)).map(|name| Self::encoding(what, format!("tensor `{name}`")))
        });
        let lora = || names.clone().find(|name| name.contains(".lora_A.") || name.contains(".lora_B."));
        found.or_else(|| {
            lora().map(|name| Self {
                what: "an adapter (LoRA) and no model".into(),
                seen: format!("tensor `{name}`"),
                instead: "merge it into the model it belongs to and serve the result".into(),
            })
        })
    }

    /// The encoding that `quantization_config` names and that is not served.
    pub(crate) fn method(quantization: &Map<String, Value>) -> Self {
        let text = |field: &str| quantization.get(field).and_then(Value::as_str);
        let bits = |of: &Map<String, Value>, field: &str| of.get(field).and_then(Value::as_u64);
        let Some(method) = text("quant_method") else {
            let what = match bits(quantization, "bits") {
                Some(bits) => format!("{bits}-bit MLX"),
                None => "an encoding that is not named".into(),
            };
            return Self::encoding(what, "quantization_config.quant_method is absent");
        };
        let known = match method {
            "modelopt" => format!("{} of ModelOpt", text("quant_algo").unwrap_or("an encoding")),
            _ => {
                let bits = bits(quantization, "bits").map_or_else(String::new, |bits| format!(", {bits} bits"));
                format!("{method}{bits}")
            }
        };
        Self::encoding(known, format!("quantization_config.quant_method = {method}"))
    }

    /// The `group` of modules of compressed-tensors, stored in this `format`, that is not served.
    pub(crate) fn compressed_tensors(format: Option<&str>, group: &Value) -> Self {
        let weights = group.get("weights");
        let text = |field: &str| weights.and_then(|weights| weights.get(field)?.as_str());
        let bits = weights.and_then(|weights| weights.get("num_bits")?.as_u64());
        let bits = bits.map_or_else(String::new, |bits| format!(" of {bits} bits"));
        let lopsided = weights.and_then(|weights| weights.get("symmetric")) == Some(&Value::Bool(false));
        let what = format!(
            "compressed-tensors, {} ({}{}{bits}, a scale a {})",
            format.unwrap_or("no format"),
            if lopsided { "asymmetric " } else { "" },
            text("type").unwrap_or("numbers"),
            text("strategy").unwrap_or("group"),
        );
        Self::encoding(what, "quantization_config.quant_method = compressed-tensors")
    }
}
