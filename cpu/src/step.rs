//! [`Step`]: what a step was begun with, and what has been sampled.

use quern_backend::{ForwardBatch, RowOutput, SampleBatch};

/// A step in flight. Operations compute when they are called and read the batch where it lies, so that it is only
/// kept: some kilobytes, copied once.
#[derive(Debug)]
pub struct Step {
    pub(crate) batch: ForwardBatch,
    pub(crate) samples: SampleBatch,
    pub(crate) outputs: Vec<RowOutput>,
}

impl Step {
    pub(crate) fn new(batch: &ForwardBatch, samples: &SampleBatch) -> Self {
        Self { batch: batch.clone(), samples: samples.clone(), outputs: Vec::with_capacity(batch.logit_rows.len()) }
    }
}
