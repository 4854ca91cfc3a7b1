//! The contract between a network and the machine it runs on.
//!
//! [`Backend`] names the fused operations, [`quant`] the encodings in which weights arrive,
//! [`sampling`] the arithmetic that turns logits into tokens, [`collective`] what the ranks of a divided
//! network do together, [`mod@reference`] the plain-loop twin that defines what every operation means,
//! and [`conformance`] the grid that holds each backend to it.
//!
//! This crate has no intrinsics, no threads and no input or output, and depends on none of ours.

#![forbid(unsafe_code)]

pub mod attention;
pub mod backend;
pub mod batch;
pub mod collective;
pub mod conformance;
pub mod device;
pub mod dtype;
pub mod error;
pub mod kv_format;
pub mod paged;
pub mod precision;
pub mod quant;
pub mod reference;
pub mod sampling;

pub use attention::{AttentionSpec, HeadLayout, KeyOrValue, KvSpec};
pub use backend::{Backend, Uploader};
pub use batch::{ForwardBatch, SampleBatch};
pub use collective::{Collective, Lost, Rank};
pub use device::{Device, DeviceMemory, KernelChoice, MachinePeaks};
pub use dtype::DType;
pub use error::{DeviceFault, UploadError};
pub use kv_format::KvFormat;
pub use paged::{PagedBatch, Span};
pub use precision::Precision;
pub use quant::{ByteOwner, PackedMatrix, QuantFormat, SharedBytes};
pub use reference::RefBackend;
pub use sampling::{LogitFault, LogitTask, LogprobsOf, RowOutput, RowTask, SamplingParams, TokenCounts, TokenMask};
