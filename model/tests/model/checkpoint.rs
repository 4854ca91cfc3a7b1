//! Bad weights: every way in which files can be broken is refused before serving, by file, tensor, what
//! was expected and what was found; no byte of them makes us panic.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use quern_model::{
    Checkpoint, CheckpointOptions, LoadError, Role,
    network::MlpPart,
    weights::{Remedy, TensorProblem, safetensors::fuzz_header},
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A tensor: dtype, shape, bytes.
type Stored = (String, Vec<u64>, Vec<u8>);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of a checkpoint of the repository, to be broken.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// The header of a file and where its data starts.
fn header(bytes: &[u8]) -> (Map<String, Value>, usize) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), 8 + length)
}

/// Every tensor of a checkpoint.
fn tensors(dir: &Path) -> BTreeMap<String, Stored> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let (entries, data) = header(&bytes);
        for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
            let at = |i: usize| data + entry["data_offsets"][i].as_u64().unwrap() as usize;
            let shape = entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            all.insert(name, (entry["dtype"].as_str().unwrap().into(), shape, bytes[at(0)..at(1)].to_vec()));
        }
    }
    all
}

/// A file of these tensors.
fn file(tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
    let (mut entries, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let range = [data.len(), data.len() + bytes.len()];
        entries.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": range}));
        data.extend_from_slice(bytes);
    }
    with_header(&Value::Object(entries).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A checkpoint in one file, its tensors changed.
fn changed(name: &str, change: impl FnOnce(&mut BTreeMap<String, Stored>)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture(name).join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = tensors(&fixture(name));
    change(&mut tensors);
    fs::write(dir.path().join("model.safetensors"), file(&tensors)).unwrap();
    dir
}

fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
    let checkpoint = Checkpoint::open(dir, &CheckpointOptions::default())?;
    checkpoint.scan(2, &mut |_| {})?;
    Ok(checkpoint)
}

/// What is wrong with a checkpoint that must be refused.
fn problems(dir: &Path) -> Vec<TensorProblem> {
    match open(dir) {
        Ok(_) => panic!("{} is taken for whole", dir.display()),
        Err(LoadError::Checkpoint { problems, .. }) => problems,
        Err(other) => panic!("{other}"),
    }
}

/// The one problem.
fn problem(dir: &Path) -> (String, String, String, String) {
    let mut problems = problems(dir);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let TensorProblem { file, tensor, expected, found, .. } = problems.remove(0);
    (file, tensor.unwrap_or_default(), expected, found)
}

const Q_NORM: &str = "model.layers.0.self_attn.q_norm.weight";
const GATE_PROJ: &str = "model.layers.0.mlp.gate_proj.weight";

#[test]
fn whole_checkpoints_pass_in_shards_and_in_one_file() {
    for name in ["tiny-dense", "tiny-fp8-ragged", "tiny-mixed", "tiny-yarn"] {
        open(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        open(changed(name, |_| {}).path()).unwrap_or_else(|e| panic!("{name} in one file: {e}"));
    }
}

#[test]
fn a_file_cut_anywhere_is_named_with_its_bytes() {
    let dir = copy("tiny-dense");
    let path = dir.path().join("model-00002-of-00003.safetensors");
    let whole = fs::read(&path).unwrap();
    let data = header(&whole).1;
    let cuts = (0..20).map(|i| whole.len() * i / 20).chain([1, 7, 8, 9, data - 1, data, data + 1, whole.len() - 1]);
    for cut in cuts {
        fs::write(&path, &whole[..cut]).unwrap();
        let problems = problems(dir.path());
        assert!(problems.iter().all(|p| p.remedy == Remedy::FetchAgain), "{cut}: {problems:?}");
        assert!(problems.iter().all(|p| p.file == "model-00002-of-00003.safetensors"), "{cut}: {problems:?}");
        assert!(problems[0].to_string().contains("expected"), "{problems:?}");
    }
    fs::write(&path, [&whole[..], &[0; 5]].concat()).unwrap();
    let (_, _, expected, found) = problem(dir.path());
    assert_eq!(
        (expected, found),
        (format!("{} bytes of data", whole.len() - data), format!("{}", whole.len() - data + 5))
    );
}

#[test]
fn a_flipped_bit_of_a_header_is_refused_or_harmless() {
    let dir = copy("tiny-dense");
    let path = dir.path().join("model-00003-of-00003.safetensors");
    let whole = fs::read(&path).unwrap();
    let data = header(&whole).1;
    let mut harmless = 0;
    let bits = (0..8 * data).step_by(5);
    let count = bits.len();
    for bit in bits {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        // Only what the header says beside its tensors, or a space for another blank, may change.
        harmless += usize::from(open(dir.path()).is_ok());
    }
    assert!(harmless * 20 < count, "{harmless} of {count} flips went unnoticed");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (dtype_bytes, value) in [(2, &[0xc0, 0x7f][..]), (2, &[0x80, 0xff])] {
        let dir = changed("tiny-dense", |tensors| {
            let (_, _, bytes) = tensors.get_mut(GATE_PROJ).unwrap();
            bytes[10 * dtype_bytes..][..dtype_bytes].copy_from_slice(value);
        });
        let (file, tensor, _, found) = problem(dir.path());
        assert_eq!((file.as_str(), tensor.as_str()), ("model.safetensors", GATE_PROJ));
        assert!(found.contains("10"), "it says which element: {found}");
    }
}

#[test]
fn missing_extra_and_misshapen_tensors_are_all_listed() {
    let dir = changed("tiny-dense", |tensors| {
        let extra = tensors.remove(Q_NORM).unwrap();
        tensors.insert("model.layers.0.self_attn.q_norms.weight".into(), extra);
        let (_, shape, _) = tensors.get_mut(GATE_PROJ).unwrap();
        shape.reverse();
    });
    let problems = problems(dir.path());
    let about = |name: &str| {
        problems.iter().find(|p| p.tensor.as_deref() == Some(name)).unwrap_or_else(|| panic!("{problems:#?}"))
    };
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert_eq!(about(Q_NORM).found, "nothing");
    assert!(about("model.layers.0.self_attn.q_norms.weight").expected.contains("no such tensor"));
    assert!(about(GATE_PROJ).expected.starts_with("shape ["), "{problems:#?}");
    let error = open(dir.path()).err().expect("it is refused").to_string();
    assert!(error.contains("config.json belongs") && !error.contains("Fetch the named files again"), "{error}");
}

#[test]
fn element_types_must_be_weights() {
    let retype = |name: &'static str, dtype: &'static str, factor: (usize, usize)| {
        changed("tiny-dense", move |tensors| {
            let (stored, _, bytes) = tensors.get_mut(name).unwrap();
            *stored = dtype.into();
            bytes.resize(bytes.len() * factor.0 / factor.1, 0);
        })
    };
    for (name, dtype, factor, part) in [
        (GATE_PROJ, "I16", (1, 1), "one of BF16"),
        (GATE_PROJ, "F64", (4, 1), "one of BF16"),
        (GATE_PROJ, "Q4", (1, 1), "a known dtype"),
        (Q_NORM, "F8_E4M3", (1, 2), "one of BF16, F16, F32"),
    ] {
        let dir = retype(name, dtype, factor);
        let problems = problems(dir.path());
        let found = problems.iter().any(|p| p.tensor.as_deref() == Some(name) && p.expected.contains(part));
        assert!(found, "{dtype}: {problems:#?}");
    }
}

#[test]
fn fp8_weights_need_their_scales_and_plain_ones_must_have_none() {
    let weight = "model.layers.0.self_attn.q_proj.weight";
    let scales = "model.layers.0.self_attn.q_proj.weight_scale_inv";
    let missing = changed("tiny-fp8-ragged", |tensors| drop(tensors.remove(scales)));
    let (_, tensor, expected, _) = problem(missing.path());
    assert_eq!((tensor.as_str(), expected), (weight, format!("`{scales}` beside it")));
    let wrong = changed("tiny-fp8-ragged", |tensors| {
        let (_, shape, bytes) = tensors.get_mut(scales).unwrap();
        shape[0] += 1;
        bytes.resize(bytes.len() + 4 * shape[1] as usize, 0);
    });
    assert_eq!(problem(wrong.path()).1, scales);
    let stray = changed("tiny-dense", |tensors| {
        tensors.insert(format!("{GATE_PROJ}_scale_inv"), ("F32".into(), vec![1, 1], vec![0; 4]));
    });
    assert!(problem(stray.path()).2.contains("no scales beside"));
}

#[test]
fn scales_of_nothing_and_scales_stored_twice_are_named() {
    let with = |fixture, name: &str| {
        changed(fixture, |tensors| drop(tensors.insert(name.into(), ("F32".into(), vec![1, 1], vec![0; 4]))))
    };
    let norm = format!("{Q_NORM}_scale");
    let (_, tensor, expected, _) = problem(with("tiny-dense", &norm).path());
    assert!(tensor == norm && expected.contains("no such tensor"), "{tensor}: {expected}");
    let second = "model.layers.0.self_attn.q_proj.weight_scale";
    let (_, tensor, expected, _) = problem(with("tiny-fp8-ragged", second).path());
    assert!(tensor == second && expected.contains("q_proj.weight_scale_inv"), "{tensor}: {expected}");
}

#[test]
fn shards_and_their_index_must_agree() {
    let shard = "model-00002-of-00003.safetensors";
    let missing = copy("tiny-dense");
    fs::remove_file(missing.path().join(shard)).unwrap();
    let (file, _, expected, found) = problem(missing.path());
    assert_eq!(
        (file.as_str(), expected.as_str(), found.as_str()),
        (shard, "a shard that the index names", "no such file")
    );

    let edit = |change: &dyn Fn(&mut Map<String, Value>)| {
        let dir = copy("tiny-dense");
        let path = dir.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(index["weight_map"].as_object_mut().unwrap());
        fs::write(&path, index.to_string()).unwrap();
        dir
    };
    let moved = edit(&|map| drop(map.insert(Q_NORM.into(), "model-00003-of-00003.safetensors".into())));
    assert!(problems(moved.path()).iter().any(|p| p.tensor.as_deref() == Some(Q_NORM)));
    for name in ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", "a\0.safetensors"] {
        let outside = edit(&|map| drop(map.insert("model.norm.weight".into(), name.into())));
        let problems = problems(outside.path());
        assert!(problems.iter().any(|p| p.file == "model.safetensors.index.json"), "{name:?}: {problems:?}");
    }
    let invented = edit(&|map| drop(map.insert("x.weight".into(), shard.into())));
    assert_eq!(problem(invented.path()).1, "x.weight");
    let garbage = copy("tiny-dense");
    fs::write(garbage.path().join("model.safetensors.index.json"), "{\"weight_map\": [").unwrap();
    assert_eq!(problem(garbage.path()).0, "model.safetensors.index.json");
    // A sparse file: what is not read costs nothing.
    fs::File::options()
        .write(true)
        .open(garbage.path().join("model.safetensors.index.json"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let found = problem(garbage.path()).3;
    assert!(found.contains("1073741824 bytes; at most 100000000"), "{found}");
    let empty = tempfile::tempdir().unwrap();
    fs::copy(fixture("tiny-dense").join("config.json"), empty.path().join("config.json")).unwrap();
    assert_eq!(problem(empty.path()).3, "no such file");
    let twice = copy("tiny-dense");
    fs::remove_file(twice.path().join("model.safetensors.index.json")).unwrap();
    fs::copy(twice.path().join(shard), twice.path().join("zzz.safetensors")).unwrap();
    assert!(problems(twice.path()).iter().all(|p| p.expected.starts_with("once, in")));
}

#[test]
fn hostile_headers_are_refused() {
    let whole = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    let huge = u64::MAX.to_le_bytes().to_vec();
    let long = [&(200_000_000u64).to_le_bytes()[..], b"{}"].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (huge, "a header of at most"),
        (long, "a header of at most"),
        (with_header("[]", b""), "a JSON header"),
        (with_header(&"[".repeat(100_000), b""), "a JSON header"),
        (with_header(&whole.replace("[1]", "[-1]"), b"0000"), "a JSON header"),
        (with_header(&whole.replace("[0,4]", "[0,4,8]"), b"0000"), "a JSON header"),
        (with_header(&whole.replace("[1]", "[4294967296,4294967296,4294967296]"), b"0000"), "a sane shape"),
        (with_header(&whole.replace("[1]", "[18446744073709551615]"), b"0000"), "a sane shape"),
        (with_header(&whole.replace("[1]", "[1,1,1,1,1,1,1,1,1]"), b"0000"), "dimensions"),
        (with_header(&whole.replace("[0,4]", "[4,0]"), b"0000"), "data from byte 0"),
        (with_header(&whole.replace("[0,4]", "[0,18446744073709551615]"), b"0000"), "4 bytes"),
        (with_header(&whole.replace("[1]", "[2]").replace("[0,4]", "[0,8]"), b"0000"), "data up to byte 8"),
        (with_header(&whole.replace("[0,4]", "[1,5]"), b"00000"), "data from byte 0"),
        (with_header(&format!("{},{}", &whole[..whole.len() - 1], &whole[1..]), b"0000"), "listed twice"),
        (with_header(whole, b"00000"), "bytes of data"),
    ];
    for (bytes, part) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(fixture("tiny-dense").join("config.json"), dir.path().join("config.json")).unwrap();
        fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
        let problem = problems(dir.path()).remove(0).to_string();
        assert!(problem.contains(part) && problem.starts_with("model.safetensors: "), "{part}: {problem}");
    }
}

/// The notes of a checkpoint that must be read.
fn notes(dir: &Path) -> Vec<String> {
    open(dir).unwrap_or_else(|error| panic!("{error}")).notes().to_vec()
}

#[test]
fn files_that_the_weights_do_without_are_not_read_and_named() {
    assert!(notes(copy("tiny-dense").path()).is_empty());
    for stray in ["model-00001-of-00007.safetensors", "model.safetensors", "adapter_model.safetensors"] {
        let dir = copy("tiny-dense");
        fs::write(dir.path().join(stray), "left over").unwrap();
        let notes = notes(dir.path());
        assert!(notes.len() == 1 && notes[0].contains(stray) && notes[0].contains(".index.json"), "{notes:?}");
    }
    let dir = changed("tiny-dense", |_| {});
    fs::write(dir.path().join("consolidated.safetensors"), "left over").unwrap();
    assert!(notes(dir.path())[0].contains("consolidated.safetensors"));

    // Without an index nothing says which of two sets is meant, nor that a set is whole.
    let dir = copy("tiny-dense");
    fs::remove_file(dir.path().join("model.safetensors.index.json")).unwrap();
    open(dir.path()).unwrap();
    fs::copy(dir.path().join("model-00001-of-00003.safetensors"), dir.path().join("model-00001-of-00002.safetensors"))
        .unwrap();
    let error = open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("several sets") && error.contains("model-00001-of-00002"), "{error}");
    fs::remove_file(dir.path().join("model-00001-of-00002.safetensors")).unwrap();
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    assert!(problems(dir.path()).iter().any(|p| p.file == "model-00002-of-00003.safetensors"));
}

