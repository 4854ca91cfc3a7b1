//! What can be wrong with a checkpoint.

use std::fmt;

use quern_backend::UploadError;

use crate::{config::ConfigError, foreign::Foreign, split_error::SplitError};

/// Why a network could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The backend cannot hold a weight, or the pages of keys and values.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The network cannot be divided as it was to be.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The system has no thread for a rank.
    #[error("a rank cannot be started: {0}")]
    Thread(std::io::Error),
    /// The files are no checkpoint, or one of another program.
    #[error("{dir}: {foreign}")]
    Foreign {
        /// Their folder, or the file.
        dir: String,
        /// What they are.
        foreign: Foreign,
    },
    /// The files are not a whole checkpoint of this network: everything that is wrong with them.
    #[error("the checkpoint in {dir} cannot be used:\n{}\n{}", Listed(.problems), Remedies(.problems))]
    Checkpoint {
        /// Its folder.
        dir: String,
        /// At least one.
        problems: Vec<TensorProblem>,
    },
}

/// What mends a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Remedy {
    /// The files are whole, and not those of this network.
    #[default]
    OtherNetwork,
    /// Bytes are missing or damaged.
    FetchAgain,
    /// Something else, in one sentence.
    Do(String),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherNetwork => {
                "Check that config.json belongs to these weights: the files are whole, and hold another network."
            }
            Self::FetchAgain => {
                "Fetch the named files again (delete them first, so that the download starts anew): they are \
                 incomplete or damaged."
            }
            Self::Do(what) => what,
        })
    }
}

/// Most problems that are printed; the rest is counted.
const SHOWN: usize = 20;

/// One thing wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorProblem {
    /// The file, without its folder.
    pub file: String,
    /// The tensor, where one is concerned.
    pub tensor: Option<String>,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What mends it.
    pub remedy: Remedy,
}

impl TensorProblem {
    /// A problem of a whole file.
    pub fn file(file: &str, expected: impl ToString, found: impl ToString) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self { file: file.into(), tensor: None, expected, found, remedy: Remedy::default() }
    }

    /// The same, of bytes that are missing or damaged.
    pub fn broken(self) -> Self {
        Self { remedy: Remedy::FetchAgain, ..self }
    }

    /// The same, mended by `what`: a sentence.
    pub fn mended_by(self, what: impl Into<String>) -> Self {
        Self { remedy: Remedy::Do(what.into()), ..self }
    }

    /// A problem of one tensor.
    pub fn tensor(file: &str, tensor: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self { tensor: Some(tensor.into()), ..Self::file(file, expected, found) }
    }
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor `{tensor}`: ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

struct Listed<'a>(&'a [TensorProblem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}  {problem}", if i == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

/// The remedies of what is printed, each once.
struct Remedies<'a>(&'a [TensorProblem]);

impl fmt::Display for Remedies<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said: Vec<&Remedy> = Vec::new();
        for TensorProblem { remedy, .. } in self.0.iter().take(SHOWN) {
            if !said.contains(&remedy) {
                write!(f, "{}{remedy}", if said.is_empty() { "" } else { "\n" })?;
                said.push(remedy);
            }
        }
        Ok(())
    }
}
