//! What quantising costs: the distributions of a quantised network against those of the stored one, position by
//! position, and the promises that hold in every encoding.

use std::{path::Path, sync::Arc};

use crate::networks::{Driver, Golden, full_row, limits, reference};
use quern_backend::{KvFormat, Precision, QuantFormat};
use quern_cpu::{CpuBackend, CpuConfig};
use quern_model::{Checkpoint, CheckpointOptions, load, weights::QuantRecipe};
use serde_json::Value;

/// Recipes, and the largest mean divergence (nats) and least agreement on the likeliest token that the shipped
/// model may have: some times what was measured.
const BOUNDS: [(QuantRecipe, f64, f64); 4] = [
    (QuantRecipe::Q8_0, 0.003, 0.98),
    (QuantRecipe::Q4_0, 0.06, 0.93),
    (QuantRecipe::Q4KM, 0.05, 0.94),
    (QuantRecipe::Q4Best, 0.01, 0.97),
];

struct Network {
    driver: Driver,
    vocab: usize,
}

impl Network {
    fn open(dir: &Path, recipe: Option<QuantRecipe>, kv: KvFormat, threads: usize) -> Self {
        let checkpoint = Checkpoint::open(dir, &CheckpointOptions::default()).unwrap().quantised(recipe);
        let config = CpuConfig { threads: Some(threads), isa: None, precision: Precision::Bf16 };
        let limits = limits(16, kv);
        let vocab = checkpoint.config().vocab_size;
        let model = load(&checkpoint, Arc::new(CpuBackend::new(config).unwrap()), limits, &mut |_| {}).unwrap();
        Self { driver: Driver::over(model, limits), vocab }
    }

