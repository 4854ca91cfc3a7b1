//! [`Isa`]: which instruction set this CPU has.

use std::fmt;

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, any CPU.
    Scalar,
    /// AVX2, FMA and F16C (x86-64-v3).
    Avx2,
    /// AVX2 with the 8-bit dot product.
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL (x86-64-v4).
    Avx512,
    /// AVX-512 with the 8-bit dot product.
    Avx512Vnni,
    /// AVX-512 with the 8-bit and the BF16 dot product.
    Avx512Bf16,
    /// NEON (every 64-bit Arm).
    Neon,
    /// NEON with the 8-bit dot product (Armv8.2).
    NeonDot,
}

impl Isa {
    /// All, the best last within an architecture.
    pub const ALL: [Isa; 8] =
        [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16, Isa::Neon, Isa::NeonDot];

    /// Features that this CPU lacks to run it.
    pub(crate) fn missing(self) -> Vec<&'static str> {
        self.features().into_iter().filter(|(_, present)| !present).map(|(name, _)| name).collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn features(self) -> Vec<(&'static str, bool)> {
        macro_rules! probe {
            ($($name:tt),*) => { vec![$(($name, std::arch::is_x86_feature_detected!($name))),*] };
        }
        let avx2 = probe!("avx2", "fma", "f16c");
        let avx512 = [avx2.clone(), probe!("avx512f", "avx512bw", "avx512dq", "avx512vl")].concat();
        match self {
            Isa::Scalar => Vec::new(),
            Isa::Avx2 => avx2,
            Isa::AvxVnni => [avx2, probe!("avxvnni")].concat(),
            Isa::Avx512 => avx512,
            Isa::Avx512Vnni => [avx512, probe!("avx512vnni")].concat(),
            Isa::Avx512Bf16 => [avx512, probe!("avx512vnni", "avx512bf16")].concat(),
            Isa::Neon | Isa::NeonDot => vec![("a 64-bit Arm CPU", false)],
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn features(self) -> Vec<(&'static str, bool)> {
        match self {
            Isa::Scalar | Isa::Neon => Vec::new(),
            Isa::NeonDot => vec![("dotprod", std::arch::is_aarch64_feature_detected!("dotprod"))],
            _ => vec![("an x86-64 CPU", false)],
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn features(self) -> Vec<(&'static str, bool)> {
        match self {
            Isa::Scalar => Vec::new(),
            Isa::Neon | Isa::NeonDot => vec![("a 64-bit Arm CPU", false)],
            _ => vec![("an x86-64 CPU", false)],
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        self.missing().is_empty()
    }

    /// The best one that this CPU can run.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
        })
    }
}

/// Whether a core multiplies as many vectors of 512 bits a cycle as it loads inputs for: Intel's servers and AMD's
/// cores since Zen 5. Those have a first-level cache of 48 KiB; Zen 4, which multiplies half as many, has 32. Some
/// of Intel's clients have 48 KiB and multiply half as many: taking the wrong way would cost a Zen 4 about a fifth.
#[cfg(target_arch = "x86_64")]
pub(crate) fn loads_are_scarce() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BASIC: u32 = 0;
    const EXTENDED: u32 = 0x8000_0000;
    // Each leaf describes the data cache of the first level first: Intel's, then AMD's of the same form.
    [(BASIC, 4), (EXTENDED, 0x8000_001d)]
        .into_iter()
        .filter(|&(range, leaf)| __cpuid(range).eax >= leaf)
        .map(|(_, leaf)| __cpuid_count(leaf, 0))
        .find(|cache| cache.eax & 31 == 1)
        .is_some_and(|cache| {
            let [ways, partitions, line] = [22, 12, 0].map(|from| (cache.ebx >> from & 1023) + 1);
            u64::from(ways) * u64::from(partitions) * u64::from(line) * (u64::from(cache.ecx) + 1) >= 48 << 10
        })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn loads_are_scarce() -> bool {
    false
}
