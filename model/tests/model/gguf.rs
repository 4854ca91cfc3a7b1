//! Files in llama.cpp's format: what is written is read again, and what is damaged is refused by name.

use std::{path::PathBuf, sync::Arc};

use crate::support::{Driver, limits};
use quern_backend::{DType, KvFormat, QuantFormat, RefBackend, SharedBytes};
use quern_model::{
    Checkpoint, CheckpointOptions, GenerationConfig, LoadError,
    gguf::{Announced, GgufFile, GgufModel, GgufValue, GgufWriter},
    gguf_export::{Unquantised, export},
    load,
    network::Shape,
    shard::Shard,
    weights::{QuantRecipe, TensorProblem},
};
use serde_json::{Map, json};

fn demo(recipe: Option<QuantRecipe>) -> Checkpoint {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    Checkpoint::open(&dir, &CheckpointOptions::default()).unwrap().quantised(recipe)
}

fn exported(checkpoint: &Checkpoint, plain: DType) -> SharedBytes {
    let bytes = export(checkpoint, Unquantised::Plain(plain), Vec::new(), Vec::new(), &mut |_| {}).unwrap();
    SharedBytes::new(Arc::new(bytes))
}

fn read(bytes: &SharedBytes) -> Checkpoint {
    Checkpoint::gguf(GgufModel::embedded("memory", bytes).unwrap(), &Map::new()).unwrap()
}

