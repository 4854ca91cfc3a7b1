//! One of the targets, by the environment variable `QUERN_FUZZ_TARGET`: so they are built and linked once. `./test fuzz`
//! runs all of them, a minute each.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use quern_fuzz::targets::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(" ");
    let wanted = std::env::var("QUERN_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == wanted);
    found.unwrap_or_else(|| panic!("QUERN_FUZZ_TARGET is {wanted:?}; the targets are {}", names()))
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
