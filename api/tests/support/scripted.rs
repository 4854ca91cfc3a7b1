//! [`Scripted`]: a model whose answers a test writes.

use std::sync::Arc;

use quern_engine::{ForwardBatch, ForwardError, Model, RowOutput, RowTask, SampleBatch, StepOutput};
use quern_text::{Specials, Tokenizer};

/// What to say to a prompt.
pub(crate) type Script = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Says what its script makes of the prompt *as read back through the pages*, then ends its turn.
pub(crate) struct Scripted {
    script: Script,
    /// Where a grammar forbids the script, end the turn if it may end, else say the first thing that is allowed.
    heeds_masks: bool,
    tokenizer: Arc<Tokenizer>,
    page_size: usize,
    /// The token of each place of the pool.
    slots: Vec<u32>,
    /// The last prompt and its answer: of each prompt the script is asked once, not once a token.
    last: (Vec<u32>, Vec<u32>),
    in_flight: Option<StepOutput>,
}

impl Scripted {
    pub(crate) fn new(
        script: Script,
        heeds_masks: bool,
        tokenizer: Arc<Tokenizer>,
        page_size: usize,
        num_pages: usize,
    ) -> Self {
        Self {
            script,
            heeds_masks,
            tokenizer,
            page_size,
            slots: vec![0; page_size * num_pages],
            last: Default::default(),
            in_flight: None,
        }
    }

    fn token(&mut self, batch: &ForwardBatch, row: usize, task: &RowTask) -> u32 {
        let (step, mask) = match task {
            RowTask::Sample { step, mask, .. } => (*step as usize, mask),
            RowTask::Score { target } => return *target,
        };
        let spans = &batch.paged.spans;
        let span = &spans[spans.partition_point(|span| span.q_start <= row) - 1];
        let pages = batch.paged.pages_of(span);
        let prompt: Vec<u32> = (0..span.kv_len - step).map(|p| self.slots[self.slot(pages, p)]).collect();
        if self.last.0 != prompt {
            let answer = (self.script)(&self.tokenizer.decode(&prompt, false));
            self.last = (prompt, self.tokenizer.encode(&answer, Specials::Parse));
        }
        let end = self.tokenizer.eos_id().expect("the model's turn has an end");
        let said = self.last.1.get(step).copied().unwrap_or(end);
        let allowed = |&token: &u32| !self.heeds_masks || mask.as_ref().is_none_or(|mask| mask.allows(token));
        [said, end].into_iter().chain(0..end).find(allowed).unwrap_or(said)
    }

    fn slot(&self, pages: &[u32], position: usize) -> usize {
        pages[position / self.page_size] as usize * self.page_size + position % self.page_size
    }
}

impl Model for Scripted {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        for span in &batch.paged.spans {
            let pages = batch.paged.pages_of(span);
            for i in 0..span.q_len {
                let slot = self.slot(pages, span.kv_len - span.q_len + i);
                self.slots[slot] = batch.token_ids[span.q_start + i];
            }
        }
        let rows = batch.logit_rows.iter().zip(&samples.tasks);
        let rows = rows
            .map(|(&row, wanted)| RowOutput { token: self.token(batch, row, &wanted.task), ..RowOutput::default() })
            .collect();
        self.in_flight = Some(StepOutput { rows });
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        Ok(self.in_flight.take().expect("a step is in flight"))
    }
}
