//! [`Allocation`]: memory of the device; [`Pinned`]: memory of the host that the device writes to.

use std::{mem::MaybeUninit, ptr, slice, sync::Arc};

use super::{context::Context, table::Opaque};
use crate::GpuError;

/// Numbers without padding, every bit pattern of which is one: they may be copied to and from a device as bytes.
///
/// # Safety
/// The type is as described.
pub(crate) unsafe trait PlainNumber: Copy {}

// SAFETY: numbers.
unsafe impl PlainNumber for u8 {}
// SAFETY: numbers.
unsafe impl PlainNumber for u32 {}
// SAFETY: numbers.
unsafe impl PlainNumber for f32 {}

/// Memory of the device, freed when dropped.
pub(crate) struct Allocation {
    context: Arc<Context>,
    address: u64,
    bytes: usize,
}

impl Allocation {
    /// `bytes` of it, at least 1, with anything in it.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, GpuError> {
        let mut address = 0;
        // SAFETY: `address` lives through the call.
        unsafe { context.enter()?.alloc(&mut address, bytes)? };
        Ok(Self { context: Arc::clone(context), address, bytes })
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated by the same driver, freed once; the driver waits for what uses it. If the device is lost, so
        // is its memory.
        let _ = self.context.enter().and_then(|driver| unsafe { driver.free(self.address) });
    }
}

/// Memory of the host that stays where it is, so that the device can copy to it while the host does other work.
pub(crate) struct Pinned {
    context: Arc<Context>,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, which belongs to no thread.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` zeros.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, GpuError> {
        let mut address: Opaque = ptr::null_mut();
        // SAFETY: `address` lives through the call; the memory is `bytes` long, and initialised before it is read.
        unsafe {
            context.enter()?.alloc_host(&mut address, bytes, 0)?;
            ptr::write_bytes(address.cast::<u8>(), 0, bytes);
        }
        Ok(Self { context: Arc::clone(context), address: address.cast(), bytes })
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the device is to copy to.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.address
    }

    /// A copy of `count` values from the `first` on. Call it only when the device has been waited for.
    pub(crate) fn values<T: PlainNumber>(&self, first: usize, count: usize) -> Vec<T> {
        let end = (first + count) * size_of::<T>();
        assert!(end <= self.bytes, "values up to byte {end} of {} pinned bytes", self.bytes);
        // SAFETY: inside the memory, which is initialised and aligned to a page; every bit pattern is a `T`. The device
        // writes only between a copy's start and the wait for it, and the caller has waited.
        unsafe { slice::from_raw_parts(self.address.cast::<T>().add(first), count) }.to_vec()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by the same driver, freed once; a step waits for its copies before it lets go of them.
        let _ = self.context.enter().and_then(|driver| unsafe { driver.free_host(self.address.cast()) });
    }
}

/// `values` as the bytes that they are.
pub(super) fn bytes_of<T: PlainNumber>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers have no padding.
    unsafe { slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Room for `count` values that a device fills; `fill` gets its address and its bytes.
pub(super) fn filled<T: PlainNumber>(
    count: usize,
    fill: impl FnOnce(*mut u8, usize) -> Result<(), GpuError>,
) -> Result<Vec<T>, GpuError> {
    let mut values = vec![MaybeUninit::<T>::zeroed(); count];
    fill(values.as_mut_ptr().cast(), count * size_of::<T>())?;
    // SAFETY: zeroed, and every bit pattern is a `T`.
    Ok(values.into_iter().map(|value| unsafe { value.assume_init() }).collect())
}
