//! [`Pool`]: persistent pinned threads that run one closure together.
//!
//! A decode step has several hundred parallel regions of some tens of microseconds, so starting one
//! must cost about a microsecond: workers spin for [`SPIN`] after their last region and park only
//! then. Starting a region is one store; nothing is allocated.
//!
//! Ownership of the shared state, by phase:
//!
//! ```text
//! caller:  write job, remaining = workers - 1 ──▶ epoch += 1 ──▶ own part ──▶ wait remaining == 0
//!                                                    │ acquire                    ▲ release
//! worker:                    read job ◀──────────────┘ ──▶ its part ──▶ remaining -= 1
//! ```
//!
//! Between `epoch += 1` and `remaining == 0` nobody writes the job, and outside of it nobody reads it.

use std::{
    any::Any,
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::PoisonError,
    time::{Duration, Instant},
};

use crate::{
    affinity,
    sync::{
        Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, UnsafeCell, hint, store_before_load,
        thread::{self, JoinHandle, Thread},
    },
};

/// How long a thread spins before it parks: longer than the gaps between the operations of one step,
/// short enough that an idle server uses no core.
const SPIN: Duration = Duration::from_micros(40);

type RegionFn = *const (dyn Fn(usize) + Sync);

struct PoolState {
    /// The closure of the present region; see the drawing above for who may touch it when.
    job: UnsafeCell<Option<RegionFn>>,
    /// Counts regions; a worker starts when it changes.
    epoch: AtomicUsize,
    /// Workers that have not finished the present region.
    remaining: AtomicUsize,
    /// The caller of the present region, while it is parked.
    waiting: Mutex<Option<Thread>>,
    caller_parked: AtomicBool,
    /// The first panic of the present region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// One flag a worker: it has parked, or is about to.
    parked: Vec<AtomicBool>,
    spin: Duration,
}

// SAFETY: `job` is the only field that is not `Sync` by itself. It is written by the caller, who holds
// `Pool::turn`, before the release of `epoch`, and read by workers after they acquire it; the caller
// does not write it again before it has acquired `remaining == 0`. The closure it points to is `Sync`.
unsafe impl Sync for PoolState {}
// SAFETY: as above; the pointer is only followed during a region, while the closure is borrowed.
unsafe impl Send for PoolState {}

/// A team of threads. The caller's thread is worker 0.
pub(crate) struct Pool {
    shared: Arc<PoolState>,
    threads: Vec<JoinHandle<()>>,
    /// Its holder runs the present region.
    turn: Mutex<()>,
    /// The core of the caller's thread, where pools share the machine and it has enough of them.
    caller_core: Option<usize>,
    /// What is left of the present region's rounds, by worker; set by the holder of `turn`, before the epoch
    /// changes.
    shares: [Vec<Share>; 2],
}

/// Pieces that no worker has taken yet: the first in the lower half of the word, their end in the upper.
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, pieces: Range<usize>) {
        let [first, end] =
            [pieces.start, pieces.end].map(|piece| u32::try_from(piece).expect("fewer than 2^32 pieces"));
        self.0.store(u64::from(end) << 32 | u64::from(first), Ordering::Relaxed);
    }

    fn take_first(&self) -> Option<usize> {
        self.take(|first, end| (first, (first + 1, end)))
    }

    fn take_last(&self) -> Option<usize> {
        self.take(|first, end| (end - 1, (first, end - 1)))
    }

    fn take(&self, one: impl Fn(u32, u32) -> (u32, (u32, u32))) -> Option<usize> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = (seen as u32, (seen >> 32) as u32);
            if first == end {
                return None;
            }
            let (piece, (first, end)) = one(first, end);
            let left = u64::from(end) << 32 | u64::from(first);
            match self.0.compare_exchange_weak(seen, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(piece as usize),
                Err(now) => seen = now,
            }
        }
    }
}

impl Pool {
    /// `workers` threads, the caller's included. Each of the others is pinned to a core of its own if
    /// there are cores enough.
    #[cfg(test)]
    pub(crate) fn new(workers: usize) -> io::Result<Self> {
        Self::beside_others(0..workers, workers)
    }