#[test]
fn tensors_that_change_nothing_are_passed_over_and_named() {
    let dir = changed("tiny-dense", |tensors| {
        for name in ["self_attn.rotary_emb.inv_freq", "self_attn.k_scale", "self_attn.v_scale"] {
            tensors.insert(format!("model.layers.0.{name}"), ("F32".into(), vec![1], vec![0; 4]));
        }
    });
    let notes = notes(dir.path());
    assert!(notes.len() == 2 && notes[0].contains("inv_freq") && notes[1].contains("k_scale"), "{notes:?}");
}

#[test]
fn a_tied_head_that_differs_is_a_head_of_its_own() {
    let tied = |change: fn(&mut Stored)| {
        let dir = changed("tiny-dense", |tensors| {
            let mut head = tensors["model.embed_tokens.weight"].clone();
            change(&mut head);
            tensors.insert("lm_head.weight".into(), head);
        });
        let file = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["tie_word_embeddings"] = true.into();
        fs::write(&file, config.to_string()).unwrap();
        dir
    };
    let same = open(tied(|_| {}).path()).unwrap();
    assert!(same.config().tie_word_embeddings && same.notes().is_empty());
    let own = open(tied(|(_, _, bytes)| bytes[0] ^= 1).path()).unwrap();
    assert!(!own.config().tie_word_embeddings);
    let note = &own.notes()[0];
    assert!(note.contains("lm_head.weight") && note.contains("tie_word_embeddings"), "{note}");
}

