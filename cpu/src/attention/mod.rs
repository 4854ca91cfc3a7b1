//! Attention: the kernels for one partition of positions, and how a step is cut into units of work.

mod kernel;
mod plan;

pub(crate) use kernel::{PARTITION, Partition, attend, fold};
pub(crate) use plan::{AttentionScratch, Step};
