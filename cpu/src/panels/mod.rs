//! Products with weights made of blocks: their layout, the repacking into it, the kernels that read it.

mod checksum;
pub(crate) mod direct;
pub(crate) mod format;
mod packed_weight_cache;
mod repack;
pub(crate) mod staged;

pub use packed_weight_cache::{OnSaved, PackedWeightCache};
pub(crate) use repack::Panels;
