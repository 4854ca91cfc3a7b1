//! Blocks of nibbles that choose a value from a codebook: IQ4_NL, IQ4_XS, MXFP4, NVFP4.
//!
//! ```text
//! IQ4_NL  d, 16 bytes of nibbles                                     blocks of 32
//! IQ4_XS  d, 8 × 2 high bits, 8 × 4 low bits, 8 × 16 nibble bytes    blocks of 256, scale - 32
//! MXFP4   one exponent byte, 16 bytes of nibbles                     blocks of 32
//! NVFP4   4 × E4M3, 4 × 8 nibble bytes                               blocks of 64, groups of 16
//! ```
//!
//! MXFP4 is E2M1 with a shared power of two (OCP Microscaling Formats 1.0, 2023), NVFP4 E2M1 with a shared E4M3 that is
//! not negative and, beside the blocks, a scale for the whole matrix ([`PackedMatrix::scaled_by`]). Their codebook holds
//! twice the values, so that they are integers, and the scale is half of what the block says.
//!
//! [`PackedMatrix::scaled_by`]: crate::PackedMatrix::scaled_by

use super::{
    block::{Block, BlockFormat, Halves, half_at, nibbles},
    fp8::E4M3,
};

/// Values of IQ4_NL and IQ4_XS: denser around zero, as weights are.
pub const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Values of E2M1, doubled.
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Non-linear 4-bit codes.
pub const IQ4_NL: BlockFormat = BlockFormat {
    name: "IQ4_NL",
    ggml_type: 20,
    elements: 32,
    group: 32,
    bytes: 18,
    held_bytes: 18,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0);
        look_up(&NON_LINEAR, &bytes[2..], &mut block.quants);
    },
    encode: None,
};

/// Non-linear 4-bit codes in groups with 6-bit scales.
pub const IQ4_XS: BlockFormat = BlockFormat {
    name: "IQ4_XS",
    ggml_type: 23,
    elements: 256,
    group: 32,
    bytes: 136,
    held_bytes: 138,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0);
        let high = u16::from_le_bytes([bytes[2], bytes[3]]);
        for (g, quants) in block.quants.chunks_exact_mut(32).enumerate() {
            let low = bytes[4 + g / 2] >> (g % 2 * 4) & 15;
            let scale = (low | ((high >> (2 * g) & 3) as u8) << 4) as i8 - 32;
            block.scales[g] = scale.into();
            look_up(&NON_LINEAR, &bytes[8 + 16 * g..24 + 16 * g], quants);
        }
    },
    encode: None,
};

/// E2M1 with a shared exponent.
pub const MXFP4: BlockFormat = BlockFormat {
    name: "MXFP4",
    ggml_type: 39,
    elements: 32,
    group: 32,
    bytes: 17,
    held_bytes: 18,
    halves: Halves::At(&[]),
    unpack: |bytes, block: &mut Block| {
        // 2^(e - 128); the two smallest are subnormal.
        let e = u32::from(bytes[0]);
        block.scale = f32::from_bits(if e < 2 { 0x20_0000 << e } else { (e - 1) << 23 });
        look_up(&E2M1_DOUBLED, &bytes[1..], &mut block.quants);
    },
    encode: None,
};

/// E2M1 with an E4M3 for each 16.
pub const NVFP4: BlockFormat = BlockFormat {
    name: "NVFP4",
    ggml_type: 40,
    elements: 64,
    group: 16,
    bytes: 36,
    held_bytes: 40,
    halves: Halves::At(&[]),
    unpack: |bytes, block: &mut Block| {
        block.scale = 0.5;
        for (g, quants) in block.quants[..64].chunks_exact_mut(16).enumerate() {
            // The sign is not looked at, and what would be a NaN is 0, as in ggml.
            let scale = E4M3[usize::from(bytes[g] & 127)];
            block.scales[g] = if scale.is_nan() { 0.0 } else { scale };
            look_up(&E2M1_DOUBLED, &bytes[4 + 8 * g..12 + 8 * g], quants);
        }
    },
    encode: None,
};

const _: () = assert!(NVFP4.bytes == 4 + 64 / 2);
const _: () = assert!(IQ4_NL.bytes == 2 + 32 / 2 && IQ4_XS.bytes == 2 + 2 + 4 + 256 / 2 && MXFP4.bytes == 1 + 32 / 2);

fn look_up(codebook: &[i8; 16], bytes: &[u8], quants: &mut [i8]) {
    let quants = &mut quants[..2 * bytes.len()];
    nibbles(bytes, quants);
    quants.iter_mut().for_each(|quant| *quant = codebook[*quant as usize]);
}
