//! [`EngineHandle`] and the thread behind it: commands in, steps, events out.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use quern_backend::LogitFault;
use quern_model::{ForwardError, Model, Work};

use crate::{
    config::EngineConfig,
    failure::{self, FailureKind, FailureObserver, FailureReport, SpanShape},
    log::StepLog,
    metrics::{EngineMetrics, EngineState, MetricsSnapshot},
    request::{EventSink, FailCause, GenerateRequest, SubmitError, TokenEvent},
    request_book::RequestBook,
    scheduler::{Incident, Scheduler},
    sequence::{Sequence, SequenceKey},
    step_plan::{StepMix, StepPlan},
    tenant::{AbortScope, Tenant},
};

/// This many failures within [`FAILURE_WINDOW`], of steps and of the scheduler together, and the engine stays down.
const MAX_FAILURES: usize = 3;

/// How often pages and locks are counted, in release builds too.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// See [`MAX_FAILURES`].
const FAILURE_WINDOW: Duration = Duration::from_secs(300);

/// Commands of other threads to the engine's.
enum EngineCommand {
    Submit(SequenceKey, Box<GenerateRequest>, Box<CountedSink>),
    Abort(SequenceKey),
    Close(SequenceKey),
    AbortMatching(AbortScope),
    Flush(Sender<bool>),
    Fail(String),
    Shutdown,
}

/// What the handles and the thread share.
struct Shared {
    config: EngineConfig,
    metrics: EngineMetrics,
    next_key: AtomicU64,
    accepting: AtomicBool,
    /// Requests submitted that have not ended.
    requests: Mutex<RequestBook>,
    idle: Condvar,
}

/// A handle of the engine thread. Clones share it; when the last one is gone, the engine shuts down.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<EngineCommand>,
    shared: Arc<Shared>,
}

/// A request in progress. Dropping it aborts the request before the next step.
#[must_use = "dropping the handle aborts the request"]
pub struct RequestHandle {
    key: SequenceKey,
    commands: Sender<EngineCommand>,
}

impl RequestHandle {
    /// Finish the request early: its owner needs no more tokens, for instance after a stop string.
    pub fn close(self) {
        // The abort that `Drop` sends afterwards finds no such request.
        let _ = self.commands.send(EngineCommand::Close(self.key));
    }

    /// A way to abort this request, and no other, from elsewhere.
    pub fn aborter(&self) -> Aborter {
        Aborter { key: self.key, commands: self.commands.clone() }
    }
}

/// Aborts one request. Dropping it does nothing.
#[derive(Clone, Debug)]
pub struct Aborter {
    key: SequenceKey,
    commands: Sender<EngineCommand>,
}

impl Aborter {
    /// Abort the request before the next step, if it is alive.
    pub fn abort(&self) {
        let _ = self.commands.send(EngineCommand::Abort(self.key));
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        // An engine that is gone has ended the request already; so has one that does not know the key.
        let _ = self.commands.send(EngineCommand::Abort(self.key));
    }
}

/// Start an engine over a loaded model.
///
/// ```
/// use std::sync::mpsc;
///
/// use quern_engine::{FinishReason, GenerateRequest, TokenEvent, fake};
///
/// let config = fake::engine_config(16, 64);
/// let model = fake::FakeModel::new(1000, config.page_size, config.num_pages);
/// let engine = quern_engine::start(Box::new(model), config)?;
///
/// let (events, received) = mpsc::channel();
/// let sink = move |event| events.send(event).expect("the receiver outlives the request");
/// let request = engine.submit(GenerateRequest::greedy(vec![1, 2, 3], 5), Box::new(sink))?;
/// let events: Vec<_> = received.iter().collect();
/// assert!(matches!(events[0], TokenEvent::Prefilled(_)));
/// assert_eq!(events.len(), 1 + 5 + 1, "the prompt, five tokens, the end");
/// assert_eq!(events[6], TokenEvent::Finished(FinishReason::Length));
/// # drop(request);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If the thread cannot be started.
pub fn start(model: Box<dyn Model>, config: EngineConfig) -> std::io::Result<EngineHandle> {
    start_observed(model, config, Box::new(|_| {}))
}

/// The same, with an observer of its internal errors.
///
/// # Errors
/// If the system refuses a thread.
pub fn start_observed(
    model: Box<dyn Model>,
    config: EngineConfig,
    observer: FailureObserver,
) -> std::io::Result<EngineHandle> {
    let (handle, engine) = new(model, config, observer, Instant::now());
    thread::Builder::new().name("engine".into()).spawn(move || engine.run())?;
    Ok(handle)
}

