//! Random weights from a config alone: the same numbers on every machine, for tests and for trying a
//! shape without its files.

use std::sync::Arc;

use half::bf16;
use quern_backend::{PackedMatrix, QuantFormat, SharedBytes, quant::fp8::encode_e4m3};

use super::{LoadError, Weights, fill::filled, manifest};
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
        let mut one = self.matrices(&[name.to_owned()], rows, cols)?;
        Ok(one.pop().expect("as many matrices as names"))
    }

    fn matrices(&self, names: &[String], rows: usize, cols: usize) -> Result<Vec<PackedMatrix>, LoadError> {
        let kinds: Vec<_> = names.iter().map(|name| (seed(name), self.format(name))).collect();
        let shapes: Vec<_> = kinds.iter().map(|(_, format)| (rows, format.row_bytes(cols))).collect();
        let buffers = filled(&shapes, |index, first, bytes| {
            let (seed, format) = kinds[index];
            let values = (first as u64 * cols as u64..).map(|i| uniform(seed, i));
            match format {
                QuantFormat::Fp8Block128 => {
                    bytes.iter_mut().zip(values).for_each(|(byte, x)| *byte = encode_e4m3(x / FP8_SCALE));
                }
                _ => {
                    let pairs = bytes.as_chunks_mut().0.iter_mut();
                    pairs.zip(values).for_each(|(pair, x)| *pair = bf16::from_f32(x).to_le_bytes());
                }
            }
        });
        let packed = |((_, format), bytes)| match format {
            QuantFormat::Fp8Block128 => {
                let blocks = rows.div_ceil(QuantFormat::FP8_BLOCK) * cols.div_ceil(QuantFormat::FP8_BLOCK);
                PackedMatrix::fp8(rows, cols, SharedBytes::new(Arc::new(bytes)), vec![FP8_SCALE; blocks].into())
            }
            format => PackedMatrix::plain(format, rows, cols, SharedBytes::new(Arc::new(bytes))),
        };
        Ok(kinds.into_iter().zip(buffers).map(packed).collect())
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

/// FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Number `i` of the stream that begins at `seed`, of [-WIDTH, WIDTH) (SplitMix64).
fn uniform(seed: u64, i: u64) -> f32 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * WIDTH
}
