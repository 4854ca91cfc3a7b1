//! [`Scheduler`]: which tokens of which sequences the next step computes, and what follows from it.
//!
//! A pure state machine (invariant I4): no clock, no thread, no channel, no randomness. There is no
//! prefill phase and no decode phase: every running sequence is some tokens behind. A step takes first
//! those that are one token behind (each sees a token every step), then fills its budget with chunks of
//! prompts, most of it for the oldest, the rest for those behind it and in the queue.
//!
//! Pages: a sequence gets pages as it computes. When the pool is empty, unlocked prefixes are evicted;
//! when there are none, the youngest running sequence is retracted: its private pages are freed, it
//! returns to the head of the queue with its output so far, and is computed again later (to the same
//! bits, invariant I7). The oldest sequence is never retracted for another, so the system as a whole
//! always moves.

use std::collections::{BTreeMap, HashMap, VecDeque};

use quern_backend::{Fault, PagedBatch, Span};
use quern_model::{ForwardBatch, StepOutput};

use crate::{
    budget::Budget,
    config::{EngineConfig, LPM_LIMIT, Policy},
    kv_pool::KvPool,
    radix_cache::{Extended, RadixCache},
    request::{EventSink, FailCause, FinishReason, GenerateRequest, GrammarError, TokenEvent},
    reserve::Reserve,
    sequence::{End, Sequence, SequenceKey},
};

/// Queued requests that are passed over in one step because another one is just computing the prefix
/// they share.
const MAX_HELD_BACK: usize = 64;

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
    /// Requests that have left the queue for the first time, or ended in it.
    pub left_queue: u64,
}

/// What a step is made of, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Sequences admitted in this step.
    pub new_sequences: usize,
    /// Prompt (or recomputed) tokens.
    pub prefill_tokens: usize,
    /// Cached tokens of the admitted sequences.
    pub cached_tokens: usize,
    /// Sequences that decode.
    pub decodes: usize,
}

/// One sequence's part of the step in flight.
struct Planned {
    key: SequenceKey,
    /// Computed tokens after the step.
    end: usize,
    /// Logit rows of this sequence.
    num_rows: usize,
}