#[test]
fn the_scales_names_of_compressed_tensors_are_known() {
    let plain = open(&fixture("tiny-fp8-ragged")).unwrap();
    let dir = changed("tiny-fp8-ragged", |tensors| {
        let scales: Vec<String> = tensors.keys().filter(|name| name.ends_with("_scale_inv")).cloned().collect();
        for name in scales {
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(name.trim_end_matches("_inv").to_owned(), tensor);
        }
    });
    let file = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["quantization_config"] = json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "type": "float", "num_bits": 8, "strategy": "block", "block_structure": [128, 128], "symmetric": true}}},
    });
    fs::write(&file, config.to_string()).unwrap();
    let renamed = open(dir.path()).unwrap();
    for role in [Role::Query, Role::AttentionOutput] {
        let tensor = plain.network().tensor(Some(0), role);
        let (rows, cols) = tensor.matrix();
        let rows_of = |checkpoint: &Checkpoint| {
            let (matrix, mut row) = (checkpoint.weights().matrix(tensor).unwrap(), vec![0.0; cols]);
            matrix.decode_row(rows - 1, &mut row);
            row
        };
        assert_eq!(rows_of(&plain), rows_of(&renamed));
    }
}

#[test]
fn experts_in_one_tensor_a_layer_are_those_of_single_tensors() {
    let plain = open(&fixture("tiny-mixed")).unwrap();
    let config = plain.config();
    let (moe, hidden) = (config.moe.unwrap(), config.hidden as u64);
    let inner = moe.inner as u64;
    let fuse = |transposed: bool| {
        changed("tiny-mixed", |tensors| {
            for layer in 0..config.num_layers {
                let experts = format!("model.layers.{layer}.mlp.experts");
                for (name, parts, [rows, cols]) in [
                    ("gate_up_proj", &["gate_proj", "up_proj"][..], [2 * inner, hidden]),
                    ("down_proj", &["down_proj"], [hidden, inner]),
                ] {
                    let mut bytes = Vec::new();
                    let mut dtype = String::new();
                    for expert in 0..moe.num_experts {
                        for part in parts {
                            let Some(one) = tensors.remove(&format!("{experts}.{expert}.{part}.weight")) else {
                                continue;
                            };
                            dtype = one.0;
                            bytes.extend(one.2);
                        }
                    }
                    let sizes = if transposed { [cols, rows] } else { [rows, cols] };
                    if !bytes.is_empty() {
                        let shape = vec![moe.num_experts as u64, sizes[0], sizes[1]];
                        tensors.insert(format!("{experts}.{name}"), (dtype, shape, bytes));
                    }
                }
            }
        })
    };
    let fused = fuse(false);
    let fused = open(fused.path()).unwrap();
    let sparse = config.sparse_layers.iter().position(|sparse| *sparse).unwrap();
    for part in [MlpPart::Gate, MlpPart::Up, MlpPart::Down] {
        let tensor = plain.network().tensor(Some(sparse), Role::Expert(part));
        let (rows, cols) = tensor.matrix();
        let all = |checkpoint: &Checkpoint| -> Vec<Vec<f32>> {
            let matrices = checkpoint.weights().matrices(tensor).unwrap();
            let row = |index: usize| {
                let mut row = vec![0.0; cols];
                matrices[index / rows].decode_row(index % rows, &mut row);
                row
            };
            (0..rows * matrices.len()).map(row).collect()
        };
        assert_eq!(all(&fused), all(&plain), "{part:?}");
    }
    let error = open(fuse(true).path()).err().unwrap().to_string();
    assert!(error.contains("gate_up_proj") && error.contains("shape"), "{error}");
    // One of them is stored by itself as well.
    let single = format!("model.layers.{sparse}.mlp.experts.1.up_proj.weight");
    let twice = fuse(false);
    let mut stored = tensors(twice.path());
    stored.insert(single.clone(), tensors(&fixture("tiny-mixed"))[&single].clone());
    fs::write(twice.path().join("model.safetensors"), file(&stored)).unwrap();
    let (_, tensor, expected, found) = problem(twice.path());
    assert!(tensor == single && expected.contains("once, in model.safetensors"), "{tensor}: {expected}");
    assert!(found.contains(&format!("model.layers.{sparse}.mlp.experts.gate_up_proj")), "{found}");
}

