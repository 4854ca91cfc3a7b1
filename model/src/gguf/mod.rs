//! Files in llama.cpp's format: a whole model in one file, or in a few that follow one another.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Everything in them is untrusted.

mod bytes;
mod config;
mod cursor;
mod file;
mod model;
pub(crate) mod names;
mod pieces;
pub(crate) mod rope;
pub(crate) mod sampling;
mod types;
mod value;
mod writer;

pub use bytes::GgufBytes;
pub use file::{GgufFile, TensorInfo, general_type};
pub use model::GgufModel;
pub use pieces::FilePiece;
pub use value::GgufValue;
pub use writer::{Announced, GgufWriter};
