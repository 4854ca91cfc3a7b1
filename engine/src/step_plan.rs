//! [`StepPlan`]: one step, from the scheduler's decision to its results.

use quern_backend::{PagedBatch, Span};
use quern_model::{ForwardBatch, SampleBatch};

use crate::{
    request::GrammarError,
    sequence::{Sequence, SequenceKey},
};

/// A step in flight: made by [`Scheduler::schedule`](crate::scheduler::Scheduler::schedule), computed by a model, and
/// given back to [`commit`](crate::scheduler::Scheduler::commit) or
/// [`fail_step`](crate::scheduler::Scheduler::fail_step).
#[derive(Debug, Default)]
#[must_use = "its sequences wait until it is committed or failed"]
pub struct StepPlan {
    /// What is computed.
    pub batch: ForwardBatch,
    /// What is made of its logits.
    pub samples: SampleBatch,
    /// What it is made of.
    pub mix: StepMix,
    /// The sequences' parts, in the order of their rows.
    pub(crate) parts: Vec<SequencePart>,
    /// Sequences whose grammar failed while the step was planned. The scheduler ends them before it hands the plan
    /// out.
    pub(crate) broken: Vec<(SequenceKey, GrammarError)>,
}

/// What a step is made of, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepMix {
    /// Sequences admitted in this step.
    pub new_sequences: usize,
    /// Prompt (or recomputed) tokens.
    pub prefill_tokens: usize,
    /// Cached tokens of the admitted sequences.
    pub cached_tokens: usize,
    /// Sequences that decode.
    pub decodes: usize,
}

/// One sequence's part of a step.
#[derive(Debug)]
pub(crate) struct SequencePart {
    pub(crate) key: SequenceKey,
    /// Computed tokens after the step.
    pub(crate) end: usize,
    /// Logit rows of this sequence.
    pub(crate) num_rows: usize,
}

impl StepPlan {
    /// Put tokens `num_computed..end` of a sequence into the batch, whose pages of `page_size` tokens it has already;
    /// says whether its grammar let it.
    pub(crate) fn add(&mut self, key: SequenceKey, sequence: &mut Sequence, end: usize, page_size: usize) -> bool {
        let Self { batch, samples, .. } = self;
        let start = sequence.num_computed;
        let first_row = batch.token_ids.len();
        let first_page = batch.paged.pages.len();
        let rows_before = batch.logit_rows.len();
        let rows = sequence.logit_rows(start, end, |offset, task| {
            batch.logit_rows.push(first_row + offset);
            samples.tasks.push(task);
        });
        if let Err(error) = rows {
            batch.logit_rows.truncate(rows_before);
            samples.tasks.truncate(rows_before);
            self.broken.push((key, error));
            return false;
        }
        batch.token_ids.extend_from_slice(&sequence.tokens[start..end]);
        batch.positions.extend(start as u32..end as u32);
        let PagedBatch { spans, pages } = &mut batch.paged;
        pages.extend_from_slice(&sequence.pages[..end.div_ceil(page_size)]);
        spans.push(Span { q_start: first_row, q_len: end - start, kv_len: end, pages: first_page..pages.len() });
        self.parts.push(SequencePart { key, end, num_rows: batch.logit_rows.len() - rows_before });
        true
    }
}
