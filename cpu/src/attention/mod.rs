//! Attention: the kernels for one partition of positions, and how a step is cut into units of work.

mod element;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod plan;

pub(crate) use element::{E4m3, E5m2, Element, FEATURES, Q8};
pub(crate) use kernel::{PARTITION, Partition, attend, fold};
#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::{Brain, Pairs, Words};
pub(crate) use plan::{Attend, AttentionScratch, QueryLayout};
