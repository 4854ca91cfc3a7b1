//! [`SchedulerStats`]: the scheduler's counters since its start, and its present state.

/// What the scheduler has counted since its start, and its present state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Free pages.
    pub free_pages: usize,
    /// Pages of cached prefixes.
    pub cached_pages: usize,
    /// Of those, pages that eviction could free now.
    pub evictable_pages: usize,
    /// Share of `max_new_tokens` that admission expects.
    pub new_token_ratio: f64,
    /// Steps committed.
    pub steps: u64,
    /// Prompt tokens of admitted requests.
    pub prompt_tokens: u64,
    /// Of those, tokens reused from the cache.
    pub cached_tokens: u64,
    /// Tokens computed that were not sampled in the step before.
    pub prefill_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Pages evicted.
    pub evicted_pages: u64,
    /// Retractions.
    pub retractions: u64,
    /// Tokens whose pages retractions made available.
    pub retracted_tokens: u64,
    /// Prompt (or recomputed) tokens that wait to be computed, in the queue and in running requests.
    pub pending_tokens: usize,
    /// Requests that finished as they wanted.
    pub finished: u64,
    /// Requests that were aborted.
    pub aborted: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
}
