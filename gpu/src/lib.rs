//! The fused operations on NVIDIA and AMD devices.
//!
//! One kernel source for both vendors (`kernels/`, text within the program), compiled for the device at hand by NVRTC or
//! hipRTC at the first start. Drivers and compilers are opened at run time through one table of functions: HIP's module
//! API has the signatures of CUDA's driver API under other names. Nothing of either vendor is needed to build.
//!
//! All calls of a driver, and all `unsafe` with them, are in the module `driver`. An operation that fails is remembered
//! and reported by [`finish`](quern_backend::Backend::finish); nothing panics on what a driver says.

#![deny(unsafe_code)]

mod arch;
mod backend;
mod buffer;
mod device;
#[allow(unsafe_code, reason = "every call of a library that was opened at run time is unsafe")]
mod driver;
mod error;
mod fault;
mod gpu_info;
mod image_cache;
mod kv_cache;
mod layout;
mod ops;
mod sampling;
mod scratch;
mod step;
mod weights;

pub use arch::{Arch, Vendor};
pub use backend::{GpuBackend, GpuConfig};
pub use driver::{HEAD as MAX_HEAD_DIM, MAX_EXPERTS};
pub use error::GpuError;
pub use gpu_info::GpuInfo;
pub use kv_cache::{KV_FORMATS, kv_bytes_per_token};
pub use weights::{MIN_SCALE_ROWS, WEIGHT_FORMATS};
