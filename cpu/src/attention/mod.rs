//! Attention: the kernels for one partition of positions, and how a step is cut into units of work.

mod element;
mod kernel;
mod pairs;
mod plan;

pub(crate) use element::{E4m3, E5m2, Element, FEATURES, Q8};
pub(crate) use kernel::{PARTITION, Partition, attend, fold};
pub(crate) use pairs::{Pairs, Words};
pub(crate) use plan::{AttentionScratch, Queries, Step};
