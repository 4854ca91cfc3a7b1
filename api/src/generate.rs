//! [`Generations`]: from prompts to text, for every endpoint alike.
//!
//! The async world ends and begins again here. [`GenerationSpec`]s go to the engine; token events come back,
//! become text, are searched for stops, and leave as [`TextDelta`]s.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use quern_engine::{
    Aborter, FailCause, FinishReason, GenerateRequest, Grammar, LogprobRequest, PromptReport, RequestHandle,
    SamplingParams, SubmitError, TokenEvent, TokenLogprobs,
};
use quern_text::{Detokenizer, GrammarSpec, StopMatcher, Stops};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::Instant,
};

use crate::{
    caller::Caller,
    limits::check_stop_states,
    live_ids::ClaimedIds,
    logprobs::scores_bytes,
    offload::{LARGE_BYTES, to_pool_for},
    outcome::{Matched, Outcome},
    prompt::off_thread,
    protocol::{
        ApiError,
        memory_pool::{HeldFor, HeldMemory},
    },
    sampling::Sampling,
    score_limits::{ScoreBytes, ScoreReport},
    state::AppState,
};

/// States of stop patterns that are visited, some nanoseconds each, before other tasks of the thread have
/// their turn: a millisecond.
const VISITS_A_TURN: u64 = 1 << 18;

/// About what an answer has of a token: its text, or its id in a list.
pub const TOKEN_BYTES: usize = 8;

/// About what an answer and its server have of each output, however little it says.
pub const OUTPUT_BYTES: usize = 1024;

/// One output to generate.
#[derive(Clone, Debug)]
pub struct GenerationSpec {
    /// Its id. `/abort_request` takes it: from an ordinary key whole and for its own requests, else by its beginning.
    pub id: String,
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// How to choose tokens and where to stop.
    pub sampling: Arc<Sampling>,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Which log-probabilities to report.
    pub logprobs: Option<LogprobRequest>,
    /// How the answer reports them.
    pub score_report: ScoreReport,
    /// Who wants it.
    pub caller: Caller,
    /// Prefixes are shared only within it, and among the caller's own.
    pub namespace: Option<Arc<str>>,
    /// Which of its prompt's outputs this is: each draws its own tokens.
    pub sample_index: usize,
}

/// Outputs in progress. Dropping them aborts what has not ended.
pub struct Generations {
    state: Arc<AppState>,
    /// The events of all outputs, each with its output's index. Bounded by what was asked for: an output
    /// has at most `max_new_tokens` of them.
    inbox: UnboundedReceiver<(usize, TokenEvent)>,
    outputs: Vec<Output>,
    num_running: usize,
    /// What looking for stops has cost since other tasks had their turn.
    visits: u64,
    streams: bool,
    began: Instant,
    _ids: ClaimedIds,
    /// What its log-probabilities may take.
    _scores: HeldMemory,
}

/// What has become of one output so far.
pub struct Output {
    handle: Option<RequestHandle>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    stop_token_ids: Arc<[u32]>,
    max_new_tokens: usize,
    /// Text and scores that wait for the next delta.
    unsent: TextDelta,
    interval: usize,
    first_token: Option<Duration>,
    last_token: Duration,
    score_bytes_of_token: usize,
    /// Its id.
    pub id: String,
    /// How its tokens are chosen, every default filled in.
    pub sampling: Arc<Sampling>,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// What is known of the prompt once it is computed.
    pub prompt: PromptReport,
    /// How often its pages were taken for others.
    pub num_retractions: usize,
    /// The tokens so far, the one that ended it included.
    pub tokens: Vec<u32>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// Time from its submission to its end; 0 before.
    pub seconds: f64,
}

/// What is new of an output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextDelta {
    /// Text, possibly empty.
    pub text: String,
    /// The tokens since the last delta. Their text may be held back for a later one.
    pub tokens: Vec<u32>,
    /// Their scores, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Present on the last delta.
    pub outcome: Option<Outcome>,
}

impl GenerationSpec {
    /// About what is copied to submit it.
    fn bytes(&self) -> usize {
        let Sampling { params, stop_token_ids, .. } = &*self.sampling;
        let ids = self.prompt.len() + stop_token_ids.len() + 2 * params.logit_bias.len();
        let labels = self.logprobs.as_ref().map_or(0, |logprobs| logprobs.ids.len());
        OUTPUT_BYTES + (ids + labels) * size_of::<u32>() + self.namespace.as_ref().map_or(0, |name| name.len())
    }

    /// `n` outputs of its prompt, each with an id of its own.
    pub fn samples(self, n: usize) -> impl Iterator<Item = Self> {
        (0..n).map(move |sample_index| {
            let id = if n == 1 { self.id.clone() } else { format!("{}_{sample_index}", self.id) };
            Self { id, sample_index, ..self.clone() }
        })
    }
}

