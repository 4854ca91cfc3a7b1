//! [`MpiError`]: why the processes of a launcher were not connected.

use std::{io, time::Duration};

use crate::{NodePosition, wire::WireError};

/// Why the processes of a launcher were not connected by MPI.
#[derive(Debug, thiserror::Error)]
pub enum MpiError {
    /// No library of MPI is here.
    #[error(
        "{launcher} started this process as {} of {} ({variable}), and no MPI library can be opened (tried {}). Put \
         that of this {launcher} where the loader looks (LD_LIBRARY_PATH), or do without MPI: --dist-transport sockets \
         with --nnodes {}, --node-rank and --dist-init-addr HOST:PORT", node.index, node.count, tried.join("; "), node.count
    )]
    NoLibrary {
        /// What started this process.
        launcher: &'static str,
        /// The variable of the environment that says so.
        variable: &'static str,
        /// Which process this is, as the launcher says.
        node: NodePosition,
        /// Files, and why each was not opened.
        tried: Vec<String>,
    },
    /// The library lacks a function.
    #[error("{library} has no {symbol}: it is no MPI library of the kind that its name says")]
    Symbol {
        /// The file.
        library: String,
        /// The function.
        symbol: &'static str,
    },
    /// A call failed.
    #[error("{library}: {call} failed: {cause}")]
    Call {
        /// The file.
        library: String,
        /// The function.
        call: &'static str,
        /// The library's words.
        cause: String,
    },
    /// The library does not serve several threads.
    #[error(
        "{library} ({version}) gives no more than thread level {provided}, and MPI_THREAD_SERIALIZED is needed: take one \
         that was built for threads"
    )]
    Threads {
        /// The file.
        library: String,
        /// What it calls itself.
        version: String,
        /// The level that it gives.
        provided: i32,
    },
    /// The library does not hear of the launcher.
    #[error(
        "{library} ({version}) says that this is process {} of {}, and {launcher} that it is {} of {} ({variable}): the \
         library is not that of the launcher. Put the launcher's first where the loader looks (LD_LIBRARY_PATH; with \
         srun --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH), or do without MPI: --dist-transport sockets with --nnodes \
         {}, --node-rank and --dist-init-addr HOST:PORT",
        found.index, found.count, expected.index, expected.count, expected.count
    )]
    Stranger {
        /// The file.
        library: String,
        /// What it calls itself.
        version: String,
        /// What it says.
        found: NodePosition,
        /// What started this process.
        launcher: &'static str,
        /// The variable of the environment that says so.
        variable: &'static str,
        /// What the launcher says.
        expected: NodePosition,
    },
    /// The other processes did not take part in time.
    #[error("{call} has not come back for {} s (--dist-timeout): another process of the launcher hangs or is gone", limit.as_secs())]
    Slow {
        /// What was waited for.
        call: &'static str,
        /// How long.
        limit: Duration,
    },
    /// A process is not heard of.
    #[error("process {process} of the launcher is not heard of by MPI: {cause}")]
    Unheard {
        /// Which one.
        process: usize,
        /// Why.
        cause: io::Error,
    },
    /// Node 0 cannot listen.
    #[error("--dist-init-addr {address}: node 0 cannot listen there for the others: {cause}")]
    Listen {
        /// As typed, or "any".
        address: String,
        /// Why.
        cause: io::Error,
    },
    /// What another process told makes no sense.
    #[error("what another process told by MPI makes no sense: {0}; do all run the same program?")]
    Record(#[from] WireError),
    /// The system refuses a thread or random numbers.
    #[error("the processes of the launcher cannot be connected: {0}")]
    System(#[from] io::Error),
}

impl MpiError {
    /// Whether the same command may succeed later: another process is missing, and nothing is wrong with this one.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Slow { .. } | Self::Unheard { .. } | Self::System(_))
    }
}
