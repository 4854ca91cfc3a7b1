//! [`export`]: a checkpoint as a GGUF file.

use std::io::{self, Write};

use half::{bf16, f16};
use quern_backend::{DType, PackedMatrix, QuantFormat};

use crate::{
    checkpoint::Checkpoint,
    config::ModelConfig,
    gguf::{Announced, GgufValue, GgufWriter, names, rope, sampling},
    network::{Role, Shape, TensorSpec},
    weights::{LoadError, filled, quantised::encoded},
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

/// What matrices become that no recipe speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unquantised {
    /// Each number by itself, in this type.
    Plain(DType),
    /// What they are, where the format has a type for it; FP8 in BF16, to which it is rounded.
    AsStored,
}

/// Write `checkpoint` to `out` in llama.cpp's layout: its matrices as its recipe says, those that the recipe
/// leaves as `plain` says; norms and routers in f32. `more` is metadata about the tokenizer. `advanced` hears of the
/// bytes written.
///
/// One tensor is in memory at a time.
///
/// # Errors
/// If a weight cannot be read, `out` cannot be written, or the format has no word for the network.
pub fn export<W: Write>(
    checkpoint: &Checkpoint,
    plain: Unquantised,
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
    let announced: Vec<Announced> = tensors.iter().map(|(_, announced)| announced.clone()).collect();
    let mut writer = GgufWriter::begin(out, &metadata, &announced)?;
    for (spec, announced) in tensors {
        let mut put = |bytes: &[u8]| {
            writer.put(bytes)?;
            advanced(bytes.len() as u64);
            io::Result::Ok(())
        };
        match spec.shape {
            Shape::Matrix(..) if announced.name == names::factors(&names::of(spec)) => {
                let matrices = checkpoint.weights().matrices(spec)?;
                matrices.iter().try_for_each(|matrix| put(&matrix.factor().to_le_bytes()))?;
            }
            Shape::Matrix(..) => {
                let (matrices, format) = (checkpoint.weights().matrices(spec)?, announced.format);
                match format.blocks() {
                    _ if matrices.iter().all(|matrix| matrix.format() == format) => {
                        matrices.iter().try_for_each(|matrix| put(matrix.bytes()))?;
                    }
                    Some(_) => encoded(&matrices, format).iter().try_for_each(|matrix| put(matrix.bytes()))?,
                    None => decoded(&matrices, format).iter().try_for_each(|bytes| put(bytes))?,
                }
            }
            Shape::Vector(_) => {
                let values = checkpoint.weights().vector(spec)?;
                put(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
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
pub fn exported_bytes(checkpoint: &Checkpoint, plain: Unquantised) -> u64 {
    announce(checkpoint, plain).iter().map(|(_, announced)| announced.len()).sum()
}

/// What of the network each tensor of the file holds, in the order of the network.
fn announce(checkpoint: &Checkpoint, plain: Unquantised) -> Vec<(&TensorSpec, Announced)> {
    let network = checkpoint.network();
    let format = |spec: &TensorSpec| match spec.shape {
        Shape::Vector(_) => QuantFormat::F32,
        Shape::Matrix(..) if spec.role == Role::Router => QuantFormat::F32,
        Shape::Matrix(_, cols) => {
            let format = checkpoint.recipe().and_then(|r| r.format(spec.role, spec.layer, cols, network.num_layers()));
            format.unwrap_or_else(|| match plain {
                Unquantised::Plain(dtype) => QuantFormat::plain(dtype),
                Unquantised::AsStored => match checkpoint.weights().formats(spec).as_slice() {
                    [QuantFormat::Fp8Block128] => QuantFormat::BF16,
                    [one] => *one,
                    // The experts of a layer are one tensor, and some of them are stored otherwise than others.
                    _ => QuantFormat::F32,
                },
            })
        }
    };
    let announced = |spec| {
        let (name, format) = (names::of(spec), format(spec));
        // What the matrices are multiplied by lies beside them.
        let factors = (format == QuantFormat::Nvfp4).then(|| Announced {
            name: names::factors(&name),
            dims: vec![spec.count as u64],
            format: QuantFormat::F32,
        });
        let whole = Announced { name, dims: names::dims(spec), format };
        std::iter::once(whole).chain(factors).map(move |announced| (spec, announced))
    };
    network.tensors().iter().flat_map(announced).collect()
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
    let name = config.architecture.gguf_name();
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
