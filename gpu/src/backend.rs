//! [`GpuBackend`]: a device with its kernels, what went wrong on it, and the working space of its operations.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{
    Arch, GpuError, Vendor,
    driver::{Compiler, GpuDevice, KERNEL_NAMES, Kernel, KernelArgs, SOURCE},
    fault::Faults,
    image_cache::CachedImage,
    scratch::Scratch,
};

/// Which device to open, and how.
#[derive(Clone, Debug)]
pub struct GpuConfig {
    /// Whose.
    pub vendor: Vendor,
    /// Which of theirs, from 0, as the driver counts (`CUDA_VISIBLE_DEVICES` and `HIP_VISIBLE_DEVICES` hold).
    pub index: usize,
    /// A folder with the driver's and the compiler's libraries; `None`: where the system's loader looks.
    pub libraries: Option<PathBuf>,
    /// A folder for compiled kernels; `None`: they are compiled at each start.
    pub cache: Option<PathBuf>,
}

/// The fused operations on one device.
///
/// Results do not depend on what else is in a batch. Operations are queued when they are called, and only
/// [`finish`](quern_backend::Backend::finish) waits.
pub struct GpuBackend {
    device: Arc<GpuDevice>,
    pub(crate) faults: Faults,
    scratch: Mutex<Scratch>,
    /// Threads that pack weights and sample rows, as many as the host has.
    host_threads: usize,
    compiled_now: bool,
    /// Why the kernels that were compiled now could not be kept.
    not_kept: Option<GpuError>,
}

impl GpuBackend {
    /// Open the device, compile the kernels or load what an earlier start compiled.
    ///
    /// # Errors
    /// If there is no driver, no such device, no compiler, or if one of them refuses.
    pub fn open(config: &GpuConfig) -> Result<Self, GpuError> {
        let folder = config.libraries.as_deref();
        let mut device = GpuDevice::open(config.vendor, config.index, folder)?;
        let compiler = Compiler::open(config.vendor, folder)?;
        let loaded = load(&mut device, &compiler, config)?;
        let LoadedKernels { compiled_now, not_kept } = loaded;
        Ok(Self {
            device: Arc::new(device),
            faults: Faults::default(),
            scratch: Mutex::default(),
            host_threads: thread::available_parallelism().map_or(1, usize::from),
            compiled_now,
            not_kept,
        })
    }

    /// The architecture of the device.
    pub fn arch(&self) -> &Arch {
        self.device.arch()
    }

    /// Whether the kernels were compiled at this start, and not at an earlier one.
    pub fn is_compiled_now(&self) -> bool {
        self.compiled_now
    }

    /// Why the kernels that were compiled at this start will be compiled at the next one too, if so.
    pub fn not_kept(&self) -> Option<&GpuError> {
        self.not_kept.as_ref()
    }

    /// As errors name it: `cuda` or `hip`.
    pub(crate) fn name(&self) -> &'static str {
        self.arch().vendor().backend()
    }

    pub(crate) fn device(&self) -> &Arc<GpuDevice> {
        &self.device
    }

    pub(crate) fn host_threads(&self) -> usize {
        self.host_threads
    }

    /// Held while an operation is queued. A panic leaves nothing in it that a later operation relies on.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Do `f`, unless something has failed before; remember what fails.
    pub(crate) fn attempt<T>(&self, f: impl FnOnce(&GpuDevice) -> Result<T, GpuError>) -> Option<T> {
        if self.faults.any() {
            return None;
        }
        f(&self.device).map_err(|error| self.faults.record(error)).ok()
    }

    /// Queue a kernel, unless something has failed before or there is nothing to do.
    pub(crate) fn launch<A: KernelArgs>(&self, kernel: Kernel<A>, grid: [usize; 3], args: A) {
        if !grid.contains(&0) {
            self.attempt(|device| device.launch(kernel, grid, args));
        }
    }
}

/// How the kernels got into the device.
struct LoadedKernels {
    compiled_now: bool,
    not_kept: Option<GpuError>,
}

/// Load the kernels into `device`.
fn load(device: &mut GpuDevice, compiler: &Compiler, config: &GpuConfig) -> Result<LoadedKernels, GpuError> {
    let version = compiler.version()?;
    let cached = config.cache.as_deref().map(|folder| CachedImage::new(folder, SOURCE, device.arch(), version));
    if let Some(image) = cached.as_ref().and_then(CachedImage::read)
        && device.load(&image, KERNEL_NAMES).is_ok()
    {
        return Ok(LoadedKernels { compiled_now: false, not_kept: None });
    }
    let image = compiler.compile(SOURCE, device.arch())?;
    device.load(&image, KERNEL_NAMES)?;
    Ok(LoadedKernels { compiled_now: true, not_kept: cached.and_then(|file| file.write(&image).err()) })
}
