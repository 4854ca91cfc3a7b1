//! Quantised safetensors as other programs pack them: every number is the one that the packing's own formula gives, bit
//! for bit, and what it cannot be is refused.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{Driver, full_row, limits};
use half::{bf16, f16};
use proptest::prelude::*;
use quern_backend::{KvFormat, PackedMatrix, QuantFormat, RefBackend, SharedBytes};
use quern_model::{
    Checkpoint, CheckpointOptions, GenerationConfig, LoadError, ModelConfig, StepCost,
    gguf::GgufModel,
    gguf_export::{Unquantised, export},
    load,
    network::{Role, Shape, module},
    shard::Shard,
    split::Parallelism,
    weights::{QuantRecipe, WeightSource},
};
use serde_json::{Map, Value, json};

/// A tensor: dtype, shape, bytes.
type Stored = (&'static str, Vec<usize>, Vec<u8>);

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

fn numbers(matrix: &PackedMatrix) -> Vec<f32> {
    let mut all = vec![0.0; matrix.rows() * matrix.cols()];
    all.chunks_exact_mut(matrix.cols()).enumerate().for_each(|(row, out)| matrix.decode_row(row, out));
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

/// A network whose one quantised matrix has these sizes.
fn config(cols: usize, quantization: &Value) -> ModelConfig {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": cols, "num_attention_heads": 2, "head_dim": 16,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 8,
        "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "quantization_config": quantization,
    });
    ModelConfig::from_json(config.as_object().unwrap()).unwrap()
}

/// Rows of the quantised matrix of [`config`].
const ROWS: usize = 32;

/// A checkpoint whose first projection is stored as `tensors`, named by what stands behind its module's name, and the
/// rest as BF16.
fn checkpoint(cols: usize, quantization: &Value, tensors: Vec<(&str, Stored)>) -> Result<Checkpoint, LoadError> {
    checkpoint_beside(("BF16", 2), cols, quantization, tensors)
}

