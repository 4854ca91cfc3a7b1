//! One step of the network as plain data: what every rank and every device is told, and what the one that samples is
//! told besides.

use crate::{LogitTask, PagedBatch};

/// The ragged tokens of one step. Built by a scheduler, handed to a device by [`Backend::begin`](crate::Backend::begin).
///
/// Plain numbers, so that it can be copied to a device or sent to another process. Sequences lie one after the other;
/// `token_ids`, `positions` and the rows of every activation share one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardBatch {
    /// The tokens to compute, all sequences one after the other.
    pub token_ids: Vec<u32>,
    /// Position of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// Which rows belong to which sequence, and the pages of each.
    pub paged: PagedBatch,
    /// The rows whose logits are wanted, in ascending order; a row may appear more than once.
    pub logit_rows: Vec<usize>,
}

/// What to make of the logits of a step.
///
/// It holds state of single requests (penalties, a grammar's mask that is still being computed), so it stays where
/// tokens are sampled.
#[derive(Clone, Debug, Default)]
pub struct SampleBatch {
    /// One for each of the batch's `logit_rows`, in their order.
    pub tasks: Vec<LogitTask>,
}
