//! The networks against transformers' own forward in float32 (5.23.0, eager; see `golden/README.md`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::support::{Driver, Golden, limits, open};
use quern_backend::{KvFormat, RefBackend};

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

fn driver(dir: &Path, num_pages: usize) -> Driver {
    Driver::new(dir, Arc::new(RefBackend), limits(num_pages, KvFormat::F32))
}

#[test]
fn the_reference_backend_reproduces_every_greedy_continuation() {
    for (name, dir, golden) in all() {
        driver(&dir, 16).assert_greedy(&golden, 2048, name);
    }
}

#[test]
fn the_reference_backend_agrees_on_logits() {
    for (name, dir, golden) in all() {
        driver(&dir, 32).assert_logits(&golden, name);
    }
}
