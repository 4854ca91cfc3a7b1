//! Blocks: the encodings of GGUF, in which some integers of a row share their scales.
//!
//! Every one of them says the same thing with other bits: [`Block`] is what they say, [`BlockFormat`] how
//! one of them says it. Reference, and the names: `ggml-common.h`, `ggml-quants.c` in
//! <https://github.com/ggml-org/ggml>.

use half::f16;

/// Elements of the largest block.
pub const MAX_ELEMENTS: usize = 256;

/// Groups of the largest block: the smallest group has 16 elements.
pub const MAX_GROUPS: usize = MAX_ELEMENTS / 16;

/// A block taken apart: integers, and the scales that make values of them.
///
/// Element `i` of group `g = i / group` is `scale * scales[g] * quants[i] - min * mins[g]`, each step
/// rounded to f32 from the left. Formats without groups have one, of scale 1; those without minimums
/// have `min` 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// What each element stores, with any offset or codebook applied.
    pub quants: [i8; MAX_ELEMENTS],
    /// Scale of all groups.
    pub scale: f32,
    /// Scale of each group, times `scale`: an integer of 8 bits, in NVFP4 an E4M3.
    pub scales: [f32; MAX_GROUPS],
    /// Scale of all minimums.
    pub min: f32,
    /// What is subtracted in each group, times `min`.
    pub mins: [i8; MAX_GROUPS],
}

impl Block {
    /// All zeros, ready for an `unpack`.
    pub const ZERO: Block =
        Block { quants: [0; MAX_ELEMENTS], scale: 0.0, scales: [1.0; MAX_GROUPS], min: 0.0, mins: [1; MAX_GROUPS] };

    /// The values, in groups of `group`.
    ///
    /// # Panics
    /// If `out` is longer than a block.
    pub fn values(&self, group: usize, out: &mut [f32]) {
        for ((values, quants), g) in out.chunks_mut(group).zip(self.quants.chunks(group)).zip(0..) {
            let (scale, min) = (self.scale * self.scales[g], self.min * f32::from(self.mins[g]));
            for (value, &quant) in values.iter_mut().zip(quants) {
                *value = scale * f32::from(quant) - min;
            }
        }
    }
}

/// Reads one block's bytes, exactly as many as it has; writes every field that the format knows.
pub type Unpack = fn(&[u8], &mut Block);

/// Writes one block's bytes from its elements' values, exactly as many as it has of each.
pub type Encode = fn(&[f32], &mut [u8]);

/// How one format stores its blocks.
#[derive(Clone, Copy, Debug)]
pub struct BlockFormat {
    /// Its name in GGUF.
    pub name: &'static str,
    /// Its number in GGUF (`enum ggml_type`).
    pub ggml_type: u32,
    /// Elements of a block; a row is a whole number of blocks.
    pub elements: usize,
    /// Elements that share a scale.
    pub group: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Bytes of a block as kernels read it from memory: its codes may be written in more bits than a file takes for
    /// them, and its groups' scales are whole bytes. The memory that is planned for weights is this.
    pub held_bytes: usize,
    /// Where in a block its binary16 scales lie.
    pub halves: Halves,
    /// Take a block apart.
    pub unpack: Unpack,
    /// Put a block together, where this program can.
    pub encode: Option<Encode>,
}

/// Where in a block the binary16 lie that its groups share.
#[derive(Clone, Copy, Debug)]
pub enum Halves {
    /// At these bytes: the scale, then the minimum where there is one.
    At(&'static [usize]),
    /// Only a scale, in the upper halves of these bytes, the lowest four bits first.
    Spread([usize; 4]),
}

impl Halves {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Halves::At(places) => places.len(),
            Halves::Spread(_) => 1,
        }
    }

    /// Number `index` of those of `block`, its bits.
    #[inline]
    pub fn get(self, block: &[u8], index: usize) -> u16 {
        match self {
            Halves::At(places) => u16::from_le_bytes([block[places[index]], block[places[index] + 1]]),
            Halves::Spread(places) => places.iter().rev().fold(0, |bits, &at| bits << 4 | u16::from(block[at] >> 4)),
        }
    }

    /// Write number `index` of those of `block`.
    pub fn set(self, block: &mut [u8], index: usize, bits: u16) {
        match self {
            Halves::At(places) => block[places[index]..places[index] + 2].copy_from_slice(&bits.to_le_bytes()),
            Halves::Spread(places) => {
                for (&at, shift) in places.iter().zip([0, 4, 8, 12]) {
                    block[at] = block[at] & 15 | ((bits >> shift & 15) << 4) as u8;
                }
            }
        }
    }
}

/// The binary16 at `at`, little-endian.
#[inline]
pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    // Not `to_f32`, which asks the CPU for its features at each call: a tenth of a load.
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32_const()
}

/// Low nibbles of `bytes` to the first half of `quants`, high nibbles to the second: how a run of 4-bit
/// elements is stored.
#[inline]
pub(super) fn nibbles(bytes: &[u8], quants: &mut [i8]) {
    let (low, high) = quants.split_at_mut(bytes.len());
    low.iter_mut().zip(bytes).for_each(|(quant, byte)| *quant = (byte & 15) as i8);
    high.iter_mut().zip(bytes).for_each(|(quant, byte)| *quant = (byte >> 4) as i8);
}
