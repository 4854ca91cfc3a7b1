//! The pool of workers and the latches of `cpu`, under every order in which their threads may interleave:
//! `./test loom`.
//!
//! The files are those of `cpu`; `sync` here puts loom's types in the place of the standard library's, which then run
//! each model again and again, every time with another order, and fail on a data race, a deadlock or an assertion.
//! Orders with more than three preemptions in one thread are left out: they are too many.

use loom::model::Builder;

use crate::{
    latch::Latches,
    pool::Pool,
    sync::{Arc, AtomicUsize, Ordering, UnsafeCell, thread},
};

#[path = "../../cpu/src/latch.rs"]
mod latch;
#[path = "../../cpu/src/pool.rs"]
mod pool;

/// loom's types by the names of `cpu/src/sync.rs`.
mod sync {
    pub(crate) use loom::{
        cell::UnsafeCell,
        hint,
        sync::{
            Arc, Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        },
        thread,
    };

    /// loom takes sequentially consistent accesses for weaker ones, but not fences.
    pub(crate) fn store_before_load() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// No cores: workers do not spin, which would only repeat the same load.
mod affinity {
    pub(crate) fn allowed_cores() -> Vec<usize> {
        Vec::new()
    }

    pub(crate) fn pin_current_thread(_: usize) {}

    pub(crate) fn keep_current_thread_on(_: usize) {}
}

/// Values that are written on one thread and read on another; loom checks that no two accesses meet.
struct Cells([UnsafeCell<usize>; 2]);

// SAFETY: every access goes through loom, which fails the model if two of them race.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

impl Cells {
    fn new() -> Self {
        Self([(); 2].map(|()| UnsafeCell::new(0)))
    }

    fn add(&self, index: usize, value: usize) {
        // SAFETY: see `Cells`.
        self.0[index].with_mut(|cell| unsafe { *cell += value });
    }

    fn get(&self, index: usize) -> usize {
        // SAFETY: see `Cells`.
        self.0[index].with(|cell| unsafe { *cell })
    }
}

fn two_workers() -> Pool {
    Pool::beside_others(0..2, 2).expect("threads")
}

fn main() {
    check("pool: regions follow one another, and the caller sees what workers wrote", || {
        let pool = two_workers();
        let cells = Cells::new();
        for round in 1..3 {
            pool.run(&|worker| cells.add(worker, round));
            assert_eq!([cells.get(0), cells.get(1)], [(1..=round).sum(); 2]);
        }
    });
    check("pool: each piece is taken once, whoever takes it", || {
        let pool = two_workers();
        let cells = Cells::new();
        pool.for_each(2, 1, |_, pieces| pieces.for_each(|piece| cells.add(piece, 1)));
        assert_eq!([cells.get(0), cells.get(1)], [1, 1]);
    });
    check("pool and latches: a second round waits for the parts that it needs, and for nothing else", || {
        let pool = two_workers();
        let mut latches = Latches::default();
        latches.reset(1);
        latches.add(0);
        latches.add(0);
        let (parts, whole) = (Cells::new(), Cells::new());
        let make = |_: usize, part: usize| {
            let finish = || whole.add(0, parts.get(0) + parts.get(1));
            latches.arrive(0, || parts.add(part, part + 1), finish);
        };
        let needs = |_: usize, _: usize| {
            assert!(latches.wait(0));
            assert_eq!(whole.get(0), 3);
        };
        pool.two_rounds(false, (2, make), (1, needs));
    });
    check("latches: who arrives last finishes, and who waits sees it", || {
        let mut latches = Latches::default();
        latches.reset(1);
        latches.add(0);
        latches.add(0);
        let shared = Arc::new((latches, Cells::new(), Cells::new(), AtomicUsize::new(0)));
        let arrive = |part: usize| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (latches, parts, whole, finished) = &*shared;
                let finish = || {
                    finished.fetch_add(1, Ordering::Relaxed);
                    whole.add(0, parts.get(0) + parts.get(1));
                };
                latches.arrive(0, || parts.add(part, part + 1), finish);
            })
        };
        let threads = [arrive(0), arrive(1)];
        let (latches, _, whole, finished) = &*shared;
        assert!(latches.wait(0));
        assert_eq!((whole.get(0), finished.load(Ordering::Relaxed)), (3, 1));
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

/// Run `model` under every order, and say how many there were.
fn check(what: &str, model: impl Fn() + Sync + Send + 'static) {
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&orders);
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("{what}: {} orders", orders.load(std::sync::atomic::Ordering::Relaxed));
}
