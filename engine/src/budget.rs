//! [`Budget`]: the part of a step that is left for prompts.

/// Work of one step, in tokens at the beginning of a context.
///
/// A token far into a context costs more than its matrix products: it attends to all before it. While
/// no sequence decodes, that only makes a step longer. While some do, it would make
/// each of them stutter, so tokens are then weighed by their depth and deep chunks get shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    left: f64,
    full: f64,
    balanced_context: f64,
}

impl Budget {
    /// `tokens` that cost the same wherever they stand.
    pub(crate) fn flat(tokens: usize) -> Self {
        Self { left: tokens as f64, full: tokens as f64, balanced_context: f64::INFINITY }
    }

    /// `tokens` at the beginning of a context, fewer further in: at `balanced_context` attention costs
    /// as much as all else.
    pub(crate) fn weighed(tokens: usize, balanced_context: usize) -> Self {
        Self { balanced_context: balanced_context.max(1) as f64, ..Self::flat(tokens) }
    }

    /// Whether there is room for a token of a fresh context.
    pub(crate) fn is_spent(&self) -> bool {
        self.left < 1.0
    }

    /// Most tokens from position `start` on.
    pub(crate) fn room(&self, start: usize) -> usize {
        (self.left / self.weight(start)) as usize
    }

    /// `tokens` from `start` on are planned.
    pub(crate) fn spend(&mut self, start: usize, tokens: usize) {
        self.left -= tokens as f64 * self.weight(start);
    }

    /// Split off the part of other prompts while a prompt at `start` wants `tokens`: it keeps three quarters,
    /// or less if it wants less.
    pub(crate) fn split(&mut self, start: usize, tokens: usize) -> Self {
        let wanted = tokens as f64 * self.weight(start);
        let kept = wanted.min((0.75 * self.left).ceil()).min(self.left);
        let others = Self { left: self.left - kept, ..*self };
        self.left = kept;
        others
    }

    /// Split off `tokens` at the beginning of a context, or all that is left.
    pub(crate) fn part(&mut self, tokens: usize) -> Self {
        let part = Self { left: (tokens as f64).min(self.left), ..*self };
        self.left -= part.left;
        part
    }

    /// Take back what other prompts left of their part.
    pub(crate) fn join(&mut self, rest: Self) {
        self.left += rest.left;
    }

    /// Cost of a token. At most half of the step, so that the deepest prompt moves on too.
    fn weight(&self, start: usize) -> f64 {
        (1.0 + start as f64 / self.balanced_context).min((0.5 * self.full).max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_tokens_cost_more() {
        let budget = Budget::weighed(512, 8000);
        assert_eq!([0, 8000, 24_000, 104_000].map(|start| budget.room(start)), [512, 256, 128, 36]);
        assert_eq!(Budget::flat(512).room(104_000), 512);
    }

    #[test]
    fn every_prompt_moves_on_however_deep_it_is_and_however_small_the_step() {
        for tokens in 1..20 {
            for start in [0, 10, 1_000_000_000] {
                for wanted in [1, 5, 1000] {
                    let mut budget = Budget::weighed(tokens, 10);
                    let others = budget.split(start, wanted);
                    assert!(budget.room(start) >= 1, "{tokens} {start} {wanted}");
                    assert!(budget.room(0) + others.room(0) <= tokens);
                }
            }
        }
    }

    #[test]
    fn what_one_prompt_leaves_is_spent_by_another() {
        let mut budget = Budget::flat(512);
        let mut others = budget.split(0, 1000);
        assert_eq!((budget.room(0), others.room(0)), (384, 128));
        others.spend(0, 28);
        budget.join(others);
        assert_eq!(budget.room(0), 484);
        assert_eq!(budget.split(0, 10).room(0), 474, "a prompt near its end keeps what it needs");
    }
}
