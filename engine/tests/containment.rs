//! Failures and whom they concern: a row, a batch, or the engine as a whole, which then begins anew.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use quern_backend::{DeviceFault, LogitFault};
use quern_engine::{
    EngineConfig, EngineHandle, EngineState, FailCause, FailureReport, FinishReason, ForwardBatch, ForwardError,
    GenerateRequest, Model, PromptReport, RequestHandle, SampleBatch, SamplingParams, StepOutput, SubmitError,
    TokenEvent,
    failure::{FailureKind, SpanShape},
    fake::{self, FakeModel, StepHook},
    scheduler::Scheduler,
    sequence::SequenceKey,
    start_observed,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> EngineConfig {
    fake::engine_config(4, 256)
}

/// A model whose logits are not finite in the steps that are named.
struct Faulty {
    inner: FakeModel,
    step: u64,
    faulty: Vec<u64>,
}

impl Model for Faulty {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        self.inner.launch(batch, samples);
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        self.step += 1;
        let mut output = self.inner.wait()?;
        let fault = self.faulty.contains(&self.step).then_some(LogitFault::NotFinite);
        output.rows.iter_mut().for_each(|row| row.fault = fault.or(row.fault));
        Ok(output)
    }
}

type Reports = Arc<Mutex<Vec<FailureReport>>>;

fn engine_over(model: Box<dyn Model>, config: EngineConfig) -> (EngineHandle, Reports) {
    let reports = Reports::default();
    let heard = Arc::clone(&reports);
    let observer = Box::new(move |report| heard.lock().unwrap().push(report));
    (start_observed(model, config, observer).expect("a thread"), reports)
}

fn fake(config: EngineConfig) -> FakeModel {
    FakeModel::new(97, config.page_size, config.num_pages)
}

fn faulty_engine(faulty: &[u64]) -> (EngineHandle, Reports) {
    engine_over(Box::new(Faulty { inner: fake(config()), step: 0, faulty: faulty.to_vec() }), config())
}

fn request(id: &str, prompt_len: u32, max_new_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        id: id.into(),
        seed: 11,
        sampling: SamplingParams { temperature: 0.5, ..SamplingParams::default() },
        ..GenerateRequest::greedy((0..prompt_len).map(|i| i * 7 % 97).collect(), max_new_tokens)
    }
}

fn submit(engine: &EngineHandle, request: GenerateRequest) -> (RequestHandle, Receiver<TokenEvent>) {
    let (events, heard) = mpsc::channel();
    // A test that has dropped its receiver does not listen any more.
    let handle = engine.submit(request, Box::new(move |event| drop(events.send(event)))).expect("accepted");
    (handle, heard)
}

fn run(engine: &EngineHandle, request: GenerateRequest) -> Vec<TokenEvent> {
    let (_handle, heard) = submit(engine, request);
    let mut events = Vec::new();
    while !events.last().is_some_and(TokenEvent::is_terminal) {
        events.push(heard.recv_timeout(PATIENCE).expect("an end"));
    }
    events
}

fn cached_tokens(events: &[TokenEvent]) -> usize {
    let TokenEvent::Prefilled(PromptReport { cached_tokens, .. }) = &events[0] else { panic!("{events:?}") };
    *cached_tokens
}

/// A sink that panics when its prompt is computed, as the scheduler commits the step.
fn broken_sink(event: TokenEvent) {
    if matches!(event, TokenEvent::Prefilled(_)) {
        panic!("a panic of the scheduler, as the test wants it");
    }
}

/// A model whose steps wait until they are let through.
fn gated() -> (mpsc::Sender<()>, Box<dyn Model>) {
    let (open, gate) = mpsc::channel();
    let hook: StepHook = Box::new(move |_| {
        // A dropped opener leaves the gate open.
        let _ = gate.recv();
        Ok(())
    });
    (open, Box::new(fake(config()).with_hook(hook)))
}