fn greedy(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let limits = limits(16, KvFormat::F32);
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

/// Qwen2's networks of the goldens: tied, and stretched with a head of its own.
fn qwen2(name: &str, recipe: Option<QuantRecipe>) -> Checkpoint {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    Checkpoint::open(&dir, &CheckpointOptions::default()).unwrap().quantised(recipe)
}

#[test]
fn a_network_with_biases_is_written_under_llama_cpps_names_and_comes_back() {
    for name in ["tiny-qwen2", "tiny-qwen2-yarn"] {
        let stored = qwen2(name, None);
        let bytes = exported(&stored, DType::BF16);
        let file = GgufModel::embedded("memory", &bytes).unwrap();
        assert_eq!(file.metadata()["general.architecture"].as_str(), Some("qwen2"));
        let tensors: Vec<_> = file.tensors().map(|(_, tensor)| tensor.name.as_str()).collect();
        for part in ["q", "k", "v"] {
            let [weight, bias] = ["weight", "bias"].map(|kind| format!("blk.1.attn_{part}.{kind}"));
            assert!(tensors.contains(&weight.as_str()) && tensors.contains(&bias.as_str()), "{tensors:?}");
        }
        let again = read(&bytes);
        assert_eq!(greedy(&again), greedy(&stored), "{name}");
        assert_eq!(again.config().rope, stored.config().rope, "{name}");
        assert_eq!(again.config().tie_word_embeddings, name == "tiny-qwen2");
        for (_, recipe) in QuantRecipe::NAMES {
            let quantised = qwen2(name, Some(recipe));
            assert_eq!(greedy(&read(&exported(&quantised, DType::BF16))), greedy(&quantised), "{name} {recipe}");
        }
    }
}

#[test]
fn a_quantised_file_is_what_quantising_on_load_makes() {
    for (_, recipe) in QuantRecipe::NAMES {
        let quantised = demo(Some(recipe));
        let file = read(&exported(&quantised, DType::BF16));
        assert_eq!(greedy(&file), greedy(&quantised), "{recipe}");
        let missing = quantised.formats().into_iter().filter(|f| f.blocks().is_some() && !file.formats().contains(f));
        assert_eq!(missing.count(), 0, "{recipe}");
    }
}

#[test]
fn a_header_alone_says_what_the_whole_file_holds() {
    let whole = exported(&demo(Some(QuantRecipe::Q4KM)), DType::BF16);
    let size = whole.len() as u64;
    let header = |bytes: usize| GgufFile::header("m.gguf", &whole.slice(0..bytes).unwrap(), size).unwrap();
    let enough = (0..).map(|i| 1usize << i).find(|&bytes| header(bytes).is_some()).unwrap();
    assert!(enough < whole.len() / 2, "{enough} of {size}");
    assert!((0..enough / 2).step_by(97).all(|bytes| header(bytes).is_none()));

    let model = GgufModel::announced("owner/model", vec![header(enough).unwrap()]).unwrap();
    let announced = Checkpoint::gguf(model, &Map::new()).unwrap();
    let opened = read(&whole);
    assert_eq!(announced.config().num_layers, opened.config().num_layers);
    assert_eq!(announced.eos_token_ids(), opened.eos_token_ids());
    assert_eq!((announced.formats(), announced.weight_bytes()), (opened.formats(), opened.weight_bytes()));
    for tensor in opened.network().tensors() {
        if let Shape::Matrix(..) = tensor.shape {
            let bytes = |of: &Checkpoint| of.weights().part_bytes(tensor, &Shard::whole(tensor)).unwrap();
            let matrices = opened.weights().matrices(tensor).unwrap();
            let held: u64 = matrices.iter().map(|matrix| matrix.held_bytes() as u64).sum();
            assert_eq!([bytes(&announced), bytes(&opened)], [held; 2], "{:?}", tensor.role);
        }
    }
    let error = load(&announced, Arc::new(RefBackend), limits(16, KvFormat::F32), &mut |_| {}).err().unwrap();
    assert!(error.to_string().contains("only the file's header"), "{error}");

    // What a header says is checked as that of a whole file.
    let error = GgufFile::header("m.gguf", &whole.slice(0..enough).unwrap(), size - 1).unwrap_err();
    assert!(error.found.contains("the file is cut"), "{error}");
    let error = GgufFile::header("m.gguf", &SharedBytes::new(Arc::new(b"GGML0000".to_vec())), size).unwrap_err();
    assert!(error.expected.contains("GGUF"), "{error}");
}

#[test]
fn a_file_cut_into_pieces_is_read_as_one() {
    let whole = exported(&demo(Some(QuantRecipe::Q4_0)), DType::BF16);
    let wanted = GgufModel::embedded("memory", &whole).unwrap();
    let names = ["m.gguf-split-a", "m.gguf-split-b", "m.gguf-split-c"];
    // Within the header, within tensors, and where a page of memory ends.
    for cuts in [[1, 100], [whole.len() / 3, whole.len() / 2 + 1], [4096, whole.len() - 1]] {
        let dir = tempfile::tempdir().unwrap();
        let ends = [0, cuts[0], cuts[1], whole.len()];
        for (name, range) in names.iter().zip(ends.windows(2)) {
            std::fs::write(dir.path().join(name), &whole[range[0]..range[1]]).unwrap();
        }
        for name in names {
            let model = GgufModel::open(&dir.path().join(name)).unwrap();
            assert_eq!(model.paths(), names.map(|name| dir.path().join(name)));
            for ((_, found), (_, wanted)) in model.tensors().zip(wanted.tensors()) {
                assert_eq!((&found.name, &*found.bytes), (&wanted.name, &*wanted.bytes), "{cuts:?} {name}");
            }
            assert_eq!(model.metadata(), wanted.metadata());
            Checkpoint::gguf(model, &Map::new()).unwrap().scan(1, &mut |_| {}).unwrap();
        }
        let refusal = |missing: &str| {
            std::fs::remove_file(dir.path().join(missing)).unwrap();
            GgufModel::open(&dir.path().join(names[0])).unwrap_err().to_string()
        };
        // Only the header knows that the last is missing.
        let error = refusal(names[2]);
        assert!(error.contains("m.gguf") && error.contains("the file"), "{error}");
        std::fs::write(dir.path().join(names[2]), b"x").unwrap();
        let error = refusal(names[1]);
        assert!(error.contains("m.gguf-split-b beside it") && error.contains("one folder"), "{error}");
    }
}

/// The demonstration model with `rope_scaling`, written with `more` metadata and read again.
fn stretched(scaling: serde_json::Value, more: &[(&str, GgufValue)]) -> Result<(Checkpoint, Checkpoint), String> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    let overrides = Map::from_iter([("rope_scaling".to_owned(), scaling)]);
    let options = CheckpointOptions { config_overrides: Some(overrides), ..CheckpointOptions::default() };
    let stored = Checkpoint::open(&dir, &options).map_err(|error| error.to_string())?;
    let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let bytes = export(&stored, Unquantised::Plain(DType::BF16), more, Vec::new(), &mut |_| {})
        .map_err(|error| error.to_string())?;
    let model = GgufModel::embedded("memory", &SharedBytes::new(Arc::new(bytes)));
    let again = model.and_then(|model| Checkpoint::gguf(model, &Map::new())).map_err(|error| error.to_string())?;
    Ok((stored, again))
}

