//! Random weights from a config alone: the same numbers on every machine, for tests and for trying a
//! shape without its files.

use std::{collections::HashMap, sync::Arc};

use half::{bf16, f16};
use quern_backend::{PackedMatrix, QuantFormat, SharedBytes, quant::fp8::encode_e4m3};

use super::{LoadError, WeightSource, fill::filled};
use crate::{
    config::ModelConfig,
    network::{NetworkSpec, Role, Shape, TensorSpec, module},
    shard::Shard,
};

/// Half the width of the uniform distribution of every matrix: standard deviation 0.02, as networks of
/// this kind are initialised.
const WIDTH: f32 = 0.034_641;

/// A multiple of [`WIDTH`] that spreads fp8 codes over most of their range.
const FP8_SCALE: f32 = WIDTH / 256.0;

/// Weights drawn from the names of their tensors.
#[derive(Debug)]
pub struct DummyWeights {
    /// Encodings of a tensor's matrices by role and layer; one if all have the same.
    formats: HashMap<(Role, Option<usize>), Vec<QuantFormat>>,
    all_formats: Vec<QuantFormat>,
    num_bytes: u64,
}

impl DummyWeights {
    /// Weights of `network`, which `config` describes, in bf16 or, if the config says so, quantised.
    pub fn new(network: &NetworkSpec, config: &ModelConfig) -> Self {
        let quantised = config.quantization.as_ref().map(|quantization| quantization.format);
        let format = |tensor: &TensorSpec, index: usize| {
            let role = tensor.role;
            let stays = || config.keeps_unquantised(module(&tensor.name(index)));
            let whole = |format: &QuantFormat| tensor.matrix().1.is_multiple_of(format.block_elements());
            match quantised.filter(whole) {
                Some(format) if !(role.is_head() || role.is_embedding() || role == Role::Router || stays()) => format,
                _ => QuantFormat::BF16,
            }
        };
        let formats = |tensor: &TensorSpec| {
            let mut formats: Vec<_> = (0..tensor.count).map(|index| format(tensor, index)).collect();
            if formats.iter().all(|format| *format == formats[0]) {
                formats.truncate(1);
            }
            ((tensor.role, tensor.layer), formats)
        };
        let matrices = network.tensors().iter().filter(|tensor| matches!(tensor.shape, Shape::Matrix(..)));
        let other = quantised.filter(|format| *format != QuantFormat::BF16);
        let all_formats = other.into_iter().chain([QuantFormat::BF16]).collect();
        let mut weights = Self { formats: matrices.map(formats).collect(), all_formats, num_bytes: 0 };
        let bytes = |tensor: &TensorSpec| match tensor.shape {
            Shape::Matrix(rows, cols) => {
                let one = |index| bytes_of(weights.format(tensor, index), rows, cols);
                (0..tensor.count).map(one).fold(0, u64::saturating_add)
            }
            Shape::Vector(len) => 2 * len as u64,
        };
        weights.num_bytes = network.tensors().iter().map(bytes).fold(0, u64::saturating_add);
        weights
    }

    /// The encodings of the matrices of `tensor`, or the one of all.
    fn known_formats(&self, tensor: &TensorSpec) -> &[QuantFormat] {
        self.formats.get(&(tensor.role, tensor.layer)).expect("a matrix of the network")
    }

    fn format(&self, tensor: &TensorSpec, index: usize) -> QuantFormat {
        let formats = self.known_formats(tensor);
        *formats.get(index).unwrap_or(&formats[0])
    }

    /// The encodings of all its matrices, that of most of them first.
    pub fn all_formats(&self) -> &[QuantFormat] {
        &self.all_formats
    }
}

