//! Numbers, matrices and steps to try operations with.

use half::{bf16, f16};

use crate::{Backend, ForwardBatch, PackedMatrix, PagedBatch, QuantFormat, SampleBatch, SharedBytes, quant::fp8};

/// Deterministic numbers for shapes and values.
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A value of [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `count` values of [-1, 1).
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// A random matrix in `format`.
pub fn matrix(rng: &mut Rng, format: QuantFormat, rows: usize, cols: usize) -> PackedMatrix {
    let values = rng.values(rows * cols);
    let shared = |bytes: Vec<u8>| SharedBytes::new(std::sync::Arc::new(bytes));
    match format {
        QuantFormat::F32 => {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
        QuantFormat::F16 => {
            let bytes = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
        QuantFormat::BF16 => {
            let bytes = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
        QuantFormat::Fp8Block128 => {
            // Every finite code occurs, the subnormal ones among them.
            let code = |x: &f32| fp8::encode_e4m3(x.powi(7) * fp8::E4M3_MAX);
            let codes = values.iter().map(code).collect();
            let blocks = rows.div_ceil(QuantFormat::FP8_BLOCK) * cols.div_ceil(QuantFormat::FP8_BLOCK);
            let scales: Vec<f32> = (0..blocks).map(|_| 0.001 + rng.value().abs() * 0.01).collect();
            PackedMatrix::fp8(rows, cols, shared(codes), scales.into())
        }
        _ => {
            let blocks = format.blocks().expect("every other format has blocks");
            // Every code and every scale of a group occurs; scales of blocks keep values below 2 or so.
            let span = if blocks.group < blocks.elements { 0.0003 } else { 0.01 };
            let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols)).map(|_| rng.bits() as u8).collect();
            for block in bytes.chunks_exact_mut(blocks.bytes) {
                for index in 0..blocks.halves.count() {
                    blocks.halves.set(block, index, f16::from_f32(rng.value() * span).to_bits());
                }
                match format {
                    QuantFormat::Mxfp4 => block[0] = 118 + block[0] % 8,
                    // Up to 2^-1, and some zeros.
                    QuantFormat::Nvfp4 => block[..4].iter_mut().for_each(|scale| *scale %= 48),
                    _ => {}
                }
            }
            let matrix = PackedMatrix::plain(format, rows, cols, shared(bytes));
            if format == QuantFormat::Nvfp4 { matrix.scaled_by(0.3 + rng.value().abs()) } else { matrix }
        }
    }
}

pub(super) fn upload<B: Backend>(backend: &B, parts: &[PackedMatrix]) -> B::Weight {
    backend.uploader().weight(parts).unwrap_or_else(|e| panic!("{e}"))
}

pub(super) fn filled<B: Backend>(backend: &B, cols: usize, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.alloc((values.len() / cols).max(1), cols);
    backend.write(&mut buffer, values);
    buffer
}

/// A step of these sequences, with no tokens to speak of and no logits.
pub fn step_over<B: Backend>(backend: &B, paged: &PagedBatch) -> B::Step {
    backend.begin(&ForwardBatch { paged: paged.clone(), ..ForwardBatch::default() }, &SampleBatch::default())
}
