//! Networks as the papers write them, generic over a [`Backend`](quern_backend::Backend).
//!
//! A checkpoint comes in through [`weights`], its numbers through [`config`]; a step goes in as a
//! [`ForwardBatch`] and comes out as a [`StepOutput`]. No requests, no threads, no SIMD, no HTTP.

#![deny(unsafe_code)]

pub mod batch;
pub mod model;

pub use batch::{ForwardBatch, StepOutput};
pub use model::{ForwardError, Model};
