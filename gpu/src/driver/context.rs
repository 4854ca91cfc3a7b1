//! [`Context`]: a driver and the context of one of its devices.

use std::{ffi::c_int, ptr};

use super::table::{Driver, Opaque};
use crate::GpuError;

/// A driver and the context of one of its devices, released when dropped: when nothing of the device is left.
pub(super) struct Context {
    driver: Driver,
    device: c_int,
    handle: Opaque,
}

// SAFETY: both drivers may be called from any thread; a context belongs to none.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// That of `device`, whose driver has been initialised.
    pub(super) fn retain(driver: Driver, device: c_int) -> Result<Self, GpuError> {
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` lives through the call.
        unsafe { driver.context_retain(&mut handle, device)? };
        Ok(Self { driver, device, handle })
    }

    /// The driver, with this context current for the calling thread.
    pub(super) fn enter(&self) -> Result<&Driver, GpuError> {
        // SAFETY: the context is retained until this is dropped.
        unsafe { self.driver.context_set(self.handle)? };
        Ok(&self.driver)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once; what belongs to it holds it. A failure to release leaks it.
        let _ = unsafe { self.driver.context_release(self.device) };
    }
}
