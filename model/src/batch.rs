//! One step of the network as plain data.

use quern_backend::{LogitRow, PagedBatch, RowOutput};

/// The ragged tokens of one step. Built by a scheduler, read by a [`Model`](crate::Model).
///
/// Sequences lie one after the other; `token_ids`, `positions` and the rows of every activation share
/// one index.
#[derive(Clone, Debug, Default)]
pub struct ForwardBatch {
    /// The tokens to compute, all sequences one after the other.
    pub token_ids: Vec<u32>,
    /// Position of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// Which rows belong to which sequence, and the pages of each.
    pub paged: PagedBatch,
    /// The rows whose logits are wanted, in ascending order of row; a row may appear more than once.
    pub logit_rows: Vec<LogitRow>,
}

/// What a step produced.
#[derive(Clone, Debug, Default)]
pub struct StepOutput {
    /// One output for each of the batch's `logit_rows`, in their order.
    pub rows: Vec<RowOutput>,
}
