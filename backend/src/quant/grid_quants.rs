//! Blocks of indices into grids, whose entries are eight or four elements at once: IQ1_S to IQ3_S.
//!
//! ```text
//! IQ1_S    d, 32 × 8 low bits of indices, 8 × (4 × 3 high bits, 3-bit scale, sign of delta)          groups of 32
//! IQ1_M    32 × 8 low bits, 32 × (3 high bits, sign of delta), 4 × (4 × 3-bit scale, 4 bits of d)    groups of 16
//! IQ2_XXS  d, 8 × (4 × 8-bit index, 4 × 7 signs, 4-bit scale)                                        groups of 32
//! IQ2_XS   d, 32 × (9-bit index, 7 signs), 16 × 4-bit scale                                          groups of 16
//! IQ2_S    d, 32 × 8 low bits, 32 × 8 signs, 32 × 2 high bits, 16 × 4-bit scale                      groups of 16
//! IQ3_XXS  d, 64 × 8-bit index, 8 × (4 × 7 signs, 4-bit scale)                                       groups of 32
//! IQ3_S    d, 64 × 8 low bits, 64 × 1 high bit, 32 × 8 signs, 8 × 4-bit scale                        groups of 32
//! ```
//!
//! Grids of IQ1 and IQ2 have entries of eight elements, those of IQ3 of four. Where seven signs are stored, the eighth
//! is what makes the number of negative elements even. Scales are `2 s + 1`; those of IQ2 count eighths of `d`, those
//! of IQ3_XXS quarters. Elements of IQ1 are -1, 0 or 1, moved by an eighth up or down together with their neighbours:
//! in IQ1_S that is a minimum of the group, in IQ1_M integers count eighths. Every value is exact in f32.

use super::{
    block::{BlockFormat, Halves, MAX_ELEMENTS, half_at},
    grids,
};

/// Magnitudes of IQ2.
const MAGNITUDES_2: [i8; 3] = [8, 25, 43];

/// Magnitudes of IQ3_XXS.
const MAGNITUDES_3_XXS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

/// Magnitudes of IQ3_S.
const MAGNITUDES_3_S: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// Elements of IQ1 before they are moved.
const ELEMENTS_1: [i8; 3] = [-1, 0, 1];

/// All integers of IQ1_M, in eighths. Two codes are not used.
pub const CODES_1_M: [i8; 8] = [-9, -7, -1, 1, 7, 9, 0, 0];

/// All integers of IQ2. Two codes are not used.
pub const CODES_2: [i8; 8] = [8, 25, 43, 0, -8, -25, -43, 0];

/// All integers of IQ3_XXS.
pub const CODES_3_XXS: [i8; 16] = with_signs(&MAGNITUDES_3_XXS);

/// All integers of IQ3_S.
pub const CODES_3_S: [i8; 16] = with_signs(&MAGNITUDES_3_S);

static GRID_1: [[i8; 8]; 2048] = expanded(&grids::IQ1, &ELEMENTS_1);
static GRID_2_XXS: [[i8; 8]; 256] = expanded(&grids::IQ2_XXS, &MAGNITUDES_2);
static GRID_2_XS: [[i8; 8]; 512] = expanded(&grids::IQ2_XS, &MAGNITUDES_2);
static GRID_2_S: [[i8; 8]; 1024] = expanded(&grids::IQ2_S, &MAGNITUDES_2);
static GRID_3_XXS: [[i8; 4]; 256] = expanded(&grids::IQ3_XXS, &MAGNITUDES_3_XXS);
static GRID_3_S: [[i8; 4]; 512] = expanded(&grids::IQ3_S, &MAGNITUDES_3_S);

/// Moved together with a group of 32.
pub const IQ1_S: BlockFormat = BlockFormat {
    name: "IQ1_S",
    ggml_type: 19,
    elements: MAX_ELEMENTS,
    group: 32,
    bytes: 50,
    held_bytes: 84,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        let eighth = half_at(bytes, 0) / 8.0;
        (block.scale, block.min) = (eighth, eighth);
        let high = |g: usize| u16::from_le_bytes([bytes[34 + 2 * g], bytes[35 + 2 * g]]);
        for g in 0..8 {
            let odd = (high(g) >> 12 & 7) as i8 * 2 + 1;
            block.scales[g] = f32::from(8 * odd);
            block.mins[g] = if high(g) >> 15 == 1 { odd } else { -odd };
        }
        runs(&mut block.quants, |i| {
            GRID_1[usize::from(bytes[2 + i]) | usize::from(high(i / 4) >> (3 * (i % 4)) & 7) << 8]
        });
    },
    encode: None,
};

