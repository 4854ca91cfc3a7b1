//! What a checkpoint's weights and configuration say.

use std::sync::Arc;

use quern_backend::{PackedMatrix, SharedBytes};
use quern_model::{Checkpoint, CheckpointOptions, GenerationConfig, ModelConfig, gguf::GgufModel, network::Shape};
use serde_json::{Map, Value};

use super::files::with_file;

/// Most numbers of a network that is looked through: a small file may announce a large one.
const MAX_PARAMS: u64 = 1 << 20;

/// Most rows of a tensor that are looked at.
const MAX_ROWS: usize = 4;

/// No bytes make the header's reader panic or take more memory than they justify.
pub(super) fn safetensors(bytes: &[u8]) {
    quern_model::weights::safetensors::fuzz_header(bytes);
}

/// No `config.json` makes the reader panic: a network that it accepts can be counted.
pub(super) fn config_json(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
    // A generation config that is wrong is an error like another.
    let _ = GenerationConfig::from_json(&object);
    if let Ok(config) = ModelConfig::from_json(&object) {
        assert!(config.num_layers > 0 && config.hidden > 0 && config.vocab_size > 0);
        let _ = config.keeps_unquantised("model.layers.0.mlp.gate_proj");
    }
}

/// The config of the smallest network that the readers accept.
const SMALLEST: &str = r#"{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","hidden_size":32,
"intermediate_size":32,"num_hidden_layers":1,"num_attention_heads":1,"num_key_value_heads":1,"head_dim":32,
"vocab_size":32,"rms_norm_eps":1e-6,"rope_theta":10000.0,"max_position_embeddings":64,"tie_word_embeddings":true,
"torch_dtype":"bfloat16"}"#;

/// No index of shards makes a checkpoint's reader panic, or read a file outside of the checkpoint.
pub(super) fn shard_index(bytes: &[u8]) {
    let open = |path: &std::path::Path| {
        let dir = path.parent().expect("it lies in a folder");
        std::fs::write(dir.join("config.json"), SMALLEST).expect("room for a small file");
        Checkpoint::open(dir, &CheckpointOptions::default())
    };
    assert!(with_file("model.safetensors.index.json", bytes, open).is_err(), "there is no shard");
}

/// No config and no tensors make the readers of quantised safetensors panic or read past the end: two bytes of length, a
/// config.json, and a safetensors file.
pub(super) fn packed(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (config, file) = rest.split_at(length);
    let Ok(config) = serde_json::from_slice::<Map<String, Value>>(config) else { return };
    let Ok(config) = ModelConfig::from_json(&config) else { return };
    if config.network().total_params() > MAX_PARAMS {
        return;
    }
    let files = [("model.safetensors", SharedBytes::new(Arc::new(file.to_vec())))];
    let Ok(checkpoint) = Checkpoint::embedded("fuzz", config, GenerationConfig::default(), &files) else { return };
    for tensor in checkpoint.network().tensors() {
        if let Shape::Matrix(..) = tensor.shape {
            // A number without an exact form is an error like another.
            let _ = checkpoint.weights().matrices(tensor);
        }
    }
}

/// No bytes make the reader of llama.cpp's files panic or take more memory than they justify: header, metadata, tensors
/// down to what their blocks say, and the configuration read out of them.
pub(super) fn gguf(bytes: &[u8]) {
    let bytes = SharedBytes::new(Arc::new(bytes.to_vec()));
    if let Ok(model) = GgufModel::embedded("fuzz.gguf", &bytes) {
        for (_, tensor) in model.tensors() {
            // As many bytes as the file has: a row is never longer than they say.
            let cols = tensor.dims[0] as usize;
            let rows = tensor.bytes.len() / tensor.format.row_bytes(cols);
            let mut values = vec![0.0; cols];
            let matrix = PackedMatrix::plain(tensor.format, rows, cols, tensor.bytes.clone());
            (0..rows.min(MAX_ROWS)).for_each(|row| matrix.decode_row(row, &mut values));
        }
        // A configuration that is wrong is an error like another.
        let _ = Checkpoint::gguf(model, &Map::new());
    }
}
