//! [`GpuDevice`]: one device, its memory, its kernels and its one stream.

use std::{
    ffi::{CString, c_int, c_uint, c_void},
    marker::PhantomData,
    path::Path,
    ptr,
    sync::Arc,
};

use super::{
    context::Context,
    memory::{Allocation, Pinned, PlainNumber, bytes_of, filled},
    table::{Driver, Opaque},
};
use crate::{Arch, GpuError, Vendor, error::OUT_OF_MEMORY};

/// The one argument of a kernel: a `#[repr(C)]` struct of numbers, the same as the kernel's own.
///
/// # Safety
/// The type is as described, and the kernels that take it declare the same fields.
pub(crate) unsafe trait KernelArgs: Copy {}

/// A kernel by its place in the list of all of them.
pub(crate) struct Kernel<A> {
    pub(crate) index: usize,
    pub(crate) args: PhantomData<fn(A)>,
}

impl<A> Clone for Kernel<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Kernel<A> {}

/// The kernels in the device's memory, unloaded when dropped.
struct Module {
    context: Arc<Context>,
    handle: Opaque,
    /// In the order of [`Kernel`]s' indices.
    functions: Vec<Opaque>,
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded in this context, unloaded once; the device has waited for its kernels.
        let _ = self.context.enter().and_then(|driver| unsafe { driver.module_unload(self.handle) });
    }
}

/// A device. Everything that is queued runs in the order of the calls. What it has of its driver it gives back when it
/// is dropped.
pub(crate) struct GpuDevice {
    context: Arc<Context>,
    stream: Opaque,
    arch: Arch,
    name: String,
    module: Option<Module>,
}

// SAFETY: as for the context; streams, modules and functions belong to it.
unsafe impl Send for GpuDevice {}
// SAFETY: as above.
unsafe impl Sync for GpuDevice {}

impl GpuDevice {
    /// Open the `index`-th device of `vendor`, without kernels as yet.
    pub(crate) fn open(vendor: Vendor, index: usize, folder: Option<&Path>) -> Result<Self, GpuError> {
        let driver = Driver::open(vendor, folder)?;
        let (mut count, mut device, mut major, mut minor) = (0, 0, 0, 0);
        let mut name = [0u8; 256];
        // SAFETY: every pointer lives through its call, and `name` is as long as is said.
        let arch = unsafe {
            driver.init(0)?;
            driver.device_count(&mut count)?;
            let count = usize::try_from(count).unwrap_or(0);
            if index >= count {
                return Err(GpuError::NoDevice { vendor, index, count });
            }
            driver.device_get(&mut device, index as c_int)?;
            driver.device_name(name.as_mut_ptr().cast(), name.len() as c_int - 1, device)?;
            driver.compute_capability(&mut major, &mut minor, device)?;
            Arch::of(vendor, major, minor).ok_or(GpuError::Architecture { vendor, major, minor })?
        };
        let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
        let context = Arc::new(Context::retain(driver, device)?);
        // Not ordered with the default stream, which nothing here uses.
        const NON_BLOCKING: c_uint = 1;
        let mut stream = ptr::null_mut();
        // SAFETY: `stream` lives through the call.
        unsafe { context.enter()?.stream_create(&mut stream, NON_BLOCKING)? };
        Ok(Self { context, stream, arch, name, module: None })
    }

    /// Load `image` and find the kernels `names` in it, whose places are the indices of [`Kernel`]s.
    pub(crate) fn load(&mut self, image: &[u8], names: &[&str]) -> Result<(), GpuError> {
        let driver = self.context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a whole image, which the driver copies.
        unsafe { driver.module_load(&mut handle, image.as_ptr().cast())? };
        let mut module = Module { context: Arc::clone(&self.context), handle, functions: Vec::new() };
        for name in names {
            let name = CString::new(*name).expect("names of kernels have no NUL");
            let mut function = ptr::null_mut();
            // SAFETY: the module is loaded, and stays so while its functions are kept.
            unsafe { driver.module_function(&mut function, handle, name.as_ptr())? };
            module.functions.push(function);
        }
        self.module = Some(module);
        Ok(())
    }

    /// Its architecture.
    pub(crate) fn arch(&self) -> &Arch {
        &self.arch
    }