/// The same, the rest being of this type, whose elements have as many bytes.
fn checkpoint_beside(
    (dtype, size): (&'static str, usize),
    cols: usize,
    quantization: &Value,
    tensors: Vec<(&str, Stored)>,
) -> Result<Checkpoint, LoadError> {
    let config = config(cols, quantization);
    let mut stored: BTreeMap<String, Stored> = BTreeMap::new();
    for spec in config.network().tensors() {
        for name in spec.names() {
            let shape = spec.shape.dims();
            let bytes = vec![0; size * shape.iter().product::<usize>()];
            stored.insert(name, (dtype, shape, bytes));
        }
    }
    let query = "model.layers.0.self_attn.q_proj";
    stored.remove(&format!("{query}.weight"));
    stored.extend(tensors.into_iter().map(|(part, tensor)| (format!("{query}.{part}"), tensor)));
    let (mut entries, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in &stored {
        let range = [data.len(), data.len() + bytes.len()];
        entries.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": range}));
        data.extend_from_slice(bytes);
    }
    let header = Value::Object(entries).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let files = [("model.safetensors", SharedBytes::new(Arc::new(file)))];
    Checkpoint::embedded("memory", config, GenerationConfig::default(), &files)
}

/// The numbers of the quantised matrix.
fn query(checkpoint: &Checkpoint) -> Result<Vec<f32>, LoadError> {
    checkpoint.weights().matrix(checkpoint.network().tensor(Some(0), Role::Query)).map(|matrix| numbers(&matrix))
}

fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn halves(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect()
}

/// Integers one behind the other into words, the first in the lowest bits.
fn pack(bits: usize, codes: impl Iterator<Item = u32>) -> Vec<u8> {
    let codes: Vec<u32> = codes.collect();
    words(codes.chunks(32 / bits).map(|codes| codes.iter().rev().fold(0, |word, code| word << bits | code)))
}

fn compressed(bits: usize, group: usize, symmetric: bool) -> Value {
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"weights": {
        "num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric}}}})
}

/// A checkpoint of int4 in groups of 32 by compressed-tensors, all integers `code`, all scales `scale`.
fn uniform(code: u32, scale: Stored) -> Result<Checkpoint, LoadError> {
    let codes = ("I32", vec![ROWS, 8], pack(4, (0..ROWS * 64).map(|_| code)));
    checkpoint(64, &compressed(4, 32, true), vec![("weight_packed", codes), ("weight_scale", scale)])
}

fn refusal(result: Result<impl Sized, LoadError>) -> String {
    result.err().expect("it is refused").to_string()
}

#[test]
fn scales_that_no_block_has_keep_their_numbers() {
    let scales = |x: f32| ("BF16", vec![ROWS, 2], halves((0..2 * ROWS).map(|_| x)));
    let format =
        |checkpoint: &Checkpoint| checkpoint.weights().formats(checkpoint.network().tensor(Some(0), Role::Query));
    // A bfloat16 has 8 significant bits, a binary16 reaches down to 2^-24.
    let smallest = 2f32.powi(-17);
    for exact in [smallest, smallest * 1.5, smallest / 128.0, -0.75, 65280.0, 0.0] {
        let checkpoint = uniform(1, scales(exact)).unwrap();
        assert_eq!(format(&checkpoint), [QuantFormat::Q4_0], "{exact}");
        assert_eq!(query(&checkpoint).unwrap(), vec![-7.0 * exact; ROWS * 64], "{exact}");
        assert!(checkpoint.notes().is_empty());
    }
    for inexact in [smallest * 0.503_906_25, 1e6, 1e-30] {
        let checkpoint = uniform(1, scales(inexact)).unwrap();
        assert_eq!(format(&checkpoint), [QuantFormat::F32], "{inexact}");
        let stored = bf16::from_f32(inexact).to_f32();
        assert_eq!(query(&checkpoint).unwrap(), vec![-7.0 * stored; ROWS * 64]);
        let note = &checkpoint.notes()[0];
        assert!(note.contains("q_proj.weight") && note.contains("F32") && note.contains("row 0 and group 0"), "{note}");
        // Nothing but zeros: any scale will do.
        let zeros = uniform(8, scales(inexact)).unwrap();
        assert_eq!(format(&zeros), [QuantFormat::Q4_0]);
        assert_eq!(query(&zeros).unwrap(), vec![0.0; ROWS * 64]);
    }
    let single = ("F32", vec![ROWS, 2], (0..2 * ROWS).flat_map(|_| 0.1f32.to_le_bytes()).collect());
    assert_eq!(query(&uniform(1, single).unwrap()).unwrap(), vec![-7.0 * 0.1f32; ROWS * 64]);
}

#[test]
fn what_is_stored_as_f32_does_not_count_as_made_wide() {
    let codes = ("I32", vec![ROWS, 8], pack(4, (0..ROWS * 64).map(|_| 1)));
    let scales = ("BF16", vec![ROWS, 2], halves((0..2 * ROWS).map(|_| 1e-30)));
    let tensors = vec![("weight_packed", codes), ("weight_scale", scales)];
    let opened = checkpoint_beside(("F32", 4), 64, &compressed(4, 32, true), tensors).unwrap();
    assert_eq!(query(&opened).unwrap(), vec![-7.0 * bf16::from_f32(1e-30).to_f32(); ROWS * 64]);
    assert!(opened.notes()[0].contains("1 matrices such as"), "{:?}", opened.notes());
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

#[test]
fn what_tensors_cannot_be_is_named() {
    let scales = || ("BF16", vec![ROWS, 2], halves((0..2 * ROWS).map(|_| 0.5)));
    let codes = || ("I32", vec![ROWS, 8], vec![0; ROWS * 32]);
    let of = |quantization: &Value, tensors| refusal(checkpoint(64, quantization, tensors));
    let int4 = compressed(4, 32, true);
    let error = of(&int4, vec![("weight_packed", codes())]);
    assert!(error.contains("q_proj.weight_scale"), "{error}");
    let error =
        of(&int4, vec![("weight_packed", ("I32", vec![ROWS, 6], vec![0; ROWS * 24])), ("weight_scale", scales())]);
    assert!(error.contains("q_proj.weight_packed") && error.contains("(4 bits)"), "{error}");
    let error = of(&compressed(4, 16, true), vec![("weight_packed", codes()), ("weight_scale", scales())]);
    assert!(error.contains("q_proj.weight_scale") && error.contains("group_size"), "{error}");
    let sizes = ("I64", vec![2], [32u64, 63].iter().flat_map(|n| n.to_le_bytes()).collect());
    let error = of(&int4, vec![("weight_packed", codes()), ("weight_scale", scales()), ("weight_shape", sizes)]);
    assert!(error.contains("q_proj.weight_shape") && error.contains("63"), "{error}");
    let one = ("F32", vec![1], vec![0; 4]);
    let error = of(&int4, vec![("weight_packed", codes()), ("weight_scale", scales()), ("weight_scale_inv", one)]);
    assert!(error.contains("q_proj.weight_scale_inv") && error.contains("no such tensor"), "{error}");
    // Nothing says what a plain checkpoint's integers are.
    let error = of(&Value::Null, vec![("weight_packed", codes()), ("weight_scale", scales())]);
    assert!(error.contains("compressed-tensors") && error.contains("--quantization"), "{error}");
    // A bias of zeros adds nothing, another one is none of the network's.
    let bias = |byte: u8| ("BF16", vec![ROWS], vec![byte; 2 * ROWS]);
    let with_bias = |byte| {
        let tensors = vec![("weight_packed", codes()), ("weight_scale", scales()), ("bias", bias(byte))];
        checkpoint(64, &int4, tensors)
    };
    assert!(with_bias(0).is_ok());
    assert!(refusal(with_bias(60)).contains("q_proj.bias"));
}

#[test]
fn columns_in_another_order_keep_their_numbers() {
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": true, "desc_act": true});
    let with = |index: &dyn Fn(usize) -> u32, zeros: u32| {
        let tensors = vec![
            ("qweight", ("I32", vec![8, ROWS], words((0..8 * ROWS as u32).map(|i| i.wrapping_mul(0x9e37_79b9))))),
            ("qzeros", ("I32", vec![2, ROWS / 8], words(vec![zeros; 2 * ROWS / 8]))),
            ("scales", ("F16", vec![2, ROWS], (0..2 * ROWS).flat_map(|_| f16::from_f32(0.1).to_le_bytes()).collect())),
            ("g_idx", ("I32", vec![64], words((0..64).map(index)))),
        ];
        checkpoint(64, &gptq, tensors)
    };
    let in_order = |col: usize| col as u32 / 32;
    let plain = query(&with(&in_order, 0x7777_7777).unwrap()).unwrap();
    assert_eq!(plain, query(&with(&|_| u32::MAX, 0x8888_8888).unwrap()).unwrap());
    let format =
        |checkpoint: &Checkpoint| checkpoint.weights().formats(checkpoint.network().tensor(Some(0), Role::Query));
    assert_eq!(format(&with(&in_order, 0x7777_7777).unwrap()), [QuantFormat::Q4_0]);
    // Both groups have one scale, so that the numbers are those of the integers, in any order of groups.
    let scattered = with(&|col| (col as u32 + 1) % 2, 0x7777_7777).unwrap();
    assert_eq!(format(&scattered), [QuantFormat::F16]);
    let rounded: Vec<f32> = plain.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
    assert_eq!(query(&scattered).unwrap(), rounded);
    let note = &scattered.notes()[0];
    assert!(note.contains("1 matrices such as") && note.contains("q_proj.weight") && note.contains("f16"), "{note}");
    let checkpoint = scattered.quantised(Some(QuantRecipe::Q8_0));
    assert!(
        checkpoint.quantised_weights().unwrap().formats(checkpoint.network().tensor(Some(0), Role::Query))
            == [QuantFormat::Q8_0]
    );
    for outside in [2, u32::MAX] {
        let error = refusal(with(&|col| if col == 63 { outside } else { 0 }, 0x7777_7777));
        for part in ["q_proj.g_idx", "groups from 0 to 1", &(outside as i32).to_string(), "--quantization"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let error = refusal(with(&in_order, 0x7777_7776));
    assert!(error.contains("q_proj.qzeros") && error.contains("sym"), "{error}");
}

#[test]
fn columns_whose_order_nothing_tells_are_refused() {
    let gptq = |group: i64| {
        let quantization =
            json!({"quant_method": "gptq", "bits": 4, "group_size": group, "sym": true, "desc_act": true});
        let groups = if group < 0 { 1 } else { 64 / group as usize };
        let scales = (0..groups * ROWS).flat_map(|_| f16::from_f32(0.1).to_le_bytes()).collect();
        let tensors = vec![
            ("qweight", ("I32", vec![8, ROWS], vec![0; 32 * ROWS])),
            ("scales", ("F16", vec![groups, ROWS], scales)),
        ];
        checkpoint(64, &quantization, tensors)
    };
    let error = refusal(gptq(32));
    for part in ["q_proj.scales", "q_proj.g_idx", "order of activations", "desc_act false"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // The columns of one group have one scale in any order.
    assert!(gptq(-1).is_ok() && gptq(64).is_ok());
    for (order, is_known) in [
        (json!("group"), false),
        (json!("dynamic"), false),
        (json!(true), false),
        (json!("weight"), true),
        (json!(false), true),
        (Value::Null, true),
    ] {
        let mut quantization = compressed(4, 32, true);
        quantization["config_groups"]["group_0"]["weights"]["actorder"] = order.clone();
        let scales = ("BF16", vec![ROWS, 2], halves((0..2 * ROWS).map(|_| 0.5)));
        let codes = || ("I32", vec![ROWS, 8], vec![0; ROWS * 32]);
        let opened = checkpoint(64, &quantization, vec![("weight_packed", codes()), ("weight_scale", scales.clone())]);
        assert_eq!(opened.is_ok(), is_known, "{order}");
        if let Err(error) = opened {
            let error = error.to_string();
            assert!(error.contains("q_proj.weight_g_idx") && error.contains("actorder"), "{order}: {error}");
        }
        let index = ("I32", vec![64], words((0..64).map(|col| col / 32)));
        let tensors = vec![("weight_packed", codes()), ("weight_scale", scales), ("weight_g_idx", index)];
        assert!(checkpoint(64, &quantization, tensors).is_ok(), "{order}");
    }
}

#[test]
fn exponents_that_are_no_numbers_are_named() {
    let quantization = json!({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}}}});
    let with = |exponent: u8| {
        let codes = ("U8", vec![ROWS, 32], vec![0x21; ROWS * 32]);
        let exponents = ("U8", vec![ROWS, 2], vec![exponent; ROWS * 2]);
        checkpoint(64, &quantization, vec![("weight_packed", codes), ("weight_scale", exponents)]).unwrap()
    };
    // 0.5 and 1 in turns, the first in the low bits.
    for exponent in [0u8, 1, 2, 127, 254] {
        let scale = 2f64.powi(i32::from(exponent) - 127);
        let wanted: Vec<f32> = (0..ROWS * 64).map(|i| ([0.5, 1.0][i % 2] * scale) as f32).collect();
        assert_eq!(query(&with(exponent)).unwrap(), wanted, "{exponent}");
    }
    let error = refusal(query(&with(255)));
    assert!(error.contains("q_proj.weight_scale"), "{error}");
}

#[test]
fn scales_and_factors_of_nvfp4_that_mean_nothing_are_named() {
    let modelopt = json!({"quant_method": "modelopt", "quant_algo": "NVFP4"});
    let compressed = json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups":
        {"group_0": {"weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}}});
    let with = |quantization: &Value, scale: u8, factor: f32| {
        let names = match quantization["quant_method"] == "modelopt" {
            true => ["weight", "weight_scale", "weight_scale_2"],
            false => ["weight_packed", "weight_scale", "weight_global_scale"],
        };
        let codes = ("U8", vec![ROWS, 32], vec![0x21; ROWS * 32]);
        let scales = ("F8_E4M3", vec![ROWS, 4], vec![scale; ROWS * 4]);
        let factor = ("F32", vec![1], factor.to_le_bytes().to_vec());
        checkpoint(64, quantization, names.into_iter().zip([codes, scales, factor]).collect())
    };
    // 0.5 and 1 in turns, the first in the low bits; 0x38 is 1, 0x01 is 2^-9.
    for (scale, number) in [(0x38, 1.0), (0x01, 0.001_953_125), (0x7e, 448.0), (0, 0.0), (0x80, 0.0)] {
        let wanted: Vec<f32> = (0..ROWS * 64).map(|i| [0.5, 1.0][i % 2] * (number * 0.25)).collect();
        assert_eq!(query(&with(&modelopt, scale, 0.25).unwrap()).unwrap(), wanted, "{scale:#x}");
        assert_eq!(query(&with(&compressed, scale, 4.0).unwrap()).unwrap(), wanted, "{scale:#x}");
    }
    for scale in [0x7f, 0xff, 0xb8] {
        let error = refusal(query(&with(&modelopt, scale, 1.0).unwrap()));
        assert!(error.contains("q_proj.weight_scale"), "{scale:#x}: {error}");
    }
    for factor in [f32::NAN, f32::INFINITY] {
        let error = refusal(with(&modelopt, 0x38, factor));
        assert!(error.contains("q_proj.weight_scale_2"), "{factor}: {error}");
    }
    for factor in [f32::NAN, f32::INFINITY, 0.0] {
        let error = refusal(with(&compressed, 0x38, factor));
        assert!(error.contains("q_proj.weight_global_scale"), "{factor}: {error}");
    }
}

#[test]
fn bytes_of_bitsandbytes_in_another_order_are_refused() {
    let quantization = json!({"quant_method": "bitsandbytes", "load_in_8bit": true});
    let with = |format: u8| {
        let largest = (0..ROWS).flat_map(|row| (row as f32).to_le_bytes()).collect();
        let tensors = vec![
            ("weight", ("I8", vec![ROWS, 64], vec![0xfe; ROWS * 64])),
            ("SCB", ("F32", vec![ROWS], largest)),
            ("weight_format", ("U8", vec![], vec![format])),
        ];
        checkpoint(64, &quantization, tensors)
    };
    let wanted = |i: usize| bf16::from_f32(-2.0 * (i / 64) as f32 * 7.874_016e-3).to_f32();
    assert_eq!(query(&with(0).unwrap()).unwrap(), (0..ROWS * 64).map(wanted).collect::<Vec<_>>());
    let error = refusal(with(2));
    assert!(error.contains("q_proj.weight_format") && error.contains("format 2"), "{error}");
}

#[test]
fn states_of_nf4_that_say_something_else_are_named() {
    let quantization = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    let with = |change: &[(&str, Value)]| {
        let mut state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "nested_blocksize": 256,
            "nested_dtype": "float32", "nested_offset": 0.25});
        for (field, value) in change {
            state[*field] = value.clone();
        }
        let floats = |numbers: Vec<f32>| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            ("F32", vec![numbers.len()], bytes)
        };
        let state = state.to_string().into_bytes();
        let tensors = vec![
            ("weight", ("U8", vec![ROWS * 32, 1], vec![0x12; ROWS * 32])),
            ("weight.quant_map", floats((0..16).map(|i| i as f32).collect())),
            ("weight.absmax", ("U8", vec![ROWS], (0..ROWS as u8).collect())),
            ("weight.nested_quant_map", floats((0..256).map(|i| i as f32 / 256.0).collect())),
            ("weight.nested_absmax", floats(vec![0.5])),
            ("weight.quant_state.bitsandbytes__nf4", ("U8", vec![state.len()], state)),
        ];
        checkpoint(64, &quantization, tensors)
    };
    // The first of two in the high bits.
    let wanted = |i: usize| bf16::from_f32([1.0, 2.0][i % 2] * ((i / 64) as f32 / 512.0 + 0.25)).to_f32();
    assert_eq!(query(&with(&[]).unwrap()).unwrap(), (0..ROWS * 64).map(wanted).collect::<Vec<_>>());
    for (field, value) in [
        ("blocksize", json!(128)),
        ("quant_type", json!("fp4")),
        ("dtype", json!("float16")),
        ("nested_blocksize", json!(128)),
        ("nested_offset", Value::Null),
    ] {
        let error = refusal(with(&[(field, value)]));
        assert!(error.contains("q_proj.weight.quant_state") && error.contains(field), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any integers, groups and zero points, packed an element at a time, against `(q - z) * s` or `q * s + b`.
    #[test]
    fn any_integers_keep_their_numbers(
        seed in any::<u64>(),
        blocks in 1usize..7,
        group_blocks in 1usize..5,
        layout in 0usize..6,
    ) {
        let (cols, group) = (32 * blocks, 32 * group_blocks);
        let groups = cols.div_ceil(group);
        let mut state = seed;
        let mut random = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        let bits = if layout == 2 { 8 } else { 4 };
        let codes: Vec<u32> = (0..ROWS * cols).map(|_| random(1 << bits)).collect();
        let zeros: Vec<u32> = (0..ROWS * groups).map(|_| random(16)).collect();
        let scales: Vec<f32> = (0..ROWS * groups).map(|_| (random(255) as f32 + 1.0) / 4096.0).collect();
        let biases: Vec<f32> = (0..ROWS * groups).map(|_| (random(255) as f32 - 127.0) / 512.0).collect();
        let (code, at) = (|row: usize, col: usize| codes[row * cols + col], |row: usize, group: usize| row * groups + group);
        let by_row = || ("BF16", vec![ROWS, groups], halves(scales.iter().copied()));
        let by_group = || {
            let values = (0..groups).flat_map(|g| (0..ROWS).map(move |row| (row, g)));
            let bytes = values.flat_map(|(row, g)| f16::from_f32(scales[at(row, g)]).to_le_bytes()).collect();
            ("F16", vec![groups, ROWS], bytes)
        };
        let across = |order: [usize; 8], value: &dyn Fn(usize, usize) -> u32, count: usize| {
            let (value, order) = (value, &order);
            let words_of = |i: usize| (0..ROWS / 8).map(move |word| {
                (0..8).fold(0, |packed, place| packed | value(8 * word + order[place], i) << (4 * place))
            });
            words((0..count).flat_map(words_of))
        };
        let straight = [0, 1, 2, 3, 4, 5, 6, 7];
        let (quantization, tensors) = match layout {
            0..=2 => {
                let packed = ("I32", vec![ROWS, cols * bits / 32], pack(bits, codes.iter().copied()));
                let mut tensors = vec![("weight_packed", packed), ("weight_scale", by_row())];
                if layout == 1 {
                    let words_of = |word: usize| (0..groups).map(move |g| (word, g));
                    let words_of = (0..ROWS / 8).flat_map(words_of).map(|(word, g)| {
                        (0..8).fold(0, |packed, place| packed | zeros[at(8 * word + place, g)] << (4 * place))
                    });
                    tensors.push(("weight_zero_point", ("I32", vec![ROWS / 8, groups], words(words_of))));
                }
                (compressed(bits, group, layout != 1), tensors)
            }
            3 => {
                let order = [0, 2, 4, 6, 1, 3, 5, 7];
                let packed = across(order, &|row, col| code(row, col), cols);
                let packed_zeros = across(order, &|row, g| zeros[at(row, g)], groups);
                let tensors = vec![
                    ("qweight", ("I32", vec![cols, ROWS / 8], packed)),
                    ("qzeros", ("I32", vec![groups, ROWS / 8], packed_zeros)),
                    ("scales", by_group()),
                ];
                (json!({"quant_method": "awq", "bits": 4, "group_size": group, "version": "GEMM"}), tensors)
            }
            4 => {
                let word = |word: usize, row: usize| (0..8).fold(0, |all, k| all | code(row, 8 * word + k) << (4 * k));
                let packed = (0..cols / 8).flat_map(|w| (0..ROWS).map(move |row| (w, row))).map(|(w, row)| word(w, row));
                let less = |row: usize, g: usize| zeros[at(row, g)].wrapping_sub(1) & 15;
                let tensors = vec![
                    ("qweight", ("I32", vec![cols / 8, ROWS], words(packed))),
                    ("qzeros", ("I32", vec![groups, ROWS / 8], across(straight, &less, groups))),
                    ("scales", by_group()),
                ];
                (json!({"quant_method": "gptq", "bits": 4, "group_size": group, "sym": false}), tensors)
            }
            _ => {
                let tensors = vec![
                    ("weight", ("U32", vec![ROWS, cols / 8], pack(4, codes.iter().copied()))),
                    ("scales", by_row()),
                    ("biases", ("BF16", vec![ROWS, groups], halves(biases.iter().copied()))),
                ];
                (json!({"group_size": group, "bits": 4}), tensors)
            }
        };
        let found = query(&checkpoint(cols, &quantization, tensors).unwrap()).unwrap();
        for (index, found) in found.into_iter().enumerate() {
            let (row, col) = (index / cols, index % cols);
            let (q, place) = (code(row, col) as i32, at(row, col / group));
            let wanted = match layout {
                0 => (q - 8) as f32 * scales[place],
                2 => (q - 128) as f32 * scales[place],
                1 | 3 | 4 => (q - zeros[place] as i32) as f32 * scales[place],
                _ => q as f32 * scales[place] + biases[place],
            };
            prop_assert_eq!(found.to_bits(), wanted.to_bits(), "layout {}, row {}, column {}", layout, row, col);
        }
    }

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
