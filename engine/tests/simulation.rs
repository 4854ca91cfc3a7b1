//! Thousands of hours of serving in seconds: the real scheduler over a model that reads every earlier
//! token back through its pages.
//!
//! Each test is one kind of weather: a pool size, a chunk size, a policy, a share of aborts and faults.
//! After every step each page must have exactly one owner; at the end every output must be what the
//! request gives alone, every request must have had exactly one terminal event, and every page must be
//! back.
//!
//! `QUERN_SIM_SEED=n` replays a seed, `QUERN_SIM_REQUESTS=n` changes the requests of each test.

use std::{
    collections::HashMap,
    panic::resume_unwind,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
};

use quern_backend::{Collective, DeviceFault, LogitFault, Lost, Rank, RowTask, SamplingParams, TokenCounts, TokenMask};
use quern_engine::{
    AbortScope, EngineConfig, FailCause, FinishReason, GenerateRequest, Grammar, GrammarError, LogprobRequest, Policy,
    Tenant, TokenEvent,
    fake::{self, FakeModel},
    scheduler::Scheduler,
    sequence::SequenceKey,
    stats::SchedulerStats,
};
use quern_model::{Model, RankModel, Ranks};

const VOCAB: u32 = 61;

/// Longest prompt and longest output of the workload.
const MAX_PROMPT: usize = 120;
const MAX_NEW: usize = 40;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 100.0 < percent
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(VOCAB as usize) as u32).collect()
    }
}

/// What a request wants, to check its outcome against.
#[derive(Clone)]
struct RequestSpec {
    prompt: Vec<u32>,
    sampling: SamplingParams,
    seed: u64,
    max_new: usize,
    min_new: usize,
    stops: Vec<u32>,
    ignore_eos: bool,
    scores_from: Option<usize>,
    namespace: Option<&'static str>,
    counting: Option<Counting>,
}

/// A grammar: even and odd tokens in turn, `most` of them. A faulty one breaks on the way.
#[derive(Clone)]
struct Counting {
    seen: u32,
    most: u32,
    breaks_at: Option<u32>,
}

impl Counting {
    fn mask_now(&self) -> TokenMask {
        TokenMask::new(vec![if self.seen.is_multiple_of(2) { 0x5555_5555 } else { 0xaaaa_aaaa }; 2])
    }
}

impl Grammar for Counting {
    fn mask(&mut self) -> Result<Arc<TokenMask>, GrammarError> {
        match self.breaks_at {
            Some(at) if at == self.seen => Err(GrammarError(format!("no mask for token {at}"))),
            _ => Ok(Arc::new(self.mask_now())),
        }
    }

    fn accept(&mut self, token: u32) -> Result<bool, GrammarError> {
        assert!(self.mask_now().allows(token), "`mask` and `accept` alternate");
        self.seen += 1;
        Ok(self.seen == self.most)
    }
}

/// What a request gives when nothing else exists.
#[derive(Debug, PartialEq)]
enum Ending {
    Finished(FinishReason),
    BrokenGrammar,
}

impl RequestSpec {
    fn request(&self, id: String, tenant: Tenant) -> GenerateRequest {
        GenerateRequest {
            id,
            prompt: self.prompt.clone(),
            sampling: self.sampling.clone(),
            seed: self.seed,
            max_new_tokens: self.max_new,
            min_new_tokens: self.min_new,
            stop_token_ids: self.stops.clone(),
            ignore_eos: self.ignore_eos,
            logprobs: self.scores_from.map(|from| LogprobRequest { prompt_from: Some(from), top: 2, ids: vec![1] }),
            tenant,
            namespace: self.namespace.map(Into::into),
            grammar: self.counting.clone().map(|grammar| Box::new(grammar) as Box<dyn Grammar>),
        }
    }

