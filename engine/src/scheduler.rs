//! [`Scheduler`]: which tokens of which sequences the next step computes, and what follows from it.
//!
//! A pure state machine (invariant I4): no clock, no thread, no channel, no randomness. There is no
//! prefill phase and no decode phase: every running sequence is some tokens behind. A step takes first
//! those that are one token behind (each gets a token every step, unless several tenants share it: `turns.rs`), then
//! fills its budget with chunks of prompts, most of it for the oldest, the rest for those behind it and in the queue.
//!
//! Pages: a sequence gets pages as it computes. When the pool is empty, unlocked prefixes are evicted;
//! when there are none, the youngest running sequence of the tenant that has most of them is retracted: its private
//! pages are freed, it returns to the head of its tenant's queue with its output so far, and is computed again later
//! (to the same bits, invariant I7). The oldest sequence is never retracted for another, so the system as a whole
//! always moves.

use std::collections::HashMap;

use quern_backend::LogitFault;
use quern_model::StepOutput;

use crate::{
    budget::Budget,
    config::EngineConfig,
    failure::FailureKind,
    fair_shares::FairShares,
    kv_pool::KvPool,
    new_token_ratio::NewTokenRatio,
    radix_cache::{InsertOutcome, RadixCache},
    request::{EventSink, FailCause, FinishReason, GenerateRequest, PromptReport, TokenEvent},
    sequence::{Sequence, SequenceKey, SequenceReport},
    stats::SchedulerStats,
    step_plan::{SequencePart, StepPlan},
    step_turn::StepTurn,
    tenant::{AbortScope, Tenant},
    waiting_queue::WaitingQueue,
};

/// A tenant that comes back after a pause may be served ahead of the others by so many steps full of tokens: the prompt
/// of an agent, and not a queue of them.
const CREDIT_STEPS: usize = 32;

/// Owner of all sequences, the prefix tree and the pages.
pub struct Scheduler {
    pub(crate) config: EngineConfig,
    pub(crate) pool: KvPool,
    pub(crate) cache: RadixCache,
    pub(crate) new_token_ratio: NewTokenRatio,
    pub(crate) sequences: HashMap<SequenceKey, Sequence>,
    pub(crate) waiting: WaitingQueue,
    /// Tokens of those that wait.
    pub(crate) waiting_tokens: usize,
    /// In order of admission: the front is the oldest.
    pub(crate) running: Vec<SequenceKey>,
    pub(crate) shares: FairShares,
    /// A tenant whose next request did not fit into the pool, of those the one with fewest places. Others with as many
    /// places or more yield to it until it is admitted.
    pub(crate) short_of_pages: Option<Tenant>,
    /// Until this step a tenant that floods leaves room for one that does not.
    pub(crate) guest_until: u64,
    pub(crate) stats: SchedulerStats,
    /// Internal errors of single sequences that nobody has asked for yet.
    incidents: Vec<Incident>,
}

/// An internal error that ended one sequence.
#[derive(Debug)]
pub struct Incident {
    /// What failed.
    pub kind: FailureKind,
    /// What its client is told.
    pub cause: String,
    /// The sequence, as it was then.
    pub sequence: SequenceReport,
}

impl Scheduler {
    /// An idle scheduler.
    pub fn new(config: EngineConfig) -> Self {
        let EngineConfig { chunk_tokens, max_prefill_tokens, max_running, .. } = config;
        assert!(
            chunk_tokens.min(max_prefill_tokens).min(max_running) > 0,
            "a step has room for a token of a sequence: {config:?}"
        );
        Self {
            pool: KvPool::new(config.num_pages),
            cache: RadixCache::new(config.page_size),
            new_token_ratio: NewTokenRatio::new(config.conservativeness),
            sequences: HashMap::new(),
            waiting: WaitingQueue::default(),
            waiting_tokens: 0,
            running: Vec::new(),
            shares: FairShares::new(CREDIT_STEPS as u64 * chunk_tokens as u64),
            short_of_pages: None,
            guest_until: 0,
            stats: SchedulerStats::default(),
            incidents: Vec::new(),
            config,
        }
    }

