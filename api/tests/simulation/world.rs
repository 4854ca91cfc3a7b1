//! [`World`]: a server and all that it depends on, in one thread and in virtual time.
//!
//! Nothing happens at the same instant as anything else: a client's word, a step of the engine and a fault each have a
//! millisecond of their own ([`World::pause`]), and all that follows from one of them has come to rest before the next.
//! So a seed is a history, although the server prepares prompts on other threads.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    path::Path,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quern_api::{AppState, connection};
use quern_engine::{EngineState, Flow, SteppedEngine, fake::FakeModel};
use tokio::{
    io::duplex,
    runtime::{Builder, Handle},
    sync::{Notify, watch},
    task::{JoinSet, LocalSet, spawn_blocking, spawn_local, yield_now},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    ask::VOCAB,
    client::Client,
    model::{FaultyModel, NextFault, STEP_FAULTS},
    rng::Rng,
    support::{Setup, service_over},
    swarm::{Ending, Swarm, key},
    tally::Tally,
    transport::{Arrivals, MemoryListener, MemorySocket, Nth},
    wire::Wire,
};

/// What the wall clock shows at first, seconds since 1970.
const NOON: u64 = 1_764_417_600;

/// How often an engine without work looks for some while a client waits for something, besides whenever one sends.
const IDLE_TICK_MS: u64 = 100;

/// How long the server accepts no connection after it could not accept one.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Steps between two counts of every page.
const CHECK_EVERY: u64 = 64;

/// Longest that a drained server may take to close its connections.
const CLOSING: Duration = Duration::from_secs(30);

/// A request under way that others may abort.
pub(crate) struct Alive {
    pub(crate) owner: usize,
    pub(crate) may_abort: Rc<Cell<bool>>,
}

/// An abort on its way to the server. Requests that begin meanwhile may be meant too.
pub(crate) struct Abort {
    /// Whose requests; everybody's where there is none.
    pub(crate) owner: Option<usize>,
    /// The id that is named, or, to who sees everybody's, its beginning; none: all requests.
    pub(crate) rid: Option<String>,
}

impl Abort {
    fn means(&self, id: &str, owner: usize) -> bool {
        let is_named = self.rid.as_ref().is_none_or(|rid| match self.owner {
            Some(_) => id == rid,
            None => id.starts_with(rid),
        });
        is_named && self.owner.is_none_or(|own| own == owner)
    }
}

/// How many prompts have a shared and a whole length, in tokens.
pub(crate) type PromptCounts = BTreeMap<(usize, usize), usize>;

/// What the world knows of what was said in it.
#[derive(Default)]
pub(crate) struct Memory {
    /// The outputs of a request, by what decides them.
    pub(crate) outputs: BTreeMap<String, Vec<String>>,
    /// What prompts each owner's cache may hold, by family.
    pub(crate) prompts: BTreeMap<(usize, Option<usize>), PromptCounts>,
    /// By their ids.
    pub(crate) alive: BTreeMap<String, Alive>,
    /// Ids of stored answers, and whose they are.
    pub(crate) stored: Vec<(usize, String)>,
    /// Aborts that are not answered yet.
    aborts: Vec<Rc<Abort>>,
}

impl Memory {
    /// A request begins.
    pub(crate) fn begin(&mut self, id: String, owner: usize) -> Rc<Cell<bool>> {
        let may_abort = Rc::new(Cell::new(self.aborts.iter().any(|abort| abort.means(&id, owner))));
        self.alive.insert(id, Alive { owner, may_abort: Rc::clone(&may_abort) });
        may_abort
    }

    /// An abort is sent.
    pub(crate) fn send_abort(&mut self, abort: Abort) -> Rc<Abort> {
        let meant = self.alive.iter().filter(|(id, alive)| abort.means(id, alive.owner));
        meant.for_each(|(_, alive)| alive.may_abort.set(true));
        let abort = Rc::new(abort);
        self.aborts.push(Rc::clone(&abort));
        abort
    }

    /// It is answered.
    pub(crate) fn end_abort(&mut self, abort: &Rc<Abort>) {
        self.aborts.retain(|other| !Rc::ptr_eq(other, abort));
    }
}

/// What fails in a quiet world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    None,
    /// The `n`-th write of the server to a socket.
    Write(u64),
    /// The engine, from its `n`-th turn on.
    Turn(u64),
}

