//! From a row of logits to a token.
//!
//! The order of operations is SGLang's (`sampling_batch_info.py`, `sampler.py`, 0.5.23), restated in
//! [`SamplingParams`]; see `sample_row` for the arithmetic.

use std::{collections::HashMap, sync::Arc};

/// How to choose a token from a row of logits. Validated by whoever builds it; see each field's range.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; `0.0` means greedy. Finite, ≥ 0.
    pub temperature: f32,
    /// Keep the smallest set of most likely tokens whose mass reaches this; the token that crosses the
    /// boundary stays. In (0, 1].
    pub top_p: f32,
    /// Keep at most this many tokens; `None` keeps all. ≥ 1.
    pub top_k: Option<u32>,
    /// Drop tokens less likely than this share of the likeliest. In [0, 1].
    pub min_p: f32,
    /// Subtracted once for each earlier occurrence in the output. In [-2, 2].
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurs in the output. In [-2, 2].
    pub presence_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens that occur in the output. In (0, 2].
    pub repetition_penalty: f32,
    /// Added to the logit of each listed token after the mask, so it cannot revive a masked token.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Whether any penalty looks at the output so far.
    pub fn needs_counts(&self) -> bool {
        self.frequency_penalty != 0.0 || self.presence_penalty != 0.0 || self.repetition_penalty != 1.0
    }
}

/// How often each token occurs in a sequence's output.
pub type TokenCounts = HashMap<u32, u32>;

/// Tokens that may be sampled, one bit each: token `t` is bit `t % 32` of word `t / 32`.
/// Tokens beyond the last word are forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask(pub Vec<u32>);

impl TokenMask {
    /// Whether token `t` may be sampled.
    pub fn allows(&self, t: u32) -> bool {
        self.0.get(t as usize / 32).is_some_and(|word| word >> (t % 32) & 1 == 1)
    }
}

/// What a step must make of one row of logits.
#[derive(Clone, Debug)]
pub struct LogitRow {
    /// The row of the step's activations whose logits are wanted.
    pub row: usize,
    /// Sample from them, or score a known token.
    pub task: RowTask,
    /// Report this many of the likeliest tokens with their log-probabilities.
    pub top_logprobs: usize,
    /// Report the log-probabilities of these tokens too.
    pub logprob_ids: Arc<[u32]>,
}

/// The two uses of a row of logits.
#[derive(Clone, Debug)]
pub enum RowTask {
    /// Choose the next token.
    Sample {
        /// How.
        params: Arc<SamplingParams>,
        /// The request's seed; the draw depends on it and on `step` alone.
        seed: u64,
        /// Index of the token being chosen among the sequence's output tokens.
        step: u64,
        /// The output so far, where a penalty needs it.
        counts: Option<Arc<TokenCounts>>,
        /// Tokens that must not be chosen now (stop tokens below `min_new_tokens`).
        banned: Arc<[u32]>,
        /// A grammar's verdict, where there is one.
        mask: Option<Arc<TokenMask>>,
    },
    /// Report the log-probability of a token that is already known (prompt log-probabilities):
    /// plain log-softmax, no temperature and no penalties.
    Score {
        /// The known token.
        target: u32,
    },
}

/// What came of one [`LogitRow`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOutput {
    /// The chosen token, or the scored one.
    pub token: u32,
    /// Its log-probability: after penalties, mask, bias and temperature, before top-k/p/min-p. Finite.
    pub logprob: f32,
    /// The likeliest tokens, best first, ties to the lower id.
    pub top: Vec<(u32, f32)>,
    /// The tokens asked for by id, in the order asked.
    pub requested: Vec<(u32, f32)>,
    /// The logits held a NaN or no finite value: `token` means nothing and the request must fail.
    pub fault: bool,
}
