//! The fused operations of [`quern_backend`] on CPU threads and SIMD.
//!
//! [`CpuBackend`] is the whole interface. Inside, `kernels` is the table chosen once at start for what `detect` finds;
//! `arch` holds every intrinsic; the kernels (`gemm`, `panels`, `attention`, `norm_rope`, `pointwise`) are generic loops
//! over `lanes`; `product`, `moe` and `paged_attention` cut operations into units of work for the `pool`. Several
//! backends may be the ranks of one network, each on its own cores: they exchange through `team`.
//!
//! Every result is a function of its own row alone: lanes run along the summed dimension, each chain of
//! additions and each tree of sums is fixed by shape, and threads only decide who computes what.

mod affinity;
mod arch;
mod attention;
mod backend;
mod buffer;
mod detect;
mod device;
mod dot;
mod error;
mod gemm;
mod int8;
mod int_lanes;
mod kernels;
mod kv_cache;
mod lanes;
mod latch;
mod machine_peaks;
mod matrix;
mod memory;
mod moe;
mod norm_rope;
mod ops;
mod paged_attention;
mod panels;
mod pointwise;
mod pool;
mod product;
mod route;
#[cfg(test)]
#[path = "../../tests/skip.rs"]
mod skip;
mod step;
mod sync;
mod team;
mod throughput;
mod uploader;

pub use backend::{CpuBackend, CpuConfig};
pub use buffer::{Buffer, Routing};
pub use detect::Isa;
pub use error::CpuError;
pub use kv_cache::KvCache;
pub use moe::Experts;
pub use panels::{OnSaved, PackedWeightCache};
pub use product::Weight;
pub use step::Step;
pub use uploader::CpuUploader;
