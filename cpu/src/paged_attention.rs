//! [`Attend`]: a step's attention over pages, as units of work.
//!
//! A unit is (sequence, KV head, block of query rows). Where there are enough of them for all workers,
//! each walks its partitions of positions in order and folds as it goes. Where there are few (one long
//! sequence decoding), the unit is cut further by partition, the partial results are left in memory,
//! and a second pass folds them in the same order: the same bits either way.

use std::ops::Range;

use quern_backend::{AttentionSpec, HeadLayout, KeyOrValue, PagedBatch, Span};

use crate::{
    attention::{BLOCK, FEATURES, PARTITION, Partition, QueryLayout, block_words, partial_words},
    buffer::Buffer,
    kernels::Kernels,
    kv_cache::{LayerPages, head_bytes},
    memory::{AlignedVec, DisjointMut, Region},
    pool::Pool,
};

/// Query rows of a unit: they share each partition while it is in the cache.
const ROWS: usize = 16;

/// Bytes for partial results left for a later fold; mapped, so only what is used takes memory. 62
/// thousand partial results of a head of 128: one row of 32 heads at 490 thousand positions.
const PARTIALS_BYTES: usize = 32 << 20;

/// Bytes of keys and values that one worker reads sooner than a second one wakes.
const SMALL: usize = 64 << 10;

/// Working space of one worker.
#[derive(Debug, Default)]
struct WorkerScratch {
    queries: AlignedVec,
    /// Whose queries these are: span, head and first row.
    queries_of: Option<(usize, usize, usize)>,
    block: AlignedVec,
    scores: AlignedVec,
    partials: AlignedVec,
    states: AlignedVec,
}

/// Working space of attention, sized for the heads when the pages are allocated.
#[derive(Debug)]
pub(crate) struct AttentionScratch {
    worker_scratch: Vec<WorkerScratch>,
    spilled: Option<Region>,
    units: Vec<AttentionUnit>,
    /// For each span, the partial results that lie before its own.
    bases: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct AttentionUnit {
    span: usize,
    head: usize,
    /// First row within the span.
    row: usize,
    /// The one partition of a unit that is cut by partition.
    partition: usize,
}

impl AttentionScratch {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            worker_scratch: (0..workers).map(|_| WorkerScratch::default()).collect(),
            spilled: Region::zeroed(PARTIALS_BYTES),
            units: Vec::new(),
            bases: Vec::new(),
        }
    }

    /// Grow to what `heads` need.
    pub(crate) fn reserve(&mut self, heads: &HeadLayout) {
        let queries = ROWS * heads.num_heads / heads.num_kv_heads;
        let dim = heads.head_dim.next_multiple_of(FEATURES);
        for own in &mut self.worker_scratch {
            own.queries.at_least(queries * dim);
            own.block.at_least(block_words(dim));
            own.scores.at_least(queries * PARTITION);
            own.partials.at_least(queries * partial_words(dim));
            own.states.at_least(queries * partial_words(dim));
        }
    }
}

/// One call of attention: what is read, and how heads divide it.
pub(crate) struct Attend<'a> {
    pub(crate) kernels: &'a Kernels,
    pub(crate) pool: &'a Pool,
    pub(crate) qkv: &'a Buffer,
    pub(crate) spec: &'a AttentionSpec,
    pub(crate) pages: LayerPages<'a>,
    pub(crate) batch: &'a PagedBatch,
}

