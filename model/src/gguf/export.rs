//! [`export`]: a checkpoint as a GGUF file.

use std::io::{self, Write};

use half::{bf16, f16};
use quern_backend::{DType, PackedMatrix, QuantFormat};

use super::{Announced, GgufValue, GgufWriter, model::Place, rope, sampling};
use crate::{
    Checkpoint, LoadError,
    config::{Architecture, ModelConfig},
    weights::{
        filled,
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
    metadata.extend(sampling::written(checkpoint.generation()).into_iter().map(|(key, value)| (key.to_owned(), value)));
    metadata.extend(more);
    let tensors = announce(checkpoint, plain);
    let announced: Vec<Announced> = tensors.iter().map(|tensor| tensor.announced.clone()).collect();
    let mut writer = GgufWriter::begin(out, &metadata, &announced)?;
    for Tensor { announced, names, shape } in &tensors {
        let mut put = |bytes: &[u8]| {
            writer.put(bytes)?;
            advanced(bytes.len() as u64);
            io::Result::Ok(())
        };
        match *shape {
            Shape::Matrix(rows, cols) => {
                let matrices = checkpoint.weights().matrices(names, rows, cols)?;
                match announced.format.blocks() {
                    Some(_) => {
                        let pairs: Vec<_> = matrices.into_iter().map(|matrix| (matrix, announced.format)).collect();
                        encoded(&pairs).iter().try_for_each(|matrix| put(matrix.bytes()))?;
                    }
                    None => decoded(&matrices, announced.format).iter().try_for_each(|bytes| put(bytes))?,
                }
            }
            Shape::Vector(len) => {
                for name in names {
                    let values = checkpoint.weights().vector(name, len)?;
                    put(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
                }
            }
        }
        writer.align()?;
    }
    Ok(writer.finish()?)
}

/// llama.cpp knows one form of these networks.
fn check_sayable(config: &ModelConfig) -> Result<(), ExportError> {
    if config.rope.yarn.as_ref().is_some_and(|yarn| !yarn.truncate) {
        let (what, value, supported) = ("rope_scaling.truncate", "false".into(), "true");
        return Err(ExportError::Unsayable { what, value, supported });
    }
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
    announce(checkpoint, plain).iter().map(|tensor| tensor.announced.len()).sum()
}

/// A tensor of the file and the modules that it holds, all of one shape: a tensor of experts has many.
struct Tensor {
    announced: Announced,
    names: Vec<String>,
    shape: Shape,
}

/// Tensors in the order of the network.
fn announce(checkpoint: &Checkpoint, plain: DType) -> Vec<Tensor> {
    let config = checkpoint.config();
    let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
    let mut tensors: Vec<Tensor> = Vec::new();
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
        match tensors.iter_mut().rev().find(|tensor| tensor.announced.name == name) {
            Some(tensor) => tensor.names.push(module.name),
            None => {
                let announced = Announced { name, dims, format };
                tensors.push(Tensor { announced, names: vec![module.name], shape: module.shape });
            }
        }
    }
    tensors
}

/// Each matrix in a plain format.
fn decoded(matrices: &[PackedMatrix], format: QuantFormat) -> Vec<Vec<u8>> {
    let shapes: Vec<_> = matrices.iter().map(|matrix| (matrix.rows(), format.row_bytes(matrix.cols()))).collect();
    filled(&shapes, |index, first, bytes| {
        let mut values = vec![0.0f32; matrices[index].cols()];
        for (row, bytes) in bytes.chunks_exact_mut(shapes[index].1).enumerate() {
            matrices[index].decode_row(first + row, &mut values);
            match format {
                QuantFormat::F16 => put_each(bytes, &values, |x| f16::from_f32(x).to_le_bytes()),
                QuantFormat::BF16 => put_each(bytes, &values, |x| bf16::from_f32(x).to_le_bytes()),
                _ => put_each(bytes, &values, f32::to_le_bytes),
            }
        }
    })
}

fn put_each<const N: usize>(bytes: &mut [u8], values: &[f32], stored: impl Fn(f32) -> [u8; N]) {
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, &x)| *bytes = stored(x));
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
    for (key, value) in config.rope.yarn.iter().flat_map(rope::written) {
        put(key, value);
    }
    if let Some(moe) = &config.moe {
        put("expert_count", count(moe.num_experts));
        put("expert_used_count", count(moe.top_k));
        put("expert_feed_forward_length", count(moe.inner));
    }
    list
}
