//! The engine's thread: what handles may do, and what they hear.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use quern_backend::{DeviceFault, KvFormat, TokenMask};
use quern_engine::{
    EngineConfig, EngineHandle, FailCause, FinishReason, GenerateRequest, Grammar, GrammarError, RequestHandle,
    SubmitError, TokenEvent,
    fake::{self, FakeModel, StepHook},
    start,
    tenant::{AbortScope, Tenant},
};
use quern_model::{Checkpoint, GenerationConfig, ModelConfig, StepCost, StepShape, Work};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> EngineConfig {
    EngineConfig { max_queued: Some(4), ..fake::engine_config(4, 256) }
}

fn engine(config: EngineConfig, hook: Option<StepHook>) -> EngineHandle {
    let model = FakeModel::new(97, config.page_size, config.num_pages);
    let model = match hook {
        Some(hook) => model.with_hook(hook),
        None => model,
    };
    start(Box::new(model), config).expect("a thread")
}

fn request(id: &str, prompt_len: u32, max_new_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        id: id.into(),
        prompt: (0..prompt_len).map(|i| i * 7 % 97).collect(),
        sampling: Default::default(),
        seed: 1,
        max_new_tokens,
        min_new_tokens: 0,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        logprobs: None,
        tenant: Tenant::default(),
        namespace: None,
        grammar: None,
    }
}

fn submit(
    engine: &EngineHandle,
    request: GenerateRequest,
) -> Result<(RequestHandle, Receiver<TokenEvent>), SubmitError> {
    let (events, heard) = mpsc::channel();
    let sink = move |event| {
        // A test that has dropped its receiver does not listen any more.
        let _ = events.send(event);
    };
    Ok((engine.submit(request, Box::new(sink))?, heard))
}

fn terminal(heard: &Receiver<TokenEvent>) -> TokenEvent {
    loop {
        let event = heard.recv_timeout(PATIENCE).expect("an end");
        if matches!(event, TokenEvent::Finished(_) | TokenEvent::Failed(_)) {
            return event;
        }
    }
}

/// A hook that lets steps through one by one.
fn gate() -> (mpsc::Sender<()>, StepHook) {
    let (open, gate) = mpsc::channel();
    let hook: StepHook = Box::new(move |_| {
        // A dropped opener leaves the gate open.
        let _ = gate.recv();
        Ok(())
    });
    (open, hook)
}

#[test]
fn a_request_hears_its_prompt_its_tokens_and_its_end() {
    let engine = engine(config(), None);
    let (_handle, heard) = submit(&engine, request("a", 40, 3)).expect("accepted");
    let events: Vec<_> = heard.iter().take(5).collect();
    assert!(matches!(&events[0], TokenEvent::Prefilled(report) if report.cached_tokens == 0));
    assert!(events[1..4].iter().all(|e| matches!(e, TokenEvent::Token { logprobs: None, .. })));
    assert_eq!(events[4], TokenEvent::Finished(FinishReason::Length));
    assert!(engine.wait_idle(PATIENCE));
    let (_handle, heard) = submit(&engine, request("b", 40, 0)).expect("accepted");
    let cached = TokenEvent::Prefilled(quern_engine::PromptReport { cached_tokens: 36, logprobs: Vec::new() });
    assert_eq!(heard.recv_timeout(PATIENCE).expect("an event"), cached);
    assert_eq!(terminal(&heard), TokenEvent::Finished(FinishReason::Length));
}