#[test]
fn stretched_positions_and_recommended_sampling_come_back() {
    for scaling in [
        json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048 }),
        json!({ "rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 4096, "beta_fast": 24.5,
                "beta_slow": 1.5, "attention_factor": 0.75 }),
        json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "mscale": 1.0,
                "mscale_all_dim": 0.5 }),
        json!(null),
    ] {
        let (stored, again) = stretched(scaling.clone(), &[]).unwrap();
        let (mut ours, mut theirs) = (stored.config().rope.clone(), again.config().rope.clone());
        if let (Some(ours), Some(theirs)) = (&mut ours.yarn, &mut theirs.yarn) {
            // The file's number is a f32.
            let factors = [&mut ours.attention_factor, &mut theirs.attention_factor].map(std::mem::take);
            assert!((factors[0] - factors[1]).abs() <= f64::from(f32::EPSILON) * factors[0], "{factors:?}");
        }
        assert_eq!(ours, theirs, "{scaling}");
        assert_eq!(stored.generation().temperature, Some(0.1));
        let sampling = GenerationConfig { eos_token_ids: Vec::new(), ..stored.generation().clone() };
        assert_eq!(*again.generation(), sampling);
    }
    let odd = json!({ "rope_type": "yarn", "factor": 4.0, "truncate": false });
    assert!(stretched(odd, &[]).err().unwrap().contains("rope_scaling.truncate = false"));
}

#[test]
fn keys_of_other_programs_are_taken_for_what_they_say() {
    let yarn = || json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048 });
    let usual = 0.1 * 4f64.ln() + 1.0;
    let attention = |key: &str, value: f64| {
        let key = format!("qwen3moe.rope.scaling.{key}");
        let (_, again) = stretched(yarn(), &[(&key, GgufValue::Float(value))])?;
        Ok::<f64, String>(again.config().rope.yarn.as_ref().unwrap().attention_factor)
    };
    assert_eq!(attention("attn_factor", 0.5).unwrap(), 0.5 * usual);
    assert_eq!(attention("yarn_attn_factor", 0.5).unwrap(), 0.5);
    for (key, neutral, refused) in [
        ("yarn_ext_factor", [1.0, -1.0], 0.0),
        ("yarn_log_multiplier", [0.0, 0.0], 0.5),
        ("yarn_attn_factor", [1.0; 2], f64::NAN),
    ] {
        for value in neutral {
            assert_eq!(attention(key, value).unwrap(), usual, "{key}");
        }
        let error = attention(key, refused).unwrap_err();
        assert!(error.contains(&format!("metadata `qwen3moe.rope.scaling.{key}`")), "{error}");
        assert!(error.contains(&format!("found {refused}")), "{error}");
    }

    let text = |value: &str| GgufValue::Text(value.into());
    for (more, refused) in [
        (vec![("scaling.type", text("none")), ("scaling.factor", GgufValue::Float(4.0))], None),
        (vec![("scaling.type", text("linear")), ("scaling.factor", GgufValue::Float(0.0))], None),
        (vec![("scaling.attn_factor", GgufValue::Float(1.0))], None),
        (vec![("scaling.factor", GgufValue::Float(4.0))], Some(("factor", "4"))),
        (
            vec![("scaling.type", text("none")), ("scaling.attn_factor", GgufValue::Float(2.0))],
            Some(("attn_factor", "2")),
        ),
        (vec![("scaling.type", text("longrope"))], Some(("type", "\"longrope\""))),
        (vec![("scaling.factor", text("4"))], Some(("factor", "\"4\""))),
    ] {
        let more: Vec<_> = more.into_iter().map(|(key, value)| (format!("qwen3moe.rope.{key}"), value)).collect();
        let more: Vec<_> = more.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        match (stretched(json!(null), &more), refused) {
            (Ok((_, again)), None) => assert_eq!(again.config().rope.yarn, None),
            (Err(error), Some((key, found))) => {
                assert!(error.contains(&format!("(metadata `qwen3moe.rope.scaling.{key}`), found {found}")), "{error}");
            }
            (outcome, _) => panic!("{more:?}: {:?}", outcome.map(|_| ())),
        }
    }
}

