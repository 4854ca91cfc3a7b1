//! [`CpuError`]: why there is no CPU backend.

use crate::detect::Isa;

/// More workers than this is a typing error.
pub(crate) const MAX_THREADS: usize = 1024;

/// Why there is no CPU backend.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The CPU cannot run it.
    #[error("this CPU cannot run `{isa}` kernels: it lacks {missing}")]
    UnsupportedIsa {
        /// What was asked for.
        isa: Isa,
        /// The features that are not there.
        missing: String,
    },
    /// A thread count out of range.
    #[error("{threads} worker threads; must be 1 to {MAX_THREADS}")]
    Threads {
        /// What was asked for.
        threads: usize,
    },
    /// The operating system gives no more threads.
    #[error("cannot start worker thread: {0}")]
    Spawn(#[from] std::io::Error),
}