    /// Start anew after a panic, with an empty cache. Counters go on. Requests that were never admitted wait on, in
    /// their order; the others are returned, in order of arrival, for the caller to end. A request waits through one
    /// restart only: the second panic may be its doing.
    ///
    /// Nothing of the old state is trusted but that each sequence is whole.
    pub fn restart(&mut self) -> Vec<Sequence> {
        let broken = std::mem::replace(self, Self::new(self.config));
        self.stats = broken.stats;
        let mut sequences: Vec<_> = broken.sequences.into_iter().collect();
        sequences.sort_unstable_by_key(|(key, _)| *key);
        let mut lost = Vec::new();
        for (key, mut sequence) in sequences {
            if sequence.admitted || sequence.outlived_restart {
                self.stats.failed += 1;
                lost.push(sequence);
                continue;
            }
            sequence.pages.clear();
            (sequence.lock, sequence.num_shared, sequence.num_computed) = (None, 0, 0);
            sequence.outlived_restart = true;
            self.waiting_tokens += sequence.tokens.len();
            self.shares.begin(&sequence.tenant);
            self.waiting.push_back(&sequence.tenant, key);
            self.sequences.insert(key, sequence);
        }
        lost
    }

    /// The sequences of a step, in the order of their rows.
    pub fn reports(&self, plan: &StepPlan) -> Vec<SequenceReport> {
        plan.parts.iter().filter_map(|part| self.sequences.get(&part.key)).map(Sequence::report).collect()
    }

    /// Internal errors of single sequences since this was last asked.
    pub fn take_incidents(&mut self) -> Vec<Incident> {
        std::mem::take(&mut self.incidents)
    }

    /// Queue a request under a key that was never used before.
    pub fn submit(&mut self, key: SequenceKey, request: GenerateRequest, sink: Box<dyn EventSink>) {
        self.waiting_tokens += request.prompt.len();
        self.shares.begin(&request.tenant);
        self.waiting.push_back(&request.tenant, key);
        let earlier = self.sequences.insert(key, Sequence::new(request, sink));
        assert!(earlier.is_none(), "{key:?} is used twice");
    }

    /// End a request now; unknown and ended ones are left alone.
    pub fn abort(&mut self, key: SequenceKey) {
        self.fail(key, FailCause::Aborted);
    }

    /// Finish a request early ([`RequestHandle::close`](crate::RequestHandle::close)); unknown and ended ones are left alone.
    pub fn close(&mut self, key: SequenceKey) {
        if self.sequences.contains_key(&key) {
            self.finish(key, FinishReason::Closed);
        }
    }

    /// End every request that is meant.
    pub fn abort_matching(&mut self, scope: &AbortScope) {
        let matching = self.sequences.iter().filter(|(_, s)| scope.contains(&s.tenant, &s.id)).map(|(&key, _)| key);
        for key in sorted(matching) {
            self.abort(key);
        }
    }

    /// End every request for the same cause.
    pub fn fail_all(&mut self, cause: &FailCause) {
        for key in sorted(self.sequences.keys().copied()) {
            self.fail(key, cause.clone());
        }
    }

    /// Drop all cached prefixes, if no request is alive; says whether it did.
    pub fn flush(&mut self) -> bool {
        if !self.sequences.is_empty() {
            return false;
        }
        self.cache.clear(&mut self.pool);
        true
    }

