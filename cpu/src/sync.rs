//! What threads synchronise by. The models in `loom/` put loom's types in place of this file, to run [`crate::pool`] and
//! [`crate::latch`] under every order in which threads may interleave.

pub(crate) use std::{
    hint,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// A cell that is reached through closures, as loom's is, which then sees two accesses at once.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Call `f` with a pointer to read by.
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Call `f` with a pointer to write by.
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Stands between a store and a load that are sequentially consistent themselves. loom takes such accesses for weaker
/// ones, so that it needs a fence there.
pub(crate) fn store_before_load() {}
