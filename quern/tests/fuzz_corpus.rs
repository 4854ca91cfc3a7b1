//! The fuzz targets over their corpora, without a fuzzer: every seed as it is, cut short, and changed at places that a
//! fixed generator picks. What `./test fuzz` finds is put into `fuzz/corpus` and stays found.
//!
//! `QUERN_FUZZ_CHANGES=n` makes `n` changed inputs of each seed.

#![allow(unreachable_pub, reason = "the targets are public where cargo-fuzz builds them")]

#[path = "../../fuzz/src/targets/mod.rs"]
mod targets;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

use quern_backend::conformance::Rng;
use targets::TARGETS;

/// Changed inputs of each seed.
const CHANGES: usize = 100;

/// Places at which each seed is cut.
const CUTS: usize = 24;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpora().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|cause| panic!("{}: {cause}", folder.display()));
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file of the checkout"))
    };
    let mut seeds: Vec<_> = entries.map(|entry| read(entry.expect("a readable folder"))).collect();
    seeds.sort();
    seeds
}

/// Pieces that readers trip over.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xf0\x9f",
    b"\n---\n",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"null",
    b"[]",
    b"{}",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"<|im_end|>",
    b"</tool_call>",
];

/// The seed with one to four changes.
fn changed(seed: &[u8], others: &[(String, Vec<u8>)], numbers: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = numbers.below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(end..end, again);
            }
            4 => {
                let other = &others[numbers.below(others.len())].1;
                let from = numbers.below(other.len() + 1);
                let until = (from + numbers.below(64)).min(other.len());
                bytes.splice(at..end, other[from..until].iter().copied());
            }
            _ => drop(bytes.splice(at..at, PIECES[numbers.below(PIECES.len())].iter().copied())),
        }
    }
    bytes
}

/// Runs a target on its corpus; an input that it does not survive is written down.
fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no corpus");
    let changes = std::env::var("QUERN_FUZZ_CHANGES").ok().and_then(|n| n.parse().ok()).unwrap_or(CHANGES);
    let mut numbers = Rng(0x5eed);
    let mut runs = 0;
    let mut survive = |seed: &str, input: &[u8]| {
        runs += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{seed}"));
            fs::write(&file, input).expect("room for a small file");
            eprintln!("{name}: made of {seed}, {}: {}", file.display(), input.escape_ascii());
            resume_unwind(panic);
        }
    };
    for (seed, bytes) in &seeds {
        survive(seed, bytes);
        (0..CUTS.min(bytes.len())).for_each(|cut| survive(seed, &bytes[..bytes.len() * cut / CUTS]));
        (0..changes).for_each(|_| survive(seed, &changed(bytes, &seeds, &mut numbers)));
    }
    eprintln!("{name}: {} seeds, {runs} inputs", seeds.len());
}

/// A test for each target.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    chat completions messages responses generate ollama infill score tokenize parse_calls http_head
    json_schema ebnf regex structural_tag stops
    tool_calls detokenizer
    chat_template tokenizer_json tokenizer_text config_json safetensors shard_index packed gguf
    config_file key_file kept_panels model_names
    node_frames
    sse_client
}

#[test]
fn every_target_has_a_test_and_every_corpus_a_target() {
    let tested: BTreeSet<&str> = TESTED.iter().copied().collect();
    assert_eq!(tested, TARGETS.iter().map(|target| target.name).collect());
    let folders = fs::read_dir(corpora()).expect("the corpora");
    let folders: BTreeSet<String> =
        folders.map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(folders.iter().map(String::as_str).collect::<BTreeSet<_>>(), tested);
}