    /// Whether no request is alive.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Counters and present state.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            free_pages: self.pool.num_free(),
            cached_pages: self.cache.num_pages(),
            evictable_pages: self.cache.num_evictable(),
            new_token_ratio: self.new_token_ratio.get(),
            pending_tokens: self.waiting_tokens + self.catching_up().map(Sequence::behind).sum::<usize>(),
            ..self.stats
        }
    }

    /// Running sequences that compute what is known already.
    fn catching_up(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().map(|key| &self.sequences[key]).filter(|sequence| !sequence.is_decoding())
    }

    /// Tokens of the sequences that run.
    pub fn running_tokens(&self) -> usize {
        self.running.iter().map(|key| self.sequences[key].num_computed).sum()
    }

    /// The next step, or `None` if there is nothing to compute. The plan comes back by [`commit`](Self::commit) or
    /// [`fail_step`](Self::fail_step) before the next one is made; requests may come and go in between.
    pub fn schedule(&mut self) -> Option<StepPlan> {
        loop {
            let mut plan = StepPlan::default();
            let turn = self.next_turn(&mut plan);
            self.plan_decodes(&turn, &mut plan);
            let decodes = plan.mix.decodes;
            let tokens = self.config.chunk_tokens.saturating_sub(decodes).min(self.config.max_prefill_tokens);
            let budget = match decodes {
                0 => Budget::flat(tokens),
                _ => Budget::weighed(tokens, self.config.balanced_context),
            };
            self.plan_tenants(&turn, &mut plan, budget);
            let broken = std::mem::take(&mut plan.broken);
            let room_was_made = !broken.is_empty();
            for (key, error) in broken {
                self.fail(key, FailCause::Grammar(error));
            }
            if !plan.parts.is_empty() {
                return Some(plan);
            }
            if room_was_made {
                continue;
            }
            // Nothing fits. With several sequences running, none of them can get a page: make room. With none running,
            // a request fits nowhere: the one that was tried, where others only yielded to its tenant.
            let tried = self.short_of_pages.as_ref().or(turn.order.first());
            let head = tried.and_then(|tenant| self.waiting.get(tenant, 0));
            match (self.running.len(), head) {
                (0, None) => return None,
                (0, Some(head)) => self.fail_oversized(head),
                (1, _) => self.fail_oversized(self.running[0]),
                _ => self.retract_one(1),
            }
        }
    }

    /// Take the results of a step. Those of sequences that ended while it was in flight are dropped.
    ///
    /// # Panics
    /// If `output` has not one row for each of the batch's logit rows.
    pub fn commit(&mut self, plan: StepPlan, output: StepOutput) {
        let StepPlan { samples, parts, mix, .. } = plan;
        // Its tasks share the sequences' token counts, which are about to change.
        drop(samples);
        let mut rows = output.rows.into_iter();
        self.stats.steps += 1;
        self.stats.prefill_tokens += mix.prefill_tokens as u64;
        for part in parts {
            let rows: Vec<_> = rows.by_ref().take(part.num_rows).collect();
            assert_eq!(rows.len(), part.num_rows, "outputs for the rows of {:?}", part.key);
            if self.sequences.contains_key(&part.key) {
                self.commit_sequence(&part, rows);
            }
        }
        assert!(rows.next().is_none(), "the model returned more outputs than rows");
        self.new_token_ratio.decay();
        self.debug_check();
    }

    /// A step could not be computed: its sequences fail, nothing of it is cached.
    pub fn fail_step(&mut self, plan: StepPlan, cause: &str) {
        for part in plan.parts {
            self.fail(part.key, FailCause::Engine(cause.into()));
        }
        self.debug_check();
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) && self.pool.total() <= 4096 {
            self.check();
        }
    }

    // ── planning ────────────────────────────────────────────────────────────────────────────────────

    /// One token of every sequence that is one behind, oldest first.
    fn plan_decodes(&mut self, turn: &StepTurn, plan: &mut StepPlan) {
        let mut index = 0;
        while index < self.running.len() {
            let key = self.running[index];
            let sequence = &self.sequences[&key];
            if sequence.is_decoding() && !turn.paused.contains(&key) {
                let end = sequence.tokens.len();
                // A page may have to be taken from one that comes after this one: nothing that is planned already is
                // retracted.
                while self.grow(key, end) < end && self.running.len() > index + 1 {
                    self.retract_one(index + 1);
                }
                if self.grow(key, end) == end && self.plan(key, end, plan) {
                    plan.mix.decodes += 1;
                }
            }
            index += 1;
        }
    }

    /// Chunks of a tenant's prompts: of `prompts`, which run already, the oldest first, and of those that are admitted. The
    /// oldest has most of the budget; a part is for those behind it, the ones with the least to compute first, so that a
    /// long prompt does not hold up the short ones that come later.
    pub(crate) fn plan_prompts(
        &mut self,
        tenant: &Tenant,
        mut prompts: Vec<SequenceKey>,
        plan: &mut StepPlan,
        budget: &mut Budget,
    ) {
        if !prompts.is_empty() {
            let oldest = prompts.remove(0);
            let sequence = &self.sequences[&oldest];
            let mut others = budget.split(sequence.num_computed, sequence.behind());
            prompts.sort_by_key(|key| self.sequences[key].behind());
            for key in prompts {
                self.plan_chunk(key, plan, &mut others);
            }
            self.admit(tenant, plan, &mut others);
            budget.join(others);
            self.plan_chunk(oldest, plan, budget);
        } else {
            self.admit(tenant, plan, budget);
        }
    }

    /// As much of a prompt as budget and pages allow.
    pub(crate) fn plan_chunk(&mut self, key: SequenceKey, plan: &mut StepPlan, budget: &mut Budget) {
        let sequence = &self.sequences[&key];
        let start = sequence.num_computed;
        let wanted = start + sequence.behind().min(budget.room(start));
        let end = self.grow(key, wanted);
        if end > start && self.plan(key, end, plan) {
            plan.mix.prefill_tokens += end - start;
            budget.spend(start, end - start);
        }
    }

    /// Give a sequence pages for its first `wanted` tokens, evicting prefixes if need be; returns how
    /// many of them have pages now.
    fn grow(&mut self, key: SequenceKey, wanted: usize) -> usize {
        let page_size = self.config.page_size;
        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        let missing = wanted.div_ceil(page_size).saturating_sub(sequence.pages.len());
        let short = missing.saturating_sub(self.pool.num_free());
        if short > 0 {
            self.stats.evicted_pages += self.cache.evict(short, &mut self.pool) as u64;
        }
        for _ in 0..missing {
            let Some(page) = self.pool.alloc() else { break };
            sequence.pages.push(page);
        }
        wanted.min(sequence.pages.len() * page_size)
    }

    /// See [`StepPlan::add`].
    fn plan(&mut self, key: SequenceKey, end: usize, plan: &mut StepPlan) -> bool {
        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        let tokens = end - sequence.num_computed;
        let is_planned = plan.add(key, sequence, end, self.config.page_size);
        if is_planned {
            sequence.last_step = self.stats.steps;
            self.shares.charge(&sequence.tenant, tokens);
        }
        is_planned
    }

    /// Retract a sequence for want of pages, of those that run from `first` on: the youngest of the tenant that has
    /// most of them.
    fn retract_one(&mut self, first: usize) {
        let (youngest, _) = self.youngest_of_most(first).expect("only called while such sequences run");
        self.retract(youngest);
        let running = || self.running.iter().map(|key| &self.sequences[key]);
        let decoded = running().map(Sequence::num_output).sum();
        let allowed = running().map(|s| s.max_new_tokens).fold(0, usize::saturating_add);
        self.new_token_ratio.raise(decoded, allowed, self.running.len());
    }

    /// Take the pages of the sequence at `index` of those that run, and queue it again before its tenant's others.
    pub(crate) fn retract(&mut self, index: usize) {
        let key = self.running.remove(index);
        let available = self.pool.num_free() + self.cache.num_evictable();
        self.release(key);
        let gained = self.pool.num_free() + self.cache.num_evictable() - available;
        self.stats.retracted_tokens += (gained * self.config.page_size) as u64;
        let sequence = self.sequences.get_mut(&key).expect("running sequences are alive");
        sequence.num_computed = 0;
        if !sequence.prefilled {
            sequence.prompt_logprobs.clear();
        }
        sequence.sink.send(TokenEvent::Retracted);
        self.waiting_tokens += sequence.tokens.len();
        self.shares.leave_place(&sequence.tenant);
        self.waiting.push_front(&sequence.tenant, key);
        self.stats.retractions += 1;
    }

    // ── results ─────────────────────────────────────────────────────────────────────────────────────

    fn commit_sequence(&mut self, part: &SequencePart, rows: Vec<quern_backend::RowOutput>) {
        let key = part.key;
        let failed = |fault| rows.iter().any(|row| row.fault == Some(fault));
        if failed(LogitFault::NotFinite) {
            // The network's own output is unsound, whatever the request asked for. Pages of earlier chunks are in the
            // tree already; those that no finite logits have attended to may be where it began.
            self.release(key);
            let sequence = &self.sequences[&key];
            let step = sequence.num_output();
            self.cache.invalidate(sequence.namespace.as_ref(), &sequence.tokens, &mut self.pool);
            return self.fail(key, FailCause::NumericalFault { step });
        }
        if failed(LogitFault::NoToken) {
            // Caused by the request itself: its cached pages are sound and stay.
            let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
            let (step, grammar) = (sequence.num_output(), sequence.dead_end());
            return self.fail(key, FailCause::NoToken { step, grammar });
        }
        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        sequence.num_computed = part.end;
        let caught_up = part.end == sequence.tokens.len();
        if self.config.prefix_cache {
            self.cache_full_pages(key);
            if !rows.is_empty() {
                self.cache.verify(self.sequences[&key].lock.as_ref().expect("running sequences hold a lock"));
            }
        }

        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        let mut rows = rows.into_iter();
        let num_scores = rows.len() - usize::from(caught_up && sequence.max_new_tokens > 0);
        for score in rows.by_ref().take(num_scores) {
            let logprobs = sequence.logprobs_of(score);
            sequence.prompt_logprobs.extend(logprobs);
        }
        if !caught_up {
            return;
        }
        if !sequence.prefilled {
            sequence.prefilled = true;
            let (cached_tokens, logprobs) = (sequence.cached_tokens, std::mem::take(&mut sequence.prompt_logprobs));
            let report = PromptReport { cached_tokens, logprobs };
            sequence.sink.send(TokenEvent::Prefilled(report));
        }
        let Some(sampled) = rows.next() else {
            return self.finish(key, FinishReason::Length);
        };
        self.stats.generated_tokens += 1;
        let id = sampled.token;
        let end = sequence.push(id);
        let logprobs = sequence.logprobs_of(sampled);
        sequence.sink.send(TokenEvent::Token { id, logprobs });
        match end {
            Err(error) => self.fail(key, FailCause::Grammar(error)),
            Ok(None) => {}
            Ok(Some(reason)) => self.finish(key, reason),
        }
    }

    /// Hand pages that are full and computed to the prefix tree. Where the tree has the same tokens
    /// already, its page replaces ours: both hold the same bits (invariant I7).
    fn cache_full_pages(&mut self, key: SequenceKey) {
        let page_size = self.config.page_size;
        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        let lock = sequence.lock.as_mut().expect("running sequences hold a lock");
        while (sequence.num_shared + 1) * page_size <= sequence.num_computed {
            let index = sequence.num_shared;
            let edge = &sequence.tokens[index * page_size..(index + 1) * page_size];
            let page = sequence.pages[index];
            if let InsertOutcome::Duplicate(cached) = self.cache.extend(lock, edge, page) {
                self.pool.free(page);
                sequence.pages[index] = cached;
            }
            sequence.num_shared += 1;
        }
    }

    fn finish(&mut self, key: SequenceKey, reason: FinishReason) {
        self.stats.finished += 1;
        self.end(key, TokenEvent::Finished(reason));
    }

    fn fail(&mut self, key: SequenceKey, cause: FailCause) {
        if !self.sequences.contains_key(&key) {
            return;
        }
        match cause {
            FailCause::Aborted => self.stats.aborted += 1,
            _ => self.stats.failed += 1,
        }
        let kind = match cause {
            FailCause::NumericalFault { .. } => Some(FailureKind::Numerical),
            FailCause::Grammar(_) => Some(FailureKind::Grammar),
            _ => None,
        };
        if let Some(kind) = kind {
            let sequence = self.sequences[&key].report();
            self.incidents.push(Incident { kind, cause: cause.to_string(), sequence });
        }
        self.end(key, TokenEvent::Failed(cause));
    }

    fn fail_oversized(&mut self, key: SequenceKey) {
        let sequence = &self.sequences[&key];
        let cause = FailCause::OutOfPages {
            needed_pages: (sequence.num_computed + 1).max(sequence.tokens.len()).div_ceil(self.config.page_size),
            total_pages: self.pool.total(),
            page_size: self.config.page_size,
        };
        self.fail(key, cause);
    }

    /// Free what a sequence holds, remove it and send its terminal event: the only place that does.
    fn end(&mut self, key: SequenceKey, event: TokenEvent) {
        self.release(key);
        let mut sequence = self.sequences.remove(&key).expect("only living sequences end");
        match self.running.iter().position(|&k| k == key) {
            Some(index) => {
                self.running.remove(index);
                self.shares.leave_place(&sequence.tenant);
            }
            None => {
                self.waiting.remove(&sequence.tenant, key);
                self.waiting_tokens -= sequence.tokens.len();
            }
        }
        self.shares.end(&sequence.tenant);
        sequence.sink.send(event);
    }

    /// Free its private pages and return its lock.
    fn release(&mut self, key: SequenceKey) {
        let sequence = self.sequences.get_mut(&key).expect("only living sequences hold pages");
        sequence.pages.drain(sequence.num_shared..).for_each(|page| self.pool.free(page));
        sequence.pages.clear();
        sequence.num_shared = 0;
        if let Some(lock) = sequence.lock.take() {
            self.cache.unlock(lock);
        }
    }
}

/// In order of arrival: hash maps iterate in arbitrary order, which must not show (invariant I4).
fn sorted(keys: impl Iterator<Item = SequenceKey>) -> Vec<SequenceKey> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}