#[test]
fn logits_that_are_not_finite_fail_their_own_request_and_leave_the_shared_prefix() {
    // Two steps for the first prompt, one for each later one, whose prefix is cached.
    let (engine, reports) = faulty_engine(&[3, 5]);
    assert_eq!(run(&engine, request("first", 40, 1)).last(), Some(&TokenEvent::Finished(FinishReason::Length)));
    for (id, step) in [("at its first token", 0), ("at its second", 1)] {
        let events = run(&engine, request(id, 40, 3));
        let cause = FailCause::NumericalFault { step };
        assert_eq!(events.last(), Some(&TokenEvent::Failed(cause)), "{events:?}");
    }
    let again = run(&engine, request("again", 40, 1));
    assert_eq!(cached_tokens(&again), 36, "what finite logits have attended to stays");
    assert!(engine.metrics().is_healthy(), "a row's fault is no failure of the engine");

    let reports = reports.lock().unwrap();
    let told: Vec<_> = reports.iter().map(|r| (r.kind, r.step, r.sequences[0].output_tokens)).collect();
    assert_eq!(told, [(FailureKind::Numerical, 3, 0), (FailureKind::Numerical, 5, 1)]);
    assert_eq!(reports[0].batch, [SpanShape { q_len: 4, kv_len: 40 }]);
    let sequence = &reports[1].sequences[0];
    assert_eq!((sequence.seed, sequence.prompt_tokens, sequence.cached_tokens), (11, 40, 36));
    assert_eq!(sequence.sampling.temperature, 0.5);
    let line = reports[0].line();
    assert!(line.starts_with("numerical failure in step 3: ") && line.contains("seed=11"), "{line}");
}

#[test]
fn pages_that_no_finite_logits_attended_to_are_dropped_with_the_fault() {
    let (engine, _) = faulty_engine(&[2]);
    let events = run(&engine, request("first", 40, 1));
    assert_eq!(events, [TokenEvent::Failed(FailCause::NumericalFault { step: 0 })]);
    assert_eq!(cached_tokens(&run(&engine, request("again", 40, 1))), 0, "its pages may be where it began");
}

#[test]
fn a_panic_of_the_scheduler_restarts_the_engine_and_what_waited_waits_on() {
    let (open, model) = gated();
    let (engine, reports) = engine_over(model, EngineConfig { max_running: 1, ..config() });
    let alone = run(&engine_over(Box::new(fake(config())), config()).0, request("b", 40, 5));
    let _a = engine.submit(request("a", 8, 5), Box::new(broken_sink)).expect("accepted");
    let waiting: Vec<_> = (0..3).map(|_| submit(&engine, request("b", 40, 5))).collect();
    drop(open);
    for (index, (_, heard)) in waiting.iter().enumerate() {
        let events: Vec<_> = heard.iter().collect();
        assert_eq!(events[1..], alone[1..], "the same tokens as without the failure");
        assert_eq!(cached_tokens(&events), if index == 0 { 0 } else { 36 }, "the cache of prefixes starts empty");
    }
    assert!(engine.wait_idle(PATIENCE) && engine.flush_cache());
    assert_eq!((engine.num_queued(), engine.num_alive()), (0, 0));
    assert_eq!((engine.metrics().state(), engine.metrics().num_restarts()), (EngineState::Serving, 1));
    let stats = engine.metrics().snapshot().scheduler;
    assert_eq!((stats.finished, stats.failed), (3, 1), "counters go on");
    let reports = reports.lock().unwrap();
    assert_eq!((reports[0].kind, reports[0].sequences[0].id.as_str()), (FailureKind::Scheduler, "a"));
    assert!(reports[0].cause.contains("as the test wants it"), "{}", reports[0].cause);
}

#[test]
fn while_it_restarts_the_engine_says_so_and_takes_no_requests() {
    let (open, model) = gated();
    let (engine, _) = engine_over(model, config());
    let handle: Arc<OnceLock<EngineHandle>> = Arc::default();
    let (seen, states) = mpsc::channel();
    let asks = Arc::clone(&handle);
    let sink = move |event: TokenEvent| {
        if event.is_terminal() {
            let engine = asks.get().expect("set before the gate opens");
            let refused = engine.submit(request("c", 8, 1), Box::new(|_| {})).err();
            seen.send((event, engine.metrics().state(), refused)).expect("the test listens");
        }
    };
    let _b = engine.submit(request("b", 80, 5), Box::new(sink)).expect("accepted");
    let _a = engine.submit(request("a", 8, 5), Box::new(broken_sink)).expect("accepted");
    assert!(handle.set(engine.clone()).is_ok());
    drop(open);
    let (event, state, refused) = states.recv_timeout(PATIENCE).expect("an end");
    let cause = "the scheduler panicked: a panic of the scheduler, as the test wants it";
    assert_eq!(event, TokenEvent::Failed(FailCause::Engine(cause.into())));
    assert_eq!((state, refused), (EngineState::Restarting, Some(SubmitError::Restarting)));
    assert!(engine.wait_idle(PATIENCE) && engine.flush_cache());
    assert_eq!(run(&engine, request("c", 8, 1)).last(), Some(&TokenEvent::Finished(FinishReason::Length)));
}