#[test]
fn recommended_sampling_is_read_and_checked() {
    let file = |more: &[(&str, GgufValue)]| {
        let metadata = [("general.architecture", GgufValue::Text("qwen3".into()))];
        let metadata: Vec<_> =
            metadata.iter().chain(more).map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let bytes = GgufWriter::begin(Vec::new(), &metadata, &[]).unwrap().finish().unwrap();
        GgufModel::embedded("memory", &SharedBytes::new(Arc::new(bytes))).map_err(|error| error.to_string())
    };
    assert_eq!(*file(&[]).unwrap().generation(), GenerationConfig::default());
    let model = file(&[
        ("general.sampling.temp", GgufValue::Float(0.7)),
        ("general.sampling.top_p", GgufValue::Float(0.8)),
        ("general.sampling.top_k", GgufValue::Signed(20)),
        ("general.sampling.min_p", GgufValue::Float(0.05)),
        ("general.sampling.penalty_repeat", GgufValue::Float(1.05)),
        ("general.sampling.mirostat", GgufValue::Signed(2)),
    ]);
    let wanted = GenerationConfig {
        temperature: Some(0.7),
        top_p: Some(0.8),
        top_k: Some(20),
        min_p: Some(0.05),
        repetition_penalty: Some(1.05),
        eos_token_ids: Vec::new(),
    };
    assert_eq!(*model.unwrap().generation(), wanted);
    let off =
        file(&[("general.sampling.top_k", GgufValue::Signed(-1)), ("general.sampling.temp", GgufValue::Signed(-1))]);
    let wanted = GenerationConfig { temperature: Some(0.0), ..GenerationConfig::default() };
    assert_eq!(*off.unwrap().generation(), wanted);
    for (key, value, found) in [
        ("general.sampling.top_p", GgufValue::Float(1.5), "1.5"),
        ("general.sampling.temp", GgufValue::Text("warm".into()), "\"warm\""),
        ("general.sampling.min_p", GgufValue::Float(f64::INFINITY), "inf"),
    ] {
        let error = file(&[(key, value)]).expect_err(key);
        assert!(error.contains(&format!("(metadata `{key}`), found {found}")), "{error}");
    }
}

#[test]
fn metadata_that_asks_for_another_computation_is_refused() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    let stored = Checkpoint::open(&dir, &CheckpointOptions::default()).unwrap();
    let read = |key: &str, value: &GgufValue| {
        let more = vec![(key.to_owned(), value.clone())];
        let bytes = export(&stored, Unquantised::Plain(DType::BF16), more, Vec::new(), &mut |_| {}).unwrap();
        let model = GgufModel::embedded("memory", &SharedBytes::new(Arc::new(bytes)));
        model.and_then(|model| Checkpoint::gguf(model, &Map::new())).map(drop).map_err(|error| error.to_string())
    };
    let (count, float) = (GgufValue::Unsigned, GgufValue::Float);
    let head = stored.config().heads.head_dim as u64;
    for (key, neutral, refused) in [
        ("rope.dimension_count", count(head), count(head / 2)),
        ("expert_gating_func", count(1), count(2)),
        ("expert_weights_scale", float(1.0), float(2.5)),
        ("expert_weights_norm", GgufValue::Bool(true), GgufValue::Bool(false)),
        ("expert_shared_count", count(0), count(1)),
        ("attention.sliding_window", count(0), count(4096)),
        ("final_logit_softcapping", float(0.0), float(30.0)),
        ("logit_scale", float(1.0), GgufValue::Text("x".into())),
    ] {
        let key = format!("qwen3moe.{key}");
        assert_eq!(read(&key, &neutral), Ok(()), "{key}");
        let error = read(&key, &refused).unwrap_err();
        assert!(error.contains(&format!("metadata `{key}`")) && !error.contains("Fetch"), "{error}");
    }
    for (kind, word) in [("adapter", "merge"), ("imatrix", "importance matrix"), ("mmproj", "images")] {
        let error = read("general.type", &GgufValue::Text(kind.into())).unwrap_err();
        assert!(error.contains(kind) && error.contains(word) && !error.contains("Fetch"), "{error}");
    }
}