#[test]
fn formats_of_others_are_named_with_what_works() {
    let refused = |dir: &Path, parts: &[&str]| {
        let error = open(dir).err().unwrap_or_else(|| panic!("{parts:?} is taken")).to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains("Fetch the named files again") && error.lines().count() == 1, "{error}");
    };
    let remedies = ["FP8", "GGUF", "--quantization q4_k_m"];
    for (sign, name) in [
        ("q_proj.qweight", "AWQ"),
        ("q_proj.weight_packed", "compressed-tensors"),
        ("q_proj.weight_scale_2", "NVFP4"),
        ("q_proj.biases", "MLX"),
    ] {
        let dir = changed("tiny-dense", |tensors| {
            let tensor = tensors.remove("model.layers.0.self_attn.q_proj.weight").unwrap();
            tensors.insert(format!("model.layers.0.self_attn.{sign}"), tensor);
        });
        refused(dir.path(), &[&[name, sign][..], &remedies].concat());
    }
    let write = |dir: &TempDir, name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let modelopt = copy("tiny-dense");
    write(&modelopt, "hf_quant_config.json", r#"{"quantization": {"quant_algo": "NVFP4_AWQ"}}"#);
    refused(modelopt.path(), &["hf_quant_config.json", "NVFP4_AWQ", "--quantization"]);
    let pickled = tempfile::tempdir().unwrap();
    write(&pickled, "config.json", "{}");
    write(&pickled, "pytorch_model.bin", "");
    refused(pickled.path(), &["pytorch_model.bin", "safetensors"]);
    let adapter = tempfile::tempdir().unwrap();
    write(&adapter, "adapter_config.json", r#"{"base_model_name_or_path": "Qwen/Qwen3-Coder-30B-A3B-Instruct"}"#);
    refused(adapter.path(), &["adapter", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "merge"]);
}

#[test]
fn pointers_of_git_lfs_are_told_from_broken_files() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3999974400\n";
    let dir = copy("tiny-dense");
    fs::write(dir.path().join("model-00002-of-00003.safetensors"), pointer).unwrap();
    let error = open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("model-00002-of-00003.safetensors") && error.contains("git lfs pull"), "{error}");
    fs::write(dir.path().join("config.json"), pointer).unwrap();
    let error = open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("config.json") && error.contains("git lfs pull"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_header_parser_panic(
        length in prop_oneof![Just(None), (0..300u64).prop_map(Some)],
        header in prop_oneof![
            "\\PC{0,200}",
            "[{}\\[\\],:\"0-9a-zF_ ]{0,200}",
            Just("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}".to_owned()),
        ],
        data in prop::collection::vec(any::<u8>(), 0..64),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let length = length.unwrap_or(header.len() as u64);
        let mut bytes = [&length.to_le_bytes()[..], header.as_bytes(), &data].concat();
        let index = flip.0.index(bytes.len());
        bytes[index] ^= flip.1;
        fuzz_header(&bytes);
    }
}