#[test]
fn three_failures_of_any_kind_and_the_engine_stays_down() {
    let hook: StepHook =
        Box::new(|step| if step == 1 { panic!("a kernel's panic, as the test wants it") } else { Ok(()) });
    let (engine, reports) = engine_over(Box::new(fake(config()).with_hook(hook)), config());
    assert!(matches!(run(&engine, request("a", 8, 1))[..], [TokenEvent::Failed(FailCause::Engine(_))]));
    for restarts in [1, 1] {
        let _handle = engine.submit(request("b", 8, 1), Box::new(broken_sink)).expect("accepted");
        assert!(engine.wait_idle(PATIENCE));
        // Its thread answers once it is past the restart.
        assert!(engine.flush_cache());
        assert_eq!(engine.metrics().num_restarts(), restarts, "the third time it stays down");
    }
    assert_eq!(engine.metrics().state(), EngineState::Down);
    assert_eq!(engine.submit(request("c", 8, 1), Box::new(|_| {})).err(), Some(SubmitError::Unhealthy));
    let kinds: Vec<_> = reports.lock().unwrap().iter().map(|report| report.kind).collect();
    assert_eq!(kinds, [FailureKind::Step, FailureKind::Scheduler, FailureKind::Scheduler]);
}

#[test]
fn what_is_lost_between_two_steps_ends_requests_and_the_engine_stays_down() {
    let handle: Arc<OnceLock<EngineHandle>> = Arc::default();
    let own = Arc::clone(&handle);
    let hook: StepHook = Box::new(move |step| {
        if step == 2 {
            own.get().expect("set before the first request").fail("a host is gone".into());
        }
        Ok(())
    });
    let (engine, _) = engine_over(Box::new(fake(config()).with_hook(hook)), config());
    assert!(handle.set(engine.clone()).is_ok());
    let events = run(&engine, request("a", 8, 50));
    assert_eq!(events.last(), Some(&TokenEvent::Failed(FailCause::Engine("a host is gone".into()))));
    assert_eq!(engine.metrics().state(), EngineState::Down);
    assert_eq!(engine.submit(request("b", 8, 1), Box::new(|_| {})).err(), Some(SubmitError::Unhealthy));
}

#[test]
fn a_request_waits_through_one_restart_and_is_told_at_the_second() {
    let mut scheduler = Scheduler::new(config());
    scheduler.submit(SequenceKey(0), request("a", 8, 1), Box::new(|_| {}));
    assert!(scheduler.restart().is_empty());
    scheduler.check();
    assert_eq!(scheduler.stats().waiting, 1);
    scheduler.submit(SequenceKey(1), request("b", 8, 1), Box::new(|_| {}));
    let lost: Vec<_> = scheduler.restart().into_iter().map(|sequence| sequence.id).collect();
    assert_eq!(lost, ["a"]);
    assert_eq!(scheduler.stats().waiting, 1);
    scheduler.check();
}

#[test]
fn a_lost_device_stays_lost_though_telling_of_it_panics() {
    let lost: StepHook = Box::new(|_| Err(DeviceFault::Lost { backend: "fake", cause: "it is gone".into() }.into()));
    let (engine, _) = engine_over(Box::new(fake(config()).with_hook(lost)), config());
    let sink = |event: TokenEvent| assert!(!event.is_terminal(), "a panic of the scheduler, as the test wants it");
    let _handle = engine.submit(request("a", 8, 1), Box::new(sink)).expect("accepted");
    assert!(engine.wait_idle(PATIENCE));
    // Its thread answers once it is past what came of the panic.
    assert!(engine.flush_cache());
    assert_eq!((engine.metrics().state(), engine.metrics().num_restarts()), (EngineState::Down, 0));
    assert_eq!(engine.submit(request("b", 8, 1), Box::new(|_| {})).err(), Some(SubmitError::Unhealthy));
}

#[test]
fn an_observer_that_panics_keeps_nobody_from_an_end() {
    let (open, model) = gated();
    let observer = Box::new(|_| panic!("an observer's panic, as the test wants it"));
    let engine = start_observed(model, EngineConfig { max_running: 1, ..config() }, observer).expect("a thread");
    let _a = engine.submit(request("a", 8, 5), Box::new(broken_sink)).expect("accepted");
    let (_handle, heard) = submit(&engine, request("b", 8, 5));
    drop(open);
    let events: Vec<_> = heard.iter().collect();
    assert_eq!(events.last(), Some(&TokenEvent::Finished(FinishReason::Length)), "{events:?}");
    assert_eq!(engine.metrics().state(), EngineState::Serving);
}