/// An engine that nobody runs yet, and its handle.
pub(crate) fn new(
    model: Box<dyn Model>,
    config: EngineConfig,
    observer: FailureObserver,
    now: Instant,
) -> (EngineHandle, Engine) {
    let (commands, inbox) = mpsc::channel();
    let shared = Arc::new(Shared {
        config,
        metrics: EngineMetrics::default(),
        next_key: AtomicU64::new(0),
        accepting: AtomicBool::new(true),
        requests: Mutex::default(),
        idle: Condvar::new(),
    });
    let engine = Engine {
        model,
        scheduler: Scheduler::new(config),
        inbox,
        shared: Arc::clone(&shared),
        failures: VecDeque::new(),
        broken: None,
        step: 0,
        now,
        checked: now,
        observer,
        log: StepLog::new(config),
        last_step_s: 0.0,
        busy_s: 0.0,
        work: Work::default(),
    };
    (EngineHandle { commands, shared }, engine)
}

impl EngineHandle {
    /// Queue a request; its events go to `sink`, on the engine's thread. Never blocks.
    ///
    /// # Errors
    /// If the queue is full, the prompt is longer than the pool, or the engine takes no requests.
    pub fn submit(&self, request: GenerateRequest, sink: Box<dyn EventSink>) -> Result<RequestHandle, SubmitError> {
        let Shared { config, accepting, next_key, .. } = &*self.shared;
        assert!(!request.prompt.is_empty(), "a prompt has at least one token");
        match self.shared.metrics.state() {
            EngineState::Serving => {}
            EngineState::Restarting => return Err(SubmitError::Restarting),
            EngineState::Down => return Err(SubmitError::Unhealthy),
        }
        if !accepting.load(Ordering::Acquire) {
            return Err(SubmitError::ShuttingDown);
        }
        let (prompt_tokens, pool_tokens) = (request.prompt.len(), config.pool_tokens());
        if prompt_tokens > pool_tokens {
            return Err(SubmitError::PromptTooLong { prompt_tokens, pool_tokens });
        }
        let tenant = request.tenant.clone();
        self.shared.requests().begin(&tenant, prompt_tokens, config)?;
        let shared = Arc::clone(&self.shared);
        let sink = Box::new(CountedSink { sink, shared, tenant, prompt_tokens, in_queue: true, has_ended: false });
        let key = SequenceKey(next_key.fetch_add(1, Ordering::Relaxed));
        let command = EngineCommand::Submit(key, Box::new(request), sink);
        if let Err(mpsc::SendError(refused)) = self.commands.send(command) {
            if let EngineCommand::Submit(_, _, mut sink) = refused {
                // The caller gets the error below instead.
                sink.has_ended = true;
            }
            return Err(SubmitError::ShuttingDown);
        }
        Ok(RequestHandle { key, commands: self.commands.clone() })
    }

    /// Abort the requests that are meant, before the next step.
    pub fn abort(&self, scope: AbortScope) {
        let _ = self.commands.send(EngineCommand::AbortMatching(scope));
    }

    /// Drop all cached prefixes, if no request is alive; says whether it did. Waits for the engine to
    /// end its step.
    pub fn flush_cache(&self) -> bool {
        let (reply, answer) = mpsc::channel();
        self.commands.send(EngineCommand::Flush(reply)).is_ok() && answer.recv().unwrap_or(false)
    }

    /// Take no more requests; those alive go on.
    pub fn drain(&self) {
        self.shared.accepting.store(false, Ordering::Release);
    }

    /// Whether requests are taken, as far as [`drain`](Self::drain) and [`shutdown`](Self::shutdown) decide.
    pub fn is_accepting(&self) -> bool {
        self.shared.accepting.load(Ordering::Acquire)
    }

    /// Wait until no request is alive, at most `timeout`; says whether that came true.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let requests = self.shared.requests();
        let result = self.shared.idle.wait_timeout_while(requests, timeout, |requests| requests.num_alive() > 0);
        !result.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Something that no step can do without is lost: fail every request, and try no step any more.
    pub fn fail(&self, cause: String) {
        let _ = self.commands.send(EngineCommand::Fail(cause));
    }

