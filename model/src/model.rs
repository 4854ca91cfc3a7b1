//! [`Model`]: what the engine knows of a network.

use quern_backend::{DeviceFault, ForwardBatch, Lost, RowOutput, SampleBatch};

/// What a step produced.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// One output for each of the batch's `logit_rows`, in their order.
    pub rows: Vec<RowOutput>,
}

/// A step that could not be computed. Every sequence of its batch fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The device reported a failure.
    #[error(transparent)]
    Backend(#[from] DeviceFault),
    /// One of several ranks failed.
    #[error(transparent)]
    Rank(#[from] Lost),
}

impl ForwardError {
    /// Whether no later step can succeed either.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Backend(fault) => matches!(fault, DeviceFault::Lost { .. }),
            Self::Rank(lost) => lost.gone,
        }
    }
}

/// A loaded network with its pages of keys and values.
///
/// A step is launched, then waited for; between the two the caller may do other work. One step is in flight at a
/// time.
pub trait Model: Send {
    /// Begin one step: store the keys and values of every token in the batch's pages, and make of each of its
    /// `logit_rows` what `samples` asks for, or nothing where another rank samples.
    ///
    /// Where the host computes, this is where it does. The batch is trusted: tokens are below the vocabulary, pages
    /// below the pool, rows within the limits given at load.
    ///
    /// # Panics
    /// If the step before has not been waited for.
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch);

    /// Wait for the step in flight and take what it produced.
    ///
    /// # Errors
    /// If the device could not compute it.
    ///
    /// # Panics
    /// If no step is in flight.
    fn wait(&mut self) -> Result<StepOutput, ForwardError>;
}
