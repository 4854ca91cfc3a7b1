//! Quantised safetensors as other programs pack them: every number is the one that the packing's own formula gives, bit
//! for bit, and what it cannot be is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::packed_checkpoint::{numbers, refusal};
use crate::support::{Driver, full_row, limits};
use half::bf16;
use proptest::prelude::*;
use quern_backend::{KvFormat, PackedMatrix, QuantFormat, RefBackend, SharedBytes};
use quern_model::{
    Checkpoint, CheckpointOptions, GenerationConfig, ModelConfig, StepCost,
    gguf::GgufModel,
    gguf_export::{Unquantised, export},
    load,
    network::{Role, Shape, module},
    shard::Shard,
    split::Parallelism,
    weights::{QuantRecipe, WeightSource},
};
use serde_json::{Map, Value, json};

fn golden() -> (PathBuf, Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = fs::read(dir.join("packed.json")).unwrap();
    (dir.join("packed"), serde_json::from_slice(&text).unwrap())
}

/// The checkpoints of `tests/golden/packed`, and what their numbers are.
fn checkpoints() -> Vec<(String, PathBuf, Value)> {
    let (dir, golden) = golden();
    let made = golden.as_object().unwrap().iter().filter(|(name, _)| *name != "ids");
    let all: Vec<_> = made.map(|(name, of)| (name.clone(), dir.join(name), of.clone())).collect();
    assert_eq!(all.len(), fs::read_dir(dir).unwrap().count());
    all
}