impl Generations {
    /// Compile the stops and grammars of `specs` and submit them, all or none.
    ///
    /// # Errors
    /// If a stop or grammar does not compile, the queue is full, or the engine takes no requests.
    pub async fn submit(state: &Arc<AppState>, specs: Vec<GenerationSpec>, streams: bool) -> Result<Self, ApiError> {
        let scores = |spec: &GenerationSpec| {
            spec.score_report.of_output(spec.prompt.len(), spec.max_new_tokens, spec.logprobs.as_ref())
        };
        let score_bytes = ScoreBytes::sum(specs.iter().map(scores));
        score_bytes.check(specs.len())?;
        let mut held = HeldMemory::default();
        state.memory.hold(&mut held, score_bytes.whole(), HeldFor::Scores)?;
        // What an answer may come to hold is freed at its end, or when its client leaves.
        to_pool_for(score_bytes.whole() + specs.iter().map(GenerationSpec::bytes).sum::<usize>()).await;
        let stops = stops(state, &specs).await?;
        let grammars = grammars(state, &specs).await?;
        let (events, inbox) = mpsc::unbounded_channel();
        let ids =
            ClaimedIds::claim(&state.ids, specs.iter().map(|spec| (spec.caller.owner().clone(), spec.id.clone())))?;
        let num_running = specs.len();
        let mut outputs = Vec::with_capacity(num_running);
        for (index, ((spec, stops), grammar)) in specs.into_iter().zip(stops).zip(grammars).enumerate() {
            let events = events.clone();
            // The receiver is gone once the client has disconnected.
            let sink = Box::new(move |event| drop(events.send((index, event))));
            let (mut output, request) = Output::of(state, spec, stops)?;
            let request = GenerateRequest { grammar, ..request };
            output.handle = Some(state.engine.submit(request, sink).map_err(submit_error)?);
            outputs.push(output);
        }
        let (state, began) = (Arc::clone(state), Instant::now());
        Ok(Self { state, inbox, outputs, num_running, visits: 0, streams, began, _ids: ids, _scores: held })
    }

    /// The next delta and the index of its output; `None` when all have ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<(usize, TextDelta)> {
        while self.num_running > 0 {
            if self.visits > VISITS_A_TURN {
                self.visits = 0;
                tokio::task::yield_now().await;
            }
            let (index, event) = self.inbox.recv().await?;
            if let Some(delta) = self.take(index, event) {
                return Some((index, delta));
            }
        }
        None
    }

    /// Wait for the ends; one delta an output, with all its text.
    ///
    /// # Errors
    /// If an output fails, or is aborted.
    pub async fn whole(&mut self) -> Result<Vec<TextDelta>, ApiError> {
        let mut whole = vec![TextDelta::default(); self.outputs.len()];
        while let Some((index, delta)) = self.next().await {
            if let Some(Outcome::Failed(error)) = delta.outcome {
                return Err(error);
            }
            whole[index].append(delta);
        }
        Ok(whole)
    }

    /// About how many bytes an answer in one piece would have by now.
    pub fn answer_bytes(&self) -> usize {
        let bytes = |output: &Output| {
            let of_token = TOKEN_BYTES + output.score_bytes_of_token;
            OUTPUT_BYTES + output.tokens.len() * of_token + scores_bytes(&output.prompt.logprobs)
        };
        self.outputs.iter().map(bytes).sum()
    }

    /// Ways to abort what has not ended, from elsewhere.
    pub fn aborters(&self) -> Vec<Aborter> {
        self.outputs.iter().filter_map(|output| output.handle.as_ref()).map(RequestHandle::aborter).collect()
    }

    /// Whether the answer streams.
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// What the routes share.
    pub fn state(&self) -> &AppState {
        &self.state
    }

    /// What has become of each output.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    fn take(&mut self, index: usize, event: TokenEvent) -> Option<TextDelta> {
        let now = self.began.elapsed();
        let output = &mut self.outputs[index];
        if output.outcome.is_some() {
            // The engine was some tokens ahead of a stop in the text.
            return None;
        }
        let delta = match event {
            TokenEvent::Prefilled(report) => {
                output.prompt = report;
                return None;
            }
            TokenEvent::Retracted => {
                output.num_retractions += 1;
                return None;
            }
            TokenEvent::Token { id, logprobs } => {
                match output.first_token {
                    None => self.state.metrics.first_token(self.streams, now),
                    Some(_) => self.state.metrics.next_token(now - output.last_token),
                }
                output.first_token.get_or_insert(now);
                output.last_token = now;
                let visits = output.stops.visits();
                let delta = output.push(id, logprobs);
                self.visits += output.stops.visits() - visits;
                delta?
            }
            TokenEvent::Finished(FinishReason::StopToken(id) | FinishReason::GrammarEnd(id)) => {
                output.end(Outcome::Stop(Matched::Token(id)))
            }
            TokenEvent::Finished(FinishReason::Length) => output.end(Outcome::Length),
            TokenEvent::Finished(FinishReason::Closed) => unreachable!("an output that closes its request has ended"),
            TokenEvent::Failed(cause) => {
                let failure = failure(cause, output.sampling.constraint.as_ref().map_or("", GrammarSpec::kind));
                output.end(failure)
            }
        };
        if delta.outcome.is_some() {
            // What a stop in the text ends has finished, though the engine does not see it.
            if let Some(handle) = output.handle.take() {
                handle.close();
            }
            output.seconds = now.as_secs_f64();
            self.num_running -= 1;
            let (prompt, cached, tokens) = (output.prompt_tokens, output.prompt.cached_tokens, output.tokens.len());
            self.state.metrics.ended(self.streams, prompt, cached, tokens, output.first_token, now);
        }
        Some(delta)
    }
}