    /// What its maker calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of memory that are not in use, and all of them.
    pub(crate) fn memory(&self) -> Result<(u64, u64), GpuError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both live through the call.
        unsafe { self.context.enter()?.mem_info(&mut free, &mut total)? };
        Ok((free as u64, total as u64))
    }

    /// `bytes` zeros; a size of 0 is that of 1.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<Allocation, GpuError> {
        let bytes = bytes.max(1);
        let memory = Allocation::new(&self.context, bytes).map_err(|error| match error {
            GpuError::Call { code: OUT_OF_MEMORY, .. } => GpuError::OutOfMemory { bytes },
            error => error,
        })?;
        self.zero(&memory, bytes)?;
        Ok(memory)
    }

    /// `bytes` zeros of the host's memory for copies from the device.
    pub(crate) fn alloc_pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        Pinned::new(&self.context, bytes.max(1))
    }

    /// A copy of `values`.
    pub(crate) fn upload<T: PlainNumber>(&self, values: &[T]) -> Result<Allocation, GpuError> {
        let memory = self.alloc(size_of_val(values))?;
        self.write(&memory, 0, values)?;
        Ok(memory)
    }

    /// Queue: overwrite `memory` from byte `offset` on.
    pub(crate) fn write<T: PlainNumber>(
        &self,
        memory: &Allocation,
        offset: usize,
        values: &[T],
    ) -> Result<(), GpuError> {
        let bytes = bytes_of(values);
        let end = offset + bytes.len();
        assert!(end <= memory.bytes(), "a write up to byte {end} of {} on the device", memory.bytes());
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: inside the allocation. The host's memory is pageable: both drivers have read it when they return.
        unsafe {
            let driver = self.context.enter()?;
            driver.copy_to_device(memory.address() + offset as u64, bytes.as_ptr().cast(), bytes.len(), self.stream)
        }
    }

    /// Wait, and read the first `count` values of `memory`.
    pub(crate) fn read<T: PlainNumber>(&self, memory: &Allocation, count: usize) -> Result<Vec<T>, GpuError> {
        filled(count, |to, bytes| {
            assert!(bytes <= memory.bytes(), "a read up to byte {bytes} of {} on the device", memory.bytes());
            if bytes == 0 {
                return Ok(());
            }
            // SAFETY: inside the allocation and inside `to`, which lives until the stream has been waited for, or the
            // device is lost and writes no more.
            unsafe {
                let driver = self.context.enter()?;
                driver.copy_to_host(to.cast(), memory.address(), bytes, self.stream)?;
                driver.stream_wait(self.stream)
            }
        })
    }

    /// Queue: copy `bytes` from `address` on to byte `offset` of `to`.
    ///
    /// `address` lies in an allocation that holds them.
    pub(crate) fn read_pinned(
        &self,
        address: u64,
        bytes: usize,
        to: &mut Pinned,
        offset: usize,
    ) -> Result<(), GpuError> {
        let end = offset + bytes;
        assert!(end <= to.bytes(), "a copy up to byte {end} of {} pinned bytes", to.bytes());
        // SAFETY: inside the pinned memory, which its step keeps until the stream has been waited for.
        unsafe {
            let driver = self.context.enter()?;
            driver.copy_to_host(to.as_mut_ptr().add(offset).cast(), address, bytes, self.stream)
        }
    }

    /// Queue: zeros in the first `bytes`.
    pub(crate) fn zero(&self, memory: &Allocation, bytes: usize) -> Result<(), GpuError> {
        assert!(bytes <= memory.bytes(), "{bytes} zeros in {} bytes of the device", memory.bytes());
        // SAFETY: inside the allocation.
        unsafe { self.context.enter()?.fill(memory.address(), 0, bytes, self.stream) }
    }

    /// Queue a kernel over `grid` blocks of four warps each. Addresses in `args` are of allocations that live until it
    /// has run; a wrong one is a fault of the device, not of this process.
    pub(crate) fn launch<A: KernelArgs>(&self, kernel: Kernel<A>, grid: [usize; 3], args: A) -> Result<(), GpuError> {
        let [x, y, z] = grid.map(|n| c_uint::try_from(n).unwrap_or(c_uint::MAX));
        let mut args = args;
        let mut arguments = [(&raw mut args).cast::<c_void>()];
        let threads = self.arch.threads() as c_uint;
        let module = self.module.as_ref().expect("kernels are loaded before the first is launched");
        // SAFETY: `A` is the kernel's one argument by the contract of `KernelArgs`, and the driver copies it.
        unsafe {
            let (function, none) = (module.functions[kernel.index], ptr::null_mut());
            let driver = self.context.enter()?;
            driver.launch(function, x, y, z, threads, 1, 1, 0, self.stream, arguments.as_mut_ptr(), none)
        }
    }

    /// Wait for everything that is queued.
    pub(crate) fn wait(&self) -> Result<(), GpuError> {
        // SAFETY: the stream lives as long as the device.
        unsafe { self.context.enter()?.stream_wait(self.stream) }
    }

    /// Whether it still does what it is told: a context that has met a failed kernel refuses everything.
    pub(crate) fn works(&self) -> bool {
        self.alloc(1).and_then(|memory| self.read::<u8>(&memory, 1)).is_ok()
    }
}

impl Drop for GpuDevice {
    fn drop(&mut self) {
        // Kernels that run must not lose their code. A device that cannot wait runs none.
        let _ = self.wait();
        // SAFETY: created in this context, destroyed once.
        let _ = self.context.enter().and_then(|driver| unsafe { driver.stream_destroy(self.stream) });
    }
}
