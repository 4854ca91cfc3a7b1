//! What can be wrong with a checkpoint.

use std::fmt;

use quern_backend::UploadError;

use crate::config::ConfigError;

/// Why a network could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The backend cannot hold a weight, or the pages of keys and values.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The files are not a whole checkpoint of this network: everything that is wrong with them.
    #[error("the checkpoint in {dir} cannot be used:\n{}\n{}", Listed(.problems), HOW_TO_MEND)]
    Checkpoint {
        /// Its folder.
        dir: String,
        /// At least one.
        problems: Vec<Problem>,
    },
}

const HOW_TO_MEND: &str = "Fetch the named files again (delete them first, so that the download starts anew), \
                           or check that config.json belongs to these weights.";

/// Most problems that are printed; the rest is counted.
const SHOWN: usize = 20;

/// One thing wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, without its folder.
    pub file: String,
    /// The tensor, where one is concerned.
    pub tensor: Option<String>,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Problem {
    /// A problem of a whole file.
    pub fn file(file: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self { file: file.into(), tensor: None, expected: expected.to_string(), found: found.to_string() }
    }

    /// A problem of one tensor.
    pub fn tensor(file: &str, tensor: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self { tensor: Some(tensor.into()), ..Self::file(file, expected, found) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor `{tensor}`: ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

struct Listed<'a>(&'a [Problem]);

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