impl Output {
    fn of(state: &AppState, spec: GenerationSpec, stops: Arc<Stops>) -> Result<(Self, GenerateRequest), ApiError> {
        let score_bytes_of_token = spec.score_report.of_output(0, 1, spec.logprobs.as_ref()).whole();
        let GenerationSpec { id, prompt, sampling, max_new_tokens, logprobs, caller, namespace, sample_index, .. } =
            spec;
        if prompt.is_empty() {
            return Err(ApiError::invalid("The prompt is empty."));
        }
        let stop_token_ids: Arc<[u32]> = state.eos_token_ids.iter().chain(&sampling.stop_token_ids).copied().collect();
        let output = Self {
            handle: None,
            detokenizer: Detokenizer::new(Arc::clone(&state.tokenizer), sampling.skip_special_tokens),
            stops: StopMatcher::new(stops, sampling.no_stop_trim),
            stop_token_ids: Arc::clone(&stop_token_ids),
            max_new_tokens,
            unsent: TextDelta::default(),
            interval: sampling.stream_interval.unwrap_or(state.config.stream_interval),
            first_token: None,
            last_token: Duration::ZERO,
            score_bytes_of_token,
            id: id.clone(),
            sampling: Arc::clone(&sampling),
            prompt_tokens: prompt.len(),
            prompt: PromptReport::default(),
            num_retractions: 0,
            tokens: Vec::new(),
            outcome: None,
            seconds: 0.0,
        };
        let seed = sampling.seed.unwrap_or_else(|| state.next_seed());
        let request = GenerateRequest {
            id,
            prompt,
            sampling: SamplingParams { logprobs_of: state.config.logprobs_mode, ..sampling.params.clone() },
            // Far apart, so that request 1's second sample is not request 2's first.
            seed: seed.wrapping_add((sample_index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            max_new_tokens,
            min_new_tokens: sampling.min_new_tokens.min(max_new_tokens),
            stop_token_ids: stop_token_ids.to_vec(),
            ignore_eos: sampling.ignore_eos,
            logprobs,
            tenant: caller.tenant().clone(),
            namespace: caller.namespace(namespace, state.config.shared_prefix_cache),
            grammar: None,
        };
        Ok((output, request))
    }

    /// Take a token. A delta leaves every `interval` tokens, the first at once.
    fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Option<TextDelta> {
        self.tokens.push(id);
        self.unsent.tokens.push(id);
        self.unsent.logprobs.extend(logprobs);
        let ends = !self.sampling.ignore_eos && self.stop_token_ids.contains(&id);
        if ends && !self.sampling.no_stop_trim {
            // Its text is not part of the answer; `Finished` follows.
            return None;
        }
        let text = self.detokenizer.push(id);
        let step = self.stops.push(&text);
        self.unsent.text += &step.text;
        if let Some(stop) = step.matched {
            return Some(self.end(Outcome::Stop(Matched::Text(stop))));
        }
        // The engine's `Finished` follows the last token and leaves in one delta with it.
        let last = ends || self.tokens.len() == self.max_new_tokens;
        let due = !last && (self.tokens.len() == 1 || self.tokens.len().is_multiple_of(self.interval));
        due.then(|| std::mem::take(&mut self.unsent))
    }

    /// The last delta, with everything that was held back.
    fn end(&mut self, mut outcome: Outcome) -> TextDelta {
        if !matches!(outcome, Outcome::Stop(Matched::Text(_))) {
            let tail = self.detokenizer.finish();
            let step = self.stops.push(&tail);
            self.unsent.text += &step.text;
            self.unsent.text += &self.stops.finish();
            if let (Some(stop), false) = (step.matched, matches!(outcome, Outcome::Failed(_))) {
                outcome = Outcome::Stop(Matched::Text(stop));
            }
        }
        self.outcome = Some(outcome.clone());
        TextDelta { outcome: Some(outcome), ..std::mem::take(&mut self.unsent) }
    }

    /// Tokens generated.
    pub fn completion_tokens(&self) -> usize {
        self.tokens.len()
    }
}

impl TextDelta {
    fn append(&mut self, next: Self) {
        self.text += &next.text;
        self.tokens.extend(next.tokens);
        self.logprobs.extend(next.logprobs);
        self.outcome = next.outcome;
    }
}

/// The stops of each spec, compiled once for all that share them, within one bound.
async fn stops(state: &Arc<AppState>, specs: &[GenerationSpec]) -> Result<Vec<Arc<Stops>>, ApiError> {
    let mut distinct: Vec<Arc<Sampling>> = Vec::new();
    let mut which = Vec::with_capacity(specs.len());
    for spec in specs {
        let same = |last: &Arc<Sampling>| {
            Arc::ptr_eq(last, &spec.sampling)
                || (&last.stop, &last.stop_regex) == (&spec.sampling.stop, &spec.sampling.stop_regex)
        };
        if !distinct.last().is_some_and(same) {
            distinct.push(Arc::clone(&spec.sampling));
        }
        which.push(distinct.len() - 1);
    }
    let bytes: usize = distinct.iter().flat_map(|sampling| &sampling.stop).map(String::len).sum();
    let is_quick = bytes <= LARGE_BYTES && distinct.iter().all(|sampling| sampling.stop_regex.is_empty());
    let outputs = specs.len();
    let compile = move |_: &AppState| {
        let (mut compiled, mut states) = (Vec::with_capacity(distinct.len()), 0);
        for sampling in &distinct {
            let stops = Arc::new(sampling.stops()?);
            states += stops.num_states();
            check_stop_states(outputs, states)?;
            compiled.push(stops);
        }
        Ok(compiled)
    };
    let compiled = if is_quick { compile(state) } else { off_thread(state, compile).await }?;
    let stops: Vec<_> = which.into_iter().map(|index| Arc::clone(&compiled[index])).collect();
    check_stop_states(outputs, stops.iter().map(|stops| stops.num_states()).sum())?;
    Ok(stops)
}

/// A grammar for each spec that wants one.
async fn grammars(state: &AppState, specs: &[GenerationSpec]) -> Result<Vec<Option<Box<dyn Grammar>>>, ApiError> {
    let constraints: Vec<_> = specs.iter().map(|spec| spec.sampling.constraint.as_ref()).collect();
    if constraints.iter().all(Option::is_none) {
        return Ok(specs.iter().map(|_| None).collect());
    }
    let _waits = state.metrics.waits_for_grammar();
    state.grammars.begin_each(&constraints).await
}

/// Prefixes are shared among requests of the same salt and key only.
pub fn namespace(cache_salt: Option<&str>, extra_key: Option<&str>) -> Option<Arc<str>> {
    match (cache_salt.unwrap_or(""), extra_key.unwrap_or("")) {
        ("", "") => None,
        // Lengths first, so that no two pairs make one name.
        (salt, key) => Some(format!("{}:{salt}{key}", salt.len()).into()),
    }
}

fn submit_error(error: SubmitError) -> ApiError {
    match error {
        SubmitError::ShareExceeded { .. } => ApiError::status(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
        SubmitError::QueueFull { .. }
        | SubmitError::QueueFullOfTokens { .. }
        | SubmitError::Restarting
        | SubmitError::Unhealthy
        | SubmitError::ShuttingDown => ApiError::unavailable(error.to_string()),
        SubmitError::PromptTooLong { .. } => ApiError::too_long(error.to_string()),
    }
}

/// The error a client gets. `grammar` is what its constraint is called.
fn failure(cause: FailCause, grammar: &str) -> Outcome {
    match cause {
        FailCause::Aborted => Outcome::Abort("The request was aborted.".into()),
        FailCause::ShuttingDown => Outcome::Abort("The server is shutting down.".into()),
        FailCause::OutOfPages { .. } => Outcome::Failed(ApiError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            ..ApiError::invalid(format!("Out of memory even after retracting all other requests: {cause}"))
        }),
        FailCause::NoToken { step, grammar: Some(why) } => Outcome::Failed(ApiError::invalid(format!(
            "The {grammar} grammar came to a dead end after {step} tokens: {why}."
        ))),
        FailCause::NoToken { step, grammar: None } => Outcome::Failed(ApiError::invalid(format!(
            "No token is left to choose after {step} tokens: logit_bias, penalties, or stop tokens below min_tokens \
             exclude all."
        ))),
        FailCause::NumericalFault { .. } | FailCause::Grammar(_) | FailCause::Engine(_) => {
            Outcome::Failed(ApiError::internal(cause))
        }
    }
}
