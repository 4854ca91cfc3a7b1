//! [`FakeModel`]: a test double whose next token is a hash of all earlier tokens *as read back through
//! the pages*. A wrong page, a leaked prefix or a lost token changes the text.

use quern_backend::{LogitFault, LogitTask, RowOutput, RowTask};
use quern_model::{ForwardBatch, ForwardError, Model, SampleBatch, StepCost, StepOutput};

use crate::config::{EngineConfig, Policy};

/// What tests configure an engine with where they want nothing else: short steps, a queue without bounds, a pool of `num_pages` pages of `page_size` tokens.
pub fn engine_config(page_size: usize, num_pages: usize) -> EngineConfig {
    EngineConfig {
        page_size,
        num_pages,
        max_running: 8,
        max_queued: None,
        max_queued_tokens: None,
        chunk_tokens: 32,
        max_prefill_tokens: 32,
        balanced_context: 8192,
        cost: StepCost::default(),
        policy: Policy::Fcfs,
        prefix_cache: true,
        conservativeness: 1.0,
        decode_log_interval: 40,
    }
}

/// Called before each step with its number; may wait, or fail the step.
pub type StepHook = Box<dyn FnMut(u64) -> Result<(), ForwardError> + Send>;

/// The double.
pub struct FakeModel {
    page_size: usize,
    vocab_size: u32,
    /// The token that each slot of each page holds.
    slots: Vec<u32>,
    steps: u64,
    before_step: Option<StepHook>,
    in_flight: Option<Result<StepOutput, ForwardError>>,
}

/// What an unwritten slot reads as: no token of any vocabulary.
const UNWRITTEN: u32 = u32::MAX;

impl FakeModel {
    /// A model of `vocab_size` tokens over pages that hold nothing.
    pub fn new(vocab_size: u32, page_size: usize, num_pages: usize) -> Self {
        Self {
            page_size,
            vocab_size,
            slots: vec![UNWRITTEN; page_size * num_pages],
            steps: 0,
            before_step: None,
            in_flight: None,
        }
    }

    /// Call `hook` before each step.
    pub fn with_hook(mut self, hook: StepHook) -> Self {
        self.before_step = Some(hook);
        self
    }

    /// What this model says after `history`: the definition that paging must not change.
    pub fn next_token(vocab_size: u32, history: impl Iterator<Item = u32>, task: &RowTask) -> u32 {
        let hash = history.fold(0x9e37_79b9_7f4a_7c15u64, |hash, token| mix(hash ^ u64::from(token)));
        let RowTask::Sample { params, seed, step, counts, banned, mask } = task else { return 0 };
        // A sum, since the counts come in no order.
        let counted = counts.iter().flat_map(|counts| counts.iter());
        let hash = counted.fold(hash, |h, (&t, &n)| h.wrapping_add(mix(u64::from(t) << 32 | u64::from(n))));
        let hash = if params.temperature > 0.0 { mix(hash ^ mix(*seed) ^ step) } else { hash };
        let allowed = |t: &u32| !banned.contains(t) && mask.as_ref().is_none_or(|mask| mask.allows(*t));
        let first = (hash >> 11) as u32 % vocab_size;
        (0..vocab_size).map(|i| (first + i) % vocab_size).find(allowed).unwrap_or(first)
    }

    fn output(&self, batch: &ForwardBatch, row: usize, wanted: &LogitTask) -> RowOutput {
        let spans = &batch.paged.spans;
        let span = &spans[spans.partition_point(|s| s.q_start <= row) - 1];
        let pages = batch.paged.pages_of(span);
        let visible = span.kv_len - span.q_len + (row - span.q_start) + 1;
        let slot = |p: usize| self.slots[pages[p / self.page_size] as usize * self.page_size + p % self.page_size];
        let token = match &wanted.task {
            RowTask::Score { target } => *target,
            sample => Self::next_token(self.vocab_size, (0..visible).map(slot), sample),
        };
        let top = (0..wanted.top_logprobs as u32).map(|i| ((token + i) % self.vocab_size, -0.5 - i as f32));
        let excluded = match &wanted.task {
            RowTask::Sample { banned, mask, .. } => {
                banned.contains(&token) || mask.as_ref().is_some_and(|mask| !mask.allows(token))
            }
            RowTask::Score { .. } => false,
        };
        RowOutput {
            token,
            logprob: -0.5,
            top: top.collect(),
            requested: wanted.logprob_ids.iter().map(|&t| (t, -2.0)).collect(),
            fault: excluded.then_some(LogitFault::NoToken),
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl FakeModel {
    fn compute(&mut self, batch: &ForwardBatch, samples: &SampleBatch) -> Result<StepOutput, ForwardError> {
        self.steps += 1;
        if let Some(hook) = &mut self.before_step {
            hook(self.steps)?;
        }
        for span in &batch.paged.spans {
            let pages = batch.paged.pages_of(span);
            for i in 0..span.q_len {
                let (row, position) = (span.q_start + i, span.kv_len - span.q_len + i);
                assert_eq!(batch.positions[row] as usize, position, "position of row {row}");
                let page = pages[position / self.page_size] as usize;
                self.slots[page * self.page_size + position % self.page_size] = batch.token_ids[row];
            }
        }
        let (rows, tasks) = (batch.logit_rows.len(), samples.tasks.len());
        assert!(tasks == rows || tasks == 0, "{rows} rows of logits and {tasks} tasks");
        let rows = batch.logit_rows.iter().zip(&samples.tasks);
        Ok(StepOutput { rows: rows.map(|(&row, task)| self.output(batch, row, task)).collect() })
    }
}

impl Model for FakeModel {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        assert!(self.in_flight.is_none(), "the step before has not been waited for");
        self.in_flight = Some(self.compute(batch, samples));
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        self.in_flight.take().expect("a step is in flight")
    }
}
