//! [`run`]: work that may take its time, off the threads that serve sockets.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why work has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// The system refuses another thread.
    #[error("The system has no thread to spare for this request; try again.")]
    NoThread,
    /// It panicked, which is this request's affair alone.
    #[error("the request could not be prepared")]
    Panicked,
}

/// Run `work` on a thread that may block.
///
/// # Errors
/// If the system has no thread for it, or it panics.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BlockingError> {
    // Tokio panics where it has no such thread and the system refuses one.
    let started = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(work)));
    started.map_err(|_| BlockingError::NoThread)?.await.map_err(|_| BlockingError::Panicked)
}
