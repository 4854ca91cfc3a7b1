//! No config and no tensors make the readers of quantised safetensors panic or read past the end: two bytes of length, a
//! config.json, and a safetensors file.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use quern_backend::SharedBytes;
use quern_model::{Checkpoint, GenerationConfig, ModelConfig, network::Shape};
use serde_json::{Map, Value};

/// Most numbers of a network that is looked through: a small file may announce a large one.
const MAX_PARAMS: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
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
});
