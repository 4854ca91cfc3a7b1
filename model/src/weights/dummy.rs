//! Random weights from a config alone: the same numbers on every machine, for tests and for trying a
//! shape without its files.

use std::sync::Arc;

use half::bf16;
use quern_backend::{PackedMatrix, QuantFormat, SharedBytes, quant::fp8::encode_e4m3};

use super::{LoadError, Weights, manifest};
use crate::config::ModelConfig;

/// Half the width of the uniform distribution of every matrix: standard deviation 0.02, as networks of
/// this kind are initialised.
const WIDTH: f32 = 0.034_641;

/// A multiple of [`WIDTH`] that spreads fp8 codes over most of their range.
const FP8_SCALE: f32 = WIDTH / 256.0;

/// Weights drawn from the names of their modules.
#[derive(Debug)]
pub struct DummyWeights {
    fp8: bool,
    plain: Vec<String>,
    num_bytes: u64,
}

impl DummyWeights {
    /// Weights of the network that `config` describes, in bf16 or, if the config says so, fp8 blocks.
    pub fn new(config: &ModelConfig) -> Self {
        let plain = config.modules_to_not_convert.clone();
        let mut weights = Self { fp8: config.fp8, plain, num_bytes: 0 };
        let bytes = |module: manifest::Module| match module.shape {
            manifest::Shape::Matrix(rows, cols) => weights.format(&module.name).row_bytes(cols).saturating_mul(rows),
            manifest::Shape::Vector(len) => 2 * len,
        };
        weights.num_bytes = manifest::modules(config).into_iter().map(|m| bytes(m) as u64).fold(0, u64::saturating_add);
        weights
    }

    fn format(&self, name: &str) -> QuantFormat {
        let plain = !self.fp8
            || name == "lm_head"
            || name == "model.embed_tokens"
            || name.ends_with("mlp.gate")
            || self.plain.iter().any(|p| p == name);
        if plain { QuantFormat::BF16 } else { QuantFormat::Fp8Block128 }
    }
}

impl Weights for DummyWeights {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<PackedMatrix, LoadError> {
        let values = uniform(name).take(rows * cols);
        let bytes = |bytes: Vec<u8>| SharedBytes::new(Arc::new(bytes));
        Ok(match self.format(name) {
            QuantFormat::Fp8Block128 => {
                let codes = bytes(values.map(|x| encode_e4m3(x / FP8_SCALE)).collect());
                let blocks = rows.div_ceil(QuantFormat::FP8_BLOCK) * cols.div_ceil(QuantFormat::FP8_BLOCK);
                PackedMatrix::fp8(rows, cols, codes, vec![FP8_SCALE; blocks].into())
            }
            _ => {
                let stored = values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
                PackedMatrix::plain(QuantFormat::BF16, rows, cols, bytes(stored))
            }
        })
    }

    fn matrix_bytes(&self, name: &str, rows: usize, cols: usize) -> Result<u64, LoadError> {
        Ok(rows as u64 * self.format(name).row_bytes(cols) as u64)
    }

    fn vector(&self, _name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        Ok(vec![1.0; len])
    }

    fn num_bytes(&self) -> u64 {
        self.num_bytes
    }
}

/// Numbers of [-WIDTH, WIDTH) that depend on `name` alone (FNV-1a as seed, SplitMix64 as stream).
fn uniform(name: &str) -> impl Iterator<Item = f32> {
    let mut state =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    std::iter::from_fn(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        Some(((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * WIDTH)
    })
}
