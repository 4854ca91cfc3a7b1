//! Networks divided over ranks: nothing is lost, nothing is held twice but what must be, and a part of a source is the
//! part of the whole.

use std::ops::Range;

use quern_backend::PackedMatrix;
use quern_model::{
    Checkpoint, GenerationConfig, ModelConfig, Parallelism, Role, Shard, Split, SplitError, TensorSpec,
    network::{MlpPart, Shape},
    weights::QuantRecipe,
};
use serde_json::{Value, json};

/// Numbers like 480B-A35B's, with as few layers and experts as there can be, and a dense layer.
fn network(changes: &Value) -> Checkpoint {
    let mut config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 2000, "hidden_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
        "intermediate_size": 1024, "moe_intermediate_size": 2560, "num_experts": 8, "num_experts_per_tok": 2,
        "norm_topk_prob": true, "decoder_sparse_step": 2, "mlp_only_layers": [], "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 1e7, "max_position_embeddings": 4096, "tie_word_embeddings": false,
        "attention_bias": false, "torch_dtype": "bfloat16",
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    let config = ModelConfig::from_json(config.as_object().unwrap()).unwrap();
    Checkpoint::dummy(config, GenerationConfig::default())
}

fn fp8() -> Value {
    json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]})
}

fn split(checkpoint: &Checkpoint, tp: usize, ep: usize) -> Result<Vec<Split>, SplitError> {
    checkpoint.split(Parallelism { tp, ep })
}

/// How many ranks hold each of the `len` places of a range.
fn holders(len: usize, ranges: impl Iterator<Item = Range<usize>>) -> Vec<usize> {
    let mut holders = vec![0; len];
    ranges.for_each(|range| holders[range].iter_mut().for_each(|count| *count += 1));
    holders
}

#[test]
fn every_part_of_a_tensor_is_held_as_often_as_it_must_be() {
    let checkpoint = network(&json!({}));
    for (tp, ep) in [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2), (8, 8), (16, 4)] {
        let parts = split(&checkpoint, tp, ep).unwrap();
        assert_eq!(parts.len(), tp);
        for tensor in checkpoint.network().tensors() {
            let shards: Vec<Shard> = parts.iter().map(|part| part.shard(tensor)).collect();
            let whole = Shard::whole(tensor);
            let ranges = |axis: fn(&Shard) -> &Range<usize>| {
                holders(axis(&whole).end, shards.iter().map(move |shard| axis(shard).clone()))
            };
            let (experts, rows, cols) = (ranges(|s| &s.experts), ranges(|s| &s.rows), ranges(|s| &s.cols));
            // Ranks that hold each expert, each row and each column.
            let (by_expert, by_row, by_col) = match tensor.role {
                Role::Embedding | Role::Head | Role::Query | Role::Mlp(MlpPart::Gate | MlpPart::Up) => (tp, 1, tp),
                Role::Key | Role::Value => (tp, tp.div_ceil(4), tp),
                Role::AttentionOutput | Role::Mlp(MlpPart::Down) => (tp, tp, 1),
                Role::Expert(MlpPart::Gate | MlpPart::Up) => (tp / ep, ep, tp),
                Role::Expert(MlpPart::Down) => (tp / ep, tp, ep),
                _ => (tp, tp, tp),
            };
            let what = format!("{:?}, tp {tp} ep {ep}", tensor.role);
            assert!(experts.iter().all(|&held| held == by_expert), "experts of {what}: {experts:?}");
            assert!(rows.iter().all(|&held| held == by_row), "rows of {what}");
            assert!(cols.iter().all(|&held| held == by_col), "columns of {what}");
        }
        for part in &parts {
            let narrowed = part.narrowed(checkpoint.config());
            let rows = |role| part.shard(checkpoint.network().tensor(Some(0), role)).rows.len();
            assert_eq!(narrowed.heads.q_dim(), rows(Role::Query));
            assert_eq!(narrowed.heads.kv_dim(), rows(Role::Key));
            assert_eq!(narrowed.intermediate, rows(Role::Mlp(MlpPart::Gate)));
        }
        assert_eq!(parts[0].logit_widths().iter().sum::<usize>(), 2000);
    }
}

#[test]
fn queries_are_where_the_keys_that_they_read_are() {
    let checkpoint = network(&json!({}));
    for tp in [1, 2, 4, 8, 16] {
        for part in split(&checkpoint, tp, 1).unwrap() {
            let rows = |role| part.shard(checkpoint.network().tensor(Some(0), role)).rows;
            let (queries, keys) = (rows(Role::Query), rows(Role::Key));
            // 16 query heads of 128, four of them to a KV head.
            assert_eq!(queries.start / 128 / 4 * 128, keys.start, "tp {tp}");
            assert_eq!((queries.end - 1) / 128 / 4 * 128 + 128, keys.end, "tp {tp}");
        }
    }
}

