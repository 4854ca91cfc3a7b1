//! Attention: the kernels for one partition of positions. `paged_attention.rs` cuts a step into them.

mod element;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod query;

pub(crate) use element::{E4m3, E5m2, Element, FEATURES, Q8};
pub(crate) use kernel::{BLOCK, PARTITION, Partition, attend, block_words, fold, partial_words};
#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::{Brain, Pairs, Words};
pub(crate) use query::QueryLayout;
