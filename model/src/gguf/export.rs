//! [`export`]: a checkpoint as a GGUF file.

use std::io::{self, Write};

use half::{bf16, f16};
use quern_backend::{DType, PackedMatrix, QuantFormat};

use super::{Announced, GgufValue, GgufWriter, model::Place};
use crate::{
    Checkpoint, LoadError,
    config::{Architecture, ModelConfig},
    weights::{
        manifest::{Shape, modules},
        quantised::encoded,
    },
};

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The checkpoint.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file.
    #[error(transparent)]
    Write(#[from] io::Error),
    /// The format has no word for something.
    #[error("the GGUF format cannot say {what} = {value}; networks with {supported} can be written")]
    Unsayable {
        /// The field of `config.json`.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        supported: &'static str,
    },
}

/// Write `checkpoint` to `out` in llama.cpp's layout: its matrices as its recipe says, those that the recipe
/// leaves as `plain`; norms and routers in f32. `more` is metadata about the tokenizer. `advanced` hears of the
/// bytes written.
///
/// One tensor is in memory at a time.
pub fn export<W: Write>(
    checkpoint: &Checkpoint,
    plain: DType,
    more: Vec<(String, GgufValue)>,
    out: W,
    advanced: &mut dyn FnMut(u64),
) -> Result<W, ExportError> {
    let config = checkpoint.config();
    check_sayable(config)?;
    let mut metadata = describe(config);
    metadata.extend(more);
    let tensors = announce(checkpoint, plain);
    let announced: Vec<Announced> = tensors.iter().map(|(announced, _)| announced.clone()).collect();
    let mut writer = GgufWriter::begin(out, &metadata, &announced)?;
    for (tensor, modules) in &tensors {
        for (module, shape) in modules {
            let bytes = match *shape {
                Shape::Matrix(rows, cols) => {
                    let matrix = checkpoint.weights().matrix(module, rows, cols)?;
                    match tensor.format.blocks() {
                        Some(_) => encoded(&matrix, tensor.format).bytes().to_vec(),
                        None => decoded(&matrix, tensor.format),
                    }
                }
                Shape::Vector(len) => {
                    checkpoint.weights().vector(module, len)?.iter().flat_map(|x| x.to_le_bytes()).collect()
                }
            };
            writer.put(&bytes)?;
            advanced(bytes.len() as u64);
        }
        writer.align()?;
    }
    Ok(writer.finish()?)
}

/// llama.cpp knows one form of these networks.
fn check_sayable(config: &ModelConfig) -> Result<(), ExportError> {
    let Some(moe) = &config.moe else { return Ok(()) };
    if !moe.renormalise {
        let (what, value, supported) = ("norm_topk_prob", "false".into(), "true");
        return Err(ExportError::Unsayable { what, value, supported });
    }
    if let Some(layer) = config.sparse_layers.iter().position(|sparse| !sparse) {
        let (what, value) = ("mlp_only_layers", format!("[{layer}, …]"));
        return Err(ExportError::Unsayable { what, value, supported: "experts in every layer" });
    }
    Ok(())
}

/// Bytes of all tensors that [`export`] will write.
pub fn exported_bytes(checkpoint: &Checkpoint, plain: DType) -> u64 {
    announce(checkpoint, plain).iter().map(|(tensor, _)| tensor.len()).sum()
}

/// Tensors in the order of the network, each with its modules: a tensor of experts has many.
fn announce(checkpoint: &Checkpoint, plain: DType) -> Vec<(Announced, Vec<(String, Shape)>)> {
    let config = checkpoint.config();
    let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
    let mut tensors: Vec<(Announced, Vec<(String, Shape)>)> = Vec::new();
    for module in modules(config) {
        let Place { name, expert } = Place::of(&module.name);
        let mut dims: Vec<u64> = module.shape.dims().iter().rev().map(|&n| n as u64).collect();
        let format = match module.shape {
            Shape::Vector(_) => QuantFormat::F32,
            Shape::Matrix(..) if module.name.ends_with("mlp.gate") => QuantFormat::F32,
            Shape::Matrix(_, cols) => {
                let recipe = checkpoint.recipe();
                let format = recipe.and_then(|r| r.format(&module.name, module.name == head, cols, config.num_layers));
                format.unwrap_or_else(|| QuantFormat::plain(plain))
            }
        };
        if let (Some(_), Some(moe)) = (expert, &config.moe) {
            dims.push(moe.num_experts as u64);
        }
        match tensors.iter_mut().rev().find(|(tensor, _)| tensor.name == name) {
            Some((_, modules)) => modules.push((module.name, module.shape)),
            None => tensors.push((Announced { name, dims, format }, vec![(module.name, module.shape)])),
        }
    }
    tensors
}

/// `matrix` in a plain format.
fn decoded(matrix: &PackedMatrix, format: QuantFormat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(matrix.rows() * format.row_bytes(matrix.cols()));
    let mut values = vec![0.0f32; matrix.cols()];
    for row in 0..matrix.rows() {
        matrix.decode_row(row, &mut values);
        match format {
            QuantFormat::F16 => bytes.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            QuantFormat::BF16 => bytes.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
            _ => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        }
    }
    bytes
}

/// The network's numbers under llama.cpp's keys.
fn describe(config: &ModelConfig) -> Vec<(String, GgufValue)> {
    let name = match config.architecture {
        Architecture::Qwen3 => "qwen3",
        Architecture::Qwen3Moe => "qwen3moe",
    };
    let mut list = vec![("general.architecture".to_owned(), GgufValue::Text(name.into()))];
    let mut put = |key: &str, value: GgufValue| list.push((format!("{name}.{key}"), value));
    let count = |n: usize| GgufValue::Unsigned(n as u64);
    put("block_count", count(config.num_layers));
    put("context_length", count(config.max_position_embeddings));
    put("embedding_length", count(config.hidden));
    put("feed_forward_length", count(config.intermediate));
    put("attention.head_count", count(config.heads.num_heads));
    put("attention.head_count_kv", count(config.heads.num_kv_heads));
    put("attention.key_length", count(config.heads.head_dim));
    put("attention.value_length", count(config.heads.head_dim));
    put("attention.layer_norm_rms_epsilon", GgufValue::Float(config.rms_norm_eps.into()));
    put("rope.freq_base", GgufValue::Float(config.rope.theta));
    if let Some(yarn) = &config.rope.yarn {
        put("rope.scaling.type", GgufValue::Text("yarn".into()));
        put("rope.scaling.factor", GgufValue::Float(yarn.factor));
        put("rope.scaling.original_context_length", count(yarn.original_context as usize));
    }
    if let Some(moe) = &config.moe {
        put("expert_count", count(moe.num_experts));
        put("expert_used_count", count(moe.top_k));
        put("expert_feed_forward_length", count(moe.inner));
    }
    list
}