#[test]
fn what_steps_had_to_do_is_added_up() {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 97, "hidden_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 16,
        "rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 512, "tie_word_embeddings": true,
        "hidden_act": "silu", "torch_dtype": "bfloat16",
    });
    let network = ModelConfig::from_json(config.as_object().expect("an object")).expect("a network");
    let checkpoint = Checkpoint::dummy(network, GenerationConfig::default());
    let cost = StepCost::of(&checkpoint, KvFormat::BF16).expect("all its matrices");
    let engine = engine(EngineConfig { cost, ..self::config() }, None);
    let (_handle, heard) = submit(&engine, request("a", 40, 3)).expect("accepted");
    terminal(&heard);
    assert!(engine.wait_idle(PATIENCE));
    // A chunk of 32, the other 8 tokens and the first token, then two more.
    let mut wanted = Work::default();
    for (tokens, context, sampled) in [(32, 32, 0), (8, 40, 1), (1, 41, 1), (1, 42, 1)] {
        wanted += cost.step(StepShape::sequence(tokens, context, sampled));
    }
    // The last step's figures come after its tokens.
    let patient = Instant::now() + PATIENCE;
    while engine.metrics().snapshot().work != wanted && Instant::now() < patient {
        thread::yield_now();
    }
    let snapshot = engine.metrics().snapshot();
    assert_eq!(snapshot.work, wanted);
    assert!(snapshot.busy_s > 0.0);
}

#[test]
fn dropping_the_handle_aborts_before_the_next_step_and_frees_its_pages() {
    let (open, hook) = gate();
    let engine = engine(config(), Some(hook));
    let (handle, heard) = submit(&engine, request("a", 8, 1000)).expect("accepted");
    for _ in 0..3 {
        open.send(()).expect("the engine waits at the gate");
    }
    assert!(matches!(heard.recv_timeout(PATIENCE), Ok(TokenEvent::Prefilled(_))));
    drop(handle);
    drop(open);
    assert_eq!(terminal(&heard), TokenEvent::Failed(FailCause::Aborted));
    assert!(engine.wait_idle(PATIENCE));
    assert!(engine.flush_cache());
    let scheduler = engine.metrics().snapshot().scheduler;
    assert_eq!((scheduler.aborted, scheduler.running), (1, 0));
}

#[test]
fn a_full_queue_refuses_at_once_and_names_its_limit() {
    let (open, hook) = gate();
    let engine = engine(EngineConfig { max_running: 1, ..config() }, Some(hook));
    let mut accepted = Vec::new();
    let refused = loop {
        match submit(&engine, request(&format!("r{}", accepted.len()), 8, 2)) {
            Ok(pair) => accepted.push(pair),
            Err(error) => break error,
        }
        assert!(accepted.len() < 20, "the queue has a bound");
    };
    assert_eq!(refused, SubmitError::QueueFull { limit: 4 });
    drop(open);
    for (_, heard) in &accepted {
        assert_eq!(terminal(heard), TokenEvent::Finished(FinishReason::Length));
    }
    assert!(engine.wait_idle(PATIENCE));
    assert_eq!((engine.num_queued(), engine.num_alive()), (0, 0));
}

#[test]
fn a_prompt_that_no_pool_holds_is_refused() {
    let engine = engine(config(), None);
    let error = submit(&engine, request("a", 1025, 1)).err().expect("refused");
    assert_eq!(error.to_string(), "the prompt has 1025 tokens; the KV pool holds 1024");
}

#[test]
fn who_has_all_that_it_wanted_has_finished() {
    let (open, hook) = gate();
    let engine = engine(config(), Some(hook));
    let (satisfied, heard) = submit(&engine, request("a", 8, 1000)).expect("accepted");
    let (dropped, aborted) = submit(&engine, request("ab", 8, 1000)).expect("accepted");
    let (_kept, goes_on) = submit(&engine, request("abc", 8, 2)).expect("accepted");
    let aborter = dropped.aborter();
    satisfied.close();
    aborter.abort();
    drop(open);
    assert_eq!(terminal(&heard), TokenEvent::Finished(FinishReason::Closed));
    assert_eq!(terminal(&aborted), TokenEvent::Failed(FailCause::Aborted));
    assert_eq!(terminal(&goes_on), TokenEvent::Finished(FinishReason::Length));
    assert!(engine.wait_idle(PATIENCE));
    // Answered between steps: the figures behind it are settled.
    assert!(engine.flush_cache());
    let stats = engine.metrics().snapshot().scheduler;
    assert_eq!((stats.finished, stats.aborted, stats.failed), (2, 1, 0));
}

/// A grammar that comes to a dead end at once.
struct DeadEnd;

impl Grammar for DeadEnd {
    fn mask(&mut self) -> Result<Arc<TokenMask>, GrammarError> {
        Ok(Arc::new(TokenMask::new(Vec::new())))
    }

