//! The whole server in simulation: its front, routes, streams, scheduler and engine, with connections, clients, clocks,
//! model and files that are seeded fakes; hours in seconds.
//!
//! Every request must end once, with an answer or an error in the form of its API; the words must be, to the bit, what
//! the same request gives alone; no tenant may see or end what is another's; every page must come back. Each seed is a
//! world with a configuration of its own (`swarm.rs`), clients that do what they should not (`trick.rs`), and a server that
//! is let alone, drained or killed at last.
//!
//! `QUERN_SEED=n` replays one seed; `QUERN_SIM_WORLDS=n` plays `n` of them, from `QUERN_SIM_FIRST=n` on.

mod ask;
mod client;
mod judge;
mod model;
mod reply;
mod rng;
#[path = "../support/mod.rs"]
mod support;
mod swarm;
mod tally;
mod transport;
mod trick;
mod wire;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use mimalloc::MiMalloc;
use tally::Tally;
use world::{Fault, World};

/// That of the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Requests of a world.
const REQUESTS: usize = 1000;

/// Worlds of a usual run.
const WORLDS: u64 = 1060;

/// What a usual run holds at least.
const LEAST_REQUESTS: u64 = 1_000_000;
const LEAST_FAULTS: u64 = 100_000;
const LEAST_HOURS: f64 = 200.0;

/// The seed of the first world.
const FIRST: u64 = 1;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Play worlds on all cores; the seed of one that fails is printed.
fn play(seeds: impl Iterator<Item = u64>) -> Tally {
    let seeds: Vec<u64> = seeds.collect();
    let (next, total, failed) = (AtomicU64::new(0), Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    let threads = thread::available_parallelism().map_or(1, |count| count.get()).min(seeds.len());
    thread::scope(|scope| {
        let work = || {
            while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                match catch_unwind(AssertUnwindSafe(|| World::run(seed, REQUESTS))) {
                    Ok(tally) => total.lock().expect("no panic while it is held").add(&tally),
                    Err(_) => {
                        eprintln!("the world of QUERN_SEED={seed} fails");
                        failed.lock().expect("no panic while it is held").push(seed);
                    }
                }
            }
        };
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let failed = failed.into_inner().expect("no panic while it was held");
    assert!(failed.is_empty(), "worlds that fail: {failed:?}; QUERN_SEED=n plays one of them again");
    total.into_inner().expect("no panic while it was held")
}

#[test]
fn whatever_happens_each_request_ends_once_with_its_own_words() {
    let began = Instant::now();
    let (seed, worlds) = (env("QUERN_SEED"), env("QUERN_SIM_WORLDS"));
    let first = env("QUERN_SIM_FIRST").unwrap_or(FIRST);
    let tally = match seed {
        Some(seed) => play(std::iter::once(seed)),
        None => play(first..first + worlds.unwrap_or(WORLDS)),
    };
    let hours = tally.seconds / 3600.0;
    eprintln!(
        "{} requests, {} answered whole, {} of these compared to the bit, {} faults of {} kinds, {hours:.1} hours, {} steps, in {:.1} s",
        tally.requests,
        tally.whole,
        tally.compared,
        tally.num_faults(),
        tally.faults.len(),
        tally.steps,
        began.elapsed().as_secs_f64()
    );
    eprintln!("statuses: {:?}", tally.statuses);
    tally.faults.iter().for_each(|(kind, count)| eprintln!("{count:>8}  {kind}"));
    if seed.is_none() {
        assert!(tally.whole > tally.requests / 2 && tally.compared > tally.whole / 4, "{tally:?}");
        assert!(tally.faults.len() >= 25, "{tally:?}");
    }
    if (seed, worlds) == (None, None) {
        let is_enough = tally.requests >= LEAST_REQUESTS && tally.num_faults() >= LEAST_FAULTS && hours >= LEAST_HOURS;
        assert!(is_enough, "too few worlds");
    }
}

#[test]
fn a_seed_is_a_history() {
    for seed in [3, 11, 29] {
        let [first, second] = [(), ()].map(|()| World::run(seed, REQUESTS));
        assert_eq!(first.statuses, second.statuses, "seed {seed}");
        assert_eq!((first.fingerprint, first.steps), (second.fingerprint, second.steps), "seed {seed}");
    }
}

/// Let the first of something fail, then the second, and so on until there are no more of it; says how many there were.
fn each(fault: impl Fn(u64) -> Fault) -> u64 {
    (1..).find(|&n| !World::with_fault(fault(n))).expect("a world has an end") - 1
}

#[test]
fn whichever_write_to_a_socket_fails_costs_its_client_alone() {
    let writes = each(Fault::Write);
    eprintln!("{writes} writes");
    assert!(writes > 100);
}

#[test]
fn whichever_turn_the_engine_ends_at_everybody_hears_of_it() {
    let turns = each(Fault::Turn);
    eprintln!("{turns} turns");
    assert!(turns > 100);
}
