//! Wire types: request bodies, response bodies and errors. Nothing here knows the engine.

pub mod blocks;
pub mod body;
pub mod chat;
pub mod compaction;
pub mod completions;
pub mod custom_tool;
pub mod envelope;
pub mod error;
pub mod infill;
pub mod memory_pool;
pub mod messages;
pub mod native;
pub mod ollama;
pub mod response_input;
pub mod responses;
pub mod sampling;
pub mod scalar;
pub mod score;
pub mod unsupported;
pub mod usage;

pub use body::Body;
pub use error::{ApiError, NativeError};