    /// The output of this request when nothing else exists: no pages, no batch, no cache.
    fn alone(&self) -> (Vec<u32>, Ending) {
        let mut tokens = self.prompt.clone();
        let mut counts = TokenCounts::new();
        let mut counting = self.counting.clone();
        let ending = loop {
            let step = tokens.len() - self.prompt.len();
            if step >= self.max_new {
                break Ending::Finished(FinishReason::Length);
            }
            let Ok(mask) = counting.as_mut().map(Grammar::mask).transpose() else { break Ending::BrokenGrammar };
            let banned = if step < self.min_new { self.stops.clone() } else { Vec::new() };
            let task = RowTask::Sample {
                params: self.sampling.clone().into(),
                seed: self.seed,
                step: step as u64,
                counts: self.sampling.needs_counts().then(|| Arc::new(counts.clone())),
                banned: banned.into(),
                mask,
            };
            let token = FakeModel::next_token(VOCAB, tokens.iter().copied(), &task);
            tokens.push(token);
            *counts.entry(token).or_default() += 1;
            if !self.ignore_eos && self.stops.contains(&token) {
                break Ending::Finished(FinishReason::StopToken(token));
            }
            let grammar_done = counting.as_mut().is_some_and(|grammar| grammar.accept(token) == Ok(true));
            if grammar_done && step + 1 < self.max_new {
                break Ending::Finished(FinishReason::GrammarEnd(token));
            }
        };
        (tokens.split_off(self.prompt.len()), ending)
    }
}

/// One kind of weather.
#[derive(Clone, Copy)]
struct Weather {
    name: &'static str,
    page_size: usize,
    /// Pages, as a multiple of what the largest request needs.
    pool: f64,
    chunk: usize,
    balanced_context: usize,
    max_running: usize,
    tenants: u32,
    policy: Policy,
    prefix_cache: bool,
    /// Percent of steps in which something is aborted.
    aborts: f64,
    /// Percent of steps that fail, and of sequences' outputs that are not numbers.
    faults: f64,
    conservativeness: f64,
    /// Ranks of the model, each of which may fail a step.
    ranks: usize,
}

const FAIR: Weather = Weather {
    name: "fair",
    page_size: 4,
    pool: 6.0,
    chunk: 64,
    balanced_context: 64,
    max_running: 16,
    tenants: 1,
    policy: Policy::Fcfs,
    prefix_cache: true,
    aborts: 0.0,
    faults: 0.0,
    conservativeness: 1.0,
    ranks: 1,
};

/// Ranks that have nothing to exchange: each fake computes everything.
struct Apart(Rank);

impl Collective for Apart {
    fn rank(&self) -> Rank {
        self.0
    }

    fn all_reduce(&self, _: &mut [f32]) -> Result<(), Lost> {
        unreachable!("fakes do not add")
    }

    fn broadcast(&self, _: &mut [f32]) -> Result<(), Lost> {
        unreachable!("fakes tell nothing")
    }

    fn gather(&self, _: &[f32], _: &[usize], _: &mut [f32]) -> Result<(), Lost> {
        unreachable!("fakes have no logits")
    }

    fn poison(&self, _: &str) {}

    fn reset(&self) -> Result<(), Lost> {
        Ok(())
    }
}

/// A submitted request and what has come of it.
struct Outcome {
    spec: RequestSpec,
    tokens: Vec<u32>,
    prefilled: bool,
    end: Option<TokenEvent>,
}

