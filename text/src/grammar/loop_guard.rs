//! [`LoopGuard`]: notices an output that repeats itself, from its own tokens alone.
//!
//! A grammar keeps a model from ending where a string or a list is open, so a model that loops there runs
//! into its limit of tokens and leaves half a document. Unbounded repetition is rarely content: beyond a
//! bound the token that would go on with it is forbidden. Where the model loops again soon after, what it
//! loops in is closed, and the third time all that is open.

use std::collections::VecDeque;

/// Longest unit of a loop, in tokens.
const MAX_PERIOD: usize = 32;

/// A loop is at least this long, bytes: rows of `0, ` and of table cells are shorter.
const MIN_BYTES: usize = 192;

/// Once a loop was broken the next one is found in this part of the bounds.
const RELAPSE: usize = 4;

/// Tokens without a loop after which earlier ones no longer count.
const MEMORY_TOKENS: usize = 512;

/// What has been seen of one output. Costs [`MAX_PERIOD`] comparisons a token.
#[derive(Clone)]
pub(super) struct LoopGuard {
    /// A loop has at least this many repeats; 0: nothing is one.
    max_repeats: usize,
    /// The last tokens, at most [`MAX_PERIOD`].
    recent: VecDeque<u32>,
    /// For each period how far back every token equals the one a period before it.
    runs: [Repetition; MAX_PERIOD],
    num_broken: usize,
    since_broken: usize,
}

#[derive(Clone, Copy, Default)]
struct Repetition {
    tokens: usize,
    bytes: usize,
}

/// What to do about loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopRemedy {
    /// Forbid the tokens that go on with one.
    Break,
    /// Close what is open, where something can be closed.
    Close,
}

impl LoopGuard {
    /// A guard that lets a unit be repeated this often; 0: as often as the model likes.
    pub(super) fn new(max_repeats: usize) -> Self {
        let runs = [Repetition::default(); MAX_PERIOD];
        Self { max_repeats, recent: VecDeque::with_capacity(MAX_PERIOD), runs, num_broken: 0, since_broken: 0 }
    }

    /// The output goes on with `token`, which spells so many bytes.
    pub(super) fn observe(&mut self, token: u32, bytes: usize) {
        if self.max_repeats == 0 {
            return;
        }
        for (run, before) in self.runs.iter_mut().zip(self.recent.iter().rev()) {
            *run = if *before == token {
                Repetition { tokens: run.tokens + 1, bytes: run.bytes + bytes }
            } else {
                Repetition::default()
            };
        }
        if self.recent.len() == MAX_PERIOD {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
        self.since_broken += 1;
        if self.since_broken > MEMORY_TOKENS {
            self.num_broken = 0;
        }
    }

    /// The tokens that would go on with a loop; none while there is no loop.
    pub(super) fn continuations(&self) -> Vec<u32> {
        if self.max_repeats == 0 {
            return Vec::new();
        }
        let part = if self.num_broken == 0 { 1 } else { RELAPSE };
        let (repeats, bytes) = (self.max_repeats.div_ceil(part), MIN_BYTES / part);
        let periods = self.runs.iter().zip(1..).zip(self.recent.iter().rev());
        let loops =
            periods.filter(|((run, period), _)| run.tokens >= repeats.saturating_mul(*period) && run.bytes >= bytes);
        let mut tokens: Vec<u32> = loops.map(|(_, token)| *token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// What to do at this token, if it is inside of a loop (`loops`) or not: break the first one, close what
    /// the next ones are in, and after the third close whatever is open.
    pub(super) fn remedy(&self, loops: bool) -> Option<LoopRemedy> {
        match (loops, self.num_broken) {
            (true, 0) => Some(LoopRemedy::Break),
            (true, _) | (false, 3..) => Some(LoopRemedy::Close),
            (false, _) => None,
        }
    }

    /// The loop was broken. The next token begins a new count.
    pub(super) fn broken(&mut self) {
        self.num_broken += 1;
        self.since_broken = 0;
        self.recent.clear();
        self.runs = [Repetition::default(); MAX_PERIOD];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u32; 0] = [];

    /// A guard that has seen `unit` so many times, in tokens of `bytes` each.
    fn after(unit: &[u32], times: usize, bytes: usize) -> LoopGuard {
        let mut guard = LoopGuard::new(16);
        repeat(&mut guard, unit, times, bytes);
        guard
    }

    fn repeat(guard: &mut LoopGuard, unit: &[u32], times: usize, bytes: usize) {
        (0..times).flat_map(|_| unit).for_each(|token| guard.observe(*token, bytes));
    }

    #[test]
    fn a_loop_of_any_period_is_found_and_its_next_token_named() {
        for period in [1, 2, 3, 31, 32] {
            let unit: Vec<u32> = (100..100 + period).collect();
            assert_eq!(after(&unit, 16, 12).continuations(), NONE, "period {period}: not yet");
            let mut guard = after(&unit, 17, 12);
            assert_eq!(guard.continuations(), [100], "period {period}");
            guard.observe(unit[0], 12);
            assert_eq!(guard.continuations(), [unit[1 % unit.len()]], "period {period}, inside of the unit");
        }
        let long: Vec<u32> = (0..33).collect();
        assert_eq!(after(&long, 40, 12).continuations(), NONE, "beyond the longest period");
    }

    #[test]
    fn repetition_below_either_bound_is_content() {
        assert_eq!(after(&[7], MIN_BYTES, 1).continuations(), NONE, "many repeats, few bytes");
        assert_eq!(after(&[7], MIN_BYTES + 1, 1).continuations(), [7]);
        assert_eq!(after(&[7], 10, 100).continuations(), NONE, "many bytes, few repeats");
        let mut rows = LoopGuard::new(16);
        for row in 0..100 {
            repeat(&mut rows, &[1, 2], 8, 2);
            rows.observe(1000 + row, 5);
            assert_eq!(rows.continuations(), NONE, "row {row}");
        }
    }

    #[test]
    fn a_loop_that_changes_its_unit_is_another_one() {
        let mut guard = after(&[1], 15, 100);
        repeat(&mut guard, &[2], 16, 100);
        assert_eq!(guard.continuations(), NONE);
        guard.observe(2, 100);
        assert_eq!(guard.continuations(), [2]);
        guard.observe(3, 100);
        assert_eq!(guard.continuations(), NONE, "any other token ends it");
    }

    #[test]
    fn a_relapse_is_found_sooner_and_treated_harder() {
        let mut guard = after(&[1], 17, 100);
        assert_eq!((guard.remedy(true), guard.remedy(false)), (Some(LoopRemedy::Break), None));
        guard.broken();
        repeat(&mut guard, &[2], 4, 100);
        assert_eq!(guard.continuations(), NONE);
        guard.observe(2, 100);
        assert_eq!(guard.continuations(), [2]);
        assert_eq!((guard.remedy(true), guard.remedy(false)), (Some(LoopRemedy::Close), None));
        guard.broken();
        assert_eq!(guard.remedy(false), None);
        guard.broken();
        assert_eq!(guard.remedy(false), Some(LoopRemedy::Close), "the third time all that is open");
        (0..MEMORY_TOKENS as u32).for_each(|token| guard.observe(token, 1));
        assert_eq!(guard.remedy(false), Some(LoopRemedy::Close));
        guard.observe(7, 1);
        assert_eq!(guard.remedy(false), None, "long ago");
    }

    #[test]
    fn without_a_bound_nothing_is_a_loop() {
        let mut guard = LoopGuard::new(0);
        repeat(&mut guard, &[1], 10_000, 100);
        assert_eq!(guard.continuations(), NONE);
    }
}
