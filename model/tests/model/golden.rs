//! The networks against transformers' own forward in float32 (5.23.0, eager; see `golden/README.md`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::support::{Driver, Golden, full_row, limits, open};
use quern_backend::{Backend, KvFormat, RefBackend};

/// Checkpoints; the last two are among the reference fixtures only.
const ALL: [&str; 8] = [
    "tiny-dense",
    "tiny-fp8-ragged",
    "tiny-mixed",
    "tiny-yarn",
    "tiny-qwen2",
    "tiny-qwen2-yarn",
    "tiny-bf16",
    "tiny-fp8",
];

fn all() -> impl Iterator<Item = (&'static str, PathBuf, Golden)> {
    ALL.into_iter().filter_map(|name| open(name).map(|(dir, golden)| (name, dir, golden)))
}

/// Every greedy continuation of 64 tokens, all prompts in one ragged batch, must be the oracle's.
fn greedy_is_exact<B: Backend>(backend: &Arc<B>, dir: &Path, golden: &Golden, name: &str, chunk: usize) {
    let prompts = golden.prompts();
    let mut driver = Driver::new(dir, Arc::clone(backend), limits(16, KvFormat::F32));
    for prompt in &prompts {
        driver.add(&golden.ids(&format!("{prompt}.ids")));
    }
    for (prompt, tokens) in prompts.iter().zip(driver.greedy(64, chunk)) {
        assert_eq!(tokens, golden.ids(&format!("{prompt}.greedy_ids")), "{name}, prompt {prompt}");
    }
}

/// The last position's logits of every prompt within 1e-3 (compared as log-probabilities, which differ
/// from logits by one constant a row).
fn logits_agree<B: Backend>(backend: &Arc<B>, dir: &Path, golden: &Golden, name: &str) {
    for prompt in golden.prompts() {
        let ids = golden.ids(&format!("{prompt}.ids"));
        let logits = golden.floats(&format!("{prompt}.last_logits"));
        let mut driver = Driver::new(dir, Arc::clone(backend), limits(32, KvFormat::F32));
        driver.add(&ids);
        let out = driver.step(&[(0, ids.len())], |rows| vec![full_row(rows[0], logits.len())]);
        let max = logits.iter().copied().fold(f64::MIN, f64::max);
        let normaliser = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        for ((token, logprob), logit) in out[0].requested.iter().zip(logits) {
            let difference = (f64::from(*logprob) - (logit - normaliser)).abs();
            assert!(difference < 1e-3, "{name}, prompt {prompt}, token {token}: off by {difference}");
        }
    }
}

#[test]
fn the_reference_backend_reproduces_every_greedy_continuation() {
    for (name, dir, golden) in all() {
        greedy_is_exact(&Arc::new(RefBackend), &dir, &golden, name, 2048);
    }
}

#[test]
fn the_reference_backend_agrees_on_logits() {
    for (name, dir, golden) in all() {
        logits_agree(&Arc::new(RefBackend), &dir, &golden, name);
    }
}
