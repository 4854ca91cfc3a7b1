//! Every type of GGUF, in networks of random blocks: each computes what the network of the same numbers in F32 does.

use std::sync::Arc;

use crate::networks::{Driver, full_row, limits};
use quern_backend::{
    DType, KvFormat, PackedMatrix, Precision, QuantFormat, SharedBytes,
    conformance::{Rng, matrix},
};
use quern_cpu::{CpuBackend, CpuConfig};
use quern_model::{
    Checkpoint, GenerationConfig, ModelConfig, StepCost,
    gguf::{Announced, GgufModel, GgufValue, GgufWriter},
    gguf_export::{Unquantised, export},
    load,
};
use serde_json::{Map, json};

const VOCAB: usize = 96;

/// Tensors of a file with their bytes.
type Tensors = Vec<(Announced, Vec<u8>)>;

/// A mixture of experts whose rows are one block or two.
fn network() -> Checkpoint {
    let config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 512, "tie_word_embeddings": false,
        "torch_dtype": "float32", "hidden_act": "silu", "decoder_sparse_step": 1, "mlp_only_layers": [],
    });
    let config = ModelConfig::from_json(config.as_object().unwrap()).unwrap();
    Checkpoint::dummy(config, GenerationConfig::default())
}

fn shared(bytes: Vec<u8>) -> SharedBytes {
    SharedBytes::new(Arc::new(bytes))
}

fn written(metadata: &[(String, GgufValue)], tensors: &[(Announced, Vec<u8>)]) -> SharedBytes {
    let announced: Vec<_> = tensors.iter().map(|(announced, _)| announced.clone()).collect();
    let mut writer = GgufWriter::begin(Vec::new(), metadata, &announced).unwrap();
    for (_, bytes) in tensors {
        writer.put(bytes).unwrap();
        writer.align().unwrap();
    }
    shared(writer.finish().unwrap())
}

