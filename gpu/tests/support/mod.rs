//! Driver twins: libraries with the drivers' symbols whose device is emulated by this machine (`gpu/twin`).
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, reason = "each test file uses its own part")]

#[path = "../../../tests/skip.rs"]
pub mod skip;

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use quern_gpu::{GpuBackend, GpuConfig, Vendor};

/// An architecture that a twin emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Sm90,
    Gfx942,
    Gfx950,
}

impl Target {
    pub const ALL: [Target; 3] = [Target::Sm90, Target::Gfx942, Target::Gfx950];

    pub fn vendor(self) -> Vendor {
        if self == Target::Sm90 { Vendor::Nvidia } else { Vendor::Amd }
    }

    /// `Q_TARGET` of the twin.
    fn number(self) -> &'static str {
        match self {
            Target::Sm90 => "90",
            Target::Gfx942 => "942",
            Target::Gfx950 => "950",
        }
    }

    /// The twin's file, as the loader looks for it.
    pub fn driver_file(self) -> &'static str {
        if self == Target::Sm90 { "libcuda.so.1" } else { "libamdhip64.so" }
    }
}

/// A test for each [`Target`], in a module called like the function `$check` that is given it.
macro_rules! on_each_target {
    ($check:ident) => {
        mod $check {
            use super::{Target, $check};

            #[test]
            fn sm_90() {
                $check(Target::Sm90);
            }

            #[test]
            fn gfx942() {
                $check(Target::Gfx942);
            }

            #[test]
            fn gfx950() {
                $check(Target::Gfx950);
            }
        }
    };
}
pub(crate) use on_each_target;

/// The folder of a target's twin, built if need be; `None` with a loud line where there is no C++ compiler.
pub fn folder(target: Target) -> Option<PathBuf> {
    static FOLDERS: [OnceLock<Option<PathBuf>>; 3] = [const { OnceLock::new() }; 3];
    let folder = FOLDERS[target as usize].get_or_init(|| build(target)).clone();
    if folder.is_none() {
        skip::skip(
            "there is no C++ compiler to build a GPU driver twin with",
            "Debian: apt-get install g++, or set CXX",
        );
    }
    folder
}

/// A backend over a target's twin. With `QUERN_GPU_DEVICE` set, over the machine's own driver and device instead, where
/// it is that vendor's.
pub fn backend(target: Target) -> Option<GpuBackend> {
    let config = match std::env::var_os("QUERN_GPU_DEVICE") {
        Some(_) => GpuConfig { vendor: target.vendor(), index: 0, libraries: None, cache: None },
        None => config(target)?,
    };
    Some(GpuBackend::open(&config).unwrap_or_else(|error| panic!("{target:?}: {error}")))
}

/// The twin's configuration, its compiled kernels kept for later runs of the tests.
pub fn config(target: Target) -> Option<GpuConfig> {
    let libraries = folder(target)?;
    let cache = Some(libraries.join("kernels"));
    Some(GpuConfig { vendor: target.vendor(), index: 0, libraries: Some(libraries), cache })
}

fn build(target: Target) -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let version = Command::new(&compiler).arg("--version").output().ok().filter(|output| output.status.success())?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu/twin").canonicalize().expect("gpu/twin is there");
    // The folder's name says what the twin was made of, and so does the version of its compiler of kernels.
    let mut hash = DefaultHasher::new();
    version.stdout.hash(&mut hash);
    // It reads its header from there while it runs: a target folder may outlive its checkout.
    sources.hash(&mut hash);
    for file in ["twin.cpp", "emu.h"] {
        fs::read(sources.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).hash(&mut hash);
    }
    let identity = hash.finish();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-twins");
    let folder = root.join(format!("{}-{identity:016x}", target.number()));
    let library = folder.join(target.driver_file());
    if !library.exists() {
        fs::create_dir_all(&folder).expect("the target folder can be written");
        // Other processes may build it as well; each moves a whole file into place.
        let unfinished = folder.join(format!("{}.incomplete", std::process::id()));
        let output = Command::new(&compiler)
            .args(["-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"])
            .arg(format!("-DQ_TARGET={}", target.number()))
            .arg(format!("-DQ_VERSION={}", identity & 0x3fff_ffff))
            .arg(format!("-DQ_INCLUDE=\"{}\"", sources.display()))
            .arg(sources.join("twin.cpp"))
            .arg("-o")
            .arg(&unfinished)
            .output()
            .expect("the compiler was there a moment ago");
        assert!(output.status.success(), "the twin does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&unfinished, &library).expect("the target folder can be written");
    }
    if target.vendor() == Vendor::Nvidia {
        // One library is driver and compiler, as AMD's is.
        let _ = std::os::unix::fs::symlink("libcuda.so.1", folder.join("libnvrtc.so"));
    }
    Some(folder)
}
