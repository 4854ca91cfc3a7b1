//! Files in llama.cpp's format: what is written is read again, and what is damaged is refused by name.

mod support;

use std::{path::PathBuf, sync::Arc};

use quern_backend::{DType, QuantFormat, RefBackend, SharedBytes};
use quern_model::{
    Checkpoint, CheckpointOptions, LoadError,
    gguf::{Announced, GgufFile, GgufModel, GgufValue, GgufWriter, export},
    load,
    weights::{Problem, Recipe},
};
use serde_json::Map;
use support::{Driver, limits};

fn demo(recipe: Option<Recipe>) -> Checkpoint {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    Checkpoint::open(&dir, &CheckpointOptions::default()).unwrap().quantised(recipe)
}

fn exported(checkpoint: &Checkpoint, plain: DType) -> SharedBytes {
    let bytes = export(checkpoint, plain, Vec::new(), Vec::new(), &mut |_| {}).unwrap();
    SharedBytes::new(Arc::new(bytes))
}

fn read(bytes: &SharedBytes) -> Checkpoint {
    Checkpoint::gguf(GgufModel::embedded("memory", bytes).unwrap(), &Map::new()).unwrap()
}

fn greedy(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let limits = limits(16, DType::F32);
    let mut driver = Driver::over(load(checkpoint, Arc::new(RefBackend), limits, &mut |_| {}).unwrap(), limits);
    for start in [3, 700, 1500] {
        driver.add(&(start..start + 40).collect::<Vec<u32>>());
    }
    driver.greedy(24, 2048)
}

#[test]
fn a_written_checkpoint_is_the_same_network() {
    let stored = demo(None);
    let wanted = greedy(&stored);
    for plain in [DType::BF16, DType::F32] {
        let again = read(&exported(&stored, plain));
        again.scan(2, &mut |_| {}).unwrap();
        assert_eq!(greedy(&again), wanted, "{plain}");
        let (ours, theirs) = (stored.config(), again.config());
        assert_eq!((ours.hidden, ours.heads, &ours.moe), (theirs.hidden, theirs.heads, &theirs.moe));
        assert_eq!((ours.vocab_size, ours.tie_word_embeddings), (theirs.vocab_size, theirs.tie_word_embeddings));
        assert_eq!((ours.rope.theta, ours.rms_norm_eps), (theirs.rope.theta, theirs.rms_norm_eps));
    }
}

#[test]
fn a_quantised_file_is_what_quantising_on_load_makes() {
    for (_, recipe) in Recipe::NAMES {
        let quantised = demo(Some(recipe));
        let file = read(&exported(&quantised, DType::BF16));
        assert_eq!(greedy(&file), greedy(&quantised), "{recipe}");
        let missing = quantised.formats().into_iter().filter(|f| f.blocks().is_some() && !file.formats().contains(f));
        assert_eq!(missing.count(), 0, "{recipe}");
    }
}

/// A file with one key of each kind and two tensors.
fn small() -> Vec<u8> {
    let metadata = [
        ("general.architecture", GgufValue::Text("qwen3".into())),
        ("a.float", GgufValue::Float(0.5)),
        ("a.flag", GgufValue::Bool(true)),
        ("a.list", GgufValue::Array(vec![GgufValue::Text("x".into()), GgufValue::Text("½".into())])),
        ("a.count", GgufValue::Unsigned(7)),
        ("a.less", GgufValue::Signed(-7)),
    ];
    let tensors = [
        Announced { name: "one".into(), dims: vec![32, 3], format: QuantFormat::Q8_0 },
        Announced { name: "two".into(), dims: vec![5], format: QuantFormat::F32 },
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let mut writer = GgufWriter::begin(Vec::new(), &metadata, &tensors).unwrap();
    for tensor in &tensors {
        writer.put(&vec![1; tensor.len() as usize]).unwrap();
        writer.align().unwrap();
    }
    writer.finish().unwrap()
}

fn parse(bytes: Vec<u8>) -> Result<GgufFile, Problem> {
    GgufFile::parse("small.gguf", &SharedBytes::new(Arc::new(bytes)))
}

#[test]
fn every_kind_of_value_comes_back() {
    let file = parse(small()).unwrap();
    let get = |key: &str| file.metadata()[key].clone();
    assert_eq!(get("a.float"), GgufValue::Float(0.5));
    assert_eq!(get("a.flag"), GgufValue::Bool(true));
    assert_eq!(get("a.list").as_array().unwrap()[1].as_str(), Some("½"));
    assert_eq!((get("a.count"), get("a.less")), (GgufValue::Unsigned(7), GgufValue::Signed(-7)));
    let shapes: Vec<_> = file.tensors().iter().map(|t| (t.name.as_str(), t.dims.as_slice(), t.bytes.len())).collect();
    assert_eq!(shapes, [("one", &[32u64, 3][..], 102), ("two", &[5], 20)]);
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let whole = small();
    // Behind the last tensor's bytes there is only filling.
    for end in 0..whole.len() - 12 {
        let problem = parse(whole[..end].to_vec()).expect_err("a part of it is missing");
        assert_eq!(problem.file, "small.gguf");
    }
}

#[test]
fn a_flipped_byte_is_refused_or_read_but_never_a_panic() {
    let whole = small();
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let shared = SharedBytes::new(Arc::new(bytes));
            if GgufFile::parse("small.gguf", &shared).is_ok() {
                assert!(matches!(
                    GgufModel::embedded("small.gguf", &shared),
                    Ok(_) | Err(LoadError::Checkpoint { .. })
                ));
            }
        }
    }
}

