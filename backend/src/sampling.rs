//! From a row of logits to a token.
//!
//! The order of operations is SGLang's (`sampling_batch_info.py`, `sampler.py`, 0.5.23); see
//! [`sample_row`], the scalar twin of [`Backend::sample`](crate::Backend::sample), for the arithmetic.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

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
    /// What log-probabilities are of. They never change which token is chosen.
    pub logprobs_of: LogprobsOf,
}

/// The distribution whose log-probabilities are reported for a sampled token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogprobsOf {
    /// The model's own, as OpenAI means them: log-softmax of the logits as the network left them. vLLM's
    /// `raw_logprobs`.
    #[default]
    Model,
    /// The distribution the token was drawn from, before top-k, top-p and min-p: after penalties, bans, mask,
    /// bias and temperature. vLLM's `processed_logprobs`; what SGLang reports.
    Sampler,
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
            logprobs_of: LogprobsOf::default(),
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
///
/// May be filled after the step has begun: a grammar's mask is computed beside the network, and is wanted
/// only when the logits are there. Whoever reads it first waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask(OnceLock<Vec<u32>>);

impl TokenMask {
    /// A mask of these words.
    pub fn new(words: Vec<u32>) -> Self {
        Self(OnceLock::from(words))
    }

    /// A mask that somebody promises to [`fill`](Self::fill), whatever happens.
    pub fn pending() -> Self {
        Self(OnceLock::new())
    }

    /// Keep the promise. A mask that is filled stays as it is.
    pub fn fill(&self, words: Vec<u32>) {
        let _ = self.0.set(words);
    }

    /// The words; waits for them.
    pub fn words(&self) -> &[u32] {
        self.0.wait()
    }

    /// Whether token `t` may be sampled.
    pub fn allows(&self, t: u32) -> bool {
        self.words().get(t as usize / 32).is_some_and(|word| word >> (t % 32) & 1 == 1)
    }
}

/// What a step must make of one row of logits.
#[derive(Clone, Debug)]
pub struct LogitTask {
    /// Sample from them, or score a known token.
    pub task: RowTask,
    /// Report the log-probability of the chosen token at all. A greedy row that does not is one pass
    /// over the logits. Scoring always reports it.
    pub want_logprob: bool,
    /// Report this many of the likeliest tokens with their log-probabilities.
    pub top_logprobs: usize,
    /// Report the log-probabilities of these tokens too.
    pub logprob_ids: Arc<[u32]>,
}

impl LogitTask {
    /// Whether any log-probability is asked for.
    pub fn reports(&self) -> bool {
        let scores = matches!(self.task, RowTask::Score { .. });
        scores || self.want_logprob || self.top_logprobs > 0 || !self.logprob_ids.is_empty()
    }

    /// Whether the token of the largest logit is all that is asked for, so that one pass over the row is enough.
    pub fn is_plain_argmax(&self) -> bool {
        let RowTask::Sample { params, banned, mask, .. } = &self.task else { return false };
        params.temperature == 0.0
            && !params.needs_counts()
            && params.logit_bias.is_empty()
            && banned.is_empty()
            && mask.is_none()
            && !self.reports()
    }
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

/// What came of one [`LogitTask`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOutput {
    /// The chosen token, or the scored one.
    pub token: u32,
    /// Its log-probability, of the distribution that [`SamplingParams::logprobs_of`] names. Finite (an
    /// impossible token has `f32::MIN`); 0 where it was not asked for.
    pub logprob: f32,
    /// The likeliest tokens, best first, ties to the lower id.
    pub top: Vec<(u32, f32)>,
    /// The tokens asked for by id, in the order asked.
    pub requested: Vec<(u32, f32)>,
    /// Why there is no token: then `token` means nothing and the request must fail.
    pub fault: Option<LogitFault>,
}

/// Why no token could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitFault {
    /// The network's logits held a NaN, a +∞ or no finite value.
    NotFinite,
    /// The logits were sound; bans, mask, penalties and bias of the request left no finite one.
    NoToken,
}

/// Temperatures below this mean greedy, as in SGLang.
const GREEDY_BELOW: f32 = 1e-6;

