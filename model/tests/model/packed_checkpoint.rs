//! Checkpoints of one quantised matrix, made tensor by tensor, and the numbers that are read of it.

use std::{collections::BTreeMap, sync::Arc};

use half::bf16;
use quern_backend::{PackedMatrix, SharedBytes};
use quern_model::{Checkpoint, GenerationConfig, LoadError, ModelConfig, network::Role};
use serde_json::{Map, Value, json};

/// A tensor: dtype, shape, bytes.
pub(crate) type Stored = (&'static str, Vec<usize>, Vec<u8>);

/// All numbers of a matrix, row by row.
pub(crate) fn numbers(matrix: &PackedMatrix) -> Vec<f32> {
    let mut all = vec![0.0; matrix.rows() * matrix.cols()];
    all.chunks_exact_mut(matrix.cols()).enumerate().for_each(|(row, out)| matrix.decode_row(row, out));
    all
}

/// A network whose one quantised matrix has these sizes.
pub(crate) fn config(cols: usize, quantization: &Value) -> ModelConfig {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": cols, "num_attention_heads": 2, "head_dim": 16,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 8,
        "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "quantization_config": quantization,
    });
    ModelConfig::from_json(config.as_object().unwrap()).unwrap()
}

/// Rows of the quantised matrix of [`config`].
pub(crate) const ROWS: usize = 32;

/// A checkpoint whose first projection is stored as `tensors`, named by what stands behind its module's name, and the
/// rest as BF16.
pub(crate) fn checkpoint(
    cols: usize,
    quantization: &Value,
    tensors: Vec<(&str, Stored)>,
) -> Result<Checkpoint, LoadError> {
    checkpoint_beside(("BF16", 2), cols, quantization, tensors)
}

/// The same, the rest being of this type, whose elements have as many bytes.
pub(crate) fn checkpoint_beside(
    (dtype, size): (&'static str, usize),
    cols: usize,
    quantization: &Value,
    tensors: Vec<(&str, Stored)>,
) -> Result<Checkpoint, LoadError> {
    let config = config(cols, quantization);
    let mut stored: BTreeMap<String, Stored> = BTreeMap::new();
    for spec in config.network().tensors() {
        for name in spec.names() {
            let shape = spec.shape.dims();
            let bytes = vec![0; size * shape.iter().product::<usize>()];
            stored.insert(name, (dtype, shape, bytes));
        }
    }
    let query = "model.layers.0.self_attn.q_proj";
    stored.remove(&format!("{query}.weight"));
    stored.extend(tensors.into_iter().map(|(part, tensor)| (format!("{query}.{part}"), tensor)));
    let (mut entries, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in &stored {
        let range = [data.len(), data.len() + bytes.len()];
        entries.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": range}));
        data.extend_from_slice(bytes);
    }
    let header = Value::Object(entries).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let files = [("model.safetensors", SharedBytes::new(Arc::new(file)))];
    Checkpoint::embedded("memory", config, GenerationConfig::default(), &files)
}

/// The numbers of the quantised matrix.
pub(crate) fn query(checkpoint: &Checkpoint) -> Result<Vec<f32>, LoadError> {
    checkpoint.weights().matrix(checkpoint.network().tensor(Some(0), Role::Query)).map(|matrix| numbers(&matrix))
}

pub(crate) fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

pub(crate) fn halves(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
}

/// Integers one behind the other into words, the first in the lowest bits.
pub(crate) fn pack(bits: usize, codes: impl Iterator<Item = u32>) -> Vec<u8> {
    let codes: Vec<u32> = codes.collect();
    words(codes.chunks(32 / bits).map(|codes| codes.iter().rev().fold(0, |word, code| word << bits | code)))
}

pub(crate) fn compressed(bits: usize, group: usize, symmetric: bool) -> Value {
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"weights": {
        "num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric}}}})
}

/// A checkpoint of int4 in groups of 32 by compressed-tensors, all integers `code`, all scales `scale`.
pub(crate) fn uniform(code: u32, scale: Stored) -> Result<Checkpoint, LoadError> {
    let codes = ("I32", vec![ROWS, 8], pack(4, (0..ROWS * 64).map(|_| code)));
    checkpoint(64, &compressed(4, 32, true), vec![("weight_packed", codes), ("weight_scale", scale)])
}

pub(crate) fn refusal(result: Result<impl Sized, LoadError>) -> String {
    result.err().expect("it is refused").to_string()
}