impl Attend<'_> {
    fn group(&self) -> usize {
        self.spec.heads.num_heads / self.spec.heads.num_kv_heads
    }

    /// How queries lie.
    fn query_layout(&self) -> QueryLayout {
        self.kernels.query_layout(self.pages.spec().format)
    }

    /// Features of a stored head.
    fn dim(&self) -> usize {
        self.spec.heads.head_dim.next_multiple_of(FEATURES)
    }

    /// Rows of a unit, within its span.
    fn rows(&self, unit: &AttentionUnit) -> Range<usize> {
        unit.row..(unit.row + ROWS).min(self.batch.spans[unit.span].q_len)
    }

    /// Positions that row `row` of `span` sees.
    fn visible(span: &Span, row: usize) -> usize {
        span.kv_len - span.q_len + row + 1
    }

    /// Positions before those that row `row` of `span` sees.
    fn hidden(&self, span: &Span, row: usize) -> usize {
        self.spec.window.map_or(0, |window| Self::visible(span, row).saturating_sub(window))
    }

    /// The partitions in which any of `rows` of `span` sees a position.
    fn partitions(&self, span: &Span, rows: &Range<usize>) -> Range<usize> {
        self.hidden(span, rows.start) / PARTITION..Self::visible(span, rows.end - 1).div_ceil(PARTITION)
    }

    /// Put the step's keys and values in their pages.
    pub(crate) fn store(&self) {
        let heads = &self.spec.heads;
        let rows_of = |span: &Span| span.q_start..span.q_start + span.q_len;
        for span in &self.batch.spans {
            let pages = self.batch.pages_of(span);
            self.pool.for_each(span.q_len, ROWS, |_, rows| {
                for i in rows {
                    let position = span.kv_len - span.q_len + i;
                    let row = &self.qkv.row(rows_of(span).start + i)[heads.q_dim()..];
                    for (head, values) in row.chunks_exact(heads.head_dim).enumerate() {
                        let (half, head) = heads.stored_head(head);
                        // SAFETY: each position of a sequence is one row's, and no page that is written
                        // belongs to two sequences (`PagedBatch`).
                        unsafe { self.pages.store(pages, half, head, position, values) };
                    }
                }
            });
        }
    }

    /// Attend from every row.
    pub(crate) fn run(&self, scratch: &mut AttentionScratch, out: &mut Buffer) {
        scratch.reserve(&self.spec.heads);
        let AttentionScratch { worker_scratch, spilled, units, bases } = scratch;
        worker_scratch.iter_mut().for_each(|own| own.queries_of = None);
        units.clear();
        let mut bytes = 0;
        let mut longest = 0;
        for (index, span) in self.batch.spans.iter().enumerate() {
            let positions = span.kv_len * span.q_len.div_ceil(ROWS);
            bytes += positions * 2 * self.spec.heads.num_kv_heads * head_bytes(self.pages.spec());
            longest = longest.max(span.kv_len);
            for head in 0..self.spec.heads.num_kv_heads {
                units.extend((0..span.q_len).step_by(ROWS).map(|row| AttentionUnit {
                    span: index,
                    head,
                    row,
                    partition: 0,
                }));
            }
        }
        let worker_scratch = DisjointMut::new(worker_scratch);
        let out = DisjointMut::new(out.values_mut());
        let workers = self.pool.workers();
        let few = workers > 1 && units.len() < 4 * workers && longest > PARTITION && bytes > SMALL;
        let words = self.group() * partial_words(self.dim());
        let partials = spilled.as_mut().filter(|_| few && self.lay_out(bases) * words * 4 <= PARTIALS_BYTES);
        let Some(partials) = partials else {
            let grain = if bytes <= SMALL { units.len() } else { 1 };
            self.pool.for_each(units.len(), grain, |worker, range| {
                // SAFETY: each worker has scratch of its own.
                let own = &mut unsafe { worker_scratch.part(worker..worker + 1) }[0];
                units[range].iter().for_each(|unit| self.walk(unit, own, &out));
            });
            return;
        };

        let partials = DisjointMut::new(partials.words());
        // Cut each unit by partition, in place of the whole ones.
        for whole in 0..units.len() {
            let mut partitions = self.partitions(&self.batch.spans[units[whole].span], &self.rows(&units[whole]));
            units[whole].partition = partitions.next().expect("a row sees its own position");
            for partition in partitions {
                units.push(AttentionUnit { partition, ..units[whole] });
            }
        }
        self.pool.for_each(units.len(), 1, |worker, range| {
            // SAFETY: each worker has scratch of its own.
            let own = &mut unsafe { worker_scratch.part(worker..worker + 1) }[0];
            units[range].iter().for_each(|unit| self.spill(unit, own, bases, &partials));
        });
        let heads = self.spec.heads.num_kv_heads;
        self.pool.for_each(self.batch.num_rows() * heads, 1, |worker, range| {
            // SAFETY: each worker has scratch of its own.
            let own = &mut unsafe { worker_scratch.part(worker..worker + 1) }[0];
            range.for_each(|i| self.reduce_spilled(i / heads, i % heads, own, bases, &partials, &out));
        });
    }

    /// Where each span's partial results begin, and how many there are, in groups of heads.
    fn lay_out(&self, bases: &mut Vec<usize>) -> usize {
        bases.clear();
        let mut total = 0;
        for span in &self.batch.spans {
            bases.push(total);
            total += span.q_len * span.kv_len.div_ceil(PARTITION) * self.spec.heads.num_kv_heads;
        }
        total
    }

    /// All partitions of one unit in order, folded as they come.
    fn walk(&self, unit: &AttentionUnit, own: &mut WorkerScratch, out: &DisjointMut<'_, f32>) {
        let span = &self.batch.spans[unit.span];
        let rows = self.rows(unit);
        let words = partial_words(self.dim());
        let state_words = self.group() * words;
        own.states.at_least(rows.len() * state_words).chunks_exact_mut(words).for_each(|s| clear(s, self.dim()));
        self.gather(unit, own);
        for partition in self.partitions(span, &rows) {
            let seeing = self.partition(unit, partition, own);
            let states = &mut own.states[(seeing.start - rows.start) * state_words..];
            let partials = &own.partials[..seeing.len() * state_words];
            for (state, partial) in states.chunks_exact_mut(words).zip(partials.chunks_exact(words)) {
                self.kernels.fold(state, partial, self.dim());
            }
        }
        for (row, states) in rows.zip(own.states.chunks_exact(state_words)) {
            self.finish(span.q_start + row, unit.head, states, out);
        }
    }

    /// One partition of one unit, left in `partials`.
    fn spill(&self, unit: &AttentionUnit, own: &mut WorkerScratch, bases: &[usize], partials: &DisjointMut<'_, f32>) {
        let span = &self.batch.spans[unit.span];
        let words = self.group() * partial_words(self.dim());
        self.gather(unit, own);
        let seeing = self.partition(unit, unit.partition, own);
        for (row, partial) in seeing.zip(own.partials.chunks_exact(words)) {
            let at = self.spilled_at(span, bases[unit.span], row, unit.partition, unit.head) * words;
            // SAFETY: (row, partition, head) is this unit's alone.
            unsafe { partials.part(at..at + words) }.copy_from_slice(partial);
        }
    }

    /// Index of a partial result, in groups of heads.
    fn spilled_at(&self, span: &Span, base: usize, row: usize, partition: usize, head: usize) -> usize {
        base + (row * span.kv_len.div_ceil(PARTITION) + partition) * self.spec.heads.num_kv_heads + head
    }

    /// Fold what was left for one row and KV head.
    fn reduce_spilled(
        &self,
        row: usize,
        head: usize,
        own: &mut WorkerScratch,
        bases: &[usize],
        partials: &DisjointMut<'_, f32>,
        out: &DisjointMut<'_, f32>,
    ) {
        let index = self.batch.spans.partition_point(|span| span.q_start <= row) - 1;
        let span = &self.batch.spans[index];
        let in_span = row - span.q_start;
        let words = partial_words(self.dim());
        let states = own.states.at_least(self.group() * words);
        states.chunks_exact_mut(words).for_each(|state| clear(state, self.dim()));
        for partition in self.partitions(span, &(in_span..in_span + 1)) {
            let at = self.spilled_at(span, bases[index], in_span, partition, head) * self.group() * words;
            // SAFETY: the pass that wrote has ended; one worker folds this row and head.
            let partials = unsafe { partials.part(at..at + self.group() * words) };
            for (state, partial) in states.chunks_exact_mut(words).zip(partials.chunks_exact(words)) {
                self.kernels.fold(state, partial, self.dim());
            }
        }
        self.finish(row, head, states, out);
    }

    /// Lay out the queries of a unit, `[rows, group, words of a query]`, unless they lie there since another
    /// partition.
    fn gather(&self, unit: &AttentionUnit, own: &mut WorkerScratch) {
        let whose = Some((unit.span, unit.head, unit.row));
        if own.queries_of == whose {
            return;
        }
        own.queries_of = whose;
        let (group, head_dim) = (self.group(), self.spec.heads.head_dim);
        let rows = self.rows(unit);
        let first = unit.head * group * head_dim;
        let how = self.query_layout();
        let words = how.words(self.dim());
        let queries = own.queries.at_least(rows.len() * group * words);
        for (row, queries) in rows.zip(queries.chunks_exact_mut(group * words)) {
            let row = self.qkv.row(self.batch.spans[unit.span].q_start + row);
            let heads = row[first..first + group * head_dim].chunks_exact(head_dim);
            heads.zip(queries.chunks_exact_mut(words)).for_each(|(query, to)| how.lay_out(query, to));
        }
    }

    /// The partial results of a unit in one partition, of those rows that see any of it, which are returned.
    fn partition(&self, unit: &AttentionUnit, partition: usize, own: &mut WorkerScratch) -> Range<usize> {
        let span = &self.batch.spans[unit.span];
        let pages = self.batch.pages_of(span);
        let rows = self.rows(unit);
        let start = partition * PARTITION;
        let blind = rows.clone().take_while(|&row| Self::visible(span, row) <= start).count();
        let past = rows.clone().rev().take_while(|&row| self.hidden(span, row) >= start + PARTITION).count();
        let seeing = rows.start + blind..rows.end - past;
        let count = Self::visible(span, seeing.end - 1).min(start + PARTITION) - start;
        let mut keys = [std::ptr::null(); PARTITION];
        let mut values = [std::ptr::null(); PARTITION];
        self.pages.addresses(pages, KeyOrValue::Key, unit.head, start, &mut keys[..count]);
        self.pages.addresses(pages, KeyOrValue::Value, unit.head, start, &mut values[..count]);
        let behind = Self::visible(span, rows.end - 1).saturating_sub(start + PARTITION).min(BLOCK);
        let mut keys_behind = [std::ptr::null(); BLOCK];
        self.pages.addresses(pages, KeyOrValue::Key, unit.head, start + PARTITION, &mut keys_behind[..behind]);
        let (mut hidden, mut visible) = ([0; ROWS], [0; ROWS]);
        for ((hidden, visible), row) in hidden.iter_mut().zip(&mut visible).zip(seeing.clone()) {
            *hidden = self.hidden(span, row).saturating_sub(start);
            *visible = (Self::visible(span, row) - start).min(PARTITION);
        }
        let (dim, queries) = (self.dim(), seeing.len() * self.group());
        let how = self.query_layout();
        let words = how.words(dim);
        let mut task = Partition {
            keys: &keys[..count],
            values: &values[..count],
            behind: &keys_behind[..behind],
            head_bytes: head_bytes(self.pages.spec()),
            hidden: &hidden[..seeing.len()],
            visible: &visible[..seeing.len()],
            queries: &own.queries[blind * self.group() * words..][..queries * words],
            rounded: how != QueryLayout::F32,
            dim,
            scale: self.spec.scale,
            block: own.block.at_least(block_words(dim)),
            scores: own.scores.at_least(queries * PARTITION),
            partials: own.partials.at_least(queries * partial_words(dim)),
        };
        // SAFETY: the addresses come from `LayerPages::addresses`, and storing has ended.
        unsafe { self.kernels.attend(self.pages.spec().format, &mut task) };
        seeing
    }

    /// Divide by the sums and write one row's heads.
    fn finish(&self, row: usize, head: usize, states: &[f32], out: &DisjointMut<'_, f32>) {
        let (group, dim, head_dim) = (self.group(), self.dim(), self.spec.heads.head_dim);
        let at = row * self.spec.heads.q_dim() + head * group * head_dim;
        // SAFETY: (row, head) is finished by one worker.
        let out = unsafe { out.part(at..at + group * head_dim) };
        for (out, state) in out.chunks_exact_mut(head_dim).zip(states.chunks_exact(partial_words(dim))) {
            let sum = state[dim + 1];
            out.iter_mut().zip(state).for_each(|(o, s)| *o = s / sum);
        }
    }
}

/// A state that has seen no partition.
fn clear(state: &mut [f32], dim: usize) {
    state.fill(0.0);
    state[dim] = f32::NEG_INFINITY;
}
