//! Integers in groups with scales and zero points, as compressed-tensors, AWQ, GPTQ and MLX lay them out: any numbers, any order
//! of columns, and what is refused.

use half::{bf16, f16};
use proptest::prelude::*;
use quern_backend::QuantFormat;
use quern_model::{
    Checkpoint,
    network::Role,
    weights::{QuantRecipe, WeightSource},
};
use serde_json::{Value, json};

use crate::packed_checkpoint::{
    ROWS, checkpoint, checkpoint_beside, compressed, halves, pack, query, refusal, uniform, words,
};

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
}
