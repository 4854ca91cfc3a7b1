//! Networks as the papers write them, generic over a [`Backend`](quern_backend::Backend).
//!
//! A checkpoint comes in through [`Checkpoint`], its numbers through [`ModelConfig`]; a step goes in as
//! a [`ForwardBatch`] and comes out as a [`StepOutput`]. [`Split`] divides a network over [`Ranks`]. No requests, no SIMD,
//! no HTTP.

#![deny(unsafe_code)]

pub mod architecture;
pub mod checkpoint;
pub mod config;
mod config_json;
mod family;
pub mod foreign;
pub mod generation_config;
pub mod gguf;
pub mod gguf_export;
pub mod json_file;
pub mod layers;
mod lfs;
pub mod load;
pub mod model;
pub mod network;
mod qwen2;
pub mod qwen3;
pub mod ranks;
pub mod regular_file;
pub mod rope;
pub mod shard;
pub mod split;
pub mod split_error;
pub mod step_cost;
pub mod step_limits;
pub mod weights;

pub use checkpoint::{Checkpoint, CheckpointOptions, WeightOrigin};
pub use config::ModelConfig;
pub use generation_config::GenerationConfig;
pub use load::{RankLoader, load, load_ranks, load_through};
pub use model::{ForwardError, Model, StepOutput};
pub use network::{NetworkSpec, Role, TensorSpec};
pub use ranks::{RankModel, Ranks, StepSink};
pub use shard::Shard;
pub use split::{Parallelism, Split};
pub use split_error::SplitError;
pub use step_cost::{StepCost, StepShape, Work};
pub use step_limits::StepLimits;
pub use weights::LoadError;

pub use quern_backend::{ForwardBatch, SampleBatch};
