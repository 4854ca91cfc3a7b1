//! [`NewTokenRatio`]: how much of the running requests' `max_new_tokens` to expect.
//!
//! Admitting as if every request ran to its limit wastes the pool; admitting as if none did ends in
//! retractions. Like SGLang (0.5.23, `schedule_policy.py`) the ratio starts high, decays with each
//! step that needs no retraction, and is raised after one.

/// Output tokens of one request that are looked ahead at most.
const LOOK_AHEAD: usize = 4096;

/// Decay of the ratio in a step: from the usual start to its floor in 600 steps.
const DECAY: f64 = 0.7 * (1.0 - 0.14) / 600.0;

/// Share of `max_new_tokens` that running requests are expected to use.
#[derive(Clone, Debug)]
pub struct NewTokenRatio {
    ratio: f64,
    min_ratio: f64,
}

impl NewTokenRatio {
    /// The start is 0.7 of `max_new_tokens`, scaled by `conservativeness`; the floor 0.14 of the start.
    pub fn new(conservativeness: f64) -> Self {
        let start = (0.7 * conservativeness).clamp(0.0, 1.0);
        Self { ratio: start, min_ratio: start * 0.14 }
    }

    /// The current ratio.
    pub fn get(&self) -> f64 {
        self.ratio
    }

    /// Tokens to expect of a request with `remaining` output tokens allowed. One that ignores its
    /// stop tokens will use them all.
    pub fn expected(&self, remaining: usize, ignore_eos: bool) -> usize {
        let ahead = remaining.min(LOOK_AHEAD) as f64;
        (if ignore_eos { ahead } else { ahead * self.ratio }).ceil() as usize
    }

    /// A step went by without retraction.
    pub fn decay(&mut self) {
        self.ratio = (self.ratio - DECAY).max(self.min_ratio);
    }

    /// Requests were retracted; the others have put out `decoded` tokens of at most `allowed`.
    pub fn raise(&mut self, decoded: usize, allowed: usize, requests: usize) {
        let ratio = (decoded + 20 * requests) as f64 / (allowed + 1) as f64;
        self.ratio = ratio.clamp(self.ratio, 1.0);
    }
}