    /// Log-probabilities of all tokens behind each of `ids`.
    fn distributions(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let index = self.driver.add(ids);
        let vocab = self.vocab;
        let rows = |last: &[usize]| (0..ids.len()).map(|i| full_row(last[0] + 1 - ids.len() + i, vocab)).collect();
        let outputs = self.driver.step(&[(index, ids.len())], rows);
        outputs.iter().map(|out| out.requested.iter().map(|&(_, logprob)| logprob).collect()).collect()
    }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Mean divergence of `got` from `wanted` (Kullback-Leibler, nats), and how often the likeliest tokens agree.
fn compare(wanted: &[Vec<f32>], got: &[Vec<f32>]) -> (f64, f64) {
    let divergence = |(p, q): (&Vec<f32>, &Vec<f32>)| -> f64 {
        p.iter().zip(q).map(|(&p, &q)| f64::from(p.exp()) * f64::from(p - q)).sum()
    };
    let positions = wanted.len() as f64;
    let sum: f64 = wanted.iter().zip(got).map(divergence).sum();
    let agreeing = wanted.iter().zip(got).filter(|(p, q)| best(p) == best(q)).count();
    (sum / positions, agreeing as f64 / positions)
}

/// What each of `ways` of holding weights, keys and values costs.
fn measured(dir: &Path, prompts: &[Vec<u32>], ways: &[(Option<QuantRecipe>, KvFormat)]) -> Vec<(f64, f64)> {
    let all = |network: &mut Network| prompts.iter().flat_map(|ids| network.distributions(ids)).collect::<Vec<_>>();
    let stored = all(&mut Network::open(dir, None, KvFormat::BF16, 2));
    let name = dir.file_name().unwrap().to_string_lossy();
    let one = |&(recipe, kv): &(Option<QuantRecipe>, KvFormat)| {
        let (divergence, agreement) = compare(&stored, &all(&mut Network::open(dir, recipe, kv, 2)));
        let weights = recipe.map_or("as stored".into(), |recipe| recipe.to_string());
        eprintln!(
            "{name}, weights {weights}, keys and values {kv}: divergence {divergence:.5} nats, same likeliest token \
             {:.1} %",
            100.0 * agreement
        );
        (divergence, agreement)
    };
    ways.iter().map(one).collect()
}

/// All recipes, with keys and values as they usually are.
fn recipes() -> [(Option<QuantRecipe>, KvFormat); 4] {
    BOUNDS.map(|(recipe, ..)| (Some(recipe), KvFormat::BF16))
}

/// The shipped model's folder, and prompts with their answers.
fn shipped() -> (std::path::PathBuf, Vec<Vec<u32>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    let file: Value = serde_json::from_slice(&std::fs::read(dir.join("goldens.json")).unwrap()).unwrap();
    let ids =
        |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>();
    let prompts = file["goldens"].as_array().unwrap().iter().map(|g| [ids(&g["ids"]), ids(&g["greedy_ids"])].concat());
    (dir.clone(), prompts.collect())
}

#[test]
fn the_shipped_model_stays_close_to_itself() {
    let (dir, prompts) = shipped();
    let got = measured(&dir, &prompts, &recipes());
    for ((recipe, most, least), (divergence, agreement)) in BOUNDS.into_iter().zip(got) {
        assert!(divergence <= most && agreement >= least, "{recipe}: {divergence} nats, {agreement}");
    }
}

#[test]
fn keys_and_values_in_8_bits_stay_close() {
    let (dir, prompts) = shipped();
    let formats = [KvFormat::Q8_0, KvFormat::F8E4M3, KvFormat::F8E5M2];
    let got = measured(&dir, &prompts, &formats.map(|kv| (None, kv)));
    for ((kv, most), &(divergence, _)) in formats.into_iter().zip([0.0002, 0.0015, 0.005]).zip(&got) {
        assert!(divergence <= most, "{kv}: {divergence} nats");
    }
    assert!(got.is_sorted_by(|a, b| a.0 < b.0), "more bits of mantissa cost less: {got:?}");
}

#[test]
fn more_bits_cost_less() {
    let Some(oracle) = reference::folder("oracle") else { return };
    for name in ["tiny-bf16", "tiny-fp8"] {
        let golden = Golden::open(&oracle.join(format!("goldens/{name}.safetensors")));
        let prompts: Vec<_> = golden.prompts().iter().map(|prompt| golden.ids(&format!("{prompt}.ids"))).collect();
        let [(eight, _), (four, _), (mixed, _), (best, _)] =
            measured(&oracle.join("models").join(name), &prompts, &recipes())[..]
        else {
            panic!("four recipes")
        };
        assert!(eight < four && eight < best && best < mixed, "{name}: {eight} {four} {mixed} {best}");
    }
}

#[test]
fn answers_have_the_same_bits_on_any_threads_in_any_chunks_beside_any_neighbours() {
    let (dir, prompts) = shipped();
    // Each recipe and each format of pages at least once.
    for (i, kv) in KvFormat::ALL.into_iter().enumerate() {
        let (recipe, ..) = BOUNDS[i % BOUNDS.len()];
        let mut alone = Vec::new();
        for ids in &prompts {
            let mut network = Network::open(&dir, Some(recipe), kv, 1);
            network.driver.add(&ids[..ids.len().min(200)]);
            alone.extend(network.driver.greedy_bits(12, 2048));
        }
        let mut together = Network::open(&dir, Some(recipe), kv, 2);
        for ids in &prompts {
            together.driver.add(&ids[..ids.len().min(200)]);
        }
        assert_eq!(together.driver.greedy_bits(12, 70), alone, "{recipe}, {kv}");
    }
}

#[test]
fn sizes_are_known_before_loading() {
    let (dir, _) = shipped();
    let stored = Checkpoint::open(&dir, &CheckpointOptions::default()).unwrap();
    let whole = stored.weight_bytes();
    let eight = stored.quantised(Some(QuantRecipe::Q8_0));
    // 17 bits for every 32, but for norms and routers.
    let share = eight.weight_bytes() as f64 / whole as f64;
    assert!((17.0 / 32.0..0.54).contains(&share), "{share}");
    assert_eq!(eight.formats(), [QuantFormat::Q8_0, QuantFormat::BF16]);
}
