//! Blocks of 32 elements with one binary16 scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! ```text
//! Q4_0  d            16 bytes of nibbles    d * (q - 8)
//! Q4_1  d, m         16 bytes of nibbles    d * q + m
//! Q5_0  d     32 × 1 16 bytes of nibbles    d * (q - 16)
//! Q5_1  d, m  32 × 1 16 bytes of nibbles    d * q + m
//! Q8_0  d            32 signed bytes        d * q
//! ```
//!
//! `32 × 1`: the fifth bit of each element, the first element's lowest. Nibbles: the low ones are
//! elements 0 to 15, the high ones 16 to 31.

use super::{
    block::{BlockFormat, Halves, half_at, nibbles},
    encode,
};

/// Elements of a block.
const ELEMENTS: usize = 32;

/// 4-bit integers around 8.
pub const Q4_0: BlockFormat = BlockFormat {
    name: "Q4_0",
    ggml_type: 2,
    elements: ELEMENTS,
    group: ELEMENTS,
    bytes: 18,
    held_bytes: 18,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0);
        nibbles(&bytes[2..], &mut block.quants[..ELEMENTS]);
        block.quants[..ELEMENTS].iter_mut().for_each(|q| *q -= 8);
    },
    encode: Some(encode::q4_0),
};

/// 4-bit integers above a minimum.
pub const Q4_1: BlockFormat = BlockFormat {
    name: "Q4_1",
    ggml_type: 3,
    elements: ELEMENTS,
    group: ELEMENTS,
    bytes: 20,
    held_bytes: 20,
    halves: Halves::At(&[0, 2]),
    unpack: |bytes, block| {
        (block.scale, block.min) = (half_at(bytes, 0), -half_at(bytes, 2));
        nibbles(&bytes[4..], &mut block.quants[..ELEMENTS]);
    },
    encode: None,
};

/// 5-bit integers around 16.
pub const Q5_0: BlockFormat = BlockFormat {
    name: "Q5_0",
    ggml_type: 6,
    elements: ELEMENTS,
    group: ELEMENTS,
    bytes: 22,
    held_bytes: 22,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0);
        fives(&bytes[2..], &mut block.quants[..ELEMENTS]);
        block.quants[..ELEMENTS].iter_mut().for_each(|q| *q -= 16);
    },
    encode: None,
};

/// 5-bit integers above a minimum.
pub const Q5_1: BlockFormat = BlockFormat {
    name: "Q5_1",
    ggml_type: 7,
    elements: ELEMENTS,
    group: ELEMENTS,
    bytes: 24,
    held_bytes: 24,
    halves: Halves::At(&[0, 2]),
    unpack: |bytes, block| {
        (block.scale, block.min) = (half_at(bytes, 0), -half_at(bytes, 2));
        fives(&bytes[4..], &mut block.quants[..ELEMENTS]);
    },
    encode: None,
};

/// Signed bytes.
pub const Q8_0: BlockFormat = BlockFormat {
    name: "Q8_0",
    ggml_type: 8,
    elements: ELEMENTS,
    group: ELEMENTS,
    bytes: 34,
    held_bytes: 34,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0);
        block.quants.iter_mut().zip(&bytes[2..]).for_each(|(quant, &byte)| *quant = byte as i8);
    },
    encode: Some(encode::q8_0),
};

const _: () = assert!(Q4_0.bytes == 2 + ELEMENTS / 2 && Q4_1.bytes == 4 + ELEMENTS / 2);
const _: () = assert!(Q5_0.bytes == 2 + ELEMENTS / 8 + ELEMENTS / 2 && Q5_1.bytes == Q5_0.bytes + 2);
const _: () = assert!(Q8_0.bytes == 2 + ELEMENTS);

/// 4 bytes of fifth bits, then nibbles.
fn fives(bytes: &[u8], quants: &mut [i8]) {
    let fifths = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    nibbles(&bytes[4..], quants);
    quants.iter_mut().zip(0..).for_each(|(quant, i)| *quant |= ((fifths >> i & 1) << 4) as i8);
}
