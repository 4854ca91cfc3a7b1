//! [`BenchError`]: why a benchmark or an evaluation could not be run.

use std::{io, path::PathBuf};

/// Why a benchmark or an evaluation could not be run. A request that fails during a run is no error of the
/// run: it is counted.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server could not be reached.
    #[error("{url}: {cause}; is the server running, and are --host, --port or --base-url right?")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the client library says.
        cause: String,
    },
    /// The server answered with a status that is no success.
    #[error("{url}: {status}: {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// Status and reason.
        status: String,
        /// The beginning of the answer.
        body: String,
    },
    /// The server's answer is not what its interface says.
    #[error("{url}: {problem}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        cause: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The warm-up failed, so the run would.
    #[error("Warmup failed - Please make sure benchmark arguments are correctly specified. Error: {0}")]
    Warmup(String),
    /// What was typed cannot be done; the text says what can.
    #[error("{0}")]
    Arguments(String),
    /// The result cannot be printed.
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
    /// The machine does not let the client work.
    #[error("{0}")]
    Machine(#[from] io::Error),
}

impl BenchError {
    /// For `map_err` on the operations of a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { path, cause }
    }

    /// For `map_err` on the parsing of a file.
    pub(crate) fn content<E: ToString>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |problem| Self::Content { path, problem: problem.to_string() }
    }
}