/// Moved together with seven neighbours.
pub const IQ1_M: BlockFormat = BlockFormat {
    name: "IQ1_M",
    ggml_type: 29,
    elements: MAX_ELEMENTS,
    group: 16,
    bytes: 56,
    held_bytes: 114,
    halves: IQ1_M_SCALE,
    unpack: |bytes, block| {
        block.scale = half_at(&IQ1_M_SCALE.get(bytes, 0).to_le_bytes(), 0) / 8.0;
        for (g, scale) in block.scales.iter_mut().enumerate() {
            let at = 48 + 2 * (g / 4);
            *scale = odd(u16::from_le_bytes([bytes[at], bytes[at + 1]]) >> (3 * (g % 4)) & 7);
        }
        runs(&mut block.quants, |i| {
            let high = bytes[32 + i / 2] >> (4 * (i % 2)) & 15;
            let index = usize::from(bytes[i]) | usize::from(high & 7) << 8;
            let delta = if high >> 3 == 1 { -1 } else { 1 };
            GRID_1[index].map(|element| 8 * element + delta)
        });
    },
    encode: None,
};

/// Where the four pieces of IQ1_M's binary16 lie.
const IQ1_M_SCALE: Halves = Halves::Spread([49, 51, 53, 55]);

/// Indices of 8 bits.
pub const IQ2_XXS: BlockFormat = BlockFormat {
    name: "IQ2_XXS",
    ggml_type: 16,
    elements: MAX_ELEMENTS,
    group: 32,
    bytes: 66,
    held_bytes: 106,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0) / 8.0;
        let signs = |g: usize| word_at(bytes, 2 + 8 * g + 4);
        for (g, scale) in block.scales[..8].iter_mut().enumerate() {
            *scale = odd((signs(g) >> 28) as u16);
        }
        runs(&mut block.quants, |i| {
            let (g, nth) = (i / 4, i % 4);
            signed(GRID_2_XXS[usize::from(bytes[2 + 8 * g + nth])], eight_signs(signs(g) >> (7 * nth)))
        });
    },
    encode: None,
};

/// Indices of 9 bits.
pub const IQ2_XS: BlockFormat = BlockFormat {
    name: "IQ2_XS",
    ggml_type: 17,
    elements: MAX_ELEMENTS,
    group: 16,
    bytes: 74,
    held_bytes: 114,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0) / 8.0;
        nibble_scales(&bytes[66..74], &mut block.scales);
        runs(&mut block.quants, |i| {
            let both = u16::from_le_bytes([bytes[2 + 2 * i], bytes[3 + 2 * i]]);
            signed(GRID_2_XS[usize::from(both & 511)], eight_signs(u32::from(both >> 9)))
        });
    },
    encode: None,
};

/// Indices of 10 bits, and all signs.
pub const IQ2_S: BlockFormat = BlockFormat {
    name: "IQ2_S",
    ggml_type: 22,
    elements: MAX_ELEMENTS,
    group: 16,
    bytes: 82,
    held_bytes: 114,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0) / 8.0;
        nibble_scales(&bytes[74..82], &mut block.scales);
        runs(&mut block.quants, |i| {
            let high = usize::from(bytes[66 + i / 4] >> (2 * (i % 4)) & 3);
            signed(GRID_2_S[usize::from(bytes[2 + i]) | high << 8], bytes[34 + i])
        });
    },
    encode: None,
};

/// Two indices of 8 bits for eight elements.
pub const IQ3_XXS: BlockFormat = BlockFormat {
    name: "IQ3_XXS",
    ggml_type: 18,
    elements: MAX_ELEMENTS,
    group: 32,
    bytes: 98,
    held_bytes: 138,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        // Twice the quarters' scales count eighths, as in IQ2.
        block.scale = half_at(bytes, 0) / 8.0;
        let signs = |g: usize| word_at(bytes, 66 + 4 * g);
        for (g, scale) in block.scales[..8].iter_mut().enumerate() {
            *scale = 2.0 * odd((signs(g) >> 28) as u16);
        }
        runs(&mut block.quants, |i| {
            let entry = |nth: usize| GRID_3_XXS[usize::from(bytes[2 + 2 * i + nth])];
            signed(joined(entry(0), entry(1)), eight_signs(signs(i / 4) >> (7 * (i % 4))))
        });
    },
    encode: None,
};

/// Two indices of 9 bits for eight elements, and all signs.
pub const IQ3_S: BlockFormat = BlockFormat {
    name: "IQ3_S",
    ggml_type: 21,
    elements: MAX_ELEMENTS,
    group: 32,
    bytes: 110,
    held_bytes: 138,
    halves: Halves::At(&[0]),
    unpack: |bytes, block| {
        block.scale = half_at(bytes, 0);
        nibble_scales(&bytes[106..110], &mut block.scales[..8]);
        runs(&mut block.quants, |i| {
            let high = bytes[66 + i / 4] >> (2 * (i % 4));
            let index = |nth: usize| usize::from(bytes[2 + 2 * i + nth]) | usize::from(high >> nth & 1) << 8;
            signed(joined(GRID_3_S[index(0)], GRID_3_S[index(1)]), bytes[74 + i])
        });
    },
    encode: None,
};

