//! The functions that are called, as one table for both vendors.

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    mem::ManuallyDrop,
    path::Path,
};

use libloading::Library;

use crate::{GpuError, Vendor};

/// An opaque pointer of a driver: a context, a stream, a module.
pub(super) type Opaque = *mut c_void;

/// A table of functions of one library: the name here, CUDA's symbol, HIP's, and the arguments, which are the same. What
/// they refuse is the error behind the arrow.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident -> $error:ident {
        $($function:ident: $cuda:literal $hip:literal ($($arg:ident: $type:ty),*);)*
    }) => {
        $(#[$doc])*
        pub(super) struct $name {
            vendor: Vendor,
            $($function: unsafe extern "C" fn($($type),*) -> c_int,)*
            // Never closed: memory may outlive the table, and drivers keep threads that must not lose their code.
            _library: ManuallyDrop<Library>,
        }

        impl $name {
            /// Look all functions up in `library`, which was opened as `file`.
            fn of(vendor: Vendor, library: Library, file: &str) -> Result<Self, GpuError> {
                Ok(Self {
                    vendor,
                    $($function: {
                        let symbol = match vendor { Vendor::Nvidia => $cuda, Vendor::Amd => $hip };
                        // SAFETY: the signature is the documented one of both vendors.
                        match unsafe { library.get(symbol.as_bytes()) } {
                            Ok(found) => *found,
                            Err(_) => return Err(GpuError::Symbol { library: file.to_owned(), symbol }),
                        }
                    },)*
                    _library: ManuallyDrop::new(library),
                })
            }

            $(
                /// # Safety
                /// The pointers are what the vendor's documentation asks for.
                #[allow(clippy::too_many_arguments, reason = "as many as the driver's function has")]
                pub(super) unsafe fn $function(&self, $($arg: $type),*) -> Result<(), GpuError> {
                    // SAFETY: this function's contract.
                    match unsafe { (self.$function)($($arg),*) } {
                        0 => Ok(()),
                        code => {
                            let call = match self.vendor { Vendor::Nvidia => $cuda, Vendor::Amd => $hip };
                            Err(GpuError::$error { call, code })
                        }
                    }
                }
            )*
        }
    };
}

table!(
    /// The driver.
    Driver -> Call {
        init: "cuInit" "hipInit" (flags: c_uint);
        device_count: "cuDeviceGetCount" "hipGetDeviceCount" (count: *mut c_int);
        device_get: "cuDeviceGet" "hipDeviceGet" (device: *mut c_int, index: c_int);
        device_name: "cuDeviceGetName" "hipDeviceGetName" (name: *mut c_char, bytes: c_int, device: c_int);
        compute_capability: "cuDeviceComputeCapability" "hipDeviceComputeCapability"
            (major: *mut c_int, minor: *mut c_int, device: c_int);
        context_retain: "cuDevicePrimaryCtxRetain" "hipDevicePrimaryCtxRetain" (context: *mut Opaque, device: c_int);
        context_release: "cuDevicePrimaryCtxRelease_v2" "hipDevicePrimaryCtxRelease" (device: c_int);
        context_set: "cuCtxSetCurrent" "hipCtxSetCurrent" (context: Opaque);
        mem_info: "cuMemGetInfo_v2" "hipMemGetInfo" (free: *mut usize, total: *mut usize);
        alloc: "cuMemAlloc_v2" "hipMalloc" (address: *mut u64, bytes: usize);
        free: "cuMemFree_v2" "hipFree" (address: u64);
        alloc_host: "cuMemHostAlloc" "hipHostMalloc" (address: *mut Opaque, bytes: usize, flags: c_uint);
        free_host: "cuMemFreeHost" "hipHostFree" (address: Opaque);
        copy_to_device: "cuMemcpyHtoDAsync_v2" "hipMemcpyHtoDAsync"
            (to: u64, from: *const c_void, bytes: usize, stream: Opaque);
        copy_to_host: "cuMemcpyDtoHAsync_v2" "hipMemcpyDtoHAsync"
            (to: *mut c_void, from: u64, bytes: usize, stream: Opaque);
        fill: "cuMemsetD8Async" "hipMemsetD8Async" (address: u64, value: u8, bytes: usize, stream: Opaque);
        stream_create: "cuStreamCreate" "hipStreamCreateWithFlags" (stream: *mut Opaque, flags: c_uint);
        stream_destroy: "cuStreamDestroy_v2" "hipStreamDestroy" (stream: Opaque);
        stream_wait: "cuStreamSynchronize" "hipStreamSynchronize" (stream: Opaque);
        module_load: "cuModuleLoadData" "hipModuleLoadData" (module: *mut Opaque, image: *const c_void);
        module_unload: "cuModuleUnload" "hipModuleUnload" (module: Opaque);
        module_function: "cuModuleGetFunction" "hipModuleGetFunction"
            (function: *mut Opaque, module: Opaque, name: *const c_char);
        launch: "cuLaunchKernel" "hipModuleLaunchKernel"
            (function: Opaque, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
             block_z: c_uint, shared_bytes: c_uint, stream: Opaque, arguments: *mut Opaque, extra: *mut Opaque);
    }
);

table!(
    /// The run-time compiler.
    RuntimeCompiler -> CompilerCall {
        version: "nvrtcVersion" "hiprtcVersion" (major: *mut c_int, minor: *mut c_int);
        create: "nvrtcCreateProgram" "hiprtcCreateProgram"
            (program: *mut Opaque, source: *const c_char, name: *const c_char, headers: c_int,
             header_texts: *const *const c_char, header_names: *const *const c_char);
        compile: "nvrtcCompileProgram" "hiprtcCompileProgram"
            (program: Opaque, count: c_int, options: *const *const c_char);
        log_bytes: "nvrtcGetProgramLogSize" "hiprtcGetProgramLogSize" (program: Opaque, bytes: *mut usize);
        log: "nvrtcGetProgramLog" "hiprtcGetProgramLog" (program: Opaque, log: *mut c_char);
        code_bytes: "nvrtcGetCUBINSize" "hiprtcGetCodeSize" (program: Opaque, bytes: *mut usize);
        code: "nvrtcGetCUBIN" "hiprtcGetCode" (program: Opaque, code: *mut c_char);
        destroy: "nvrtcDestroyProgram" "hiprtcDestroyProgram" (program: *mut Opaque);
    }
);

impl Driver {
    /// Open it, from `folder` if one is named, else from where the system's loader looks.
    pub(super) fn open(vendor: Vendor, folder: Option<&Path>) -> Result<Self, GpuError> {
        let (library, file) =
            open_first(vendor.driver_libraries(), folder).map_err(|cause| GpuError::NoDriver { vendor, cause })?;
        Self::of(vendor, library, &file)
    }
}

impl RuntimeCompiler {
    /// As [`Driver::open`].
    pub(super) fn open(vendor: Vendor, folder: Option<&Path>) -> Result<Self, GpuError> {
        let (library, file) =
            open_first(vendor.compiler_libraries(), folder).map_err(|cause| GpuError::NoCompiler { vendor, cause })?;
        Self::of(vendor, library, &file)
    }
}

/// The first of `files` that opens, or why the first does not.
fn open_first(files: &[&str], folder: Option<&Path>) -> Result<(Library, String), libloading::Error> {
    let mut first_error = None;
    for file in files {
        let path = folder.map_or_else(|| file.into(), |folder| folder.join(file));
        // SAFETY: the initialisers of a driver's libraries run; they are as trusted as the driver.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok((library, path.display().to_string())),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.expect("each vendor has files"))
}