/// The whole file with `value` at the place of the first `old` behind `name`.
fn with(name: &str, old: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    let find = |bytes: &[u8], part: &[u8], from: usize| {
        from + bytes[from..].windows(part.len()).position(|window| window == part).expect("it is there")
    };
    let at = find(&bytes, old, find(&bytes, name.as_bytes(), 0) + name.len());
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn what_is_wrong_is_named() {
    let eight = |n: u64| n.to_le_bytes();
    let mut big_endian = small();
    big_endian[4..8].copy_from_slice(&[0, 0, 0, 3]);
    let mut many = small();
    many[8..16].copy_from_slice(&eight(u64::MAX));
    for (what, bytes, words) in [
        ("magic", b"GGML\0\0\0\0".to_vec(), vec!["begins with \"GGUF\""]),
        ("version", [&b"GGUF"[..], &[1, 0, 0, 0]].concat(), vec!["version 2 or 3", "version 1"]),
        ("byte order", big_endian, vec!["big-endian"]),
        ("number of tensors", many, vec!["at most 1048576 tensors"]),
        ("length of a list", with("a.list", &eight(2), &eight(1 << 40)), vec!["a.list", "fits into"]),
        ("size", with("one", &eight(32), &eight(1 << 63)), vec!["tensor `one`", "a size that can be counted"]),
        ("odd rows", with("one", &eight(32), &eight(33)), vec!["tensor `one`", "whole blocks of 32"]),
        ("more rows", with("one", &eight(3), &eight(4)), vec!["tensor `two`", "bytes of its own behind `one`"]),
        ("dimensions", with("one", &[2, 0, 0, 0], &[9, 0, 0, 0]), vec!["tensor `one`", "1 to 4 dimensions", "9"]),
        ("type", with("one", &[8, 0, 0, 0], &[77, 0, 0, 0]), vec!["tensor `one`", "Q4_K (12)", "type 77"]),
        ("offset", with("two", &eight(128), &eight(129)), vec!["tensor `two`", "multiple of 32", "129"]),
        (
            "far offset",
            with("two", &eight(128), &eight(1 << 40)),
            vec!["tensor `two`", "20 bytes at", "the file is cut"],
        ),
    ] {
        let problem = parse(bytes).expect_err(what).to_string();
        assert!(words.iter().all(|word| problem.contains(word)), "{what}: {problem}");
    }
}

#[test]
fn a_network_that_is_not_whole_is_refused_with_every_tensor_that_is_wrong() {
    let bytes = exported(&demo(None), DType::BF16);
    let rename = |from: &str, to: &str| {
        let mut bytes = bytes.to_vec();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let model = GgufModel::embedded("memory", &SharedBytes::new(Arc::new(bytes))).unwrap();
        Checkpoint::gguf(model, &Map::new()).err().expect("it is refused").to_string()
    };
    let error = rename("blk.0.attn_k.weight", "blk.0.attn_x.weight");
    assert!(error.contains("tensor `blk.0.attn_k.weight`: expected a tensor [256, 128], found nothing"), "{error}");
    assert!(error.contains("tensor `blk.0.attn_x.weight`: expected no such tensor"), "{error}");
    let error = match GgufModel::embedded("memory", &SharedBytes::new(Arc::new(small()))) {
        Ok(model) => Checkpoint::gguf(model, &Map::new()).err().expect("it is refused").to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("hidden_size"), "{error}");
}
