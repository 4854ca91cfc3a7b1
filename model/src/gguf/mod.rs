//! Files in llama.cpp's format: a whole model in one file, or in a few that follow one another.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Everything in them is untrusted.

mod config;
mod cursor;
mod export;
mod file;
mod model;
mod names;
mod rope;
mod sampling;
mod types;
mod value;
mod writer;

pub use export::{ExportError, export, exported_bytes};
pub use file::{GgufFile, TensorInfo, general_type};
pub use model::GgufModel;
pub use value::GgufValue;
pub use writer::{Announced, GgufWriter};