impl WeightSource for DummyWeights {
    fn parts(&self, tensor: &TensorSpec, shard: &Shard) -> Result<Vec<PackedMatrix>, LoadError> {
        let (_, all_cols) = tensor.matrix();
        let (rows, cols) = (shard.rows.len(), shard.cols.len());
        let kind = |i: usize| (seed(&tensor.name(i)), self.format(tensor, i));
        let kinds: Vec<_> = shard.experts.clone().map(kind).collect();
        let shapes: Vec<_> = kinds.iter().map(|(_, format)| (rows, format.row_bytes(cols))).collect();
        let buffers = filled(&shapes, |index, first, bytes| {
            let (seed, format) = kinds[index];
            for (row, bytes) in bytes.chunks_exact_mut(shapes[index].1).enumerate() {
                let place = (shard.rows.start + first + row) as u64 * all_cols as u64 + shard.cols.start as u64;
                let values = (place..).map(|i| uniform(seed, i));
                match format {
                    blocks if blocks.blocks().is_some() => random_blocks(blocks, seed, place, bytes),
                    QuantFormat::Fp8Block128 => {
                        bytes.iter_mut().zip(values).for_each(|(byte, x)| *byte = encode_e4m3(x / FP8_SCALE));
                    }
                    QuantFormat::F32 => put_each(bytes, values, f32::to_le_bytes),
                    QuantFormat::F16 => put_each(bytes, values, |x| f16::from_f32(x).to_le_bytes()),
                    _ => put_each(bytes, values, |x| bf16::from_f32(x).to_le_bytes()),
                }
            }
        });
        let packed = |((_, format), bytes)| match format {
            QuantFormat::Fp8Block128 => {
                let scales = vec![FP8_SCALE; PackedMatrix::num_scales(&[0..rows, 0..cols], QuantFormat::FP8_BLOCK)];
                PackedMatrix::fp8(rows, cols, SharedBytes::new(Arc::new(bytes)), scales.into())
            }
            format => PackedMatrix::plain(format, rows, cols, SharedBytes::new(Arc::new(bytes))),
        };
        Ok(kinds.into_iter().zip(buffers).map(packed).collect())
    }

    fn formats(&self, tensor: &TensorSpec) -> Vec<QuantFormat> {
        let mut formats = Vec::new();
        for format in self.known_formats(tensor) {
            if !formats.contains(format) {
                formats.push(*format);
            }
        }
        formats
    }

    fn part_bytes(&self, tensor: &TensorSpec, shard: &Shard) -> Result<u64, LoadError> {
        let bytes = |format: QuantFormat| bytes_of(format, shard.rows.len(), shard.cols.len());
        match self.known_formats(tensor) {
            [format] => Ok(shard.experts.len() as u64 * bytes(*format)),
            _ => Ok(shard.experts.clone().map(|index| bytes(self.format(tensor, index))).sum()),
        }
    }

    /// Norms leave what they scale alone; a bias is as random as a matrix.
    fn vector(&self, tensor: &TensorSpec) -> Result<Vec<f32>, LoadError> {
        let len = tensor.shape.dims()[0];
        if !tensor.role.is_bias() {
            return Ok(vec![1.0; len]);
        }
        let seed = seed(&tensor.name(0));
        Ok((0..len as u64).map(|i| uniform(seed, i)).collect())
    }

    fn num_bytes(&self) -> u64 {
        self.num_bytes
    }
}

fn put_each<const N: usize>(bytes: &mut [u8], values: impl Iterator<Item = f32>, stored: impl Fn(f32) -> [u8; N]) {
    bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, x)| *bytes = stored(x));
}

/// Bytes of a matrix once loaded, with the scales beside it.
fn bytes_of(format: QuantFormat, rows: usize, cols: usize) -> u64 {
    let scales = match format {
        QuantFormat::Fp8Block128 => PackedMatrix::num_scales(&[0..rows, 0..cols], QuantFormat::FP8_BLOCK),
        _ => 0,
    };
    (format.held_row_bytes(cols) as u64).saturating_mul(rows as u64).saturating_add(4 * scales as u64)
}

/// Blocks whose elements begin with number `from`: codes drawn as they come, scales that spread them over the width.
fn random_blocks(format: QuantFormat, seed: u64, from: u64, bytes: &mut [u8]) {
    let blocks = format.blocks().expect("a format made of blocks");
    let largest = match format {
        QuantFormat::Q8_0 => 128.0,
        QuantFormat::Q5_0 => 16.0,
        _ => 8.0,
    };
    let (scale, least) = (f16::from_f32(WIDTH / largest), f16::from_f32(-WIDTH));
    let places = (from..).step_by(blocks.elements);
    for (block, place) in bytes.chunks_exact_mut(blocks.bytes).zip(places) {
        for (byte, i) in block.iter_mut().zip(place..) {
            *byte = (uniform(seed, i).to_bits() >> 8) as u8;
        }
        match blocks.halves.count() {
            // E4M3 of numbers up to 6 * 2^-8.
            0 if format == QuantFormat::Nvfp4 => block[..4].fill(2),
            // The exponent of numbers up to 6 * 2^-7.
            0 => block[0] = 120,
            count => (0..count).zip([scale, least]).for_each(|(i, half)| blocks.halves.set(block, i, half.to_bits())),
        }
    }
}

/// FNV-1a of a tensor's name; a bias must not repeat the matrix beside it.
fn seed(name: &str) -> u64 {
    name.strip_suffix(".weight")
        .unwrap_or(name)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Number `i` of the stream that begins at `seed`, of [-WIDTH, WIDTH) (SplitMix64).
fn uniform(seed: u64, i: u64) -> f32 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * WIDTH
}
