//! The drivers, their run-time compilers, and the memory and kernels of one device: every call into a library that was
//! opened at run time, and every `unsafe` of this crate.

mod compiler;
mod context;
mod device;
mod kernels;
mod memory;
mod table;

pub(crate) use compiler::Compiler;
pub(crate) use device::{GpuDevice, Kernel, KernelArgs};
pub(crate) use kernels::*;
pub use kernels::{HEAD, MAX_EXPERTS};
pub(crate) use memory::{Allocation, Pinned};