/// Do what `task` asks with one row of logits, `[vocab]`; overwrites them.
///
/// In this order: frequency and presence penalties; banned tokens to −∞; repetition penalty; the mask;
/// the bias (added after the mask, so a masked token stays impossible); then, for temperature 0, the
/// largest logit (ties to the lower id), else softmax of `logits / temperature`, the filters top-k,
/// top-p and min-p, each judging the unfiltered distribution, and one draw.
///
/// A NaN, a +∞, or no finite logit at all is reported as `fault`, by whose doing it is: no token is made up.
pub fn sample_row(logits: &mut [f32], task: &LogitTask) -> RowOutput {
    let failed = |fault| RowOutput { fault: Some(fault), ..RowOutput::default() };
    if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) || !logits.iter().any(|x| x.is_finite()) {
        return failed(LogitFault::NotFinite);
    }
    match &task.task {
        RowTask::Score { target } => report(logits, 1.0, *target, task),
        RowTask::Sample { params, seed, step, counts, banned, mask } => {
            // A copy only where it is read: a row of the vocabulary is half a megabyte.
            let of_model = params.logprobs_of == LogprobsOf::Model && task.reports();
            let own = of_model.then(|| logits.to_vec());
            adjust(logits, params, counts.as_deref(), banned, mask.as_deref());
            let (best, top) = argmax(logits);
            if !top.is_finite() || logits.iter().any(|x| x.is_nan()) {
                return failed(LogitFault::NoToken);
            }
            let greedy = params.temperature < GREEDY_BELOW;
            let token = if greedy { best } else { draw(logits, params, uniform(*seed, *step)) };
            match own {
                Some(own) => report(&own, 1.0, token, task),
                None => report(logits, if greedy { 1.0 } else { params.temperature }, token, task),
            }
        }
    }
}

/// Index and value of the largest logit, ties to the lower index.
pub fn argmax(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > best.1 {
            best = (i as u32, x);
        }
    }
    best
}

