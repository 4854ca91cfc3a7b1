//! [`GpuInfo`]: a device that could compute, before anything is compiled for it.

use std::path::Path;

use crate::{
    Arch, GpuError, Vendor,
    driver::{Compiler, GpuDevice},
};

/// What a driver says of one of its devices.
#[derive(Clone, Debug)]
pub struct GpuInfo {
    /// What its maker calls it.
    pub name: String,
    /// Its architecture.
    pub arch: Arch,
    /// Bytes of its memory that are not in use.
    pub available_bytes: u64,
    /// All of its memory.
    pub total_bytes: u64,
}

impl GpuInfo {
    /// Ask the driver for its `index`-th device, and look for the compiler that its kernels need. The libraries are those
    /// in `folder`; `None`: where the system's loader looks.
    ///
    /// # Errors
    /// As for [`GpuBackend::open`](crate::GpuBackend::open), but for what the compiler says of the kernels.
    pub fn probe(vendor: Vendor, index: usize, folder: Option<&Path>) -> Result<Self, GpuError> {
        let device = GpuDevice::open(vendor, index, folder)?;
        Compiler::open(vendor, folder)?;
        let (available_bytes, total_bytes) = device.memory()?;
        Ok(Self { name: device.name().to_owned(), arch: device.arch().clone(), available_bytes, total_bytes })
    }
}
