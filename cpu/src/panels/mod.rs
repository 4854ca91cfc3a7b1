//! Products with weights made of blocks: their layout, the repacking into it, the kernels that read it.

pub(crate) mod direct;
pub(crate) mod format;
mod kept;
mod repack;
pub(crate) mod staged;

pub use kept::{OnSaved, PanelFile};
pub(crate) use repack::Panels;