    /// Fail every request and end the thread.
    pub fn shutdown(&self) {
        self.drain();
        let _ = self.commands.send(EngineCommand::Shutdown);
    }

    /// Figures.
    pub fn metrics(&self) -> &EngineMetrics {
        &self.shared.metrics
    }

    /// Requests submitted that have not been admitted yet.
    pub fn num_queued(&self) -> usize {
        self.shared.requests().num_waiting()
    }

    /// Whether the queue has room for a short request of the tenant.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), where the queue is full.
    pub fn check_queue(&self, tenant: &Tenant) -> Result<(), SubmitError> {
        self.shared.requests().check(tenant, 1, &self.shared.config)
    }

    /// Requests submitted that have not ended.
    pub fn num_alive(&self) -> usize {
        self.shared.requests().num_alive()
    }

    /// Sizes and limits.
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, RequestBook> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as alive until its sink is dropped, which follows its terminal event. If none has
/// come by then (the thread ended before it read the command, or the scheduler panicked), it
/// sends one itself, so that every request gets a terminal event (invariant I6).
struct CountedSink {
    sink: Box<dyn EventSink>,
    shared: Arc<Shared>,
    tenant: Tenant,
    prompt_tokens: usize,
    in_queue: bool,
    has_ended: bool,
}

impl CountedSink {
    fn leave_queue(&mut self) {
        if std::mem::take(&mut self.in_queue) {
            self.shared.requests().leave_queue(&self.tenant, self.prompt_tokens);
        }
    }
}

impl EventSink for CountedSink {
    fn send(&mut self, event: TokenEvent) {
        self.has_ended |= event.is_terminal();
        self.sink.send(event);
    }

    fn admitted(&mut self) {
        self.leave_queue();
    }
}

impl Drop for CountedSink {
    fn drop(&mut self) {
        if !self.has_ended {
            let cause = match self.shared.metrics.state() {
                EngineState::Serving => FailCause::ShuttingDown,
                EngineState::Restarting | EngineState::Down => FailCause::Engine("the engine has stopped".into()),
            };
            self.send(TokenEvent::Failed(cause));
        }
        self.leave_queue();
        let mut requests = self.shared.requests();
        requests.end(&self.tenant);
        if requests.num_alive() == 0 {
            self.shared.idle.notify_all();
        }
    }
}

/// The state of the engine thread.
pub(crate) struct Engine {
    model: Box<dyn Model>,
    scheduler: Scheduler,
    inbox: Receiver<EngineCommand>,
    shared: Arc<Shared>,
    /// When steps and schedulers failed.
    failures: VecDeque<Instant>,
    /// Why no step is tried any more.
    broken: Option<String>,
    /// The number of the step that is planned or computed.
    step: u64,
    /// When this turn began.
    now: Instant,
    /// When pages and locks were last counted.
    checked: Instant,
    observer: FailureObserver,
    log: StepLog,
    last_step_s: f64,
    busy_s: f64,
    work: Work,
}

/// What there is to do once the commands are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Sequences wait for a step.
    Continue,
    /// Nothing, until another command comes. An engine with a thread waits for it.
    Idle,
    /// The engine is to end.
    Stop,
}