struct World {
    rng: Rng,
    weather: Weather,
    scheduler: Scheduler,
    model: Box<dyn Model>,
    speak: Sender<(u64, TokenEvent)>,
    heard: Receiver<(u64, TokenEvent)>,
    outcomes: HashMap<u64, Outcome>,
    retractions_heard: u64,
    /// Beginnings that prompts share, by namespace; conversations grow here.
    prefixes: Vec<(Option<&'static str>, Vec<u32>)>,
    next_key: u64,
    finished: usize,
    oversized: usize,
}

impl World {
    fn new(weather: Weather, seed: u64) -> Self {
        let largest = (MAX_PROMPT + MAX_NEW).div_ceil(weather.page_size);
        let num_pages = ((largest as f64 * weather.pool) as usize).max(1);
        let config = EngineConfig {
            max_running: weather.max_running,
            chunk_tokens: weather.chunk,
            max_prefill_tokens: weather.chunk,
            balanced_context: weather.balanced_context,
            policy: weather.policy,
            prefix_cache: weather.prefix_cache,
            conservativeness: weather.conservativeness,
            ..fake::engine_config(weather.page_size, num_pages)
        };
        let rank = |index: usize| {
            let mut faults = Rng(seed ^ 0xfa17 ^ ((index as u64) << 32));
            let model = FakeModel::new(VOCAB, weather.page_size, num_pages).with_hook(Box::new(move |_| match faults
                .chance(weather.faults)
            {
                true if index > 0 && faults.chance(50.0) => resume_unwind(Box::new("injected".to_owned())),
                true => Err(DeviceFault::Step { backend: "fake", cause: "injected".into() }.into()),
                false => Ok(()),
            }));
            Box::new(model) as Box<dyn Model>
        };
        let model = match weather.ranks {
            1 => rank(0),
            count => {
                let apart = |index| Arc::new(Apart(Rank { index, count })) as Arc<dyn Collective>;
                let ranks = (0..count).map(|index| RankModel { model: rank(index), collective: apart(index) });
                Box::new(Ranks::new(ranks.collect()).expect("threads to spare"))
            }
        };
        let (speak, heard) = mpsc::channel();
        Self {
            rng: Rng(seed),
            weather,
            scheduler: Scheduler::new(config),
            model,
            speak,
            heard,
            outcomes: HashMap::new(),
            retractions_heard: 0,
            prefixes: vec![(None, Vec::new())],
            next_key: 0,
            finished: 0,
            oversized: 0,
        }
    }

    fn random_spec(&mut self) -> RequestSpec {
        let rng = &mut self.rng;
        let (namespace, prefix) = self.prefixes[rng.below(self.prefixes.len())].clone();
        let keep = rng.below(prefix.len() + 1);
        let mut prompt = prefix[..keep.min(MAX_PROMPT - 1)].to_vec();
        let room = MAX_PROMPT - prompt.len();
        let most = room.min(1 + rng.below(40));
        let extra = 1 + rng.below(most);
        prompt.extend(rng.tokens(extra));
        let namespace = if rng.chance(5.0) { Some(["red", "blue"][rng.below(2)]) } else { namespace };
        let temperature = if rng.chance(50.0) { 0.0 } else { 1.0 };
        let max_new = if rng.chance(5.0) { 0 } else { 1 + rng.below(MAX_NEW) };
        let num_stops = rng.below(4);
        let counting = rng.chance(10.0).then(|| {
            let most = 1 + rng.below(MAX_NEW) as u32;
            Counting { seen: 0, most, breaks_at: rng.chance(10.0).then(|| rng.below(most as usize) as u32) }
        });
        RequestSpec {
            sampling: SamplingParams {
                temperature,
                frequency_penalty: if rng.chance(20.0) { 0.5 } else { 0.0 },
                ..SamplingParams::default()
            },
            seed: rng.next(),
            max_new,
            min_new: if rng.chance(20.0) { rng.below(max_new + 1) } else { 0 },
            stops: rng.tokens(num_stops),
            ignore_eos: rng.chance(20.0),
            scores_from: rng.chance(6.0).then(|| rng.below(prompt.len() + 1)),
            namespace,
            counting,
            prompt,
        }
    }

