//! Products with weights made of blocks: their layout, the repacking into it, the kernels that read it.

pub(crate) mod few;
pub(crate) mod format;
pub(crate) mod many;
mod repack;

pub(crate) use repack::Panels;
