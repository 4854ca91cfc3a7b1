//! The ragged, paged shape of one step: which rows belong to which sequence, and where its keys and
//! values live.

use std::ops::Range;

/// One sequence's part of a step.
///
/// The step computes positions `kv_len - q_len .. kv_len` of the sequence; every earlier position is
/// already in its pages. A decode step has `q_len == 1`; a prompt, or a chunk of one, has more. There
/// is no other difference between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row of this sequence in the batch's activations.
    pub q_start: usize,
    /// Rows of this sequence in the batch, at least 1.
    pub q_len: usize,
    /// Tokens of the sequence after this step, this step's included.
    pub kv_len: usize,
    /// Where this sequence's page table lies in [`PagedBatch::pages`].
    pub pages: Range<usize>,
}

/// Everything `attention` must know about a step besides the activations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PagedBatch {
    /// The sequences in row order: `spans[i + 1].q_start == spans[i].q_start + spans[i].q_len`.
    pub spans: Vec<Span>,
    /// All page tables, one after the other: position `p` of a sequence lies in slot
    /// `p % page_size` of page `pages[span.pages.start + p / page_size]`.
    ///
    /// A page that several sequences share holds only positions before every sharer's new rows, so
    /// within one step nobody writes what another reads.
    pub pages: Vec<u32>,
}

impl PagedBatch {
    /// Rows of the step over all sequences.
    pub fn num_rows(&self) -> usize {
        self.spans.last().map_or(0, |s| s.q_start + s.q_len)
    }

    /// The page table of one span.
    pub fn pages_of(&self, span: &Span) -> &[u32] {
        &self.pages[span.pages.clone()]
    }
}