/// Owner of all sequences, the prefix tree and the pages.
pub struct Scheduler {
    config: EngineConfig,
    pool: KvPool,
    cache: RadixCache,
    reserve: Reserve,
    sequences: HashMap<SequenceKey, Sequence>,
    waiting: VecDeque<SequenceKey>,
    /// Tokens of those that wait.
    waiting_tokens: usize,
    /// In order of admission: the front is the oldest.
    running: Vec<SequenceKey>,
    in_flight: Vec<Planned>,
    /// Sequences whose grammar failed while the step was planned.
    broken: Vec<(SequenceKey, GrammarError)>,
    shape: StepShape,
    stats: SchedulerStats,
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
            reserve: Reserve::new(config.conservativeness),
            sequences: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_tokens: 0,
            running: Vec::new(),
            in_flight: Vec::new(),
            broken: Vec::new(),
            shape: StepShape::default(),
            stats: SchedulerStats::default(),
            config,
        }
    }

    /// Queue a request under a key that was never used before.
    pub fn submit(&mut self, key: SequenceKey, request: GenerateRequest, sink: Box<dyn EventSink>) {
        self.waiting_tokens += request.prompt.len();
        let earlier = self.sequences.insert(key, Sequence::new(request, sink));
        assert!(earlier.is_none(), "{key:?} is used twice");
        self.waiting.push_back(key);
    }

    /// End a request now; unknown and ended ones are left alone.
    pub fn abort(&mut self, key: SequenceKey) {
        self.fail(key, FailCause::Aborted);
    }

    /// End a request whose owner has all that it wanted; unknown and ended ones are left alone.
    pub fn close(&mut self, key: SequenceKey) {
        if self.sequences.contains_key(&key) {
            self.finish(key, FinishReason::Closed);
        }
    }

    /// End every request whose id begins with `prefix`.
    pub fn abort_matching(&mut self, prefix: &str) {
        let matching = self.sequences.iter().filter(|(_, s)| s.id.starts_with(prefix)).map(|(&key, _)| key);
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

    /// Forget all prefixes, if no request is alive; says whether it did.
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
            new_token_ratio: self.reserve.share(),
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

    /// The step that [`schedule`](Self::schedule) returned last.
    pub fn shape(&self) -> StepShape {
        self.shape
    }

    /// The next step, or `None` if there is nothing to compute. Must be followed by
    /// [`commit`](Self::commit) or [`fail_step`](Self::fail_step).
    pub fn schedule(&mut self) -> Option<ForwardBatch> {
        assert!(self.in_flight.is_empty(), "the step before is neither committed nor failed");
        loop {
            self.shape = StepShape::default();
            let mut batch = ForwardBatch::default();
            let decodes = self.plan_decodes(&mut batch);
            let tokens = self.config.chunk_tokens.saturating_sub(decodes).min(self.config.max_prefill_tokens);
            let budget = match decodes {
                0 => Budget::flat(tokens),
                _ => Budget::weighed(tokens, self.config.balanced_context),
            };
            self.plan_prompts(&mut batch, budget);
            let broken = std::mem::take(&mut self.broken);
            let room_was_made = !broken.is_empty();
            for (key, error) in broken {
                self.fail(key, FailCause::Grammar(error));
            }
            if !self.in_flight.is_empty() {
                return Some(batch);
            }
            if room_was_made {
                continue;
            }
            // Nothing fits. With sequences running, none of them can get a page: make room by
            // retracting the youngest. With none running, the head of the queue fits nowhere.
            match (self.running.len(), self.waiting.front().copied()) {
                (0, None) => return None,
                (0, Some(head)) => self.fail_oversized(head),
                (1, _) => self.fail_oversized(self.running[0]),
                _ => self.retract_youngest(),
            }
        }
    }

    /// Take the results of the step in flight.
    pub fn commit(&mut self, output: StepOutput) {
        let mut rows = output.rows.into_iter();
        self.stats.steps += 1;
        self.stats.prefill_tokens += self.shape.prefill_tokens as u64;
        for planned in std::mem::take(&mut self.in_flight) {
            let rows: Vec<_> = rows.by_ref().take(planned.num_rows).collect();
            assert_eq!(rows.len(), planned.num_rows, "outputs for the rows of {:?}", planned.key);
            self.commit_sequence(&planned, rows);
        }
        assert!(rows.next().is_none(), "the model returned more outputs than rows");
        self.reserve.decay();
        self.debug_check();
    }

    /// The step in flight could not be computed: its sequences fail, nothing of it is cached.
    pub fn fail_step(&mut self, cause: &str) {
        for planned in std::mem::take(&mut self.in_flight) {
            self.fail(planned.key, FailCause::Engine(cause.into()));
        }
        self.debug_check();
    }

    /// Verify that every page has exactly one owner and every lock is accounted for (invariant I5).
    /// O(pages).
    ///
    /// # Panics
    /// If not, naming the page.
    pub fn check(&self) {
        self.cache.check();
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        let mut own = |page: u32, owner| {
            if let Some(other) = owners.insert(page, owner) {
                panic!("page {page} is owned by {owner} and by {other}");
            }
        };
        let total = self.pool.total() as u32;
        (0..total).filter(|&page| self.pool.is_free(page)).for_each(|page| own(page, "the free list"));
        self.cache.pages().for_each(|page| own(page, "the prefix tree"));
        let mut locks = 0;
        for sequence in self.sequences.values() {
            locks += usize::from(sequence.lock.is_some());
            sequence.pages[sequence.num_shared..].iter().for_each(|&page| own(page, "a sequence"));
            assert!(sequence.lock.is_some() || sequence.pages.is_empty(), "{}: pages without a lock", sequence.id);
        }
        assert_eq!(owners.len(), self.pool.total(), "free + cached + private pages, of all");
        assert_eq!(locks, self.cache.num_locks(), "locks that sequences hold, of those that are out");
        let waiting_tokens: usize = self.waiting.iter().map(|key| self.sequences[key].tokens.len()).sum();
        assert_eq!(waiting_tokens, self.waiting_tokens, "tokens that wait");
        let queued = self.waiting.len() + self.running.len();
        assert_eq!(queued, self.sequences.len(), "waiting and running sequences, of all");
    }

    fn debug_check(&self) {
        if cfg!(debug_assertions) && self.pool.total() <= 4096 {
            self.check();
        }
    }

    // ── planning ────────────────────────────────────────────────────────────────────────────────────

    /// One token of every sequence that is one behind, oldest first.
    fn plan_decodes(&mut self, batch: &mut ForwardBatch) -> usize {
        let mut index = 0;
        while index < self.running.len() {
            let key = self.running[index];
            let sequence = &self.sequences[&key];
            if sequence.is_decoding() {
                let end = sequence.tokens.len();
                // A page may have to be taken from the youngest, which comes after this one: nothing
                // that is planned already is retracted.
                while self.grow(key, end) < end && self.running.len() > index + 1 {
                    self.retract_youngest();
                }
                if self.grow(key, end) == end && self.plan(key, end, batch) {
                    self.shape.decodes += 1;
                }
            }
            index += 1;
        }
        self.shape.decodes
    }

    /// Chunks of prompts. The oldest has most of the budget; a part is for those behind it, the ones with
    /// the least to compute first, so that a long prompt does not hold up the short ones that come later.
    fn plan_prompts(&mut self, batch: &mut ForwardBatch, mut budget: Budget) {
        let is_prompt = |key: &SequenceKey| !self.sequences[key].is_decoding();
        let mut prompts: Vec<_> = self.running.iter().copied().filter(is_prompt).collect();
        if !prompts.is_empty() {
            let oldest = prompts.remove(0);
            let sequence = &self.sequences[&oldest];
            let mut others = budget.split(sequence.num_computed, sequence.behind());
            prompts.sort_by_key(|key| self.sequences[key].behind());
            for key in prompts {
                self.plan_chunk(key, batch, &mut others);
            }
            self.admit(batch, &mut others);
            budget.join(others);
            self.plan_chunk(oldest, batch, &mut budget);
        } else {
            self.admit(batch, &mut budget);
        }
    }

    /// As much of a prompt as budget and pages allow.
    fn plan_chunk(&mut self, key: SequenceKey, batch: &mut ForwardBatch, budget: &mut Budget) {
        let sequence = &self.sequences[&key];
        let start = sequence.num_computed;
        let wanted = start + sequence.behind().min(budget.room(start));
        let end = self.grow(key, wanted);
        if end > start && self.plan(key, end, batch) {
            self.shape.prefill_tokens += end - start;
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
            let Some(page) = self.pool.take() else { break };
            sequence.pages.push(page);
        }
        wanted.min(sequence.pages.len() * page_size)
    }

    /// Put tokens `num_computed..end` of a sequence into the batch; says whether its grammar let it.
    fn plan(&mut self, key: SequenceKey, end: usize, batch: &mut ForwardBatch) -> bool {
        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        let start = sequence.num_computed;
        let first_row = batch.token_ids.len();
        let first_page = batch.paged.pages.len();
        let num_pages = end.div_ceil(self.config.page_size);
        let rows_before = batch.logit_rows.len();
        if let Err(error) = sequence.logit_rows(start, end, first_row, &mut batch.logit_rows) {
            batch.logit_rows.truncate(rows_before);
            self.broken.push((key, error));
            return false;
        }
        batch.token_ids.extend_from_slice(&sequence.tokens[start..end]);
        batch.positions.extend(start as u32..end as u32);
        let PagedBatch { spans, pages } = &mut batch.paged;
        pages.extend_from_slice(&sequence.pages[..num_pages]);
        spans.push(Span { q_start: first_row, q_len: end - start, kv_len: end, pages: first_page..pages.len() });
        self.in_flight.push(Planned { key, end, num_rows: batch.logit_rows.len() - rows_before });
        true
    }

    // ── admission ───────────────────────────────────────────────────────────────────────────────────

    /// Admit from the queue while there is budget, a place and, by estimate, room in the pool.
    fn admit(&mut self, batch: &mut ForwardBatch, budget: &mut Budget) {
        if budget.is_spent() || self.running.len() >= self.config.max_running {
            return;
        }
        self.order_queue();
        let mut position = 0;
        while !budget.is_spent() && self.running.len() < self.config.max_running && position <= MAX_HELD_BACK {
            let Some(&key) = self.waiting.get(position) else { break };
            if self.is_held_back(key) {
                position += 1;
                continue;
            }
            if !self.try_admit(key) {
                break;
            }
            self.waiting.remove(position);
            self.waiting_tokens -= self.sequences[&key].tokens.len();
            self.plan_chunk(key, batch, budget);
        }
    }

    fn order_queue(&mut self) {
        if self.config.policy != Policy::Lpm || self.waiting.len() > LPM_LIMIT || self.waiting.len() < 2 {
            return;
        }
        let (cache, sequences) = (&self.cache, &self.sequences);
        let matched = |key: &SequenceKey| {
            let sequence = &sequences[key];
            cache.matched_tokens(sequence.namespace.as_ref(), &sequence.tokens)
        };
        self.waiting.make_contiguous().sort_by_cached_key(|key| std::cmp::Reverse(matched(key)));
    }

    /// Whether a running prompt is about to compute a page that this one could then reuse.
    fn is_held_back(&self, key: SequenceKey) -> bool {
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

    /// Lock the request's cached prefix and let it run, if its pages and those that the running ones
    /// are expected to need fit.
    fn try_admit(&mut self, key: SequenceKey) -> bool {
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
            sequence.report.cached_tokens = cached;
            self.stats.left_queue += 1;
            self.stats.prompt_tokens += sequence.prompt_len as u64;
            self.stats.cached_tokens += cached as u64;
        }
        self.shape.new_sequences += 1;
        self.shape.cached_tokens += cached;
        self.running.push(key);
        true
    }

    /// Pages that a sequence has not got yet and is expected to need.
    fn expected_pages(&self, sequence: &Sequence) -> usize {
        let remaining = sequence.max_new_tokens.saturating_sub(sequence.num_output());
        let tokens = sequence.tokens.len() + self.reserve.expected(remaining, sequence.ignore_eos);
        tokens.div_ceil(self.config.page_size).saturating_sub(sequence.pages.len())
    }

    /// Take the pages of the youngest running sequence and queue it again, in front.
    fn retract_youngest(&mut self) {
        let key = self.running.pop().expect("only called while sequences run");
        let available = self.pool.num_free() + self.cache.num_evictable();
        self.release(key);
        let gained = self.pool.num_free() + self.cache.num_evictable() - available;
        self.stats.retracted_tokens += (gained * self.config.page_size) as u64;
        let sequence = self.sequences.get_mut(&key).expect("running sequences are alive");
        sequence.num_computed = 0;
        if !sequence.prefilled {
            sequence.report.logprobs.clear();
        }
        sequence.sink.send(TokenEvent::Retracted);
        self.waiting_tokens += sequence.tokens.len();
        self.waiting.push_front(key);
        self.stats.retractions += 1;
        let running = || self.running.iter().map(|key| &self.sequences[key]);
        let decoded = running().map(Sequence::num_output).sum();
        let allowed = running().map(|s| s.max_new_tokens).fold(0, usize::saturating_add);
        self.reserve.raise(decoded, allowed, self.running.len());
    }

    // ── results ─────────────────────────────────────────────────────────────────────────────────────

    fn commit_sequence(&mut self, planned: &Planned, rows: Vec<quern_backend::RowOutput>) {
        let key = planned.key;
        let failed = |fault| rows.iter().any(|row| row.fault == Some(fault));
        if failed(Fault::NotFinite) {
            // Its earlier pages are in the tree already, and who knows which of them are sound.
            self.release(key);
            let sequence = &self.sequences[&key];
            let step = sequence.num_output();
            self.cache.forget(sequence.namespace.as_ref(), &sequence.tokens, &mut self.pool);
            return self.fail(key, FailCause::NumericalFault { step });
        }
        if failed(Fault::NoToken) {
            // The request's own doing: what is cached of its prompt is sound, and others go on using it.
            let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
            let (step, grammar) = (sequence.num_output(), sequence.dead_end());
            return self.fail(key, FailCause::NoToken { step, grammar });
        }
        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        sequence.num_computed = planned.end;
        let caught_up = planned.end == sequence.tokens.len();
        if self.config.prefix_cache {
            self.cache_full_pages(key);
        }

        let sequence = self.sequences.get_mut(&key).expect("planned sequences are alive");
        let mut rows = rows.into_iter();
        let num_scores = rows.len() - usize::from(caught_up && sequence.max_new_tokens > 0);
        for score in rows.by_ref().take(num_scores) {
            let logprobs = sequence.logprobs_of(score);
            sequence.report.logprobs.extend(logprobs);
        }
        if !caught_up {
            return;
        }
        if !sequence.prefilled {
            sequence.prefilled = true;
            let report = std::mem::take(&mut sequence.report);
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
            Ok(Some(End::Stop(token))) => self.finish(key, FinishReason::StopToken(token)),
            Ok(Some(End::Grammar(token))) => self.finish(key, FinishReason::GrammarEnd(token)),
            Ok(Some(End::Length)) => self.finish(key, FinishReason::Length),
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
            if let Extended::Duplicate(cached) = self.cache.extend(lock, edge, page) {
                self.pool.give_back(page);
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

    /// Free what a sequence holds, forget it, and send its terminal event: the only place that does.
    fn end(&mut self, key: SequenceKey, event: TokenEvent) {
        self.release(key);
        let mut sequence = self.sequences.remove(&key).expect("only living sequences end");
        match self.running.iter().position(|&k| k == key) {
            Some(index) => {
                self.running.remove(index);
            }
            None => {
                // The queue may be long: it is searched only for those that are in it.
                let index = self.waiting.iter().position(|&k| k == key);
                self.waiting.remove(index.expect("what is alive and does not run waits"));
                self.waiting_tokens -= sequence.tokens.len();
            }
        }
        if !sequence.admitted {
            self.stats.left_queue += 1;
        }
        sequence.sink.send(event);
    }

    /// Private pages to the pool, the lock to the tree.
    fn release(&mut self, key: SequenceKey) {
        let sequence = self.sequences.get_mut(&key).expect("only living sequences hold pages");
        sequence.pages.drain(sequence.num_shared..).for_each(|page| self.pool.give_back(page));
        sequence.pages.clear();
        sequence.num_shared = 0;
        if let Some(lock) = sequence.lock.take() {
            self.cache.unlock(lock);
        }
    }
}

/// Hash maps iterate in no order; what is done to sequences is done in order of arrival.
fn sorted(keys: impl Iterator<Item = SequenceKey>) -> Vec<SequenceKey> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}
