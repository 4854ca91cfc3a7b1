//! [`EngineConfig`]: every bound of the engine, named.

use quern_model::StepCost;

/// Which waiting request goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In order of arrival.
    #[default]
    Fcfs,
    /// The longest cached prefix first; in order of arrival among equals, and whenever more than
    /// [`LPM_LIMIT`] wait (SGLang's rule: ordering costs a lookup each).
    Lpm,
}

/// More waiting requests than this are not ordered by prefix.
pub const LPM_LIMIT: usize = 128;

/// Sizes and limits, decided before start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineConfig {
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of the pool.
    pub num_pages: usize,
    /// Most sequences that run at once.
    pub max_running: usize,
    /// Most requests that wait; `None`: no bound here, the caller sets one.
    pub max_queued: Option<usize>,
    /// Most prompt tokens of those that wait; `None` leaves the bound to the submitter.
    pub max_queued_tokens: Option<usize>,
    /// Tokens of a step, decodes and prompt chunks together.
    pub chunk_tokens: usize,
    /// Prompt tokens of a step.
    pub max_prefill_tokens: usize,
    /// Positions of context whose attention costs a token as much as everything else in the network.
    pub balanced_context: usize,
    /// What the network's steps take at least, for the figures of [`EngineMetrics`](crate::EngineMetrics).
    pub cost: StepCost,
    /// Order of admission.
    pub policy: Policy,
    /// Whether prefixes are kept and reused.
    pub prefix_cache: bool,
    /// Scales the estimate of how much of `max_new_tokens` running requests will use.
    pub conservativeness: f64,
    /// Decode steps between two log lines.
    pub decode_log_interval: u64,
}

impl EngineConfig {
    /// Most tokens of a step: every running sequence may decode, even when that exceeds the chunk.
    pub fn step_tokens(&self) -> usize {
        self.chunk_tokens.max(self.max_running)
    }

    /// Tokens of the pool.
    pub fn pool_tokens(&self) -> usize {
        self.num_pages * self.page_size
    }
}
