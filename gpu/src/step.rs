//! [`Step`]: a step in flight, its tables on the device, and what it will have sampled.

use std::sync::{Arc, Mutex};

use quern_backend::{ForwardBatch, SampleBatch};

use crate::{
    GpuError,
    driver::{GpuDevice, Pinned},
    sampling::{GREEDY_BYTES, Round},
    scratch::{LargestStep, Scratch},
};

/// What the step was begun with. Operations are queued when they are called; the tables that they read have been copied.
pub struct Step {
    device: Arc<GpuDevice>,
    pub(crate) batch: ForwardBatch,
    pub(crate) samples: SampleBatch,
    pub(crate) tables: Tables,
    /// Tiles of queries, which depend on the heads: those of the layers are the same, so they are made once.
    pub(crate) query_tiles: Mutex<Option<Arc<QueryTiles>>>,
    pub(crate) rounds: Vec<Round>,
}

/// Addresses of tables of u32; 0 where the device had no memory for them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tables {
    /// Tokens.
    pub(crate) token_ids: u64,
    /// Rows whose logits are wanted.
    pub(crate) logit_rows: u64,
    /// Sequences, four numbers each: `Span` in kernels/pages.cu.
    pub(crate) spans: u64,
    /// For each row its sequence.
    pub(crate) row_span: u64,
    /// Page tables.
    pub(crate) pages: u64,
}

/// Bytes of `QueryTile` in kernels/attention.cu.
pub(crate) const QUERY_TILE_BYTES: usize = 2 * size_of::<u32>();

/// The tiles of 16 queries (rows of a sequence times heads of a group) of a step.
pub(crate) struct QueryTiles {
    /// Query heads of a KV head.
    pub(crate) group: usize,
    /// `QueryTile` in kernels/attention.cu, two numbers each.
    pub(crate) address: u64,
    /// For each tile the positions that its last query may see.
    pub(crate) kv_lens: Vec<usize>,
}

impl Step {
    /// Make room for the tables of the largest step, and for what the device says of greedy rows.
    pub(crate) fn reserve(device: &GpuDevice, scratch: &mut Scratch) -> Result<(), GpuError> {
        let LargestStep { rows, pages, group } = scratch.largest;
        scratch.tables.reserve(device, Tables::bytes(rows, pages))?;
        scratch.query_tiles.reserve(device, QueryTiles::bytes(rows, group))?;
        scratch.greedy.reserve(device, rows.saturating_mul(GREEDY_BYTES)).map(|_| ())
    }

    pub(crate) fn new(device: &Arc<GpuDevice>, batch: &ForwardBatch, samples: &SampleBatch, tables: Tables) -> Self {
        Self {
            device: Arc::clone(device),
            batch: batch.clone(),
            samples: samples.clone(),
            tables,
            query_tiles: Mutex::default(),
            rounds: Vec::new(),
        }
    }

    /// Rows of logits that have been sampled.
    pub(crate) fn sampled(&self) -> usize {
        self.rounds.last().map_or(0, |round| round.rows().end)
    }

    /// The host's memory that its rounds held, for the next step.
    pub(crate) fn into_pinned(mut self) -> Vec<Pinned> {
        std::mem::take(&mut self.rounds).into_iter().flat_map(Round::into_pinned).collect()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // The device may still copy to the rounds' memory. A device that cannot wait copies no more.
        if !self.rounds.is_empty() {
            let _ = self.device.wait();
        }
    }
}

impl Tables {
    /// Bytes of the tables of `rows` tokens with a row of logits each, in as many sequences with `pages` in all.
    pub(crate) fn bytes(rows: usize, pages: usize) -> usize {
        // A token has its number and its sequence, and a sequence four numbers.
        rows.saturating_mul(2 + 1 + 4).saturating_add(pages).saturating_mul(size_of::<u32>())
    }

    /// Copy everything that `batch` says to the device, at once.
    pub(crate) fn copy(device: &GpuDevice, scratch: &mut Scratch, batch: &ForwardBatch) -> Result<Self, GpuError> {
        let paged = &batch.paged;
        let mut words: Vec<u32> = Vec::with_capacity(
            2 * batch.token_ids.len() + batch.logit_rows.len() + 4 * paged.spans.len() + paged.pages.len(),
        );
        let mut begins = Vec::new();
        let mut push = |table: &mut dyn Iterator<Item = u32>| {
            begins.push(words.len());
            words.extend(table);
        };
        push(&mut batch.token_ids.iter().copied());
        push(&mut batch.logit_rows.iter().map(|&row| row as u32));
        push(
            &mut paged
                .spans
                .iter()
                .flat_map(|span| [span.q_start, span.q_len, span.kv_len, span.pages.start].map(|number| number as u32)),
        );
        let row_span = paged.spans.iter().enumerate();
        push(&mut row_span.flat_map(|(index, span)| std::iter::repeat_n(index as u32, span.q_len)));
        push(&mut paged.pages.iter().copied());
        let address = scratch.tables.fill(device, &words)?;
        let [token_ids, logit_rows, spans, row_span, pages] =
            std::array::from_fn(|i| address + (begins[i] * size_of::<u32>()) as u64);
        Ok(Self { token_ids, logit_rows, spans, row_span, pages })
    }
}

impl QueryTiles {
    /// Bytes of the tiles of `rows` tokens: most, if each is a sequence of its own.
    pub(crate) fn bytes(rows: usize, group: usize) -> usize {
        rows.saturating_mul(group.div_ceil(16)).saturating_mul(QUERY_TILE_BYTES)
    }

    /// Cut the sequences of `batch` for groups of `group` heads, and copy the tiles to the device.
    pub(crate) fn copy(
        device: &GpuDevice,
        scratch: &mut Scratch,
        batch: &ForwardBatch,
        group: usize,
    ) -> Result<Self, GpuError> {
        let (mut words, mut kv_lens) = (Vec::new(), Vec::new());
        for (index, span) in batch.paged.spans.iter().enumerate() {
            let items = span.q_len * group;
            for first in (0..items).step_by(16) {
                words.extend([index as u32, first as u32]);
                let last_row = (first + 15).min(items - 1) / group;
                kv_lens.push(span.kv_len - span.q_len + last_row + 1);
            }
        }
        let address = scratch.query_tiles.fill(device, &words)?;
        Ok(Self { group, address, kv_lens })
    }
}
