//! [`Compiler`]: kernels as text become an image for an architecture.

use std::{
    ffi::{CStr, CString, c_int},
    path::Path,
    ptr,
};

use super::table::{Opaque, RuntimeCompiler};
use crate::{Arch, GpuError, Vendor};

/// NVRTC or hipRTC.
pub(crate) struct Compiler {
    vendor: Vendor,
    functions: RuntimeCompiler,
}

/// A program of the compiler, destroyed when dropped.
struct Program<'a> {
    functions: &'a RuntimeCompiler,
    handle: Opaque,
}

impl Compiler {
    /// Open it, from `folder` if one is named, else from where the system's loader looks.
    ///
    /// # Errors
    /// If it is not there or too old.
    pub(crate) fn open(vendor: Vendor, folder: Option<&Path>) -> Result<Self, GpuError> {
        Ok(Self { vendor, functions: RuntimeCompiler::open(vendor, folder)? })
    }

    /// Its major and minor version.
    ///
    /// # Errors
    /// If it does not say.
    pub(crate) fn version(&self) -> Result<(i32, i32), GpuError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both live through the call.
        unsafe { self.functions.version(&mut major, &mut minor)? };
        Ok((major, minor))
    }

    /// What it is told besides the architecture. Products and sums are not contracted, so that each kernel rounds as
    /// every other does.
    pub(crate) fn options(vendor: Vendor) -> &'static [&'static CStr] {
        match vendor {
            Vendor::Nvidia => &[c"--std=c++17", c"--fmad=false"],
            Vendor::Amd => &[c"-O3", c"-std=c++17", c"-ffp-contract=off"],
        }
    }

    /// An image of `source` for `arch`, which a driver of the same vendor can load.
    ///
    /// # Errors
    /// [`GpuError::Compile`] with the compiler's log, if it refuses.
    pub(crate) fn compile(&self, source: &str, arch: &Arch) -> Result<Vec<u8>, GpuError> {
        let source = CString::new(source).expect("the kernels' text has no NUL");
        let arch_option =
            CString::new(format!("--gpu-architecture={arch}")).expect("names of architectures have no NUL");
        let mut options = vec![arch_option.as_ptr()];
        options.extend(Self::options(self.vendor).iter().map(|option| option.as_ptr()));

        let mut program = Program { functions: &self.functions, handle: ptr::null_mut() };
        // SAFETY: strings and lists live through the calls; the buffer has the size that the compiler names.
        unsafe {
            let f = &self.functions;
            f.create(&mut program.handle, source.as_ptr(), c"quern.cu".as_ptr(), 0, ptr::null(), ptr::null())?;
            f.compile(program.handle, options.len() as c_int, options.as_ptr()).map_err(|error| match error {
                GpuError::CompilerCall { code, .. } => {
                    GpuError::Compile { arch: arch.to_string(), code, log: program.log().unwrap_or_default() }
                }
                error => error,
            })?;
            let mut bytes = 0;
            f.code_bytes(program.handle, &mut bytes)?;
            let mut code = vec![0u8; bytes];
            f.code(program.handle, code.as_mut_ptr().cast())?;
            Ok(code)
        }
    }
}

impl Program<'_> {
    /// What the compiler has said of it.
    fn log(&self) -> Result<String, GpuError> {
        let mut bytes = 0;
        // SAFETY: the size lives through the call, and the buffer is as long as it says.
        let log = unsafe {
            self.functions.log_bytes(self.handle, &mut bytes)?;
            let mut log = vec![0u8; bytes.max(1)];
            self.functions.log(self.handle, log.as_mut_ptr().cast())?;
            log
        };
        Ok(String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by the same compiler, destroyed once. A failure to destroy leaks it.
            let _ = unsafe { self.functions.destroy(&mut self.handle) };
        }
    }
}
