//! [`Sequence`]: one generation in progress.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use quern_backend::{LogitTask, RowTask, SamplingParams, TokenCounts};

use crate::{
    radix_cache::PrefixLock,
    request::{EventSink, FinishReason, GenerateRequest, Grammar, GrammarError, LogprobRequest, TokenLogprobs},
    tenant::Tenant,
};

/// Names a sequence for as long as the engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceKey(pub u64);

/// A request and how far it has come.
///
/// ```text
/// tokens   [ prompt ............ | output ...... ]
/// computed [ ........... num_computed )            behind = tokens.len() - num_computed
/// pages    [ shared with the tree | private ... ]  one for each page_size tokens computed
/// ```
pub struct Sequence {
    /// The request's id.
    pub id: String,
    /// Prompt and output.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Tokens whose keys and values are in the pages.
    pub num_computed: usize,
    /// The pages, in order.
    pub pages: Vec<u32>,
    /// How many of them, from the front, the prefix tree owns.
    pub num_shared: usize,
    /// The claim on those; present while the sequence runs.
    pub lock: Option<PrefixLock>,
    /// Who it belongs to.
    pub tenant: Tenant,
    /// The step that it was last part of.
    pub last_step: u64,
    /// Namespace of its prefixes.
    pub namespace: Option<Arc<str>>,
    /// Most output tokens.
    pub max_new_tokens: usize,
    /// Runs on past stop tokens.
    pub ignore_eos: bool,
    /// Whether it has left the waiting queue at least once.
    pub admitted: bool,
    /// Prompt tokens that came from the cache when it was admitted.
    pub cached_tokens: usize,
    /// Whether it has waited through a restart of the engine.
    pub outlived_restart: bool,
    /// Whether `Prefilled` has been sent.
    pub prefilled: bool,
    /// Scores of the prompt's tokens, gathered until `Prefilled`.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Where its events go.
    pub sink: Box<dyn EventSink>,
    min_new_tokens: usize,
    stop_token_ids: Arc<[u32]>,
    sampling: Arc<SamplingParams>,
    seed: u64,
    logprobs: Option<LogprobRequest>,
    logprob_ids: Arc<[u32]>,
    counts: Option<Arc<TokenCounts>>,
    grammar: Option<Box<dyn Grammar>>,
}

/// What decides a sequence's tokens, but for the tokens themselves.
#[derive(Clone, Debug)]
pub struct SequenceReport {
    /// The request's id.
    pub id: String,
    /// Its seed.
    pub seed: u64,
    /// How its tokens are chosen.
    pub sampling: Arc<SamplingParams>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated so far.
    pub output_tokens: usize,
    /// Tokens whose keys and values were in pages.
    pub computed_tokens: usize,
    /// Prompt tokens that came from the prefix cache when it was admitted.
    pub cached_tokens: usize,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Stop tokens are banned below this many.
    pub min_new_tokens: usize,
    /// Whether it runs on past stop tokens.
    pub ignore_eos: bool,
    /// Whether log-probabilities are reported.
    pub has_logprobs: bool,
    /// Whether a grammar constrains it.
    pub has_grammar: bool,
}

impl Sequence {
    /// A sequence that has computed nothing.
    pub fn new(request: GenerateRequest, sink: Box<dyn EventSink>) -> Self {
        let counts = request.sampling.needs_counts().then(|| Arc::new(HashMap::new()));
        let logprob_ids = request.logprobs.as_ref().map_or_else(Vec::new, |l| l.ids.clone());
        Self {
            id: request.id,
            prompt_len: request.prompt.len(),
            tokens: request.prompt,
            num_computed: 0,
            pages: Vec::new(),
            num_shared: 0,
            lock: None,
            tenant: request.tenant,
            last_step: 0,
            namespace: request.namespace,
            max_new_tokens: request.max_new_tokens,
            ignore_eos: request.ignore_eos,
            admitted: false,
            cached_tokens: 0,
            outlived_restart: false,
            prefilled: false,
            prompt_logprobs: Vec::new(),
            sink,
            min_new_tokens: request.min_new_tokens,
            stop_token_ids: request.stop_token_ids.into(),
            sampling: Arc::new(request.sampling),
            seed: request.seed,
            logprobs: request.logprobs,
            logprob_ids: logprob_ids.into(),
            counts,
            grammar: request.grammar,
        }
    }

