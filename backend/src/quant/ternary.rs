//! Blocks of 256 elements that are -1, 0 or 1 times a scale: TQ1_0, TQ2_0.
//!
//! ```text
//! TQ1_0  48 + 4 bytes, each five (the last four: four) digits to the base 3, d
//! TQ2_0  64 bytes of 2 bits, d                                                   q - 1
//! ```
//!
//! A byte of TQ1_0 is a fraction of 256: three times it, the whole part is its first digit, and what is left has the
//! others. Digits of one place are a run of elements, as bits are in `k_quants.rs`.

use super::{
    block::{BlockFormat, Halves, MAX_ELEMENTS, half_at},
    k_quants::two_bits,
};

/// Digits to the base 3.
pub const TQ1_0: BlockFormat = BlockFormat {
    name: "TQ1_0",
    ggml_type: 34,
    elements: MAX_ELEMENTS,
    group: MAX_ELEMENTS,
    bytes: 54,
    held_bytes: 74,
    halves: Halves::At(&[52]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 52);
        let (first, rest) = block.quants.split_at_mut(5 * 32);
        let (second, third) = rest.split_at_mut(5 * 16);
        for (bytes, quants) in [(&bytes[..32], first), (&bytes[32..48], second), (&bytes[48..52], third)] {
            let mut power = 1u8;
            for run in quants.chunks_exact_mut(bytes.len()) {
                for (quant, byte) in run.iter_mut().zip(bytes) {
                    let left = byte.wrapping_mul(power);
                    *quant = ((u16::from(left) * 3) >> 8) as i8 - 1;
                }
                power = power.wrapping_mul(3);
            }
        }
    },
    encode: None,
};

/// Two bits each.
pub const TQ2_0: BlockFormat = BlockFormat {
    name: "TQ2_0",
    ggml_type: 35,
    elements: MAX_ELEMENTS,
    group: MAX_ELEMENTS,
    bytes: 66,
    held_bytes: 74,
    halves: Halves::At(&[64]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 64);
        two_bits(&bytes[..64], 0, &mut block.quants);
        block.quants.iter_mut().for_each(|quant| *quant -= 1);
    },
    encode: None,
};

const _: () = assert!(TQ1_0.bytes == 48 + 4 + 2 && TQ2_0.bytes == MAX_ELEMENTS / 4 + 2);
const _: () = assert!(5 * (32 + 16) + 4 * 4 == MAX_ELEMENTS);
