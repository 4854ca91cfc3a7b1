//! [`Latches`]: what one round of work waits for of the round before it, without a barrier between them.
//!
//! A latch guards a value that is made of several parts. The worker that arrives with the last part finishes the value and
//! opens the latch; workers that need the value wait for that latch alone.

use crate::sync::{AtomicBool, AtomicUsize, Ordering, hint, thread};

/// Looks at a latch before the core is offered to others.
const SPINS: usize = 4096;

/// Latches by number.
#[derive(Debug, Default)]
pub(crate) struct Latches {
    /// Parts that are missing, and one for finishing.
    missing: Vec<AtomicUsize>,
    /// A part panicked, so that some latch may never open.
    poisoned: AtomicBool,
}

impl Latches {
    /// `count` latches, open.
    pub(crate) fn reset(&mut self, count: usize) {
        self.missing.clear();
        self.missing.resize_with(count, || AtomicUsize::new(0));
        self.poisoned = AtomicBool::new(false);
    }

    /// One part more for latch `number`, before work begins.
    pub(crate) fn add(&mut self, number: usize) {
        let missing = self.missing[number].load(Ordering::Relaxed);
        self.missing[number] = AtomicUsize::new(missing.max(1) + 1);
    }

    /// Make a part of what latch `number` stands before, and `finish` it if that was the last. A panic lets all who
    /// wait go on; the pool reports it when they are done.
    pub(crate) fn arrive(&self, number: usize, part: impl FnOnce(), finish: impl FnOnce()) {
        let unless_done = PoisonOnUnwind(&self.poisoned);
        part();
        // Acquires what the others brought.
        if self.missing[number].fetch_sub(1, Ordering::AcqRel) == 2 {
            finish();
            self.missing[number].store(0, Ordering::Release);
        }
        std::mem::forget(unless_done);
    }

    /// Wait until latch `number` is open; says whether it is, or will never be.
    pub(crate) fn wait(&self, number: usize) -> bool {
        let mut spins = 0;
        while self.missing[number].load(Ordering::Acquire) > 0 {
            if self.poisoned.load(Ordering::Relaxed) {
                return false;
            }
            spins += 1;
            if spins < SPINS { hint::spin_loop() } else { thread::yield_now() }
        }
        true
    }
}

/// Sets its flag when it is dropped.
struct PoisonOnUnwind<'a>(&'a AtomicBool);

impl Drop for PoisonOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::pool::Pool;

    #[test]
    fn what_waits_sees_all_parts_and_the_finish() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..if cfg!(miri) { 3 } else { 200 } {
            let (latches_count, parts) = (7, 5);
            let mut latches = Latches::default();
            latches.reset(latches_count);
            (0..latches_count * parts).for_each(|part| latches.add(part / parts));
            let brought: Vec<_> = (0..latches_count * parts).map(|_| AtomicUsize::new(0)).collect();
            let finished: Vec<_> = (0..latches_count).map(|_| AtomicUsize::new(0)).collect();
            let sum = |latch: usize| {
                brought[latch * parts..][..parts].iter().map(|part| part.load(Ordering::Relaxed)).sum::<usize>()
            };
            let bring = |_: usize, part: usize| {
                let latch = part / parts;
                latches.arrive(
                    latch,
                    || brought[part].store(part + 1, Ordering::Relaxed),
                    || finished[latch].store(sum(latch), Ordering::Relaxed),
                );
            };
            let check = |_: usize, latch: usize| {
                assert!(latches.wait(latch));
                let want = (latch * parts..(latch + 1) * parts).map(|part| part + 1).sum::<usize>();
                assert_eq!(finished[latch].load(Ordering::Relaxed), want);
            };
            pool.two_rounds(false, (latches_count * parts, bring), (latches_count, check));
        }
    }

    #[test]
    fn a_panic_leaves_no_thread_waiting() {
        let pool = Pool::new(3).unwrap();
        let mut latches = Latches::default();
        latches.reset(2);
        latches.add(0);
        latches.add(1);
        let bring = |_: usize, latch: usize| latches.arrive(latch, || assert_eq!(latch, 0, "part {latch}"), || ());
        let wait = |_: usize, latch: usize| {
            latches.wait(latch);
        };
        let result = catch_unwind(AssertUnwindSafe(|| pool.two_rounds(false, (2, bring), (2, wait))));
        assert!(result.is_err());
    }
}
