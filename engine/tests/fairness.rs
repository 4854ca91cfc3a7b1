//! What a long prompt costs others: streams beside it, and prompts that come behind it. What a flood costs other tenants.

use std::sync::mpsc::{self, Receiver};

use quern_engine::{
    EngineConfig, FailCause, GenerateRequest, Tenant, TokenEvent,
    fake::{self, FakeModel},
    scheduler::Scheduler,
    sequence::SequenceKey,
};
use quern_model::Model;

const CHUNK: usize = 64;
const LONG: usize = 8000;

struct World {
    scheduler: Scheduler,
    model: FakeModel,
    keys: u64,
}

impl World {
    fn new() -> Self {
        Self::with(EngineConfig {
            chunk_tokens: CHUNK,
            max_prefill_tokens: CHUNK,
            balanced_context: 1000,
            ..fake::engine_config(4, 4096)
        })
    }

    fn with(config: EngineConfig) -> Self {
        let model = FakeModel::new(97, config.page_size, config.num_pages);
        Self { scheduler: Scheduler::new(config), model, keys: 0 }
    }

    fn submit(&mut self, prompt_len: usize, max_new_tokens: usize) -> Receiver<TokenEvent> {
        self.submit_for(Tenant::default(), prompt_len, max_new_tokens)
    }

    fn submit_for(&mut self, tenant: Tenant, prompt_len: usize, max_new_tokens: usize) -> Receiver<TokenEvent> {
        let (events, heard) = mpsc::channel();
        self.keys += 1;
        let request = GenerateRequest {
            id: self.keys.to_string(),
            // No two prompts share a beginning.
            prompt: (0..prompt_len as u32).map(|i| (i * 7 + (self.keys as u32 >> (i % 12)) * 31) % 97).collect(),
            sampling: Default::default(),
            seed: 1,
            max_new_tokens,
            min_new_tokens: 0,
            stop_token_ids: Vec::new(),
            ignore_eos: true,
            logprobs: None,
            tenant,
            namespace: None,
            grammar: None,
        };
        let sink = move |event| {
            // The receiver may have been dropped.
            let _ = events.send(event);
        };
        self.scheduler.submit(SequenceKey(self.keys), request, Box::new(sink));
        heard
    }

    /// One step; its tokens beside those of decoding sequences.
    fn step(&mut self) -> usize {
        let plan = self.scheduler.schedule().expect("there is work");
        let prefill_tokens = plan.mix.prefill_tokens;
        self.model.launch(&plan.batch, &plan.samples);
        let output = self.model.wait().unwrap();
        self.scheduler.commit(plan, output);
        prefill_tokens
    }
}

fn tokens(heard: &Receiver<TokenEvent>) -> usize {
    heard.try_iter().filter(|event| matches!(event, TokenEvent::Token { .. })).count()
}

#[test]
fn chunks_get_shorter_with_depth_while_somebody_waits_for_tokens() {
    let mut world = World::new();
    let stream = world.submit(8, 4000);
    world.step();
    let _long = world.submit(LONG, 1);
    tokens(&stream);
    let (mut depth, mut last) = (0, usize::MAX);
    while depth < LONG {
        let chunk = world.step();
        assert_eq!(tokens(&stream), 1, "every step has a token for the stream");
        assert!(chunk >= 1 && chunk <= last || depth + chunk == LONG, "{chunk} behind {last}");
        // The same work as the first chunk, within a token.
        let work = chunk as f64 * (1.0 + depth as f64 / 1000.0);
        assert!(work <= CHUNK as f64, "{work} at {depth}");
        (depth, last) = (depth + chunk, chunk);
    }
    assert!(last <= CHUNK / 8, "{last} tokens at the end");
}