    fn submit(&mut self, spec: RequestSpec) {
        let key = self.next_key;
        self.next_key += 1;
        let events = self.speak.clone();
        let sink =
            Box::new(move |event| events.send((key, event)).expect("the receiver lives as long as the scheduler"));
        // Unequal crowds: half of all requests are the first's, a quarter the second's.
        let tenant = Tenant::new(format!("t{}", self.rng.next().trailing_ones().min(self.weather.tenants - 1)));
        self.scheduler.submit(SequenceKey(key), spec.request(format!("r{key}-"), tenant), sink);
        self.outcomes.insert(key, Outcome { spec, tokens: Vec::new(), prefilled: false, end: None });
    }

    /// New requests: single ones, and copies of one prompt with different seeds.
    fn arrivals(&mut self) -> usize {
        let spec = self.random_spec();
        let copies = if self.rng.chance(5.0) { 1 + self.rng.below(4) } else { 1 };
        for _ in 0..copies {
            let seed = self.rng.next();
            self.submit(RequestSpec { seed, ..spec.clone() });
        }
        copies
    }

    fn abort_something(&mut self) {
        let mut alive: Vec<u64> = self.outcomes.iter().filter(|(_, o)| o.end.is_none()).map(|(&k, _)| k).collect();
        alive.sort_unstable();
        if alive.is_empty() {
            return;
        }
        let key = alive[self.rng.below(alive.len())];
        if self.rng.chance(50.0) {
            self.scheduler.abort(SequenceKey(key));
        } else {
            self.scheduler.abort_matching(&AbortScope::Prefix(format!("r{key}-")));
        }
    }

    /// One step; says whether there was anything to compute.
    fn step(&mut self) -> bool {
        let Some(plan) = self.scheduler.schedule() else { return false };
        let batch = &plan.batch;
        assert!(batch.token_ids.len() <= self.weather.chunk.max(self.weather.max_running), "tokens of a step");
        self.model.launch(batch, &plan.samples);
        // Requests come and go while a step is in flight, its own among them.
        if self.rng.chance(self.weather.aborts) {
            self.abort_something();
            self.arrivals();
            self.scheduler.check();
        }
        match self.model.wait() {
            Ok(mut output) => {
                for row in &mut output.rows {
                    row.fault = (self.weather.faults > 0.0 && self.rng.chance(self.weather.faults / 10.0))
                        .then_some(LogitFault::NotFinite);
                }
                self.scheduler.commit(plan, output);
            }
            Err(error) => self.scheduler.fail_step(plan, &error.to_string()),
        }
        self.scheduler.check();
        self.listen();
        true
    }

    fn listen(&mut self) {
        while let Ok((key, event)) = self.heard.try_recv() {
            let outcome = self.outcomes.get_mut(&key).expect("events of known requests");
            assert!(outcome.end.is_none(), "request {key}: {event:?} after {:?}", outcome.end);
            match event {
                TokenEvent::Prefilled(report) => {
                    assert!(!outcome.prefilled, "request {key} is prefilled twice");
                    outcome.prefilled = true;
                    assert!(report.cached_tokens < outcome.spec.prompt.len(), "one prompt token is computed");
                    let scored: Vec<u32> = report.logprobs.iter().map(|l| l.id).collect();
                    let expected = match outcome.spec.scores_from {
                        Some(from) => outcome.spec.prompt[from.max(1).min(outcome.spec.prompt.len())..].to_vec(),
                        None => Vec::new(),
                    };
                    assert_eq!(scored, expected, "request {key}: scored prompt tokens");
                }
                TokenEvent::Token { id, logprobs } => {
                    assert!(outcome.prefilled, "request {key}: a token before the prompt is computed");
                    assert_eq!(logprobs.is_some(), outcome.spec.scores_from.is_some());
                    outcome.tokens.push(id);
                }
                TokenEvent::Retracted => self.retractions_heard += 1,
                end => {
                    outcome.end = Some(end);
                    self.judge(key);
                }
            }
        }
    }