    /// The threads `own` of `all` that pools of this process have together: they have cores of their own if there are
    /// enough for all.
    pub(crate) fn beside_others(own: Range<usize>, all: usize) -> io::Result<Self> {
        let workers = own.len();
        assert!(workers > 0, "a pool of 0 workers");
        let cores = affinity::allowed_cores();
        let enough = all <= cores.len();
        let shared = Arc::new(PoolState {
            job: UnsafeCell::new(None),
            epoch: AtomicUsize::new(0),
            remaining: AtomicUsize::new(0),
            waiting: Mutex::new(None),
            caller_parked: AtomicBool::new(false),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            parked: (1..workers).map(|_| AtomicBool::new(false)).collect(),
            // More workers than cores: who spins keeps the one it waits for from running.
            spin: if enough { SPIN } else { Duration::ZERO },
        });
        let shares = [(); 2].map(|()| (0..workers).map(|_| Share(AtomicU64::new(0))).collect());
        let caller_core = cores.get(own.start).copied().filter(|_| enough && workers < all);
        let mut pool = Self { shared, threads: Vec::new(), turn: Mutex::new(()), caller_core, shares };
        for worker in 1..workers {
            let shared = Arc::clone(&pool.shared);
            let core = cores.get(own.start + worker).copied().filter(|_| enough);
            let body = move || {
                if let Some(core) = core {
                    affinity::pin_current_thread(core);
                }
                work(&shared, worker);
            };
            // A failure drops `pool`, which stops the threads started so far.
            pool.threads.push(thread::Builder::new().name(format!("quern-cpu-{worker}")).spawn(body)?);
        }
        Ok(pool)
    }

    /// Threads of the team.
    pub(crate) fn workers(&self) -> usize {
        self.threads.len() + 1
    }

    /// Keep the calling thread on the core of worker 0, where other pools have the other cores.
    pub(crate) fn pin_caller(&self) {
        if let Some(core) = self.caller_core {
            affinity::keep_current_thread_on(core);
        }
    }

    /// Call `f(worker)` once for each worker, on its thread, and wait for all.
    ///
    /// # Panics
    /// If a call panics, with its payload, after all others have returned. The pool stays usable.
    /// Regions do not nest: calling this from within `f` never returns.
    pub(crate) fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() {
            return f(0);
        }
        self.region(lock(&self.turn), f);
    }

    fn region(&self, turn: MutexGuard<'_, ()>, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. This function does not return, not even by unwinding,
        // before `remaining == 0`, and no worker follows the pointer after its decrement.
        let job: RegionFn =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f) };
        // SAFETY: `turn` is held and the previous region has ended, so no other thread reads or writes.
        shared.job.with_mut(|present| unsafe { *present = Some(job) });
        shared.remaining.store(self.threads.len(), Ordering::Relaxed);
        // Sequentially consistent against `parked`: either the worker sees the new epoch before it
        // parks, or we see that it is parked.
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        store_before_load();
        for (thread, parked) in self.threads.iter().zip(&shared.parked) {
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        self.wait();
        let theirs = lock(&shared.panic).take();
        drop(turn);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    fn wait(&self) {
        let shared = &*self.shared;
        let finished = || shared.remaining.load(Ordering::SeqCst) == 0;
        if spin_until(shared.spin, finished) {
            return;
        }
        *lock(&shared.waiting) = Some(thread::current());
        shared.caller_parked.store(true, Ordering::SeqCst);
        store_before_load();
        while !finished() {
            thread::park();
        }
        shared.caller_parked.store(false, Ordering::SeqCst);
    }

    /// Cut `0..n` into pieces of `grain` (the last may be shorter) and call `f(worker, piece)` for each. Up to
    /// `grain` items run on the caller alone.
    ///
    /// Each worker walks a share of neighbours from its front, so that what a kernel asks for behind its piece
    /// is what its worker reads next; who is done takes pieces off the ends of others' shares.
    pub(crate) fn for_each(&self, n: usize, grain: usize, f: impl Fn(usize, Range<usize>) + Sync) {
        let grain = grain.max(1);
        if n <= grain || self.threads.is_empty() {
            if n > 0 {
                f(0, 0..n);
            }
            return;
        }
        let turn = lock(&self.turn);
        let shares = share_out(&self.shares[0], n.div_ceil(grain));
        self.region(turn, &|worker| {
            take_all(shares, worker, |piece| f(worker, piece * grain..((piece + 1) * grain).min(n)));
        });
    }

    /// Call `f(worker, item)` for each of `0..n` and `g(worker, item)` for each of `0..m` in one region, without a
    /// barrier between them: who finds nothing left of the first goes on to the second, whose items wait themselves
    /// (`latch.rs`) for what they need of the first. All of that has been taken by then, so it will be there.
    /// `alone`: on the caller.
    pub(crate) fn two_rounds(
        &self,
        alone: bool,
        (n, f): (usize, impl Fn(usize, usize) + Sync),
        (m, g): (usize, impl Fn(usize, usize) + Sync),
    ) {
        if alone || self.threads.is_empty() {
            (0..n).for_each(|item| f(0, item));
            return (0..m).for_each(|item| g(0, item));
        }
        let turn = lock(&self.turn);
        let (first, second) = (share_out(&self.shares[0], n), share_out(&self.shares[1], m));
        self.region(turn, &|worker| {
            take_all(first, worker, |item| f(worker, item));
            take_all(second, worker, |item| g(worker, item));
        });
    }
}