const _: () = assert!(IQ1_S.bytes == 2 + 32 + 8 * 2 && IQ1_M.bytes == 32 + 16 + 4 * 2);
const _: () = assert!(IQ2_XXS.bytes == 2 + 8 * 8 && IQ2_XS.bytes == 2 + 32 * 2 + 8);
const _: () = assert!(IQ2_S.bytes == 2 + 32 + 32 + 8 + 8);
const _: () = assert!(IQ3_XXS.bytes == 2 + 64 + 8 * 4 && IQ3_S.bytes == 2 + 64 + 8 + 32 + 4);

/// The entries of a grid, whose elements are places in `values`.
const fn expanded<const ENTRIES: usize, const ELEMENTS: usize>(
    grid: &[u16; ENTRIES],
    values: &[i8],
) -> [[i8; ELEMENTS]; ENTRIES] {
    let bits = 16 / ELEMENTS;
    let mut entries = [[0; ELEMENTS]; ENTRIES];
    let mut entry = 0;
    while entry < ENTRIES {
        let mut i = 0;
        while i < ELEMENTS {
            entries[entry][i] = values[(grid[entry] >> (bits * i)) as usize & ((1 << bits) - 1)];
            i += 1;
        }
        entry += 1;
    }
    entries
}

/// Magnitudes, then the same below zero.
const fn with_signs(magnitudes: &[i8; 8]) -> [i8; 16] {
    let mut both = [0; 16];
    let mut i = 0;
    while i < 8 {
        (both[i], both[i + 8]) = (magnitudes[i], -magnitudes[i]);
        i += 1;
    }
    both
}

/// Write the integers of a block in runs of eight: `run` of the number of each.
#[inline]
fn runs(quants: &mut [i8; MAX_ELEMENTS], run: impl Fn(usize) -> [i8; 8]) {
    let (all, _) = quants.as_chunks_mut();
    all.iter_mut().enumerate().for_each(|(i, quants)| *quants = run(i));
}

/// `entry` with its elements below zero where a bit of `signs` is set, the first element's lowest.
#[inline]
fn signed(mut entry: [i8; 8], signs: u8) -> [i8; 8] {
    for (i, element) in entry.iter_mut().enumerate() {
        // All ones or zeros: `x ^ -1` is `-x - 1`.
        let mask = -((signs >> i & 1) as i8);
        *element = (*element ^ mask) - mask;
    }
    entry
}

#[inline]
fn joined([a, b, c, d]: [i8; 4], [e, f, g, h]: [i8; 4]) -> [i8; 8] {
    [a, b, c, d, e, f, g, h]
}

/// The lowest seven bits of `signs`, and an eighth that makes the number of those set even.
#[inline]
fn eight_signs(signs: u32) -> u8 {
    let seven = (signs & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// The scale that `s` stands for.
#[inline]
fn odd(s: u16) -> f32 {
    f32::from(2 * s + 1)
}

/// Two scales a byte, the lower four bits first.
fn nibble_scales(bytes: &[u8], scales: &mut [f32]) {
    for (pair, byte) in scales.chunks_exact_mut(2).zip(bytes) {
        (pair[0], pair[1]) = (odd(u16::from(byte & 15)), odd(u16::from(byte >> 4)));
    }
}

/// The word at `at`, little-endian.
#[inline]
fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conformance::Rng, quant::Block};

    #[test]
    fn every_integer_of_a_block_has_a_code() {
        let mut rng = Rng(7);
        for (format, codes) in [
            (&IQ1_S, &ELEMENTS_1[..]),
            (&IQ1_M, &CODES_1_M[..]),
            (&IQ2_XXS, &CODES_2[..]),
            (&IQ2_XS, &CODES_2[..]),
            (&IQ2_S, &CODES_2[..]),
            (&IQ3_XXS, &CODES_3_XXS[..]),
            (&IQ3_S, &CODES_3_S[..]),
        ] {
            let mut block = Block::ZERO;
            for _ in 0..200 {
                let bytes: Vec<u8> = (0..format.bytes).map(|_| rng.bits() as u8).collect();
                (format.unpack)(&bytes, &mut block);
                assert!(block.quants.iter().all(|quant| codes.contains(quant)), "{}: {:?}", format.name, block.quants);
                let groups = &block.scales[..format.elements / format.group];
                assert!(groups.iter().all(|scale| *scale == scale.trunc() && *scale <= 127.0), "{}", format.name);
            }
        }
    }
}