    /// A request has ended: compare it with its solitary run and let the conversation go on from it.
    fn judge(&mut self, key: u64) {
        let outcome = self.outcomes.remove(&key).expect("just seen");
        let (tokens, ending) = outcome.spec.alone();
        match outcome.end.expect("just set") {
            TokenEvent::Finished(got) => {
                let got = (&outcome.tokens, Ending::Finished(got));
                assert_eq!(got, (&tokens, ending), "request {key} against its solitary run");
                self.finished += 1;
                if self.rng.chance(30.0) && outcome.spec.prompt.len() < MAX_PROMPT / 2 {
                    let grown = [outcome.spec.prompt, tokens].concat();
                    self.prefixes.push((outcome.spec.namespace, grown));
                    if self.prefixes.len() > 24 {
                        let index = 1 + self.rng.below(self.prefixes.len() - 1);
                        self.prefixes.swap_remove(index);
                    }
                }
            }
            TokenEvent::Failed(cause) => {
                assert!(tokens.starts_with(&outcome.tokens), "request {key}: what it got before {cause}");
                match cause {
                    FailCause::Aborted => assert!(self.weather.aborts > 0.0),
                    FailCause::Grammar(_) => assert_eq!((outcome.tokens, ending), (tokens, Ending::BrokenGrammar)),
                    FailCause::NumericalFault { step } => {
                        assert!(self.weather.faults > 0.0);
                        assert_eq!(step, outcome.tokens.len(), "the output token without numbers");
                    }
                    FailCause::Engine(_) => assert!(self.weather.faults > 0.0),
                    FailCause::OutOfPages { needed_pages, total_pages, .. } => {
                        assert!(needed_pages >= total_pages, "{needed_pages} pages of {total_pages}");
                        self.oversized += 1;
                    }
                    other => panic!("request {key}: {other:?}"),
                }
            }
            other => panic!("{other:?} is no end"),
        }
    }