/// Give each worker its share of `0..pieces`, all neighbours.
fn share_out(shares: &[Share], pieces: usize) -> &[Share] {
    let workers = shares.len();
    for (worker, share) in shares.iter().enumerate() {
        share.set(pieces * worker / workers..pieces * (worker + 1) / workers);
    }
    shares
}

/// A worker's way through its share and what is left of others'.
fn take_all(shares: &[Share], worker: usize, call: impl Fn(usize)) {
    while let Some(piece) = shares[worker].take_first() {
        call(piece);
    }
    for other in (worker + 1..shares.len()).chain(0..worker) {
        while let Some(piece) = shares[other].take_last() {
            call(piece);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // Workers catch the panics of jobs, so there is no result to look at.
            let _ = thread.join();
        }
    }
}

/// A worker's loop.
fn work(shared: &PoolState, worker: usize) {
    let mut seen = 0;
    loop {
        let changed = || shared.epoch.load(Ordering::SeqCst) != seen;
        if !spin_until(shared.spin, changed) {
            let parked = &shared.parked[worker - 1];
            parked.store(true, Ordering::SeqCst);
            store_before_load();
            while !changed() {
                thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
        seen = shared.epoch.load(Ordering::SeqCst);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch was acquired, so the caller's write of the job happened before, and it
        // writes no other before this worker's decrement below.
        let job = shared.job.with(|present| unsafe { (*present).expect("an epoch begins with a job") });
        // SAFETY: the caller keeps the closure alive until `remaining == 0`.
        let job = unsafe { &*job };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            lock(&shared.panic).get_or_insert(payload);
        }
        let was_last = shared.remaining.fetch_sub(1, Ordering::SeqCst) == 1;
        store_before_load();
        if was_last
            && shared.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = lock(&shared.waiting).clone()
        {
            caller.unpark();
        }
    }
}

/// Spin until `done` or `limit`; says whether it is done.
pub(crate) fn spin_until(limit: Duration, done: impl Fn() -> bool) -> bool {
    if done() {
        return true;
    }
    if limit.is_zero() {
        return false;
    }
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            hint::spin_loop();
        }
        if start.elapsed() > limit {
            return done();
        }
    }
}

/// Nothing behind these locks can be left half written, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_visited_once() {
        for workers in [1, 2, 3, 5] {
            let pool = Pool::new(workers).unwrap();
            let many = if cfg!(miri) { 40 } else { 1000 };
            for (n, grain) in [(0, 1), (1, 1), (7, 2), (many, 3), (many, many), (5, 0)] {
                let visits: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(n, grain, |worker, items| {
                    assert!(worker < workers);
                    items.for_each(|i| {
                        visits[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(visits.iter().all(|v| v.load(Ordering::Relaxed) == 1), "{workers} workers, {n} by {grain}");
            }
        }
    }

    #[test]
    fn a_second_round_begins_when_all_of_the_first_is_taken() {
        for workers in [1, 2, 5] {
            let pool = Pool::new(workers).unwrap();
            for (n, m) in [(0, 3), (7, 1), (100, 200), (3, 0)] {
                let taken = AtomicUsize::new(0);
                let visits: Vec<AtomicUsize> = (0..m).map(|_| AtomicUsize::new(0)).collect();
                pool.two_rounds(
                    false,
                    (n, |_, _| {
                        taken.fetch_add(1, Ordering::SeqCst);
                    }),
                    (m, |_, item| {
                        // What is taken may still have to be counted, by each of the others at most once.
                        assert!(taken.load(Ordering::SeqCst) + workers > n);
                        visits[item].fetch_add(1, Ordering::SeqCst);
                    }),
                );
                assert_eq!(taken.load(Ordering::SeqCst), n);
                assert!(visits.iter().all(|v| v.load(Ordering::SeqCst) == 1), "{workers} workers, {n} then {m}");
            }
        }
    }

    #[test]
    fn regions_follow_one_another_by_the_thousand() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        // Miri takes its time for each.
        let regions = if cfg!(miri) { 30 } else { 5000 };
        for _ in 0..regions {
            pool.run(&|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.load(Ordering::Relaxed), 3 * regions);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for unlucky in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker| assert_ne!(worker, unlucky, "worker {worker} is unlucky"));
            }));
            let payload = result.expect_err("the panic arrives");
            let text = payload.downcast_ref::<String>().expect("a formatted message");
            assert!(text.contains("is unlucky"), "{text}");
            let count = AtomicUsize::new(0);
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn several_callers_take_turns() {
        let pool = Pool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        let regions = if cfg!(miri) { 5 } else { 200 };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..regions {
                        pool.for_each(10, 1, |_, items| {
                            total.fetch_add(items.len(), Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * regions * 10);
    }
}