    fn accept(&mut self, _: u32) -> Result<bool, GrammarError> {
        Ok(false)
    }
}

#[test]
fn what_a_request_excludes_itself_leaves_the_cached_prefix_alone() {
    let engine = engine(config(), None);
    let prompt = || request("a", 40, 3);
    let (_first, heard) = submit(&engine, prompt()).expect("accepted");
    assert_eq!(terminal(&heard), TokenEvent::Finished(FinishReason::Length));
    let stuck = GenerateRequest { grammar: Some(Box::new(DeadEnd)), ..prompt() };
    let (_stuck, heard) = submit(&engine, stuck).expect("accepted");
    let TokenEvent::Failed(FailCause::NoToken { step: 0, grammar: Some(why) }) = terminal(&heard) else {
        panic!("its grammar allows nothing")
    };
    assert!(why.0.contains("no token"), "{why}");
    let banned = GenerateRequest { min_new_tokens: 1, stop_token_ids: (0..97).collect(), ..prompt() };
    let (_banned, heard) = submit(&engine, banned).expect("accepted");
    assert_eq!(terminal(&heard), TokenEvent::Failed(FailCause::NoToken { step: 0, grammar: None }));
    let (_again, heard) = submit(&engine, prompt()).expect("accepted");
    let cached = TokenEvent::Prefilled(quern_engine::PromptReport { cached_tokens: 36, logprobs: Vec::new() });
    assert_eq!(heard.recv_timeout(PATIENCE).expect("an event"), cached);
}

#[test]
fn abort_by_prefix_ends_only_those() {
    let (open, hook) = gate();
    let engine = engine(config(), Some(hook));
    let (_a, a) = submit(&engine, request("chat-1", 8, 5)).expect("accepted");
    let (_b, b) = submit(&engine, request("eval-1", 8, 5)).expect("accepted");
    engine.abort(AbortScope::Prefix("chat".into()));
    drop(open);
    assert_eq!(terminal(&a), TokenEvent::Failed(FailCause::Aborted));
    assert_eq!(terminal(&b), TokenEvent::Finished(FinishReason::Length));
}

#[test]
fn a_panic_of_the_model_fails_its_batch_and_the_engine_goes_on() {
    let hook: StepHook =
        Box::new(|step| if step == 2 { panic!("a kernel's panic, as the test wants it") } else { Ok(()) });
    let engine = engine(config(), Some(hook));
    let (_a, a) = submit(&engine, request("a", 8, 10)).expect("accepted");
    let TokenEvent::Failed(FailCause::Engine(cause)) = terminal(&a) else { panic!("expected a failure") };
    assert!(cause.contains("a kernel's panic"), "{cause}");
    let (_b, b) = submit(&engine, request("b", 8, 10)).expect("accepted");
    assert_eq!(terminal(&b), TokenEvent::Finished(FinishReason::Length));
    assert!(engine.metrics().is_healthy());
}

#[test]
fn repeated_failures_make_the_engine_refuse_work() {
    let fail = || DeviceFault::Step { backend: "fake", cause: "broken".into() };
    let engine = engine(config(), Some(Box::new(move |_| Err(fail().into()))));
    for _ in 0..3 {
        let (_handle, heard) = submit(&engine, request("a", 8, 1)).expect("accepted");
        assert!(matches!(terminal(&heard), TokenEvent::Failed(FailCause::Engine(_))));
    }
    assert!(engine.wait_idle(PATIENCE));
    assert!(!engine.metrics().is_healthy());
    assert!(submit(&engine, request("a", 8, 1)).is_err());
}

