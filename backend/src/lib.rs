//! The contract between a network and the machine it runs on.
//!
//! [`Backend`] names the fused operations, [`quant`] the encodings in which weights arrive,
//! [`sampling`] the arithmetic that turns logits into tokens, [`mod@reference`] the plain-loop twin that
//! defines what every operation means, and [`conformance`] the grid that holds each backend to it.
//!
//! This crate has no intrinsics, no threads and no input or output, and depends on none of ours.

#![forbid(unsafe_code)]

pub mod backend;
pub mod conformance;
pub mod dtype;
pub mod kv_format;
pub mod paged;
pub mod quant;
pub mod reference;
pub mod sampling;

pub use backend::{Backend, HeadLayout, KvSpec, UploadError};
pub use dtype::DType;
pub use kv_format::KvFormat;
pub use paged::{PagedBatch, Span};
pub use quant::{ByteOwner, PackedMatrix, QuantFormat, SharedBytes};
pub use reference::RefBackend;
pub use sampling::{Fault, LogitRow, RowOutput, RowTask, SamplingParams, TokenCounts, TokenMask};
