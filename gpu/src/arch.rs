//! [`Vendor`] and [`Arch`]: whose device it is, and which of their architectures.

use std::fmt;

/// Whose driver, compiler and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// CUDA.
    Nvidia,
    /// HIP.
    Amd,
}

impl Vendor {
    /// As `--backend` and errors name it.
    pub fn backend(self) -> &'static str {
        match self {
            Self::Nvidia => "cuda",
            Self::Amd => "hip",
        }
    }

    /// Files of the driver, best first.
    pub(crate) fn driver_libraries(self) -> &'static [&'static str] {
        match self {
            Self::Nvidia => &["libcuda.so.1"],
            Self::Amd => &["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"],
        }
    }

    /// Files of the run-time compiler, best first. ROCm's was part of the driver's library once.
    pub(crate) fn compiler_libraries(self) -> &'static [&'static str] {
        match self {
            Self::Nvidia => &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"],
            Self::Amd => &[
                "libhiprtc.so",
                "libhiprtc.so.7",
                "libhiprtc.so.6",
                "libamdhip64.so",
                "libamdhip64.so.7",
                "libamdhip64.so.6",
                "libamdhip64.so.5",
            ],
        }
    }

    /// Where the compiler comes from, for errors.
    pub(crate) fn compiler_package(self) -> &'static str {
        match self {
            Self::Nvidia => "NVRTC is part of the CUDA toolkit and of the Python package nvidia-cuda-nvrtc",
            Self::Amd => "hipRTC is part of ROCm (hip-runtime-amd)",
        }
    }
}

/// An architecture that the kernels are written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arch {
    vendor: Vendor,
    name: String,
}

impl Arch {
    /// That of a device with this compute capability; `None` if the kernels need instructions that it lacks: matrix
    /// products of bfloat16 with NVIDIA, of FP8 conversions besides with AMD.
    pub fn of(vendor: Vendor, major: i32, minor: i32) -> Option<Self> {
        let name = match (vendor, major, minor) {
            // The suffix gives a device's own instructions, which the image then needs.
            (Vendor::Nvidia, 9 | 10, 0) => format!("sm_{major}{minor}a"),
            (Vendor::Nvidia, 8.., _) => format!("sm_{major}{minor}"),
            (Vendor::Amd, 9, 4) => "gfx942".to_owned(),
            (Vendor::Amd, 9, 5) => "gfx950".to_owned(),
            _ => return None,
        };
        Some(Self { vendor, name })
    }

    /// Whose.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// Threads of a warp (a wavefront, with AMD).
    pub(crate) fn lanes(&self) -> usize {
        match self.vendor {
            Vendor::Nvidia => 32,
            Vendor::Amd => 64,
        }
    }

    /// Threads of each block: four warps.
    pub(crate) fn threads(&self) -> usize {
        4 * self.lanes()
    }

    /// Whether its E4M3 is FNUZ: a byte is worth half of OCP's, and 0x80 is NaN instead of -0.
    pub fn is_fnuz(&self) -> bool {
        self.name == "gfx942"
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_name_an_architecture_or_none() {
        let name = |vendor, major, minor| Arch::of(vendor, major, minor).map(|arch| arch.to_string());
        assert_eq!(name(Vendor::Nvidia, 9, 0).as_deref(), Some("sm_90a"));
        assert_eq!(name(Vendor::Nvidia, 8, 6).as_deref(), Some("sm_86"));
        assert_eq!(name(Vendor::Nvidia, 7, 5), None);
        assert_eq!(name(Vendor::Amd, 9, 4).as_deref(), Some("gfx942"));
        assert_eq!(name(Vendor::Amd, 9, 5).as_deref(), Some("gfx950"));
        assert_eq!(name(Vendor::Amd, 9, 0), None);
        assert_eq!(name(Vendor::Amd, 11, 0), None);
    }
}