#[test]
fn a_lost_device_ends_everything_at_once() {
    let (steps, open, mut wait) = announced_gate();
    let hook: StepHook = Box::new(move |step| {
        wait(step)?;
        Err(DeviceFault::Lost { backend: "fake", cause: "it fell off the bus".into() }.into())
    });
    let engine = engine(EngineConfig { max_running: 1, ..config() }, Some(hook));
    let (_a, a) = submit(&engine, request("a", 8, 5)).expect("accepted");
    assert_eq!(steps.recv_timeout(PATIENCE), Ok(1));
    let (_b, b) = submit(&engine, request("b", 8, 5)).expect("accepted");
    drop(open);
    for heard in [a, b] {
        let TokenEvent::Failed(cause) = terminal(&heard) else { panic!("the request fails") };
        assert!(cause.to_string().contains("the fake backend is lost: it fell off the bus"), "{cause}");
    }
    assert!(engine.wait_idle(PATIENCE) && !engine.metrics().is_healthy());
    assert_eq!(submit(&engine, request("c", 8, 5)).err(), Some(SubmitError::Unhealthy));
    assert_eq!(steps.try_recv(), Err(mpsc::TryRecvError::Empty), "no second step is tried");
}

#[test]
fn draining_refuses_new_work_and_finishes_the_old() {
    let (open, hook) = gate();
    let engine = engine(config(), Some(hook));
    let (_handle, heard) = submit(&engine, request("a", 8, 5)).expect("accepted");
    engine.drain();
    assert_eq!(submit(&engine, request("b", 8, 5)).err(), Some(SubmitError::ShuttingDown));
    drop(open);
    assert_eq!(terminal(&heard), TokenEvent::Finished(FinishReason::Length));
    assert!(engine.wait_idle(PATIENCE));
}

#[test]
fn shutdown_fails_what_is_left() {
    let (open, hook) = gate();
    let engine = engine(config(), Some(hook));
    let (_handle, heard) = submit(&engine, request("a", 8, 500)).expect("accepted");
    engine.shutdown();
    drop(open);
    assert_eq!(terminal(&heard), TokenEvent::Failed(FailCause::ShuttingDown));
}

/// A hook that says when a step begins and then waits at the gate.
fn announced_gate() -> (Receiver<u64>, mpsc::Sender<()>, StepHook) {
    let (open, mut wait) = gate();
    let (announce, steps) = mpsc::channel();
    let hook: StepHook = Box::new(move |step| {
        // A test that has seen enough does not listen any more.
        let _ = announce.send(step);
        wait(step)
    });
    (steps, open, hook)
}

#[test]
fn the_first_step_of_a_request_is_visible_while_it_runs() {
    let (steps, open, hook) = announced_gate();
    let engine = engine(config(), Some(hook));
    let (_handle, heard) = submit(&engine, request("a", 40, 1)).expect("accepted");
    assert_eq!(steps.recv_timeout(PATIENCE), Ok(1));
    let scheduler = engine.metrics().snapshot().scheduler;
    assert_eq!((scheduler.running, scheduler.waiting, scheduler.pending_tokens), (1, 0, 40));
    assert!(engine.metrics().seconds_since_progress() < PATIENCE.as_secs_f64());
    drop(open);
    assert_eq!(terminal(&heard), TokenEvent::Finished(FinishReason::Length));
}

/// A grammar that panics when its `n`th mask is computed.
struct Fragile(usize);

impl Grammar for Fragile {
    fn mask(&mut self) -> Result<Arc<TokenMask>, GrammarError> {
        assert!(self.0 > 0, "a grammar's panic, as the test wants it");
        self.0 -= 1;
        Ok(Arc::new(TokenMask::new(vec![u32::MAX; 4])))
    }

    fn accept(&mut self, _: u32) -> Result<bool, GrammarError> {
        Ok(false)
    }
}

#[test]
fn a_panic_of_a_grammar_ends_its_own_request() {
    for masks in 0..3 {
        let engine = engine(config(), None);
        let fragile = GenerateRequest { grammar: Some(Box::new(Fragile(masks))), ..request("a", 40, 10) };
        let (_a, a) = submit(&engine, fragile).expect("accepted");
        let (_b, b) = submit(&engine, request("b", 40, 10)).expect("accepted");
        let TokenEvent::Failed(cause) = terminal(&a) else { panic!("the request fails") };
        assert_eq!(cause.to_string(), "the grammar failed: it panicked");
        assert_eq!(terminal(&b), TokenEvent::Finished(FinishReason::Length));
        assert!(engine.wait_idle(PATIENCE) && engine.metrics().is_healthy());
    }
}