    /// Tokens that are not computed yet.
    pub fn behind(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// Output tokens so far.
    pub fn num_output(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether the next step computes one token and samples the next: all else is catching up.
    pub fn is_decoding(&self) -> bool {
        self.behind() == 1 && self.num_computed >= self.prompt_len
    }

    /// How many leading tokens may come from the cache: at least one token is computed, so that there
    /// are logits, and every scored token's predecessor is.
    pub fn reusable_tokens(&self) -> usize {
        let all_but_last = self.tokens.len() - 1;
        match self.scores_from() {
            Some(from) if !self.prefilled => all_but_last.min(from.saturating_sub(1)),
            _ => all_but_last,
        }
    }

    /// What decides its tokens, but for the tokens themselves.
    pub fn report(&self) -> SequenceReport {
        SequenceReport {
            id: self.id.clone(),
            seed: self.seed,
            sampling: Arc::clone(&self.sampling),
            prompt_tokens: self.prompt_len,
            output_tokens: self.num_output(),
            computed_tokens: self.num_computed,
            cached_tokens: self.cached_tokens,
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            ignore_eos: self.ignore_eos,
            has_logprobs: self.logprobs.is_some(),
            has_grammar: self.grammar.is_some(),
        }
    }

    fn scores_from(&self) -> Option<usize> {
        self.logprobs.as_ref().and_then(|l| l.prompt_from)
    }

    /// The rows whose logits are wanted of a step that computes `start..end`: `add` gets each, counted from the first
    /// of these tokens, with what to make of it (prompt scores, and a sample where the step catches up). The grammar
    /// is asked for its mask here; if it fails, rows already added mean nothing.
    ///
    /// # Errors
    /// If the grammar fails.
    pub fn logit_rows(
        &mut self,
        start: usize,
        end: usize,
        mut add: impl FnMut(usize, LogitTask),
    ) -> Result<(), GrammarError> {
        let (want_logprob, top_logprobs) = self.logprobs.as_ref().map_or((false, 0), |l| (true, l.top));
        let logprob_ids = Arc::clone(&self.logprob_ids);
        let task = |task| LogitTask { task, want_logprob, top_logprobs, logprob_ids: Arc::clone(&logprob_ids) };
        if let Some(from) = self.scores_from().filter(|_| !self.prefilled) {
            // The logits at `p` score the token at `p + 1`.
            let scored = start.max(from.max(1) - 1)..end.min(self.prompt_len - 1);
            for position in scored {
                let target = self.tokens[position + 1];
                add(position - start, task(RowTask::Score { target }));
            }
        }
        if end == self.tokens.len() && self.max_new_tokens > 0 {
            let step = self.num_output();
            let banned = if step < self.min_new_tokens { Arc::clone(&self.stop_token_ids) } else { Arc::new([]) };
            let sample = RowTask::Sample {
                params: Arc::clone(&self.sampling),
                seed: self.seed,
                step: step as u64,
                counts: self.counts.clone(),
                banned,
                mask: self.grammar.as_mut().map(|grammar| contained(|| grammar.mask())).transpose()?,
            };
            add(end - 1 - start, task(sample));
        }
        Ok(())
    }

    /// Append the sampled token; returns why the sequence ends with it, if it does. Of several reasons the first in
    /// SGLang's order counts: stop token, length, grammar.
    ///
    /// # Errors
    /// If the grammar fails.
    pub fn push(&mut self, token: u32) -> Result<Option<FinishReason>, GrammarError> {
        self.tokens.push(token);
        if let Some(counts) = &mut self.counts {
            // The step's tasks are gone by now, so that the counts are shared with nothing and not copied.
            debug_assert_eq!(Arc::strong_count(counts), 1, "a step that is over still holds the counts");
            *Arc::make_mut(counts).entry(token).or_default() += 1;
        }
        Ok(if !self.ignore_eos && self.stop_token_ids.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else if self.num_output() >= self.max_new_tokens {
            Some(FinishReason::Length)
        } else {
            let grammar_done = self.grammar.as_mut().map(|grammar| contained(|| grammar.accept(token)));
            grammar_done.transpose()?.unwrap_or(false).then_some(FinishReason::GrammarEnd(token))
        })
    }

    /// Why its grammar allows no token, if it has one.
    pub fn dead_end(&mut self) -> Option<GrammarError> {
        let why = |grammar: &mut Box<dyn Grammar>| contained(|| Ok(grammar.dead_end())).unwrap_or_else(|error| error);
        self.grammar.as_mut().map(why)
    }

    /// What to report of a sampled or scored row.
    pub fn logprobs_of(&self, row: quern_backend::RowOutput) -> Option<TokenLogprobs> {
        self.logprobs.as_ref().map(|_| TokenLogprobs {
            id: row.token,
            logprob: row.logprob,
            top: row.top,
            requested: row.requested,
        })
    }
}

/// Run a grammar's code, which is not ours: a panic in it is one more way to fail.
fn contained<T>(ask: impl FnOnce() -> Result<T, GrammarError>) -> Result<T, GrammarError> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| Err(GrammarError("it panicked".into())))
}
