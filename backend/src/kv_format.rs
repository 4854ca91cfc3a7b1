//! [`KvFormat`]: how keys and values are stored in their pages.

use std::fmt;

use half::{bf16, f16};

use crate::quant::{
    Block, QuantFormat,
    fp8::{E4M3, encode_e4m3, encode_e5m2},
};

/// The encoding of one head's key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of a binary32.
    BF16,
    /// OCP E4M3 "fn" without a scale; magnitudes above 448 saturate.
    F8E4M3,
    /// OCP E5M2 without a scale: the upper half of a binary16; magnitudes above 57344 saturate.
    F8E5M2,
    /// GGUF's blocks: 32 8-bit integers after a binary16 scale.
    Q8_0,
}

/// Features of a block of `Q8_0`.
const BLOCK: usize = 32;

/// Bytes of a block of `Q8_0`.
const BLOCK_BYTES: usize = 2 + BLOCK;

impl KvFormat {
    /// All of them.
    pub const ALL: [KvFormat; 5] = [KvFormat::F32, KvFormat::BF16, KvFormat::F8E4M3, KvFormat::F8E5M2, KvFormat::Q8_0];

    /// Bytes of a head of `dim` features; `usize::MAX` past that.
    pub const fn head_bytes(self, dim: usize) -> usize {
        match self {
            KvFormat::F32 => dim.saturating_mul(4),
            KvFormat::BF16 => dim.saturating_mul(2),
            KvFormat::F8E4M3 | KvFormat::F8E5M2 => dim,
            KvFormat::Q8_0 => dim.div_ceil(BLOCK).saturating_mul(BLOCK_BYTES),
        }
    }

    /// Whether each number that it stores is a bfloat16 too.
    pub const fn is_in_bf16(self) -> bool {
        match self {
            KvFormat::BF16 | KvFormat::F8E4M3 | KvFormat::F8E5M2 => true,
            KvFormat::F32 | KvFormat::Q8_0 => false,
        }
    }

    /// Write `values` to `bytes`, `head_bytes(values.len())` of them. NaN stays NaN.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            KvFormat::F32 => put(values, bytes, f32::to_le_bytes),
            KvFormat::BF16 => put(values, bytes, |x| bf16::from_f32(x).to_le_bytes()),
            KvFormat::F8E4M3 => put(values, bytes, |x| [encode_e4m3(x)]),
            KvFormat::F8E5M2 => put(values, bytes, |x| [encode_e5m2(x)]),
            KvFormat::Q8_0 => {
                let encode = blocks().encode.expect("Q8_0 can be written");
                for (values, bytes) in values.chunks(BLOCK).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
                    let mut block = [0.0; BLOCK];
                    block[..values.len()].copy_from_slice(values);
                    encode(&block, bytes);
                    if !values.iter().all(|x| x.is_finite()) {
                        bytes[..2].copy_from_slice(&f16::NAN.to_le_bytes());
                    }
                }
            }
        }
    }

    /// What `encode` made of `values.len()` values.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            KvFormat::F32 => take(bytes, values, f32::from_le_bytes),
            KvFormat::BF16 => take(bytes, values, |b| bf16::from_le_bytes(b).to_f32()),
            KvFormat::F8E4M3 => take(bytes, values, |[b]: [u8; 1]| E4M3[b as usize]),
            KvFormat::F8E5M2 => take(bytes, values, |[b]: [u8; 1]| f16::from_le_bytes([0, b]).to_f32()),
            KvFormat::Q8_0 => {
                let mut block = Block::ZERO;
                for (values, bytes) in values.chunks_mut(BLOCK).zip(bytes.chunks_exact(BLOCK_BYTES)) {
                    (blocks().unpack)(bytes, &mut block);
                    values.iter_mut().zip(block.quants).for_each(|(x, q)| *x = block.scale * f32::from(q));
                }
            }
        }
    }
}

fn blocks() -> &'static crate::quant::BlockFormat {
    QuantFormat::Q8_0.blocks().expect("Q8_0 is made of blocks")
}

fn put<const N: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    let (bytes, _) = bytes.as_chunks_mut::<N>();
    bytes.iter_mut().zip(values).for_each(|(bytes, &x)| *bytes = encode(x));
}

fn take<const N: usize>(bytes: &[u8], values: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (bytes, _) = bytes.as_chunks::<N>();
    values.iter_mut().zip(bytes).for_each(|(x, &bytes)| *x = decode(bytes));
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvFormat::F32 => "float32",
            KvFormat::BF16 => "bfloat16",
            KvFormat::F8E4M3 => "fp8_e4m3",
            KvFormat::F8E5M2 => "fp8_e5m2",
            KvFormat::Q8_0 => "q8_0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Rng;

    fn round_trip(format: KvFormat, values: &[f32]) -> Vec<f32> {
        let (mut bytes, mut out) = (vec![0; format.head_bytes(values.len())], vec![0.0; values.len()]);
        format.encode(values, &mut bytes);
        format.decode(&bytes, &mut out);
        out
    }

    #[test]
    fn values_come_back_as_near_as_the_mantissa_is_fine() {
        let values = Rng(7).values(80);
        for (format, relative, absolute) in [
            (KvFormat::F32, 0.0, 0.0),
            (KvFormat::BF16, 1.0 / 256.0, 0.0),
            (KvFormat::F8E4M3, 1.0 / 16.0, 1.0 / 1024.0),
            (KvFormat::F8E5M2, 1.0 / 8.0, 1.0 / 131_072.0),
            (KvFormat::Q8_0, 1.0 / 1024.0, 1.0 / 250.0),
        ] {
            for (x, y) in values.iter().zip(round_trip(format, &values)) {
                assert!((x - y).abs() <= x.abs() * relative + absolute, "{format}: {y} for {x}");
            }
        }
    }

    #[test]
    fn faults_show_and_large_values_saturate() {
        for format in KvFormat::ALL {
            let mut values = [1.0; 40];
            values[33] = f32::NAN;
            let back = round_trip(format, &values);
            assert!(back[33].is_nan() && (back[0] - 1.0).abs() < 0.01, "{format}: {back:?}");
        }
        assert_eq!(round_trip(KvFormat::F8E4M3, &[1e6, -1e6]), [448.0, -448.0]);
        assert_eq!(round_trip(KvFormat::F8E5M2, &[1e6, -1e6]), [57344.0, -57344.0]);
    }
}