fn open(dir: &Path) -> Checkpoint {
    let checkpoint = Checkpoint::open(dir, &CheckpointOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.scan(2, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    checkpoint
}

/// Every matrix of a checkpoint by its module's name.
fn matrices(checkpoint: &Checkpoint) -> Vec<(String, Role, PackedMatrix)> {
    let mut all = Vec::new();
    for tensor in checkpoint.network().tensors() {
        if let Shape::Matrix(..) = tensor.shape {
            let matrices = checkpoint.weights().matrices(tensor).unwrap();
            let bytes: u64 = matrices.iter().map(|matrix| matrix.held_bytes() as u64).sum();
            let counted = checkpoint.weights().part_bytes(tensor, &Shard::whole(tensor)).unwrap();
            assert_eq!(counted, bytes, "{:?}", tensor.role);
            let named = tensor.names().zip(matrices);
            all.extend(named.map(|(name, matrix)| (module(&name).to_owned(), tensor.role, matrix)));
        }
    }
    all
}

/// FNV-1a of numbers as little-endian bytes.
fn sum(numbers: &[f32]) -> String {
    let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let sum = numbers.iter().flat_map(|x| x.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
    format!("{sum:016x}")
}

#[test]
fn every_number_is_that_of_the_packings_formula() {
    for (name, dir, golden) in checkpoints() {
        for (module, role, matrix) in matrices(&open(&dir)) {
            assert_eq!(golden["sums"][&module], sum(&numbers(&matrix)), "{name}: {module}");
            // A token that goes to another expert is not a rounding error.
            assert!(role != Role::Router || matrix.format().blocks().is_none(), "{name}: {module}");
        }
    }
}

#[test]
fn logits_are_those_of_the_numbers() {
    let (_, golden) = golden();
    let ids: Vec<u32> = golden["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    for (name, dir, golden) in checkpoints() {
        let logits: Vec<f64> = golden["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let limits = limits(16, KvFormat::F32);
        let model = load(&open(&dir), Arc::new(RefBackend), limits, &mut |_| {}).unwrap();
        let mut driver = Driver::over(model, limits);
        driver.add(&ids);
        let out = driver.step(&[(0, ids.len())], |rows| vec![full_row(rows[0], logits.len())]);
        let normaliser = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        for ((token, logprob), logit) in out[0].requested.iter().zip(&logits) {
            let difference = (f64::from(*logprob) - (logit - normaliser)).abs();
            assert!(difference < 1e-3, "{name}, token {token}: off by {difference}");
        }
    }
}

#[test]
fn a_checkpoint_counts_as_what_it_is_computed_with() {
    let formats = |name: &str| open(&golden().0.join(name)).formats();
    assert_eq!(formats("ct-w4"), [QuantFormat::Q4_0, QuantFormat::BF16]);
    assert_eq!(formats("mlx"), [QuantFormat::Q4_1, QuantFormat::F32]);
    let mixed = formats("ct-w4-channel-w8");
    assert!(mixed.contains(&QuantFormat::Q8_0) && mixed.contains(&QuantFormat::Q4_0), "{mixed:?}");
    for (name, dir, _) in checkpoints() {
        let checkpoint = open(&dir);
        let matrices = matrices(&checkpoint);
        let held: u64 = matrices.iter().map(|(_, _, matrix)| matrix.held_bytes() as u64).sum();
        let vectors = 2 * (3 * 64 + 2 * 32);
        assert_eq!(checkpoint.weight_bytes(), held + vectors, "{name}");
        let in_fp8 = matrices.iter().filter(|(_, _, matrix)| matrix.format() == QuantFormat::Fp8Block128);
        let has_row_scales = in_fp8.map(|(_, _, matrix)| matrix.scale_rows()).min() == Some(1);
        assert_eq!(checkpoint.has_row_scales(), has_row_scales, "{name}");
        assert!(StepCost::of(&checkpoint, KvFormat::BF16).is_ok());
        // What is judged before weights are fetched is about as large.
        let config = checkpoint.config().clone();
        let announced = config.quantization.as_ref().unwrap().format;
        let dummy = Checkpoint::dummy(config, GenerationConfig::default());
        assert_eq!(dummy.formats()[0], announced, "{name}");
        for (module, _, matrix) in self::matrices(&dummy) {
            let largest = numbers(&matrix).iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            assert!((0.01..0.1).contains(&largest), "{name}: {module}: {largest}");
        }
    }
}

#[test]
fn what_a_recipe_leaves_counts_as_it_is_stored() {
    // Its router is held as F32, whatever config.json says of types.
    let checkpoint = open(&golden().0.join("mlx")).quantised(Some(QuantRecipe::Q8_0));
    let weights = checkpoint.quantised_weights().unwrap();
    assert_eq!(checkpoint.formats(), [QuantFormat::Q8_0, QuantFormat::F32]);
    let held = |tensor| weights.matrices(tensor).unwrap().iter().map(|matrix| matrix.held_bytes() as u64).sum::<u64>();
    let network = checkpoint.network().tensors().iter();
    let held: u64 = network.filter(|tensor| matches!(tensor.shape, Shape::Matrix(..))).map(held).sum();
    assert_eq!(checkpoint.weight_bytes(), held + 4 * (3 * 64 + 2 * 32));
}

/// A file's bytes, and how often somebody asked for some of them.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        self.1.fetch_add(1, Ordering::Relaxed);
        &self.0
    }
}

#[test]
fn sizes_and_encodings_are_told_without_a_look_at_weights() {
    for (name, dir, _) in checkpoints() {
        let asked = Arc::new(AtomicUsize::new(0));
        let file = Counted(fs::read(dir.join("model.safetensors")).unwrap(), Arc::clone(&asked));
        let config = ModelConfig::open(&dir, None).unwrap();
        let files = [("model.safetensors", SharedBytes::new(Arc::new(file)))];
        let checkpoint = Checkpoint::embedded("memory", config, GenerationConfig::default(), &files).unwrap();
        let at_open = asked.load(Ordering::Relaxed);
        for tp in [1, 2] {
            let parts = checkpoint.split(Parallelism { tp, ep: 1 }).unwrap();
            assert!(parts.iter().all(|part| checkpoint.part_bytes(part).unwrap() > 0));
        }
        assert!(StepCost::of(&checkpoint, KvFormat::BF16).is_ok() && checkpoint.weight_bytes() > 0);
        let tensors = checkpoint.network().tensors().iter();
        let matrices = tensors.filter(|tensor| matches!(tensor.shape, Shape::Matrix(..)));
        matrices.for_each(|tensor| assert!(!checkpoint.weights().formats(tensor).is_empty()));
        assert_eq!(asked.load(Ordering::Relaxed), at_open, "{name}");
    }
}

#[test]
fn converting_keeps_every_number_that_gguf_has_a_type_for() {
    for (name, dir, golden) in checkpoints() {
        let checkpoint = open(&dir);
        let as_stored = export(&checkpoint, Unquantised::AsStored, Vec::new(), Vec::new(), &mut |_| {});
        let file = as_stored.unwrap();
        let model = GgufModel::embedded("model.gguf", &SharedBytes::new(Arc::new(file))).unwrap();
        let converted = Checkpoint::gguf(model, &Map::new()).unwrap();
        for (module, _, matrix) in matrices(&converted) {
            if name.starts_with("fp8") && module.contains("_proj") {
                assert_eq!(matrix.format(), QuantFormat::BF16);
                continue;
            }
            assert_eq!(golden["sums"][&module], sum(&numbers(&matrix)), "{name}: {module}");
        }
    }
}

#[test]
fn a_model_most_of_which_would_be_wide_is_refused() {
    let dir = golden().0.join("ct-w4");
    let mut bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for entry in header.iter().filter(|(name, _)| name.ends_with("_scale")).map(|(_, entry)| entry) {
        let at = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
        for scale in bytes[at(0)..at(1)].chunks_exact_mut(2) {
            scale.copy_from_slice(&bf16::from_f32(1.03e-6).to_le_bytes());
        }
    }
    let config = ModelConfig::open(&dir, None).unwrap();
    let files = [("model.safetensors", SharedBytes::new(Arc::new(bytes)))];
    let error = refusal(Checkpoint::embedded("memory", config, GenerationConfig::default(), &files));
    for part in ["_proj.weight_scale", "binary16", "row 0 and group 0", "FP8", "--quantization q4_k_m"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// No shapes and types of tensors make the readers panic or read past the end.
    #[test]
    fn headers_that_lie_are_refused_or_read(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..8, any::<u8>()), 1..5),
    ) {
        let all = checkpoints();
        let (_, dir, _) = which.get(&all);
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        let names: Vec<String> = header.keys().filter(|name| !name.contains("norm")).cloned().collect();
        for (name, change, byte) in changes {
            let entry = header.get_mut(name.get(&names)).unwrap();
            let mut shape: Vec<u64> = entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            let last = shape.len().saturating_sub(1);
            match change {
                0 => shape.reverse(),
                1 => shape.push(1),
                2 if shape.len() > 1 && shape[0].is_multiple_of(2) => (shape[0], shape[last]) = (shape[0] / 2, shape[last] * 2),
                3 if shape.len() > 1 && shape[last].is_multiple_of(2) => (shape[0], shape[last]) = (shape[0] * 2, shape[last] / 2),
                4 => {
                    let renamed = match entry["dtype"].as_str().unwrap() {
                        "I32" => "F32",
                        "F32" | "U32" => "I32",
                        "BF16" => "F16",
                        "F16" => "BF16",
                        "U8" => "I8",
                        "I8" | "F8_E4M3" => "U8",
                        other => other,
                    }
                    .to_owned();
                    entry["dtype"] = json!(renamed);
                }
                5 if shape.len() == 2 => shape = vec![shape[0] * shape[1]],
                _ => {
                    let at = entry["data_offsets"][0].as_u64().unwrap() as usize;
                    data[at] = byte;
                }
            }
            entry["shape"] = json!(shape);
        }
        let header = Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        let config = ModelConfig::open(dir, None).unwrap();
        let files = [("model.safetensors", SharedBytes::new(Arc::new(file)))];
        if let Ok(checkpoint) = Checkpoint::embedded("memory", config, GenerationConfig::default(), &files) {
            for tensor in checkpoint.network().tensors() {
                match tensor.shape {
                    // A scale that no block has is an error like another.
                    Shape::Matrix(..) => drop(checkpoint.weights().matrices(tensor)),
                    Shape::Vector(_) => drop(checkpoint.weights().vector(tensor)),
                }
            }
        }
    }
}