#[test]
fn chunks_stay_long_while_no_sequence_decodes() {
    let mut world = World::new();
    let _long = world.submit(LONG, 1);
    let mut steps = 0;
    while !world.scheduler.is_idle() {
        world.step();
        steps += 1;
    }
    assert_eq!(steps, LONG / CHUNK);
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one_before_it() {
    let mut world = World::new();
    let long = world.submit(LONG, 1);
    for _ in 0..3 {
        world.step();
    }
    let short = world.submit(30, 1);
    // A quarter of a step is 16 tokens.
    for _ in 0..2 {
        assert_eq!(world.step(), CHUNK, "both fill the step");
    }
    assert_eq!((tokens(&short), tokens(&long)), (1, 0));
}

/// Chunks, places and pages as a server has them, a quarter as many.
fn served() -> EngineConfig {
    EngineConfig { max_running: 64, chunk_tokens: 128, max_prefill_tokens: 16_384, ..fake::engine_config(16, 2000) }
}

/// As many as a server has.
fn served_whole() -> EngineConfig {
    EngineConfig { max_running: 256, chunk_tokens: 512, max_prefill_tokens: 16_384, ..fake::engine_config(16, 8000) }
}

/// Steps, and tokens of steps, until the first token of a request that comes in the middle of a step.
fn first_token(world: &mut World, tenant: &Tenant, prompt_len: usize) -> (usize, usize) {
    let (mut steps, mut work) = (0, 0);
    let mut heard = None;
    if !world.scheduler.is_idle() {
        let plan = world.scheduler.schedule().expect("there is work");
        work += plan.batch.token_ids.len() / 2;
        heard = Some(world.submit_for(tenant.clone(), prompt_len, 8));
        world.model.launch(&plan.batch, &plan.samples);
        let output = world.model.wait().unwrap();
        world.scheduler.commit(plan, output);
    }
    let heard = heard.unwrap_or_else(|| world.submit_for(tenant.clone(), prompt_len, 8));
    let mut tokens_heard = 0;
    while tokens_heard == 0 {
        let plan = world.scheduler.schedule().expect("there is work");
        (steps, work) = (steps + 1, work + plan.batch.token_ids.len());
        world.model.launch(&plan.batch, &plan.samples);
        let output = world.model.wait().unwrap();
        world.scheduler.commit(plan, output);
        tokens_heard = tokens(&heard);
    }
    // To its end, so that its next request is one more of a user who asks now and then.
    while tokens_heard < 8 {
        world.step();
        tokens_heard += tokens(&heard);
    }
    (steps, work)
}

fn median(mut values: Vec<usize>) -> usize {
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
fn a_flood_of_a_thousand_streams_does_not_double_another_tenants_first_token() {
    let user = Tenant::new("user");
    // What steps take is their tokens, those of the step that is under way included.
    for (config, prompt_len) in
        [(served(), 100), (served(), 250), (served(), 700), (served_whole(), 100), (served_whole(), 250)]
    {
        let measured = |flood: usize| {
            let mut world = World::with(config);
            let streams: Vec<_> = (0..flood).map(|_| world.submit_for(Tenant::new("flood"), 60, 300)).collect();
            for _ in 0..100 * flood.min(1) {
                world.step();
            }
            let all: Vec<_> = (0..11).map(|_| first_token(&mut world, &user, prompt_len)).collect();
            let (steps, work) = all.into_iter().unzip();
            let flooded: usize = streams.iter().map(tokens).sum();
            assert!(flood == 0 || flooded > 1000, "the flood is served as well");
            world.scheduler.check();
            (median(steps), median(work))
        };
        let (alone, beside) = (measured(0), measured(1000));
        println!("{prompt_len}: {alone:?} alone, {beside:?} beside the flood");
        assert!(beside.0 < 2 * alone.0, "{prompt_len} tokens: {beside:?} steps and tokens beside it, {alone:?} alone");
        let work = beside.1 as f64 / alone.1 as f64;
        assert!(work < 2.0, "{prompt_len} tokens: {beside:?} steps and tokens beside it, {alone:?} alone");
    }
}

#[test]
fn a_flood_has_its_whole_steps_again_some_time_after_another_was_there() {
    let mut world = World::with(EngineConfig { num_pages: 8000, ..served() });
    let streams: Vec<_> = (0..64).map(|_| world.submit_for(Tenant::new("flood"), 60, 1500)).collect();
    let heard = || streams.iter().map(tokens).sum::<usize>();
    let rows = |world: &mut World| {
        heard();
        world.step();
        heard()
    };
    for _ in 0..100 {
        world.step();
    }
    assert_eq!(rows(&mut world), 64, "alone");
    first_token(&mut world, &Tenant::new("user"), 20);
    let mut steps = 0;
    while rows(&mut world) < 64 {
        steps += 1;
        assert!(steps < 2000);
    }
    assert!(steps > 500, "{steps} steps of an eighth");
}

#[test]
fn a_prompt_of_one_who_does_not_flood_has_all_room_that_a_step_has() {
    let mut world = World::with(served());
    let [short, long] = ["short", "long"].map(Tenant::new);
    let _long = world.submit_for(long, 4000, 1);
    world.step();
    let heard = world.submit_for(short, 20, 1);
    assert_eq!(world.step(), 128, "both fill the step");
    assert_eq!(tokens(&heard), 1);
}

#[test]
fn a_pool_that_is_full_of_one_tenants_pages_has_room_for_another() {
    let mut world = World::with(EngineConfig { num_pages: 300, ..served() });
    let streams: Vec<_> = (0..200).map(|_| world.submit_for(Tenant::new("flood"), 60, 2000)).collect();
    for _ in 0..400 {
        world.step();
    }
    let (steps, _) = first_token(&mut world, &Tenant::new("user"), 700);
    assert!(steps < 40, "{steps} steps");
    assert!(streams.iter().map(tokens).sum::<usize>() > 800);
    world.scheduler.check();
}

#[test]
fn tenants_that_want_all_they_can_get_have_equal_shares() {
    let mut world = World::with(served());
    let tenants = ["many", "few"].map(Tenant::new);
    let floods = [(200, 50), (40, 400)];
    let mut streams = Vec::new();
    for (tenant, (count, prompt_len)) in tenants.iter().zip(floods) {
        let own: Vec<_> = (0..count).map(|_| world.submit_for(tenant.clone(), prompt_len, 500)).collect();
        streams.push(own);
    }
    for _ in 0..800 {
        world.step();
    }
    let [many, few] = [0, 1].map(|index: usize| streams[index].iter().map(tokens).sum::<usize>() as f64);
    println!("{many} and {few} tokens");
    assert!((0.6..1.7).contains(&(many / few)), "{many} and {few} tokens");
    world.scheduler.check();
}

/// Whether a request has ended, by what is new of its events.
fn has_ended(heard: &Receiver<TokenEvent>) -> bool {
    heard.try_iter().any(|event| event.is_terminal())
}

#[test]
fn tenants_that_fill_the_pool_together_leave_room_for_a_large_prompt() {
    // Ten requests of 25 pages each, all the time; each is one of its tenant's own.
    const OUTPUT: usize = 200;
    let mut world = World::with(EngineConfig { num_pages: 300, ..served() });
    let tenants: Vec<_> = (0..10).map(|index| Tenant::new(format!("small {index}"))).collect();
    let mut streams: Vec<_> = tenants
        .iter()
        .enumerate()
        // Not all at once, so that there is never room for more than one at a time.
        .map(|(index, tenant)| world.submit_for(tenant.clone(), 200, OUTPUT * (10 + index) / 20))
        .collect();
    let mut ended = 0;
    let mut step = |world: &mut World| {
        world.step();
        for (tenant, stream) in tenants.iter().zip(&mut streams) {
            if has_ended(stream) {
                *stream = world.submit_for(tenant.clone(), 200, OUTPUT);
                ended += 1;
            }
        }
    };
    for _ in 0..3 * OUTPUT {
        step(&mut world);
    }
    // 60 % of the pool.
    let heard = world.submit_for(Tenant::new("large"), 180 * 16, 8);
    let mut steps = 0;
    while tokens(&heard) == 0 {
        step(&mut world);
        steps += 1;
        assert!(steps < 2 * OUTPUT, "the prompt waits while others are admitted");
    }
    println!("{steps} steps to the first token");
    while !has_ended(&heard) {
        step(&mut world);
    }
    for _ in 0..2 * OUTPUT {
        step(&mut world);
    }
    assert!(ended > 50, "{ended} requests of the others");
    world.scheduler.check();
}

#[test]
fn a_request_that_only_yields_to_one_that_fits_nowhere_is_served() {
    let mut world = World::with(EngineConfig { num_pages: 20, ..served() });
    let [small, large] = ["small", "large"].map(Tenant::new);
    // The one whose prompt fits nowhere has had more of the engine than the other.
    let first = world.submit_for(large.clone(), 100, 1);
    let beside = world.submit_for(small.clone(), 8, 3);
    world.step();
    assert!(has_ended(&first));
    let oversized = world.submit_for(large, 400, 1);
    while !has_ended(&beside) {
        world.step();
    }
    let next = world.submit_for(small, 8, 3);
    while !world.scheduler.is_idle() {
        world.step();
    }
    let failed: Vec<_> = oversized.try_iter().collect();
    assert!(matches!(failed[..], [TokenEvent::Failed(FailCause::OutOfPages { .. })]), "{failed:?}");
    assert_eq!(tokens(&next), 3);
}