    /// Serve `requests` requests to their ends.
    fn run(&mut self, requests: usize) -> SchedulerStats {
        let mut submitted = 0;
        let mut idle = 0;
        while submitted < requests || !self.scheduler.is_idle() {
            // Bursts: sometimes the queue is empty, sometimes far longer than what can run.
            let crowd = if self.rng.chance(2.0) { 60 } else { 8 + self.weather.max_running };
            while submitted < requests && self.outcomes.len() < crowd && self.rng.chance(60.0) {
                submitted += self.arrivals();
            }
            if self.rng.chance(self.weather.aborts) {
                self.abort_something();
                self.listen();
            }
            idle = if self.step() { 0 } else { idle + 1 };
            self.listen();
            assert!(idle < 1000, "no progress with {} requests", self.outcomes.len());
        }
        self.scheduler.check();
        assert!(self.outcomes.is_empty(), "every request has ended");
        let stats = self.scheduler.stats();
        assert_eq!(self.retractions_heard, stats.retractions, "each retraction is an event");
        assert!(self.scheduler.flush());
        let pool = self.scheduler.stats();
        assert_eq!((pool.cached_pages, pool.running, pool.waiting), (0, 0, 0), "after the flush");
        self.scheduler.check();
        stats
    }
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Run a weather; the seed is printed with it, so that a failure can be replayed.
fn weather(weather: Weather, requests: u64) -> (SchedulerStats, World) {
    let seed = env("QUERN_SIM_SEED", 20_261_124);
    let requests = env("QUERN_SIM_REQUESTS", requests) as usize;
    eprintln!("{}: QUERN_SIM_SEED={seed} QUERN_SIM_REQUESTS={requests}", weather.name);
    let mut world = World::new(weather, seed);
    let stats = world.run(requests);
    eprintln!("{}: {} finished, {stats:?}", weather.name, world.finished);
    (stats, world)
}

#[test]
fn fair_weather_serves_everything_and_reuses_prefixes() {
    let (stats, world) = weather(FAIR, 60_000);

    assert!(stats.cached_tokens > stats.prompt_tokens / 5, "{stats:?}");
    assert_eq!(world.oversized, 0);
}

#[test]
fn a_pool_hardly_larger_than_one_request_still_finishes_every_one() {
    // Admission takes next to nothing into account, so that sequences run into the wall and are retracted.
    let tight = Weather { name: "tight", tenants: 3, pool: 1.1, conservativeness: 0.05, ..FAIR };
    let (stats, world) = weather(tight, 40_000);

    assert_eq!(world.oversized, 0);
    assert!(stats.retractions > 100, "{stats:?}");
}

#[test]
fn aborts_at_any_moment_return_every_page() {
    let (stats, world) = weather(Weather { name: "aborts", tenants: 5, aborts: 30.0, pool: 2.0, ..FAIR }, 40_000);
    assert!(stats.aborted > 1000 && world.finished > 1000, "{stats:?}");
}

#[test]
fn failing_steps_fail_their_sequences_and_nobody_else() {
    let (stats, world) = weather(Weather { name: "faults", tenants: 2, faults: 3.0, aborts: 5.0, ..FAIR }, 20_000);
    assert!(stats.failed > 1000 && world.finished > 1000, "{stats:?}");
}

#[test]
fn ranks_that_fail_or_panic_fail_the_sequences_of_their_step_and_nobody_else() {
    let (stats, world) = weather(Weather { name: "ranks", ranks: 3, faults: 1.5, aborts: 5.0, ..FAIR }, 10_000);
    assert!(stats.failed > 500 && world.finished > 1000, "{stats:?}");
}

#[test]
fn the_longest_prefix_first_with_odd_pages_and_tiny_chunks() {
    let odd = Weather {
        name: "lpm",
        policy: Policy::Lpm,
        page_size: 7,
        chunk: 5,
        balanced_context: 3,
        max_running: 9,
        tenants: 3,
        ..FAIR
    };
    weather(odd, 8_000);
}

#[test]
fn tenants_that_share_few_places_all_get_what_they_would_get_alone() {
    let shared = Weather { name: "tenants", tenants: 4, max_running: 5, chunk: 16, pool: 2.5, ..FAIR };
    let (stats, world) = weather(shared, 20_000);
    assert!(stats.retractions > 100 && world.oversized == 0, "{stats:?}");
}

#[test]
fn single_token_pages_and_large_chunks() {
    weather(Weather { name: "page 1", page_size: 1, chunk: 512, max_running: 64, pool: 3.0, ..FAIR }, 8_000);
}

#[test]
fn without_a_prefix_cache_nothing_is_kept() {
    let (stats, _) = weather(Weather { name: "no cache", prefix_cache: false, pool: 1.5, ..FAIR }, 8_000);
    assert_eq!((stats.cached_tokens, stats.cached_pages), (0, 0));
}

#[test]
fn a_pool_smaller_than_some_requests_fails_exactly_those() {
    let (_, world) = weather(Weather { name: "too small", pool: 0.6, conservativeness: 0.1, ..FAIR }, 6_000);
    assert!(world.oversized > 0 && world.finished > 1000);
}

/// With a pool of `n` pages the allocation that fails is the one after the `n`-th: every one of them in turn, until none does.
#[test]
fn whichever_page_is_the_last_one_every_request_ends() {
    let largest = (MAX_PROMPT + MAX_NEW).div_ceil(FAIR.page_size);
    let mut short = 0;
    for pages in 1.. {
        let pool = (pages as f64 + 0.5) / largest as f64;
        let mut world = World::new(Weather { name: "nth page", pool, conservativeness: 0.05, ..FAIR }, 7);
        let stats = world.run(40);
        if stats.retractions == 0 && stats.evicted_pages == 0 && world.oversized == 0 {
            break;
        }
        short += 1;
    }
    eprintln!("{short} pools were too small");
    assert!(short > largest, "pools of {short} pages are enough for everything");
}