pub(crate) struct World {
    pub(crate) swarm: Swarm,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) memory: RefCell<Memory>,
    pub(crate) state: Arc<AppState>,
    pub(crate) next_fault: NextFault,
    arrivals: RefCell<Option<Arrivals>>,
    engine: RefCell<Option<SteppedEngine>>,
    start: Instant,
    taken: RefCell<BTreeSet<u64>>,
    /// Wakes an engine without work.
    wake: Notify,
    /// So many requests are enough for a world that does not end by itself.
    enough: u64,
    has_enough: Notify,
    /// Requests that wait for an answer.
    open: Cell<usize>,
    /// The next step takes so much longer.
    slow_step_ms: Cell<u64>,
    pub(crate) is_draining: Cell<bool>,
    /// Connections that could not be accepted: for each, one that costs no answer had to go.
    pub(crate) unaccepted: Cell<u64>,
    /// Until when the server pauses for them.
    accepts_from_ms: Cell<u64>,
    write_fault: Arc<Nth>,
    turn_fault: Nth,
}

/// A request waits for its answer until this is dropped.
pub(crate) struct Open(Rc<World>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

impl World {
    /// Play the world of `seed` until its clients have sent `requests` requests.
    pub(crate) fn run(seed: u64, requests: usize) -> Tally {
        let mut rng = Rng::new(seed);
        Self::in_time(|folder| Self::play(Swarm::new(&mut rng, folder.join("keys")), rng, requests, Fault::None)).0
    }

    /// Play a quiet world in which this fails; says whether it came to that.
    pub(crate) fn with_fault(fault: Fault) -> bool {
        Self::in_time(|_| Self::play(Swarm::quiet(), Rng::new(5), 24, fault)).1
    }

    fn in_time<T, P: Future<Output = T>>(play: impl FnOnce(&Path) -> P) -> T {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).max_blocking_threads(1).build();
        let runtime = runtime.expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder for keys");
        let outcome = LocalSet::new().block_on(&runtime, play(folder.path()));
        runtime.shutdown_background();
        outcome
    }

    async fn play(swarm: Swarm, mut rng: Rng, requests: usize, fault: Fault) -> (Tally, bool) {
        if let Some(file) = &swarm.api.api_key_file {
            fs::write(file, key(2)).expect("room for a key");
        }
        let start = Instant::now();
        let next_fault = NextFault::default();
        let inner = FakeModel::new(VOCAB, swarm.engine.page_size, swarm.engine.num_pages);
        let model = Box::new(FaultyModel::new(inner, next_fault.clone()));
        let (handle, engine) = SteppedEngine::new(model, swarm.engine, Box::new(|_| {}), start.into_std());
        let service = service_over(Setup { api: swarm.api.clone(), engine: swarm.engine }, handle);
        let mut state = AppState::new(service, std::time::Instant::now());
        state.clock.pin(NOON);
        state.started = state.clock.now();
        let state = Arc::new(state);
        if swarm.num_keys > 2 {
            state.keys.reload().expect("a file of one key");
        }
        state.set_ready(true);
        let (arrivals, listener) = MemoryListener::new();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(connection::serve(listener, &state, Handle::current(), stopped));
        let world = Rc::new(Self {
            tally: RefCell::default(),
            memory: RefCell::default(),
            arrivals: RefCell::new(Some(arrivals)),
            engine: RefCell::new(Some(engine)),
            taken: RefCell::default(),
            wake: Notify::new(),
            enough: requests as u64 * 9 / 10,
            has_enough: Notify::new(),
            open: Cell::new(0),
            slow_step_ms: Cell::new(0),
            is_draining: Cell::new(false),
            unaccepted: Cell::default(),
            accepts_from_ms: Cell::default(),
            write_fault: Arc::new(Nth::new(if let Fault::Write(at) = fault { at } else { 0 })),
            turn_fault: Nth::new(if let Fault::Turn(at) = fault { at } else { 0 }),
            swarm,
            state,
            next_fault,
            start,
        });
        spawn_local(Rc::clone(&world).drive());
        spawn_local(Rc::clone(&world).disturb(rng.fork()));
        let mut clients = JoinSet::new();
        for index in 0..world.swarm.clients {
            let client = Client::new(Rc::clone(&world), index, rng.fork());
            clients.spawn_local(client.live(requests.div_ceil(world.swarm.clients)));
        }
        loop {
            tokio::select! {
                biased;
                ended = clients.join_next() => match ended {
                    Some(ended) => ended.unwrap_or_else(|panic| resume_unwind(panic.into_panic())),
                    None => break,
                },
                () = world.has_enough.notified(), if world.swarm.ending != Ending::Idle => {
                    world.pause(1).await;
                    break;
                }
            }
        }
        match world.swarm.ending {
            Ending::Kill => {
                world.tally.borrow_mut().fault("killed");
                server.abort();
                return world.finish();
            }
            Ending::Drain => world.drain().await,
            Ending::Idle if world.turn_fault.has_struck() => {}
            Ending::Idle => world.idle().await,
        }
        world.state.engine.shutdown();
        world.wake.notify_one();
        stop.send(true).expect("the server listens");
        timeout(CLOSING, server).await.expect("connections end").expect("no panic");
        world.arrivals.borrow_mut().take();
        while let Some(ended) = clients.join_next().await {
            ended.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
        }
        assert_eq!(world.state.engine.num_alive(), 0, "requests alive after the end");
        world.finish()
    }

    fn finish(&self) -> (Tally, bool) {
        let mut tally = self.tally.borrow().clone();
        tally.seconds = self.start.elapsed().as_secs_f64();
        (tally, self.is_broken())
    }

    /// Whether a fault has struck that excuses any end of a request, but not its absence.
    pub(crate) fn is_broken(&self) -> bool {
        self.write_fault.has_struck() || self.turn_fault.has_struck()
    }

    /// Virtual time since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Wait so many milliseconds, and for an instant at which nothing else happens.
    pub(crate) async fn pause(&self, ms: u64) {
        let now = self.now_ms();
        let mut at = now + ms.max(1);
        {
            let mut taken = self.taken.borrow_mut();
            while !taken.insert(at) {
                at += 1;
            }
            if taken.len() > 512 {
                *taken = taken.split_off(&now);
            }
        }
        sleep_until(self.start + Duration::from_millis(at)).await;
    }

    /// A connection from `address`; `None` if the server listens no more.
    pub(crate) fn connect(&self, address: [u8; 4]) -> Option<Wire> {
        let arrivals = self.arrivals.borrow();
        let (ours, theirs) = duplex(self.swarm.wire_bytes);
        let client = SocketAddr::from((Ipv4Addr::from(address), 1));
        let socket = MemorySocket { stream: theirs, write_fault: Arc::clone(&self.write_fault) };
        arrivals.as_ref()?.send(Ok((socket, client))).ok()?;
        Some(Wire::new(ours))
    }

    /// Whether the server accepts a connection at once.
    pub(crate) fn is_accepting(&self) -> bool {
        self.now_ms() > self.accepts_from_ms.get()
    }

    /// A request is on its way.
    pub(crate) fn open(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        let mut tally = self.tally.borrow_mut();
        tally.requests += 1;
        if tally.requests == self.enough {
            self.has_enough.notify_one();
        }
        Open(Rc::clone(self))
    }

    /// A piece of a request has been sent, with which there may be something for the engine to do.
    pub(crate) fn wake_engine(&self) {
        self.wake.notify_one();
    }

    /// Faults of the engine that have struck.
    pub(crate) fn num_struck(&self) -> u64 {
        self.next_fault.struck.load(Ordering::Relaxed)
    }

    /// Have the engine apply commands, without a step and without time passing.
    pub(crate) fn apply_commands(&self) {
        if let Some(engine) = &mut *self.engine.borrow_mut() {
            engine.apply_commands();
        }
    }

    /// Take the engine's turns.
    async fn drive(self: Rc<Self>) {
        let mut is_idle = true;
        loop {
            if is_idle {
                self.work().await;
            }
            self.pause(self.swarm.step_ms + self.slow_step_ms.take()).await;
            let mut engine = self.engine.borrow_mut();
            let Some(running) = &mut *engine else { return };
            if self.turn_fault.strikes() {
                // As if its thread had ended, and with it the other end of its channel.
                *engine = None;
                return;
            }
            match running.turn(Instant::now().into_std()) {
                Flow::Continue => {
                    is_idle = false;
                    let mut tally = self.tally.borrow_mut();
                    tally.steps += 1;
                    if tally.steps.is_multiple_of(CHECK_EVERY) {
                        running.check();
                    }
                }
                Flow::Idle => is_idle = true,
                Flow::Stop => {
                    *engine = None;
                    return;
                }
            }
        }
    }

    /// Until there may be something to do: a client has sent something, or what it sent before has become a request since,
    /// when there was a place for its connection for instance.
    async fn work(&self) {
        while self.state.engine.num_alive() == 0 {
            tokio::select! {
                biased;
                () = self.wake.notified() => return,
                () = self.pause(IDLE_TICK_MS), if self.open.get() > 0 => {}
            }
        }
    }

    /// What nobody asked for: faults of the model and its device, slow steps, clocks that are set, connections that
    /// cannot be accepted, files of keys that are read again.
    async fn disturb(self: Rc<Self>, mut rng: Rng) {
        let engine = Rc::clone(&self);
        let mut engine_rng = rng.fork();
        spawn_local(async move {
            let Some(mean) = engine.swarm.engine_fault_ms else { return };
            loop {
                // Two within the window of five minutes are what an engine survives.
                let least = if engine.swarm.is_doomed { 0.0 } else { 151_000.0 };
                engine.pause((least + engine_rng.exponential(mean)) as u64).await;
                let fault = *engine_rng.pick(STEP_FAULTS);
                *engine.next_fault.fault.lock().expect("no panic while it is held") = Some(fault);
                engine.tally.borrow_mut().fault(fault.name());
            }
        });
        let mean = (self.swarm.think_ms * 4.0).max(2_000.0);
        loop {
            self.pause(rng.exponential(mean) as u64).await;
            let kind = match rng.below(6) {
                0 => {
                    self.slow_step_ms.set(rng.between(500, 40_000) as u64);
                    "slow step"
                }
                1 | 2 => {
                    self.state.clock.pin(NOON + rng.below(2 * 86_400) as u64 - 86_400);
                    "wall clock jumps"
                }
                3 | 4 => {
                    let failed = std::io::Error::from_raw_os_error(24);
                    let arrivals = self.arrivals.borrow();
                    let Some(arrivals) = &*arrivals else { return };
                    let _ = arrivals.send(Err(failed));
                    self.unaccepted.set(self.unaccepted.get() + 1);
                    self.accepts_from_ms.set(self.accepts_from_ms.get().max(self.now_ms()) + ACCEPT_PAUSE_MS + 1);
                    "accept fails"
                }
                _ => {
                    let Some(file) = self.swarm.api.api_key_file.clone() else { continue };
                    let broken = rng.percent(50.0);
                    let text = if broken { " \n".to_owned() } else { format!("{}\nanother-{}\n", key(2), rng.next()) };
                    fs::write(file, text).expect("room for keys");
                    assert_eq!(self.state.keys.reload().is_err(), broken, "a file without a key is refused");
                    if broken { "keys cannot be read" } else { "keys are read again" }
                }
            };
            self.tally.borrow_mut().fault(kind);
        }
    }

    /// Wait until nothing runs, and see that every page came back.
    async fn idle(&self) {
        while self.state.engine.num_alive() > 0 {
            self.pause(50).await;
        }
        let engine = self.state.engine.clone();
        let flush = spawn_blocking(move || engine.flush_cache());
        while !flush.is_finished() {
            self.apply_commands();
            yield_now().await;
        }
        if self.state.engine.metrics().state() == EngineState::Serving {
            assert!(flush.await.expect("no panic"), "an idle engine can be flushed");
        }
        self.apply_commands();
        let pool = self.state.engine.metrics().snapshot().scheduler;
        assert_eq!((pool.running, pool.waiting), (0, 0));
        assert_eq!(pool.free_pages, self.swarm.engine.num_pages, "pages leaked");
        if let Some(engine) = &*self.engine.borrow() {
            engine.check();
        }
    }

    /// As `quern serve` does it at SIGTERM.
    async fn drain(&self) {
        self.tally.borrow_mut().fault("drained");
        self.is_draining.set(true);
        self.state.set_ready(false);
        self.state.engine.drain();
        let until = Instant::now() + Duration::from_secs_f64(self.swarm.api.drain_timeout);
        while self.state.engine.num_alive() > 0 && Instant::now() < until {
            self.pause(20).await;
        }
    }
}
