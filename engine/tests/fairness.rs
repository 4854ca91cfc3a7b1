//! What a long prompt costs others: streams beside it, and prompts that come behind it.

use std::sync::mpsc::{self, Receiver};

use quern_engine::{
    EngineConfig, GenerateRequest, Policy, TokenEvent, fake::FakeModel, scheduler::Scheduler, sequence::SequenceKey,
};
use quern_model::{Model, StepCost};

const CHUNK: usize = 64;
const LONG: usize = 8000;

struct World {
    scheduler: Scheduler,
    model: FakeModel,
    keys: u64,
}

impl World {
    fn new() -> Self {
        let config = EngineConfig {
            page_size: 4,
            num_pages: 4096,
            max_running: 8,
            max_queued: None,
            chunk_tokens: CHUNK,
            max_prefill_tokens: CHUNK,
            balanced_context: 1000,
            cost: StepCost::default(),
            policy: Policy::Fcfs,
            prefix_cache: true,
            conservativeness: 1.0,
            decode_log_interval: 40,
        };
        let model = FakeModel::new(97, config.page_size, config.num_pages);
        Self { scheduler: Scheduler::new(config), model, keys: 0 }
    }

    fn submit(&mut self, prompt_len: usize, max_new_tokens: usize) -> Receiver<TokenEvent> {
        let (events, heard) = mpsc::channel();
        self.keys += 1;
        let request = GenerateRequest {
            id: self.keys.to_string(),
            // No two prompts share a beginning.
            prompt: (0..prompt_len as u32).map(|i| (i * 7 + self.keys as u32) % 97).collect(),
            sampling: Default::default(),
            seed: 1,
            max_new_tokens,
            min_new_tokens: 0,
            stop_token_ids: Vec::new(),
            ignore_eos: true,
            logprobs: None,
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
