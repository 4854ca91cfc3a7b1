//! Blocks of 256 elements whose groups' scales are integers themselves: Q2_K to Q6_K.
//!
//! ```text
//! Q2_K  16 × (4-bit scale, 4-bit minimum), 64 bytes of 2 bits, d, dmin     groups of 16
//! Q3_K  256 × 1 high bits, 64 bytes of 2 bits, 16 × 6-bit scales, d        groups of 16, q - 4, scale - 32
//! Q4_K  d, dmin, 8 × (6-bit scale, 6-bit minimum), 128 bytes of nibbles    groups of 32
//! Q5_K  as Q4_K, 256 × 1 high bits before the nibbles                      groups of 32
//! Q6_K  128 bytes of nibbles, 64 bytes of 2 high bits, 16 scale bytes, d   groups of 16, q - 32
//! ```
//!
//! Runs of bits lie so that a vector of bytes, shifted and masked, is a run of elements: a byte of 2 bits
//! holds elements `l`, `l + 32`, `l + 64`, `l + 96` of its half block.

use super::{
    block::{Block, BlockFormat, Halves, half_at, nibbles},
    encode,
};

/// Elements of a block.
const ELEMENTS: usize = 256;

/// 2-bit integers above minimums.
pub const Q2_K: BlockFormat = BlockFormat {
    name: "Q2_K",
    ggml_type: 10,
    elements: ELEMENTS,
    group: 16,
    bytes: 84,
    held_bytes: 100,
    halves: Halves::At(&[80, 82]),
    unpack: |bytes, block| {
        (block.scale, block.min) = (half_at(bytes, 80), half_at(bytes, 82));
        for (g, byte) in bytes[..16].iter().enumerate() {
            (block.scales[g], block.mins[g]) = (f32::from(byte & 15), (byte >> 4) as i8);
        }
        two_bits(&bytes[16..80], 0, &mut block.quants);
    },
    encode: None,
};

/// 3-bit integers around 4.
pub const Q3_K: BlockFormat = BlockFormat {
    name: "Q3_K",
    ggml_type: 11,
    elements: ELEMENTS,
    group: 16,
    bytes: 110,
    held_bytes: 114,
    halves: Halves::At(&[108]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 108);
        // 12 bytes: the low nibbles of scales 0 to 7 and of 8 to 15, then all pairs of high bits.
        let scales = &bytes[96..108];
        for (g, scale) in block.scales.iter_mut().enumerate() {
            let (low, high) = (scales[g % 8] >> (g / 8 * 4) & 15, scales[8 + g % 4] >> (g / 4 * 2) & 3);
            *scale = f32::from(low | high << 4) - 32.0;
        }
        two_bits(&bytes[32..96], 0, &mut block.quants);
        one_bits(&bytes[..32], 2, &mut block.quants);
        block.quants.iter_mut().for_each(|quant| *quant -= 4);
    },
    encode: None,
};

/// 4-bit integers above minimums.
pub const Q4_K: BlockFormat = BlockFormat {
    name: "Q4_K",
    ggml_type: 12,
    elements: ELEMENTS,
    group: 32,
    bytes: 144,
    held_bytes: 148,
    halves: Halves::At(&[0, 2]),
    unpack: |bytes, block| {
        scales_and_mins(bytes, block);
        for (run, quants) in bytes[16..].chunks_exact(32).zip(block.quants.chunks_exact_mut(64)) {
            nibbles(run, quants);
        }
    },
    encode: Some(encode::q4_k),
};

/// 5-bit integers above minimums.
pub const Q5_K: BlockFormat = BlockFormat {
    name: "Q5_K",
    ggml_type: 13,
    elements: ELEMENTS,
    group: 32,
    bytes: 176,
    held_bytes: 180,
    halves: Halves::At(&[0, 2]),
    unpack: |bytes, block| {
        scales_and_mins(bytes, block);
        for (run, quants) in bytes[48..].chunks_exact(32).zip(block.quants.chunks_exact_mut(64)) {
            nibbles(run, quants);
        }
        one_bits(&bytes[16..48], 4, &mut block.quants);
    },
    encode: None,
};

/// 6-bit integers around 32.
pub const Q6_K: BlockFormat = BlockFormat {
    name: "Q6_K",
    ggml_type: 14,
    elements: ELEMENTS,
    group: 16,
    bytes: 210,
    held_bytes: 210,
    halves: Halves::At(&[208]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 208);
        block.scales.iter_mut().zip(&bytes[192..208]).for_each(|(to, &scale)| *to = f32::from(scale as i8));
        for (run, quants) in bytes[..128].chunks_exact(64).zip(block.quants.chunks_exact_mut(128)) {
            nibbles(run, quants);
        }
        two_bits(&bytes[128..192], 4, &mut block.quants);
        block.quants.iter_mut().for_each(|quant| *quant -= 32);
    },
    encode: Some(encode::q6_k),
};

const _: () = assert!(Q2_K.bytes == 16 + ELEMENTS / 4 + 4);
const _: () = assert!(Q3_K.bytes == ELEMENTS / 8 + ELEMENTS / 4 + 12 + 2);
const _: () = assert!(Q4_K.bytes == 4 + 12 + ELEMENTS / 2 && Q5_K.bytes == Q4_K.bytes + ELEMENTS / 8);
const _: () = assert!(Q6_K.bytes == ELEMENTS / 2 + ELEMENTS / 4 + 16 + 2);

/// Add 64 bytes of 2 bits to a block's integers, which have nothing there, from bit `at` on; from bit 0 they
/// take the integers' place.
pub(super) fn two_bits(bytes: &[u8], at: u32, quants: &mut [i8; ELEMENTS]) {
    for (run, quants) in bytes.chunks_exact(32).zip(quants.chunks_exact_mut(128)) {
        for (quants, j) in quants.chunks_exact_mut(32).zip(0..) {
            for (quant, byte) in quants.iter_mut().zip(run) {
                let below = if at == 0 { 0 } else { *quant };
                *quant = below | ((byte >> (2 * j) & 3) << at) as i8;
            }
        }
    }
}

/// Add 32 bytes of single bits to a block's integers, which have nothing there, as bit `at`.
fn one_bits(bytes: &[u8], at: u32, quants: &mut [i8; ELEMENTS]) {
    for (quants, j) in quants.chunks_exact_mut(32).zip(0..) {
        quants.iter_mut().zip(bytes).for_each(|(quant, byte)| *quant |= ((byte >> j & 1) << at) as i8);
    }
}

/// The 16 bytes that Q4_K and Q5_K begin with. Of the twelve, four bytes hold the low six bits of the
/// first four scales, four those of the minimums, four the low nibbles of both kinds of the last four;
/// the two bits left in each of the first eight are the upper bits of the last four.
fn scales_and_mins(bytes: &[u8], block: &mut Block) {
    (block.scale, block.min) = (half_at(bytes, 0), half_at(bytes, 2));
    let packed = &bytes[4..16];
    for g in 0..4 {
        (block.scales[g], block.mins[g]) = (f32::from(packed[g] & 63), (packed[g + 4] & 63) as i8);
        let last = packed[g + 8];
        block.scales[g + 4] = f32::from(last & 15 | packed[g] >> 6 << 4);
        block.mins[g + 4] = (last >> 4 | packed[g + 4] >> 6 << 4) as i8;
    }
}