impl Engine {
    fn run(mut self) {
        // A panic here is an error of ours in the scheduler: the model's are caught where it is called.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve())) {
            if self.recover(&*panic) == Flow::Stop {
                break;
            }
        }
        self.shared.accepting.store(false, Ordering::Release);
    }

    fn serve(&mut self) {
        loop {
            let flow = match self.turn(Instant::now()) {
                Flow::Idle => self.wait(),
                flow => flow,
            };
            if flow == Flow::Stop {
                return self.end();
            }
        }
    }

    /// Apply the commands that have come in, then compute a step if there is something to compute. `now` decides which
    /// failures lie close together.
    pub(crate) fn turn(&mut self, now: Instant) -> Flow {
        self.now = now;
        let flow = self.drain_commands();
        if flow == Flow::Continue {
            self.step();
        }
        flow
    }

    /// Wait for a command and apply it.
    fn wait(&mut self) -> Flow {
        let Ok(command) = self.inbox.recv() else { return Flow::Stop };
        self.shared.metrics.note_progress();
        self.apply(command)
    }

    /// Plan a step, compute it and tell its outcome.
    fn step(&mut self) {
        self.step += 1;
        let plan = self.scheduler.schedule();
        self.report_incidents(StepMix::default(), Vec::new());
        // Otherwise only requests that can never run were in the queue, and they have failed.
        let Some(plan) = plan else { return };
        self.publish();
        let started = Instant::now();
        let mix = plan.mix;
        let launched = guarded(|| self.model.launch(&plan.batch, &plan.samples));
        // Beside the step, where a device computes it. Commands wait for its end: what they change is told with it,
        // and on a CPU, whose launch computes, nothing would be won (`benches/host.rs`).
        self.work += self.shared.config.cost.step((&plan.batch).into());
        let output = launched.and_then(|()| guarded(|| self.model.wait())?.map_err(StepFailure::from));
        match output {
            Ok(output) => {
                let is_faulty = output.rows.iter().any(|row| row.fault == Some(LogitFault::NotFinite));
                let batch = if is_faulty { failure::shapes(&plan.batch) } else { Vec::new() };
                self.scheduler.commit(plan, output);
                self.report_incidents(mix, batch);
            }
            Err(failure) => self.fail_step(plan, failure),
        }
        self.last_step_s = started.elapsed().as_secs_f64();
        self.busy_s += self.last_step_s;
        self.log.step(mix, &self.scheduler.stats(), self.scheduler.running_tokens());
        self.publish();
        self.check_balance();
    }

    pub(crate) fn end(&mut self) {
        self.scheduler.fail_all(&FailCause::ShuttingDown);
        self.publish();
    }

    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Count pages and locks, once a second.
    ///
    /// # Panics
    /// If they do not add up: whose a page is is not known any more, and the engine begins anew.
    fn check_balance(&mut self) {
        if self.now.duration_since(self.checked) < CHECK_EVERY {
            return;
        }
        self.checked = self.now;
        if let Err(numbers) = self.scheduler.check_balance() {
            self.shared.metrics.note_invariant_violation();
            panic!("{numbers}");
        }
    }

    /// Apply what has come in.
    pub(crate) fn drain_commands(&mut self) -> Flow {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => {
                    if self.apply(command) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                Err(TryRecvError::Disconnected) => return Flow::Stop,
                Err(TryRecvError::Empty) if self.scheduler.is_idle() => {
                    self.last_step_s = 0.0;
                    self.publish();
                    self.shared.metrics.note_idle();
                    return Flow::Idle;
                }
                Err(TryRecvError::Empty) => return Flow::Continue,
            }
        }
    }

    /// Do what a command says; stop, or go on.
    fn apply(&mut self, command: EngineCommand) -> Flow {
        match command {
            EngineCommand::Submit(key, request, sink) => {
                self.scheduler.submit(key, *request, sink);
                // Submitted before the engine failed for good, received after.
                if let Some(cause) = &self.broken {
                    self.scheduler.fail_all(&FailCause::Engine(cause.clone()));
                }
            }
            EngineCommand::Abort(key) => self.scheduler.abort(key),
            EngineCommand::Close(key) => self.scheduler.close(key),
            EngineCommand::AbortMatching(scope) => self.scheduler.abort_matching(&scope),
            EngineCommand::Flush(reply) => {
                let flushed = self.scheduler.flush();
                if flushed {
                    tracing::info!("Cache flushed successfully!");
                }
                // The answer's reader may look at the figures next.
                self.publish();
                // The caller may have gone.
                let _ = reply.send(flushed);
            }
            EngineCommand::Fail(cause) => {
                if self.broken.is_none() {
                    tracing::error!("no later step can succeed: {cause}; the engine takes no more requests");
                }
                self.stay_down(&cause);
                self.scheduler.fail_all(&FailCause::Engine(cause));
                self.publish();
            }
            EngineCommand::Shutdown => return Flow::Stop,
        }
        Flow::Continue
    }

    /// A failed step ends its sequences. A device that is lost, or several failures in a row, and the machine is not
    /// to be trusted; that is known before the sequences hear of their end.
    fn fail_step(&mut self, plan: StepPlan, failure: StepFailure) {
        let StepFailure { cause, is_final } = failure;
        self.report(FailureReport {
            kind: FailureKind::Step,
            step: self.step,
            cause: cause.clone(),
            mix: plan.mix,
            batch: failure::shapes(&plan.batch),
            sequences: self.scheduler.reports(&plan),
        });
        let stays_down = self.count_failure() || is_final;
        if is_final {
            tracing::error!("no later step can succeed: the engine takes no more requests");
        }
        if stays_down {
            self.stay_down(&cause);
        }
        self.scheduler.fail_step(plan, &cause);
        if stays_down {
            self.scheduler.fail_all(&FailCause::Engine(cause));
        }
    }

    /// After a panic of the scheduler: begin anew, or stop where that fails too.
    pub(crate) fn recover(&mut self, panic: &(dyn Any + Send)) -> Flow {
        let cause = format!("the scheduler panicked: {}", panic_message(panic));
        if catch_unwind(AssertUnwindSafe(|| self.restart(&cause))).is_ok() {
            return Flow::Continue;
        }
        // Nothing is left to be relied on. What is alive hears of its end as its sink is dropped.
        self.stay_down(&cause);
        Flow::Stop
    }

    /// Begin anew after a panic of the scheduler, with an empty prefix cache. What ran fails, what only waited waits
    /// on. The model is whole: it is called nowhere that the panic can come from.
    fn restart(&mut self, cause: &str) {
        let stays_down = self.count_failure();
        if stays_down {
            self.stay_down(cause);
        } else {
            self.shared.metrics.set_state(EngineState::Restarting);
        }
        let mut lost = self.scheduler.restart();
        if stays_down {
            // Those that would wait on end as well.
            lost.extend(self.scheduler.restart());
        }
        self.report(FailureReport {
            kind: FailureKind::Scheduler,
            step: self.step,
            cause: cause.to_owned(),
            mix: StepMix::default(),
            batch: Vec::new(),
            sequences: lost.iter().map(Sequence::report).collect(),
        });
        for mut sequence in lost {
            let end = TokenEvent::Failed(FailCause::Engine(cause.to_owned()));
            // What hears the events may be what panicked.
            let _ = catch_unwind(AssertUnwindSafe(move || sequence.sink.send(end)));
        }
        if !stays_down {
            let waiting = self.scheduler.stats().waiting;
            tracing::warn!("the engine has restarted with an empty prefix cache; {waiting} requests wait on");
            self.shared.metrics.set_state(EngineState::Serving);
        }
        self.publish();
    }

    /// Try no step any more, whatever happens while requests are told: a panic then begins nothing anew.
    fn stay_down(&mut self, cause: &str) {
        self.shared.metrics.set_state(EngineState::Down);
        self.broken.get_or_insert_with(|| cause.to_owned());
    }

    /// Count a failure; says whether it is one too many.
    fn count_failure(&mut self) -> bool {
        let now = self.now;
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|then| now.duration_since(*then) > FAILURE_WINDOW) {
            self.failures.pop_front();
        }
        let too_many = self.failures.len() >= MAX_FAILURES;
        if too_many {
            tracing::error!("{MAX_FAILURES} failures within {FAILURE_WINDOW:?}: the engine takes no more requests");
        }
        too_many || self.broken.is_some()
    }

    /// Log and pass on the internal errors of single sequences, of a step of this kind.
    fn report_incidents(&mut self, mix: StepMix, batch: Vec<SpanShape>) {
        for Incident { kind, cause, sequence } in self.scheduler.take_incidents() {
            let (step, batch, sequences) = (self.step, batch.clone(), vec![sequence]);
            self.report(FailureReport { kind, step, cause, mix, batch, sequences });
        }
    }

    fn report(&self, report: FailureReport) {
        tracing::error!("{}", report.line());
        // An observer that fails keeps no request from its end.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.observer)(report)));
    }

    fn publish(&mut self) {
        self.shared.metrics.publish(MetricsSnapshot {
            scheduler: self.scheduler.stats(),
            gen_throughput: if self.scheduler.is_idle() { 0.0 } else { self.log.gen_throughput() },
            last_step_s: self.last_step_s,
            running_tokens: self.scheduler.running_tokens(),
            busy_s: self.busy_s,
            work: self.work,
        });
    }
}

/// Why a step has no output.
struct StepFailure {
    cause: String,
    /// Whether no later step can succeed either.
    is_final: bool,
}

impl From<ForwardError> for StepFailure {
    fn from(error: ForwardError) -> Self {
        Self { is_final: error.is_final(), cause: error.to_string() }
    }
}

/// Run a part of the model; a panic in it is one more way to fail.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, StepFailure> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| StepFailure {
        cause: format!("the model panicked: {}", panic_message(&*panic)),
        is_final: false,
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
