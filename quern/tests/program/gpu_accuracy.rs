//! Whole networks on a GPU's driver twin, as near to the reference as the CPU in bfloat16 is.

use std::{path::Path, sync::Arc};

use crate::networks::{Driver, Golden, full_row, limits, open};
use crate::twin::{Target, backend, on_each_target};
use quern_backend::{Backend, KvFormat, Precision, RefBackend};
use quern_cpu::{CpuBackend, CpuConfig};

/// A dense network, sparse ones in FP8 and in several encodings, one with rotary scaling, one with biases.
const NAMES: [&str; 5] = ["tiny-dense", "tiny-fp8-ragged", "tiny-mixed", "tiny-yarn", "tiny-qwen2"];

/// Log-probabilities of every token of the vocabulary at the last position of each prompt; no token is fed back.
fn forced<B: Backend>(backend: &Arc<B>, folder: &Path, golden: &Golden, format: KvFormat) -> Vec<f32> {
    let mut driver = Driver::new(folder, Arc::clone(backend), limits(16, format));
    let prompts = golden.short_prompts();
    let (mut shares, mut vocab) = (Vec::new(), 0);
    for prompt in &prompts {
        let ids = golden.ids(&format!("{prompt}.ids"));
        vocab = golden.floats(&format!("{prompt}.last_logits")).len();
        shares.push((driver.add(&ids), ids.len()));
    }
    let outputs = driver.step(&shares, |rows| rows.iter().map(|&row| full_row(row, vocab)).collect());
    outputs.iter().flat_map(|output| output.requested.iter().map(|(_, logprob)| *logprob)).collect()
}

fn rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    (squares / a.len() as f64).sqrt()
}

/// How much worse than the CPU's bfloat16 products a device may be. Both round the same inputs to bfloat16 and add in f32
/// in their own orders, so that their errors are two draws of one distribution, over tens of thousands of numbers that
/// hang together by prompt.
const MARGIN: f64 = 1.25;

fn agrees(target: Target) {
    let Some(backend) = backend(target).map(Arc::new) else { return };
    let cpu = CpuConfig { threads: Some(1), isa: None, precision: Precision::Bf16 };
    let cpu = Arc::new(CpuBackend::new(cpu).expect("one thread can be had"));
    for name in NAMES {
        let (folder, golden) = open(name).expect("a checkpoint of the repository");
        let want = forced(&Arc::new(RefBackend), &folder, &golden, KvFormat::BF16);
        let got = forced(&backend, &folder, &golden, KvFormat::BF16);
        let of_cpu = forced(&cpu, &folder, &golden, KvFormat::BF16);
        let (error, allowed) = (rms(&got, &want), MARGIN * rms(&of_cpu, &want));
        eprintln!("{target:?}, {name}: log-probabilities off by {error:.2e} (rms), allowed {allowed:.2e}");
        assert!(error <= allowed, "{target:?}, {name}: off by {error:.3e}, allowed {allowed:.3e}");
    }
}

on_each_target!(agrees);
