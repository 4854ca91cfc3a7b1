//! [`GpuError`]: why there is no device, or what its driver refused.

use std::path::PathBuf;

use crate::Vendor;

/// What can go wrong between this program and a device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no such driver on this machine.
    #[error("there is no {} driver: {cause}", vendor.backend())]
    NoDriver {
        /// Whose.
        vendor: Vendor,
        /// The loader's words, which name the file.
        cause: libloading::Error,
    },
    /// There is a driver, and no compiler for the kernels.
    #[error("the kernels cannot be compiled: {cause}; {}", vendor.compiler_package())]
    NoCompiler {
        /// Whose.
        vendor: Vendor,
        /// The loader's words, which name the file.
        cause: libloading::Error,
    },
    /// A library is too old.
    #[error("{library} has no {symbol}; a newer version is needed")]
    Symbol {
        /// The file.
        library: String,
        /// The missing function.
        symbol: &'static str,
    },
    /// There are fewer devices.
    #[error("there is no {} device {index}; the driver knows {count}", vendor.backend())]
    NoDevice {
        /// Whose.
        vendor: Vendor,
        /// What was asked for, from 0.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The kernels are not written for this device.
    #[error(
        "{} devices of compute capability {major}.{minor} are not supported; supported are {}",
        vendor.backend(), match vendor { Vendor::Nvidia => "8.0 and later", Vendor::Amd => "gfx942 and gfx950" }
    )]
    Architecture {
        /// Whose.
        vendor: Vendor,
        /// As the driver says.
        major: i32,
        /// As the driver says.
        minor: i32,
    },
    /// A call of the driver failed.
    #[error("{call} failed with error {code}{}", meaning(*code))]
    Call {
        /// The driver's function.
        call: &'static str,
        /// The driver's number; both vendors have the same.
        code: i32,
    },
    /// A call of the run-time compiler failed.
    #[error("{call} failed with error {code}")]
    CompilerCall {
        /// The compiler's function.
        call: &'static str,
        /// The compiler's number, which is none of the driver's.
        code: i32,
    },
    /// Memory ran out.
    #[error("no {bytes} bytes of memory are left on the device")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The compiler refused the kernels.
    #[error("the kernels do not compile for {arch} (error {code}):\n{log}")]
    Compile {
        /// The architecture.
        arch: String,
        /// The compiler's number.
        code: i32,
        /// The compiler's words.
        log: String,
    },
    /// A compiled image cannot be kept.
    #[error("{}: {cause}", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// The driver's numbers that operators meet.
fn meaning(code: i32) -> &'static str {
    match code {
        1 => " (invalid value)",
        2 => " (out of memory)",
        3 => " (not initialised)",
        100 => " (no device)",
        101 => " (invalid device)",
        200 | 209 => " (the image does not fit the device)",
        214 => " (uncorrectable memory error)",
        500 => " (not found)",
        700 => " (illegal address)",
        701 => " (too many resources for a launch)",
        719 => " (a kernel failed)",
        802 => " (the system is not ready)",
        804 => " (the driver and the hardware do not fit together)",
        _ => "",
    }
}

/// The driver's number for memory that ran out.
pub(crate) const OUT_OF_MEMORY: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_without_kernels_is_named_with_those_that_have_some() {
        let refused = GpuError::Architecture { vendor: Vendor::Amd, major: 11, minor: 0 }.to_string();
        assert!(refused.contains("11.0") && refused.contains("gfx942"), "{refused}");
    }
}
