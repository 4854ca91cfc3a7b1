//! From logits to tokens: the largest logit on the device, everything else on the host.
//!
//! A row that is plainly greedy crosses the bus as eight bytes. Every other row, one with a temperature, a penalty, a
//! mask or log-probabilities, crosses whole, and [`sampling::sample_row`] does with it what it does for every backend,
//! so that a seed draws the same token from the same logits everywhere. Copies are queued behind the step; the host
//! looks at them when the step is waited for, which is also when it waits for a grammar's mask.

use std::{ops::Range, thread};

use quern_backend::{LogitFault, LogitTask, RowOutput, sampling};

use crate::{
    GpuError,
    buffer::Buffer,
    driver::{ARGMAX, ArgmaxArgs, GpuDevice, Pinned},
    scratch::Scratch,
};

/// Rows of logits that were sampled by one call.
pub(crate) struct Round {
    rows: Range<usize>,
    vocab: usize,
    sources: Vec<LogitSource>,
    greedy: Option<Pinned>,
    logits: Option<Pinned>,
}

/// Where a row's output comes from.
#[derive(Clone, Copy)]
enum LogitSource {
    /// The device's word on this row of the round: the token of the largest logit, and whether it is no distribution.
    Greedy(usize),
    /// Of the rows that are copied whole, the one of this index.
    Logits(usize),
}

/// Bytes of what the device says of a greedy row: `Greedy` in kernels/sample.cu.
pub(crate) const GREEDY_BYTES: usize = 2 * size_of::<u32>();

impl Round {
    /// One of `rows` of a step with a task each, of which nothing has been queued.
    pub(crate) fn new(rows: Range<usize>, vocab: usize, tasks: &[LogitTask]) -> Self {
        let mut whole_rows = 0;
        let sources = tasks.iter().enumerate().map(|(row, task)| {
            if task.is_plain_argmax() {
                return LogitSource::Greedy(row);
            }
            whole_rows += 1;
            LogitSource::Logits(whole_rows - 1)
        });
        Self { sources: sources.collect(), rows, vocab, greedy: None, logits: None }
    }

    /// Queue what its rows need of `logits`.
    ///
    /// The step has this round already: what was queued before a failure still writes to its memory, for which the step
    /// waits before it lets go.
    pub(crate) fn queue(&mut self, device: &GpuDevice, scratch: &mut Scratch, logits: &Buffer) -> Result<(), GpuError> {
        let (vocab, stride) = (self.vocab, logits.stride());
        let is_whole = |row: &usize| matches!(self.sources[*row], LogitSource::Logits(_));
        let whole_rows: Vec<usize> = (0..self.sources.len()).filter(is_whole).collect();
        if whole_rows.len() < self.sources.len() {
            // Of all rows: finding the largest costs less than telling the kernel which rows want it.
            let bytes = self.sources.len() * GREEDY_BYTES;
            let out = scratch.greedy.reserve(device, bytes)?;
            let args = ArgmaxArgs { logits: logits.address(), out, vocab: vocab as u32, stride: stride as u32 };
            device.launch(ARGMAX, [self.sources.len(), 1, 1], args)?;
            let to = self.greedy.insert(scratch.take_pinned(device, bytes)?);
            device.read_pinned(out, bytes, to, 0)?;
        }
        if !whole_rows.is_empty() {
            let row_bytes = vocab * size_of::<f32>();
            let to = self.logits.insert(scratch.take_pinned(device, whole_rows.len() * row_bytes)?);
            for (index, row) in whole_rows.into_iter().enumerate() {
                let from = logits.address() + (row * stride * size_of::<f32>()) as u64;
                device.read_pinned(from, row_bytes, to, index * row_bytes)?;
            }
        }
        Ok(())
    }

    /// Which rows of the step.
    pub(crate) fn rows(&self) -> &Range<usize> {
        &self.rows
    }

    /// The host's memory that it held.
    pub(crate) fn into_pinned(self) -> impl Iterator<Item = Pinned> {
        self.greedy.into_iter().chain(self.logits)
    }

    /// What came of each row, once the device has been waited for.
    fn output(&self, row: usize, task: &LogitTask) -> RowOutput {
        match self.sources[row] {
            LogitSource::Greedy(index) => {
                let pinned = self.greedy.as_ref().expect("queued for greedy rows");
                match pinned.values::<u32>(2 * index, 2)[..] {
                    [token, 0] => RowOutput { token, ..RowOutput::default() },
                    _ => RowOutput { fault: Some(LogitFault::NotFinite), ..RowOutput::default() },
                }
            }
            LogitSource::Logits(index) => {
                let pinned = self.logits.as_ref().expect("queued for rows that are copied");
                sampling::sample_row(&mut pinned.values(index * self.vocab, self.vocab), task)
            }
        }
    }
}

/// The outputs of all `rounds`, which the device has been waited for, by at most `threads` threads.
pub(crate) fn outputs(rounds: &[Round], tasks: &[LogitTask], threads: usize) -> Vec<RowOutput> {
    let rows: Vec<(&Round, usize)> =
        rounds.iter().flat_map(|round| round.rows().clone().map(move |row| (round, row))).collect();
    let whole = rows.iter().filter(|(_, row)| !tasks[*row].is_plain_argmax()).count();
    let output = |&(round, row): &(&Round, usize)| round.output(row - round.rows().start, &tasks[row]);
    // Below that, one thread is done before a second has started.
    const SMALL_VOCABULARY: usize = 8192;
    let threads = match rounds.first() {
        Some(round) if round.vocab > SMALL_VOCABULARY => threads.min(whole),
        _ => 1,
    };
    if threads <= 1 {
        return rows.iter().map(output).collect();
    }
    let output = &output;
    thread::scope(|scope| {
        let parts: Vec<_> = rows
            .chunks(rows.len().div_ceil(threads))
            .map(|part| scope.spawn(move || part.iter().map(output).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("sampling a row does not panic")).collect()
    })
}
