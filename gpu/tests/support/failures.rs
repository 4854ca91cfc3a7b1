//! What tests ask of a driver twin itself: to fail, to count.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::{ffi::CString, path::Path};

use libloading::Library;

/// The calls that can be made to fail: of the driver, and two of the run-time compiler.
pub const KINDS: [&str; 11] =
    ["context", "stream", "module", "alloc", "host_alloc", "copy", "launch", "execute", "wait", "program", "compile"];

/// The functions `quern_twin_*` of a twin that is loaded.
pub struct Twin(Library);

impl Twin {
    /// The twin in `folder`, which is the one that a backend over the same folder uses.
    pub fn of(folder: &Path, file: &str) -> Self {
        // SAFETY: a library that the tests have built.
        Self(unsafe { Library::new(folder.join(file)) }.expect("the twin has been built"))
    }

    /// Let the `n`-th call of `kind` ([`KINDS`]) from now on fail with `code`; 0 takes it back.
    pub fn fail(&self, kind: &str, n: i64, code: i32) {
        let kind = CString::new(kind).unwrap();
        // SAFETY: the signature is that of twin.cpp.
        unsafe {
            let f = self.0.get::<unsafe extern "C" fn(*const i8, i64, i32)>(b"quern_twin_fail").unwrap();
            f(kind.as_ptr().cast(), n, code);
        }
    }

    /// Let every call fail with `code`; 0 brings the device back.
    pub fn lose(&self, code: i32) {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn(i32)>(b"quern_twin_lose").unwrap()(code) }
    }

    /// How much memory the device has.
    pub fn set_capacity(&self, bytes: usize) {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn(usize)>(b"quern_twin_capacity").unwrap()(bytes) }
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> usize {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn() -> usize>(b"quern_twin_used").unwrap()() }
    }

    /// Contexts, streams, modules and memory of the host that have not been given back.
    pub fn held(&self) -> usize {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn() -> usize>(b"quern_twin_held").unwrap()() }
    }

    /// Runs of the compiler so far.
    pub fn compilations(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn() -> u32>(b"quern_twin_compilations").unwrap()() }
    }
}
