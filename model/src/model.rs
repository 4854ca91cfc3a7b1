//! [`Model`]: what the engine knows of a network.

use crate::{ForwardBatch, StepOutput};

/// A step that could not be computed. Every sequence of its batch fails.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The device reported a failure.
    #[error("the {backend} backend failed: {cause}")]
    Backend {
        /// The backend's name.
        backend: &'static str,
        /// Its words.
        cause: String,
    },
}

/// A loaded network with its pages of keys and values.
pub trait Model: Send {
    /// Compute one step: store the keys and values of every token in the batch's pages and return what
    /// each of its `logit_rows` asks for.
    ///
    /// The batch is trusted: tokens are below the vocabulary, pages below the pool, rows within the
    /// limits given at load.
    fn forward(&mut self, batch: &ForwardBatch) -> Result<StepOutput, ForwardError>;
}