fn f32_bytes(matrix: &PackedMatrix) -> Vec<u8> {
    let mut row = vec![0.0; matrix.cols()];
    let mut bytes = Vec::new();
    for index in 0..matrix.rows() {
        matrix.decode_row(index, &mut row);
        bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// The network with random blocks of `format` for all matrices but router, embedding and head, and the one of the same
/// numbers in F32.
fn twins(format: QuantFormat) -> [SharedBytes; 2] {
    let plain = export(&network(), Unquantised::Plain(DType::F32), Vec::new(), Vec::new(), &mut |_| {}).unwrap();
    let plain = GgufModel::embedded("plain", &shared(plain)).unwrap();
    let metadata: Vec<_> = plain.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut rng = Rng(11);
    let mut twins = [Vec::new(), Vec::new()];
    for (_, tensor) in plain.tensors() {
        let outer = ["token_embd.", "output."].iter().any(|kept| tensor.name.starts_with(kept));
        let stays = outer || tensor.name.contains("ffn_gate_inp.");
        let announced = |format| Announced { name: tensor.name.clone(), dims: tensor.dims.clone(), format };
        if stays || tensor.dims.len() == 1 {
            // Numbers of which some are close to none.
            let [scale, base] = if tensor.dims.len() == 1 { [0.2, 1.0] } else { [1.0, 0.0] };
            let count = tensor.bytes.len() / 4;
            let bytes: Vec<u8> = (0..count).flat_map(|_| (base + scale * rng.value()).to_le_bytes()).collect();
            twins.iter_mut().for_each(|twin| twin.push((announced(QuantFormat::F32), bytes.clone())));
            continue;
        }
        let [cols, rows] = [0, 1].map(|dim| tensor.dims[dim] as usize);
        let count = tensor.dims.get(2).map_or(1, |&count| count as usize);
        let matrices: Vec<_> = (0..count).map(|_| matrix(&mut rng, format, rows, cols)).collect();
        twins[0].push((announced(format), matrices.iter().flat_map(|matrix| matrix.bytes().to_vec()).collect()));
        twins[1].push((announced(QuantFormat::F32), matrices.iter().flat_map(f32_bytes).collect()));
        if format == QuantFormat::Nvfp4 {
            let (name, dims) = (tensor.name.replace(".weight", ".scale"), vec![count as u64]);
            let factors = matrices.iter().flat_map(|matrix| matrix.factor().to_le_bytes()).collect();
            twins[0].push((Announced { name, dims, format: QuantFormat::F32 }, factors));
        }
    }
    twins.map(|tensors| written(&metadata, &tensors))
}

fn opened(bytes: &SharedBytes) -> Checkpoint {
    let checkpoint = Checkpoint::gguf(GgufModel::embedded("memory", bytes).unwrap(), &Map::new()).unwrap();
    checkpoint.scan(2, &mut |_| {}).unwrap();
    checkpoint
}

fn driver(checkpoint: &Checkpoint, precision: Precision) -> Driver {
    let limits = limits(16, KvFormat::F32);
    let config = CpuConfig { threads: Some(2), isa: None, precision };
    let backend = Arc::new(CpuBackend::new(config).unwrap());
    Driver::over(load(checkpoint, backend, limits, &mut |_| {}).unwrap(), limits)
}

fn prompt() -> Vec<u32> {
    (0..40).map(|i| i * 7 % VOCAB as u32).collect()
}

/// Log-probabilities of all tokens behind each of the prompt's.
fn distributions(checkpoint: &Checkpoint, precision: Precision) -> Vec<f32> {
    let mut driver = driver(checkpoint, precision);
    let ids = prompt();
    let index = driver.add(&ids);
    let rows = |last: &[usize]| (0..ids.len()).map(|i| full_row(last[0] + 1 - ids.len() + i, VOCAB)).collect();
    let outputs = driver.step(&[(index, ids.len())], rows);
    outputs.iter().flat_map(|out| out.requested.iter().map(|&(_, logprob)| logprob)).collect()
}

fn greedy(checkpoint: &Checkpoint) -> Vec<Vec<u32>> {
    let mut driver = driver(checkpoint, Precision::F32);
    driver.add(&prompt());
    driver.greedy(12, 2048)
}

fn block_formats() -> impl Iterator<Item = QuantFormat> {
    QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some())
}

#[test]
fn a_network_in_each_type_is_that_of_the_same_numbers_in_f32() {
    for format in block_formats() {
        let [blocks, plain] = twins(format).map(|bytes| opened(&bytes));
        assert!(blocks.formats().contains(&format) && !plain.formats().contains(&format));
        let [got, wanted] = [&blocks, &plain].map(|network| distributions(network, Precision::F32));
        assert!(wanted.iter().all(|logprob| logprob.is_finite()), "{format}");
        let most = got.iter().zip(&wanted).map(|(got, wanted)| (got - wanted).abs()).fold(0.0, f32::max);
        assert!(most < 1e-3, "{format}: log-probabilities {most} apart");
        assert_eq!(greedy(&blocks), greedy(&plain), "{format}");
    }
}

#[test]
fn what_a_type_takes_in_memory_is_counted() {
    for format in block_formats() {
        let [blocks, plain] = twins(format).map(|bytes| opened(&bytes));
        let size = format.blocks().unwrap();
        // Attention and experts of two layers.
        let params = 2 * (256 * (256 + 128 + 128 + 256) + 4 * 3 * 256 * 256) as u64;
        let of = |bytes: usize| params / size.elements as u64 * bytes as u64;
        let factors = if format == QuantFormat::Nvfp4 { 2 * 4 * (4 + 3 * 4) } else { 0 };
        let rest = plain.weight_bytes() - 4 * params;
        assert_eq!(blocks.weight_bytes(), rest + of(size.held_bytes) + factors, "{format}");
        assert_eq!(blocks.scanned_bytes(), rest + of(size.bytes) + factors, "{format}");
        assert!(StepCost::of(&blocks, KvFormat::BF16).is_ok());
    }
}

#[test]
fn a_file_of_each_type_is_written_again_as_it_is() {
    for format in block_formats() {
        let blocks = opened(&twins(format)[0]);
        let again = export(&blocks, Unquantised::AsStored, Vec::new(), Vec::new(), &mut |_| {}).unwrap();
        let again = opened(&shared(again));
        assert_eq!(again.formats(), blocks.formats(), "{format}");
        assert_eq!(distributions(&again, Precision::F32), distributions(&blocks, Precision::F32), "{format}");
    }
}

#[test]
fn factors_without_nvfp4_and_of_other_sizes_are_refused() {
    let [nvfp4, plain] = twins(QuantFormat::Nvfp4);
    let refusal = |bytes: &SharedBytes, change: &dyn Fn(&mut Tensors)| {
        let model = GgufModel::embedded("m.gguf", bytes).unwrap();
        let metadata: Vec<_> = model.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let tensor = |(_, t): (&str, &quern_model::gguf::TensorInfo)| {
            (Announced { name: t.name.clone(), dims: t.dims.clone(), format: t.format }, t.bytes.to_vec())
        };
        let mut tensors: Tensors = model.tensors().map(tensor).collect();
        change(&mut tensors);
        let model = GgufModel::embedded("m.gguf", &written(&metadata, &tensors)).unwrap();
        Checkpoint::gguf(model, &Map::new()).err().map(|error| error.to_string())
    };
    let numbers = |name: &str, count: usize| {
        let announced = Announced { name: name.into(), dims: vec![count as u64], format: QuantFormat::F32 };
        (announced, [1.5f32.to_le_bytes()].repeat(count).concat())
    };
    assert_eq!(refusal(&nvfp4, &|_| {}), None);
    assert_eq!(refusal(&nvfp4, &|tensors| tensors.push(numbers("blk.0.attn_q.input_scale", 1))), None);
    let error = refusal(&plain, &|tensors| tensors.push(numbers("blk.0.attn_q.scale", 1))).unwrap();
    assert!(error.contains("blk.0.attn_q.scale"), "{error}");
    let error = refusal(&nvfp4, &|tensors| {
        tensors.retain(|(announced, _)| announced.name != "blk.1.ffn_up_exps.scale");
        tensors.push(numbers("blk.1.ffn_up_exps.scale", 3));
    })
    .unwrap();
    for part in ["blk.1.ffn_up_exps.scale", "[4]", "NVFP4"] {
        assert!(error.contains(part), "{error}");
    }
}