fn rows_of(matrix: &PackedMatrix) -> Vec<Vec<u32>> {
    let mut row = vec![0.0; matrix.cols()];
    let decode = |index| {
        matrix.decode_row(index, &mut row);
        row.iter().map(|x| x.to_bits()).collect()
    };
    (0..matrix.rows()).map(decode).collect()
}

#[test]
fn a_part_of_a_source_is_the_part_of_its_whole() {
    let small = json!({"num_experts": 4, "moe_intermediate_size": 768, "vocab_size": 300});
    let mut in_fp8 = small.clone();
    in_fp8["quantization_config"] = fp8();
    for checkpoint in [
        network(&small),
        network(&in_fp8),
        network(&small).quantised(Some(QuantRecipe::Q8_0)),
        network(&small).quantised(Some(QuantRecipe::Q4KM)),
    ] {
        let quantised = checkpoint.quantised_weights();
        let weights = quantised.as_ref().map_or(checkpoint.weights(), |weights| weights);
        let mut bytes = 0;
        for part in split(&checkpoint, 2, 1).unwrap() {
            for tensor in checkpoint.network().tensors() {
                let Shape::Matrix(..) = tensor.shape else { continue };
                let shard = part.shard(tensor);
                let made = weights.parts(tensor, &shard).unwrap();
                let whole = &weights.matrices(tensor).unwrap()[shard.experts.clone()];
                assert_eq!(made.len(), whole.len());
                for (made, whole) in made.iter().zip(whole) {
                    let whole = whole.part(shard.rows.clone(), shard.cols.clone());
                    assert_eq!(rows_of(made), rows_of(&whole), "{:?} of rank {:?}", tensor.role, part.rank());
                }
            }
            bytes += checkpoint.part_bytes(&part).unwrap();
        }
        // Two ranks hold the router and the norms twice.
        assert!(bytes > checkpoint.weight_bytes() && bytes < checkpoint.weight_bytes() * 51 / 50, "{bytes}");
    }
}

#[test]
fn fp8_is_divided_within_its_blocks() {
    let checkpoint = network(&json!({"quantization_config": fp8()}));
    let down = checkpoint.network().tensor(Some(1), Role::Expert(MlpPart::Down));
    let columns =
        |tp, ep| -> Vec<_> { split(&checkpoint, tp, ep).unwrap().iter().map(|p| p.shard(down).cols).collect() };
    assert_eq!(columns(8, 1)[..3], [0..320, 320..640, 640..960]);
    assert_eq!(columns(8, 2)[3..5], [1920..2560, 0..640]);
    assert!(split(&checkpoint, 8, 1).unwrap()[0].notes().is_empty());
}

#[test]
fn what_cannot_be_divided_is_refused_with_its_numbers() {
    let quantised = |inner: usize| {
        network(&json!({"moe_intermediate_size": inner, "decoder_sparse_step": 1})).quantised(Some(QuantRecipe::Q4KM))
    };
    let refused = |checkpoint: &Checkpoint, tp, ep| split(checkpoint, tp, ep).unwrap_err().to_string();
    let plain = network(&json!({}));
    for (error, parts) in [
        (refused(&plain, 3, 1), &["num_attention_heads = 16", "tp_size = 3"][..]),
        (refused(&network(&json!({"num_key_value_heads": 16})), 32, 1), &["num_attention_heads = 16"]),
        (
            refused(&network(&json!({"num_attention_heads": 24, "num_key_value_heads": 4})), 6, 1),
            &["num_key_value_heads = 4"],
        ),
        (refused(&plain, 4, 3), &["tp_size = 4", "ep_size = 3"]),
        (refused(&plain, 16, 16), &["num_experts = 8", "ep_size = 16"]),
        (refused(&quantised(768), 4, 1), &["768 has 3 whole blocks of 256 (Q6_K)", "4 ranks", "ep_size = 4"]),
    ] {
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }
    let uneven = split(&quantised(768), 2, 1).unwrap()[0].notes();
    assert!(
        uneven[0].contains("256 to 512") && uneven[0].contains("1.33") && uneven[0].contains("ep_size = 2"),
        "{uneven:?}"
    );
    assert!(split(&quantised(768), 4, 4).unwrap()[0].notes().is_empty());
}

#[test]
fn few_features_of_plain_formats_are_divided_anywhere() {
    let checkpoint = network(&json!({"moe_intermediate_size": 48}));
    let gate: &TensorSpec = checkpoint.network().tensor(Some(1), Role::Expert(MlpPart::Gate));
    let rows: Vec<_> = split(&checkpoint, 4, 1).unwrap().iter().map(|part| part.shard(gate).rows).collect();
    assert_eq!(rows, [0..12, 12..24, 24..36, 36..48]);
}
