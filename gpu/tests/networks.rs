//! Whole networks on the twins: equal to themselves however the work is cut.
#![allow(clippy::duplicate_mod, reason = "both support modules have the one that says what is skipped")]

#[path = "../../model/tests/support/mod.rs"]
mod network;
mod support;

use std::sync::Arc;

use network::{Driver, limits, open};
use quern_backend::KvFormat;
use support::{Target, backend, on_each_target};

/// One prompt alone in small chunks, and all prompts in one batch: the same tokens with the same log-probabilities, bit
/// by bit.
fn repeats(target: Target) {
    let Some(backend) = backend(target).map(Arc::new) else { return };
    for (name, format) in [("tiny-fp8-ragged", KvFormat::BF16), ("tiny-mixed", KvFormat::F8E4M3)] {
        let (folder, golden) = open(name).expect("a checkpoint of the repository");
        let prompts: Vec<Vec<u32>> =
            golden.short_prompts().iter().take(3).map(|prompt| golden.ids(&format!("{prompt}.ids"))).collect();
        let mut batched = Driver::new(&folder, Arc::clone(&backend), limits(16, format));
        for ids in &prompts {
            batched.add(ids);
        }
        let together = batched.greedy_bits(8, 256);
        for (ids, together) in prompts.iter().zip(&together) {
            let mut alone = Driver::new(&folder, Arc::clone(&backend), limits(32, format));
            alone.add(ids);
            assert_eq!(alone.greedy_bits(8, 7)[0], *together, "{target:?}, {name}: alone, in chunks of 7");
        }
    }
}

on_each_target!(repeats);
