//! No bytes make the reader of llama.cpp's files panic or take more memory than they justify: header, metadata, tensors,
//! and the configuration read out of them.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use quern_backend::SharedBytes;
use quern_model::{Checkpoint, gguf::GgufModel};
use serde_json::Map;

fuzz_target!(|bytes: &[u8]| {
    let bytes = SharedBytes::new(Arc::new(bytes.to_vec()));
    if let Ok(model) = GgufModel::embedded("fuzz.gguf", &bytes) {
        // A configuration that is wrong is an error like another.
        let _ = Checkpoint::gguf(model, &Map::new());
    }
});
