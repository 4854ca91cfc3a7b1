//! Admission: which of the waiting requests run from this step on.

use std::cmp::Reverse;

use crate::{
    budget::Budget,
    config::{LPM_LIMIT, Policy},
    scheduler::Scheduler,
    sequence::{Sequence, SequenceKey},
    step_plan::StepPlan,
    tenant::Tenant,
};

/// Queued requests that are passed over in one step because another one is just computing the prefix
/// they share.
const MAX_HELD_BACK: usize = 64;

impl Scheduler {
    /// Admit from the tenant's queue while there is budget, a place and, by estimate, room in the pool.
    pub(crate) fn admit(&mut self, tenant: &Tenant, plan: &mut StepPlan, budget: &mut Budget) {
        if budget.is_spent() || self.running.len() >= self.config.max_running || self.must_yield(tenant) {
            return;
        }
        self.order_queue(tenant);
        let mut position = 0;
        while !budget.is_spent() && self.running.len() < self.config.max_running && position <= MAX_HELD_BACK {
            let Some(key) = self.waiting.get(tenant, position) else { break };
            if self.is_held_back(key) {
                position += 1;
                continue;
            }
            if !self.try_admit(key, plan) {
                // One that was short before it has more places, or this one would have yielded.
                self.short_of_pages = Some(tenant.clone());
                break;
            }
            self.plan_chunk(key, plan, budget);
        }
    }

    /// Whether what fits into the pool is for another tenant, which has no more places than this one. Of those with as
    /// many none may pass: together they could keep the pool full for ever.
    fn must_yield(&self, tenant: &Tenant) -> bool {
        let short = self.short_of_pages.as_ref().filter(|short| *short != tenant);
        short.is_some_and(|short| self.shares.places(tenant) >= self.shares.places(short))
    }

    fn order_queue(&mut self, tenant: &Tenant) {
        if self.config.policy != Policy::Lpm || self.waiting.len() > LPM_LIMIT || self.waiting.len() < 2 {
            return;
        }
        let (cache, sequences) = (&self.cache, &self.sequences);
        let matched = |key: &SequenceKey| {
            let sequence = &sequences[key];
            cache.matched_tokens(sequence.namespace.as_ref(), &sequence.tokens)
        };
        self.waiting.sort_by_cached_key(tenant, |key| Reverse(matched(key)));
    }

    /// Whether a running prompt is about to compute a page that this one could then reuse.
    pub(crate) fn is_held_back(&self, key: SequenceKey) -> bool {
        if !self.config.prefix_cache {
            return false;
        }
        let page_size = self.config.page_size;
        let waiting = &self.sequences[&key];
        let reusable = waiting.reusable_tokens();
        let mut matched = None;
        self.running.iter().map(|key| &self.sequences[key]).any(|running| {
            if running.is_decoding() || running.namespace != waiting.namespace {
                return false;
            }
            let computed_pages = running.num_shared * page_size;
            let cached = *matched.get_or_insert_with(|| {
                self.cache.matched_tokens(waiting.namespace.as_ref(), &waiting.tokens[..reusable])
            });
            let next = cached + page_size;
            next <= reusable
                && next > computed_pages
                && next <= running.tokens.len()
                && running.tokens[..next] == waiting.tokens[..next]
        })
    }

    /// Lock the cached prefix of a request that waits and let it run, if its pages and those that the running ones
    /// are expected to need fit.
    pub(crate) fn try_admit(&mut self, key: SequenceKey, plan: &mut StepPlan) -> bool {
        let page_size = self.config.page_size;
        let promised: usize = self.running.iter().map(|key| self.expected_pages(&self.sequences[key])).sum();
        let sequence = self.sequences.get_mut(&key).expect("waiting sequences are alive");
        let reusable = if self.config.prefix_cache { sequence.reusable_tokens() } else { 0 };
        let namespace = sequence.namespace.clone();
        let lock = self.cache.lock_prefix(namespace.as_ref(), &sequence.tokens[..reusable], &mut sequence.pages);
        let cached = sequence.pages.len() * page_size;
        sequence.num_shared = sequence.pages.len();
        sequence.num_computed = cached;

        let sequence = &self.sequences[&key];
        let available = self.pool.num_free() + self.cache.num_evictable();
        // Alone, a request is admitted if its tokens so far fit: what it will really need, only time tells.
        let fits = match self.running.len() {
            0 => sequence.tokens.len().div_ceil(page_size) - sequence.pages.len() <= available,
            _ => promised + self.expected_pages(sequence) <= available,
        };
        let sequence = self.sequences.get_mut(&key).expect("waiting sequences are alive");
        if !fits {
            sequence.pages.clear();
            (sequence.num_shared, sequence.num_computed) = (0, 0);
            self.cache.unlock(lock);
            return false;
        }
        sequence.lock = Some(lock);
        if !sequence.admitted {
            sequence.admitted = true;
            sequence.sink.admitted();
            sequence.cached_tokens = cached;
            self.stats.prompt_tokens += sequence.prompt_len as u64;
            self.stats.cached_tokens += cached as u64;
        }
        plan.mix.new_sequences += 1;
        plan.mix.cached_tokens += cached;
        let (tenant, tokens) = (&sequence.tenant, sequence.tokens.len());
        self.shares.take_place(tenant);
        self.short_of_pages.take_if(|short| short == tenant);
        self.waiting.remove(tenant, key);
        self.waiting_tokens -= tokens;
        self.running.push(key);
        true
    }

    /// Pages that a sequence has not got yet and is expected to need.
    fn expected_pages(&self, sequence: &Sequence) -> usize {
        let remaining = sequence.max_new_tokens.saturating_sub(sequence.num_output());
        let tokens = sequence.tokens.len() + self.new_token_ratio.expected(remaining, sequence.ignore_eos);
        tokens.div_ceil(self.config.page_size).saturating_sub(sequence.pages.len())
    }
}