/// Penalties, bans, mask and bias.
fn adjust(
    logits: &mut [f32],
    params: &SamplingParams,
    counts: Option<&TokenCounts>,
    banned: &[u32],
    mask: Option<&TokenMask>,
) {
    for (&token, &count) in counts.into_iter().flatten() {
        if let Some(x) = logits.get_mut(token as usize) {
            *x -= params.frequency_penalty * count as f32 + params.presence_penalty;
        }
    }
    for &token in banned {
        if let Some(x) = logits.get_mut(token as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
    for &token in counts.into_iter().flat_map(TokenCounts::keys) {
        if let Some(x) = logits.get_mut(token as usize) {
            *x = if *x > 0.0 { *x / params.repetition_penalty } else { *x * params.repetition_penalty };
        }
    }
    if let Some(mask) = mask {
        let words = mask.words().iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            for (bit, x) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
    }
    for &(token, bias) in &params.logit_bias {
        if let Some(x) = logits.get_mut(token as usize) {
            *x += bias;
        }
    }
}

/// One token of `softmax(logits / temperature)`, filtered and renormalised, at quantile `u` of [0, 1).
///
/// Candidates in descending order (ties: lower id first) are dropped from rank `top_k` on, where the
/// mass before them already exceeds `top_p`, and where they fall below `min_p` of the likeliest. All
/// three judge the unfiltered distribution (SGLang's "pytorch" sampling backend).
fn draw(logits: &[f32], params: &SamplingParams, u: f64) -> u32 {
    let top = argmax(logits).1;
    let mass = |x: f32| f64::from((x - top) / params.temperature).exp();
    let total: f64 = logits.iter().map(|&x| mass(x)).sum();

    let unfiltered = params.top_k.is_none() && params.top_p >= 1.0 && params.min_p <= 0.0;
    if unfiltered {
        // The order of candidates does not change the distribution: walk by id, no sorting.
        return at_quantile(logits.iter().enumerate().map(|(i, &x)| (i as u32, mass(x))), u * total);
    }

    let mut candidates = likeliest(logits, params.top_k.map_or(logits.len(), |k| k as usize));
    let mut before = 0.0;
    let mut keep = 0;
    for &(_, x) in &candidates {
        let p = mass(x);
        // The first candidate always stays: nothing is before it and its share of the top is 1.
        if keep > 0 && (before > f64::from(params.top_p) * total || p < f64::from(params.min_p)) {
            break;
        }
        before += p;
        keep += 1;
    }
    candidates.truncate(keep);
    at_quantile(candidates.iter().map(|&(i, x)| (i, mass(x))), u * before)
}

/// The first token whose cumulated mass exceeds `target`; the last one with any mass if rounding left
/// none.
fn at_quantile(weighted: impl Iterator<Item = (u32, f64)>, target: f64) -> u32 {
    let mut cumulated = 0.0;
    let mut last = 0;
    for (token, mass) in weighted {
        if mass > 0.0 {
            cumulated += mass;
            last = token;
            if cumulated > target {
                break;
            }
        }
    }
    last
}

/// The `count` largest possible logits with their tokens, descending, ties to the lower id.
fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let possible = logits.iter().enumerate().filter(|(_, x)| **x > f32::NEG_INFINITY);
    let mut ranked: Vec<(u32, f32)> = possible.map(|(i, &x)| (i as u32, x)).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < ranked.len() {
        ranked.select_nth_unstable_by(count - 1, order);
        ranked.truncate(count);
    }
    ranked.sort_unstable_by(order);
    ranked
}

/// The output for `token`: log-softmax of `logits / temperature` at the places the task names.
fn report(logits: &[f32], temperature: f32, token: u32, task: &LogitTask) -> RowOutput {
    if !task.reports() {
        return RowOutput { token, ..RowOutput::default() };
    }
    let top = argmax(logits).1;
    let sum: f64 = logits.iter().map(|&x| f64::from((x - top) / temperature).exp()).sum();
    let logprob = |x: f32| ((f64::from((x - top) / temperature) - sum.ln()) as f32).max(f32::MIN);
    let of = |t: u32| logits.get(t as usize).map_or(f32::MIN, |&x| logprob(x));
    RowOutput {
        token,
        logprob: of(token),
        top: likeliest(logits, task.top_logprobs).into_iter().map(|(t, x)| (t, logprob(x))).collect(),
        requested: task.logprob_ids.iter().map(|&t| (t, of(t))).collect(),
        fault: None,
    }
}

/// A uniform number of [0, 1) that depends on `seed` and `step` alone.
///
/// SplitMix64's finaliser over both (Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number
/// Generators"), the upper 53 bits.
fn uniform(seed: u64, step: u64) -> f64 {
    fn mix(mut z: u64) -> u64 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = mix(seed.wrapping_add(GOLDEN));
    let bits = mix(key.wrapping_add(step.wrapping_add(1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(params: SamplingParams, seed: u64, step: u64) -> LogitTask {
        LogitTask {
            task: RowTask::Sample { params: params.into(), seed, step, counts: None, banned: Arc::new([]), mask: None },
            want_logprob: true,
            top_logprobs: 0,
            logprob_ids: Arc::new([]),
        }
    }

    fn sampled(logits: &[f32], task: &LogitTask) -> RowOutput {
        sample_row(&mut logits.to_vec(), task)
    }

    fn with(task: &mut LogitTask, f: impl FnOnce(&mut SamplingParams, &mut Option<Arc<TokenCounts>>, &mut Arc<[u32]>)) {
        let RowTask::Sample { params, counts, banned, .. } = &mut task.task else { unreachable!("rows sample here") };
        let mut changed = SamplingParams::clone(params);
        f(&mut changed, counts, banned);
        *params = changed.into();
    }

    /// Probabilities after every filter, in plain loops over a full sort.
    fn naive(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mass: Vec<f64> = logits.iter().map(|x| f64::from((x - top) / params.temperature).exp()).collect();
        let total: f64 = mass.iter().sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let (mut kept, mut before) = (vec![0.0; logits.len()], 0.0);
        for (rank, &i) in order.iter().enumerate() {
            let in_k = params.top_k.is_none_or(|k| rank < k as usize);
            let in_p = before / total <= f64::from(params.top_p);
            let in_min = mass[i] / mass[order[0]] >= f64::from(params.min_p);
            if rank == 0 || (in_k && in_p && in_min) {
                kept[i] = mass[i];
            }
            before += mass[i];
        }
        let sum: f64 = kept.iter().sum();
        kept.iter().map(|k| k / sum).collect()
    }

    #[test]
    fn draws_follow_the_filtered_distribution() {
        let logits = [2.0, 1.0, 0.5, 0.4, -1.0, -3.0, 1.5, 0.0];
        let cases = [
            SamplingParams::default(),
            SamplingParams { temperature: 0.7, top_p: 0.8, top_k: Some(5), ..SamplingParams::default() },
            SamplingParams { min_p: 0.3, ..SamplingParams::default() },
            SamplingParams { temperature: 2.0, top_k: Some(3), ..SamplingParams::default() },
        ];
        for params in cases {
            let expected = naive(&logits, &params);
            let n = 20_000u32;
            let mut seen = [0u32; 8];
            for step in 0..n {
                seen[sampled(&logits, &row(params.clone(), 7, u64::from(step))).token as usize] += 1;
            }
            let mut chi2 = 0.0;
            for (&count, &p) in seen.iter().zip(&expected) {
                let mean = p * f64::from(n);
                if p == 0.0 {
                    assert_eq!(count, 0, "{params:?}: a filtered token was drawn");
                } else {
                    chi2 += (f64::from(count) - mean).powi(2) / mean;
                }
            }
            // The 99.99 % quantile of chi-squared with 7 degrees of freedom is 29.9.
            assert!(chi2 < 29.9, "{params:?}: chi-squared {chi2}");
        }
    }

    #[test]
    fn greedy_takes_the_largest_and_ties_go_to_the_lower_id() {
        let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let out = sampled(&[0.0, 3.0, 3.0, 1.0], &row(params, 0, 0));
        assert_eq!(out.token, 1);
        let normaliser = (1f64 + 2.0 * 3f64.exp() + 1f64.exp()).ln();
        assert!((f64::from(out.logprob) - (3.0 - normaliser)).abs() < 1e-6);
    }

    #[test]
    fn the_same_seed_and_step_draw_the_same_token() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 10) as f32 * 0.1).collect();
        let draw = |seed, step| sampled(&logits, &row(SamplingParams::default(), seed, step)).token;
        assert_eq!(draw(1, 5), draw(1, 5));
        let by_step: std::collections::BTreeSet<u32> = (0..50).map(|step| draw(1, step)).collect();
        let by_seed: std::collections::BTreeSet<u32> = (0..50).map(|seed| draw(seed, 1)).collect();
        assert!(by_step.len() > 20 && by_seed.len() > 20, "{} and {} distinct", by_step.len(), by_seed.len());
    }

    #[test]
    fn penalties_look_at_the_output_and_come_in_sglangs_order() {
        let mut task = row(SamplingParams { temperature: 0.0, ..SamplingParams::default() }, 0, 0);
        with(&mut task, |params, counts, _| {
            params.frequency_penalty = 0.5;
            params.presence_penalty = 0.25;
            params.repetition_penalty = 2.0;
            *counts = Some(Arc::new(HashMap::from([(0, 3), (1, 1)])));
        });
        let mut logits = [3.0, -0.25, 0.6];
        let out = sample_row(&mut logits, &task);
        // (3 - 3·0.5 - 0.25) / 2, (-0.25 - 0.5 - 0.25) · 2, untouched.
        assert_eq!(logits, [0.625, -2.0, 0.6]);
        assert_eq!(out.token, 0);
    }

    #[test]
    fn log_probabilities_are_the_models_own_unless_the_samplers_are_asked_for() {
        let logits = [1.0, 2.0, 0.5, -1.0];
        let own = |id: usize| {
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            (f64::from(logits[id]) - sum.ln()) as f32
        };
        let reported = |params: SamplingParams| {
            let mut task = row(params, 3, 0);
            task.top_logprobs = 4;
            task.logprob_ids = Arc::new([3]);
            let RowTask::Sample { banned, mask, .. } = &mut task.task else { unreachable!("rows sample here") };
            *banned = Arc::new([1]);
            *mask = Some(Arc::new(TokenMask::new(vec![0b0111])));
            sampled(&logits, &task)
        };
        for temperature in [0.0, 0.2, 1.0, 2.0] {
            let biased = SamplingParams { temperature, logit_bias: vec![(2, 3.0)], ..SamplingParams::default() };
            let out = reported(biased.clone());
            assert!([0, 2].contains(&out.token), "banned and masked tokens are not chosen");
            assert!((out.logprob - own(out.token as usize)).abs() < 1e-6, "temperature {temperature}: {}", out.logprob);
            assert_eq!(out.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 0, 2, 3], "ranked by the model");
            assert!((out.requested[0].1 - own(3)).abs() < 1e-6, "a masked token keeps the model's own");
            let processed = reported(SamplingParams { logprobs_of: LogprobsOf::Sampler, ..biased });
            assert_eq!(processed.token, out.token, "what is reported does not change the draw");
            assert_eq!(processed.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 0], "what could be drawn");
            assert_eq!(processed.requested, [(3, f32::MIN)]);
        }
    }

    #[test]
    fn bans_and_masks_cannot_be_undone_by_a_bias() {
        let mut task = row(SamplingParams { temperature: 0.0, ..SamplingParams::default() }, 0, 0);
        with(&mut task, |params, _, banned| {
            params.logit_bias = vec![(0, 100.0), (1, 100.0), (3, 0.5)];
            *banned = Arc::new([0]);
        });
        let RowTask::Sample { mask, .. } = &mut task.task else { unreachable!("rows sample here") };
        *mask = Some(Arc::new(TokenMask::new(vec![0b1101])));
        assert_eq!(sampled(&[9.0, 9.0, 1.0, 0.8], &task).token, 3);
    }

    #[test]
    fn what_is_no_distribution_is_a_fault_and_no_token() {
        for logits in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            let fault = sampled(&logits, &row(SamplingParams::default(), 0, 0)).fault;
            assert_eq!(fault, Some(LogitFault::NotFinite), "{logits:?}");
        }
        let excluding = |change: fn(&mut SamplingParams, &mut Arc<[u32]>)| {
            let mut task = row(SamplingParams::default(), 0, 0);
            with(&mut task, |params, _, banned| change(params, banned));
            sampled(&[1.0, 2.0], &task).fault
        };
        assert_eq!(excluding(|_, banned| *banned = Arc::new([0, 1])), Some(LogitFault::NoToken));
        assert_eq!(excluding(|params, _| params.logit_bias = vec![(0, f32::MAX); 2]), Some(LogitFault::NoToken));
        let mut task = row(SamplingParams::default(), 0, 0);
        let RowTask::Sample { mask, .. } = &mut task.task else { unreachable!("rows sample here") };
        *mask = Some(Arc::new(TokenMask::new(Vec::new())));
        assert_eq!(sampled(&[1.0, 2.0], &task).fault, Some(LogitFault::NoToken));
    }

    #[test]
    fn impossible_tokens_have_a_finite_logprob() {
        let mut task = row(SamplingParams::default(), 0, 0);
        task.logprob_ids = Arc::new([1, 99]);
        let out = sampled(&[0.0, f32::NEG_INFINITY], &task);
        assert_eq!(out.requested, [(1, f32::MIN), (99, f32::MIN)]);
        assert_eq!((out.token, out.logprob), (0, 0.0));
    }

    proptest! {
        #[test]
        fn filters_keep_what_the_naive_sort_keeps(
            logits in prop::collection::vec(-4i8..4, 1..40),
            top_k in prop::option::of(1u32..50),
            top_p in 0.05f32..1.0,
            min_p in 0.0f32..0.9,
            seed: u64,
        ) {
            let logits: Vec<f32> = logits.into_iter().map(|x| f32::from(x) * 0.5).collect();
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
            let expected = naive(&logits, &params);
            for step in 0..20 {
                let token = sampled(&logits, &row(params.clone(), seed, step)).token as usize;
                prop_assert!(expected[token] > 0.0, "token {} was filtered", token);
            }
        }

        #[test]
        fn log_probabilities_sum_to_one(logits in prop::collection::vec(-20f32..20.0, 1..60)) {
            let mut task = row(SamplingParams::default(), 0, 0);
            task.top_logprobs = logits.len();
            let out = sampled(&logits, &task);
            let sum: f64 = out.top.iter().map(|(_, l)| f64::from(*l).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4);
            prop_assert!(out.top.windows(2).all(|w| w[0].1 >= w[1].1));
        }
    }
}