/// `file` with gate and up of each layer's experts in one tensor.
fn with_fused_experts(bytes: &SharedBytes) -> SharedBytes {
    let file = GgufFile::parse("memory", bytes).unwrap();
    let metadata: Vec<_> = file.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let find = |name: &str| file.tensors().iter().find(|tensor| tensor.name == name).unwrap();
    let mut tensors = Vec::new();
    for tensor in file.tensors() {
        if tensor.name.contains("ffn_up_exps") {
            continue;
        }
        let (mut name, mut dims, mut data) = (tensor.name.clone(), tensor.dims.clone(), tensor.bytes.to_vec());
        if name.contains("ffn_gate_exps") {
            let up = find(&name.replace("ffn_gate_exps", "ffn_up_exps"));
            assert_eq!(up.format, tensor.format);
            let expert = data.len() / dims[2] as usize;
            data = data.chunks(expert).zip(up.bytes.chunks(expert)).flat_map(|(a, b)| [a, b].concat()).collect();
            name = name.replace("ffn_gate_exps", "ffn_gate_up_exps");
            dims[1] *= 2;
        }
        tensors.push((Announced { name, dims, format: tensor.format }, data));
    }
    let announced: Vec<_> = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    let mut writer = GgufWriter::begin(Vec::new(), &metadata, &announced).unwrap();
    for (_, data) in &tensors {
        writer.put(data).unwrap();
        writer.align().unwrap();
    }
    SharedBytes::new(Arc::new(writer.finish().unwrap()))
}

#[test]
fn gate_and_up_of_experts_may_be_one_tensor() {
    for recipe in [None, Some(QuantRecipe::Q8_0)] {
        let separate = exported(&demo(recipe), DType::BF16);
        let fused = with_fused_experts(&separate);
        assert_ne!(*fused, *separate);
        assert_eq!(greedy(&read(&fused)), greedy(&read(&separate)));
    }
}

#[test]
fn encodings_that_are_not_supported_are_named_as_ggml_names_them() {
    for (number, name) in
        [(9, "Q8_1"), (31, "Q4_0_4_4"), (41, "Q1_0"), (137, "IQ2_K"), (157, "IQ2_KL"), (99, "type 99, unknown")]
    {
        let bytes = SharedBytes::new(Arc::new(with("one", &[8, 0, 0, 0], &u32::to_le_bytes(number))));
        let error = GgufModel::embedded("m.gguf", &bytes).err().unwrap().to_string();
        for part in [name, "`one`", "Q4_K_M"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("Fetch the named files again"), "{error}");
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

fn parse(bytes: Vec<u8>) -> Result<GgufFile, TensorProblem> {
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
    let (mut read, mut refused) = (0, 0);
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let shared = SharedBytes::new(Arc::new(bytes));
            if GgufFile::parse("small.gguf", &shared).is_err() {
                refused += 1;
            } else {
                read += 1;
                assert!(matches!(
                    GgufModel::embedded("small.gguf", &shared),
                    Ok(_) | Err(LoadError::Checkpoint { .. })
                ));
            }
        }
    }
    // At least the bytes of the tensors mean nothing to a reader, and those of the magic number mean all.
    assert!(read >= 3 * (102 + 20) && refused >= 3 * 4, "{read} read, {refused} refused");
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
