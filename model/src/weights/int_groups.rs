//! [`IntGroups`]: integers of 2 to 8 bits with a scale for each group of a row's columns, as the programs that quantise
//! lay them out, written as the blocks of 32 that mean the same numbers.
//!
//! ```text
//! stored                                held as
//! 2 to 4 bits, scale s                  Q4_0  s * (q - 2^(bits - 1))
//! 5 bits; 6 to 8                        Q5_0; Q8_0, likewise
//! 2, 3 bits, scale s, zero point z      Q4_0  s * (q - z)
//! 4 bits; 5 to 7                        Q5_0; Q8_0, likewise
//! 2 to 4 bits, scale s, bias b          Q4_1  s * q + b
//! 5 bits                                Q5_1, likewise
//! 8 bits and zero points, 6 or 8 bits
//! and biases, groups of scattered
//! columns (GPTQ's act-order)            the scales' own type, each number by itself, rounded once
//! any of them, of a router              F32, likewise
//! ```
//!
//! A block's scale is a binary16. Those of AWQ and GPTQ are; a bfloat16 is one from 2^-17 to 65504, and every scale is
//! checked. Where it is none, the block would not hold the same numbers, unless they are all zero: such a matrix is
//! written in F32, if few of them are.

use std::ops::Range;

use half::{bf16, f16};
use quern_backend::{DType, QuantFormat};

use super::{TensorProblem, tensor::Tensor};

/// Columns of a block.
pub(super) const BLOCK: usize = 32;

/// A matrix of integers in groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct IntGroups<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// 2 to 8.
    pub(super) bits: usize,
    pub(super) codes: &'a Tensor,
    pub(super) order: Order,
    /// Columns of a group, a multiple of [`BLOCK`] or all of them, unless `index` says of each column which it is in.
    pub(super) group: usize,
    pub(super) index: Option<&'a Tensor>,
    pub(super) scales: PerGroup<'a>,
    pub(super) offset: Offset<'a>,
    /// The encoding it is written in, by the table above.
    pub(super) format: QuantFormat,
}

/// Where the integer of a row and column lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Rows one behind the other, each a stream of bits, the first column in the lowest.
    Rows,
    /// The same in signed bytes.
    SignedRows,
    /// Words of eight rows for each column, interleaved: AutoAWQ's `gemm`.
    InterleavedColumns,
    /// Words of columns for each row, together a stream of bits, the first column in the lowest: GPTQ.
    ColumnWords,
}

/// Where in a word the integer of each of eight rows lies, counted from the lowest bits.
const INTERLEAVED: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Numbers of each row and group.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerGroup<'a> {
    pub(super) name: &'a str,
    pub(super) tensor: &'a Tensor,
    pub(super) row_stride: usize,
    pub(super) group_stride: usize,
}

/// What makes a number of an integer, beside the scale.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offset<'a> {
    /// The middle of the integers is zero.
    Middle,
    /// Each group's own integer is zero.
    Zeros(Zeros<'a>),
    /// A number is added to each product.
    Biases(PerGroup<'a>),
}

/// The zero points of each row and group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zeros<'a> {
    pub(super) name: &'a str,
    pub(super) tensor: &'a Tensor,
    /// Signed bytes, `[rows, groups]`; otherwise words of rows, together a stream of bits.
    pub(super) signed: bool,
    /// From a word (or byte) of rows to the next, and from group to group.
    pub(super) row_stride: usize,
    pub(super) group_stride: usize,
    pub(super) interleaved: bool,
    /// Added to what is stored.
    pub(super) added: u8,
}

impl<'a> IntGroups<'a> {
    /// Columns `cols` of the rows from `first` on, as many as `out` holds, in its format. The columns are whole blocks.
    ///
    /// # Errors
    /// At a scale or bias that no block can have.
    pub(super) fn fill(&self, first: usize, cols: &Range<usize>, out: &mut [u8]) -> Result<(), TensorProblem> {
        let row_bytes = self.format.row_bytes(cols.len());
        let block_bytes = self.format.row_bytes(BLOCK);
        let mut codes = [0; BLOCK];
        for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes)) {
            for (col, out) in cols.clone().step_by(BLOCK).zip(out.chunks_exact_mut(block_bytes)) {
                self.codes(row, col, &mut codes);
                self.block(row, col, &codes, out)?;
            }
        }
        Ok(())
    }

    /// The first scale or bias that no block can have and that matters.
    pub(super) fn inexact(&self) -> Option<TensorProblem> {
        let biases = match self.offset {
            Offset::Biases(biases) => Some(biases),
            Offset::Middle | Offset::Zeros(_) => None,
        };
        if self.scales.all_are_halves() && biases.is_none_or(|biases| biases.all_are_halves()) {
            return None;
        }
        let mut block = vec![0; self.format.row_bytes(self.cols)];
        (0..self.rows).find_map(|row| self.fill(row, &(0..self.cols), &mut block).err())
    }

    /// The group of column `col`.
    fn group_of(&self, col: usize) -> usize {
        // A check when the file was opened found all of them below the number of groups.
        self.index.map_or(col / self.group, |index| word_at(&index.bytes, col) as usize)
    }

    /// The unsigned integers of 32 columns from `col` on.
    fn codes(&self, row: usize, col: usize, out: &mut [u8; BLOCK]) {
        let (bytes, bits) = (&*self.codes.bytes, self.bits);
        match self.order {
            Order::Rows => {
                let at = (row * self.cols + col) / BLOCK * (BLOCK / 8 * bits);
                unpack(bits, &bytes[at..at + BLOCK / 8 * bits], out);
            }
            Order::SignedRows => {
                let signed = &bytes[row * self.cols + col..][..BLOCK];
                out.iter_mut().zip(signed).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
            Order::InterleavedColumns => {
                let (word, shift) = (row / 8, 4 * INTERLEAVED[row % 8]);
                for (code, col) in out.iter_mut().zip(col..) {
                    *code = (word_at(bytes, col * (self.rows / 8) + word) >> shift & 15) as u8;
                }
            }
            Order::ColumnWords => {
                let mut stream = [0; BLOCK];
                let words = stream.as_chunks_mut().0.iter_mut().take(bits);
                for (word, index) in words.zip(col / BLOCK * bits..) {
                    *word = word_at(bytes, index * self.rows + row).to_le_bytes();
                }
                unpack(bits, &stream[..BLOCK / 8 * bits], out);
            }
        }
    }

    fn block(&self, row: usize, col: usize, codes: &[u8; BLOCK], out: &mut [u8]) -> Result<(), TensorProblem> {
        let group = self.group_of(col);
        if self.format.element().is_some() {
            return self.numbers(row, col, codes, out);
        }
        if let Offset::Biases(biases) = self.offset {
            let any = codes.iter().any(|&code| code != 0);
            out[..2].copy_from_slice(&self.scales.half(row, group, any)?);
            out[2..4].copy_from_slice(&biases.half(row, group, true)?);
            match self.format {
                QuantFormat::Q4_1 => nibbles(codes, &mut out[4..]),
                _ => fives(codes, &mut out[4..]),
            }
            return Ok(());
        }
        let zero = self.zero(row, group)?;
        let any = codes.iter().any(|&code| i32::from(code) != zero);
        out[..2].copy_from_slice(&self.scales.half(row, group, any)?);
        let shifted = |offset: i32| codes.map(|code| (i32::from(code) - zero + offset) as u8);
        match self.format {
            QuantFormat::Q4_0 => nibbles(&shifted(8), &mut out[2..]),
            QuantFormat::Q5_0 => fives(&shifted(16), &mut out[2..]),
            _ => out[2..].copy_from_slice(&shifted(0)),
        }
        Ok(())
    }

    /// The integer that means zero.
    fn zero(&self, row: usize, group: usize) -> Result<i32, TensorProblem> {
        match self.offset {
            Offset::Middle => Ok(1 << (self.bits - 1)),
            Offset::Biases(_) => Ok(0),
            Offset::Zeros(zeros) => {
                let (zero, middle) = (zeros.at(row, group, self.bits), 1 << (self.bits - 1));
                if (0..2 * middle).contains(&zero) {
                    return Ok(zero);
                }
                let found = format!("{} for row {row} and group {group}", zero - middle);
                let expected = format!("zero points from {} to {}", -middle, middle - 1);
                Err(TensorProblem::tensor(&self.codes.file, zeros.name, expected, found))
            }
        }
    }

    /// The numbers of 32 columns from `col` on by themselves.
    fn numbers(&self, row: usize, col: usize, codes: &[u8; BLOCK], out: &mut [u8]) -> Result<(), TensorProblem> {
        let mut values = [0.0; BLOCK];
        let mut of_group = None;
        for ((value, &code), col) in values.iter_mut().zip(codes).zip(col..) {
            let group = self.group_of(col);
            let (scale, zero, bias) = match of_group {
                Some((known, numbers)) if known == group => numbers,
                _ => {
                    let bias = match self.offset {
                        Offset::Biases(biases) => biases.at(row, group),
                        Offset::Middle | Offset::Zeros(_) => 0.0,
                    };
                    (self.scales.at(row, group), self.zero(row, group)?, bias)
                }
            };
            of_group = Some((group, (scale, zero, bias)));
            *value = scale * (i32::from(code) - zero) as f32 + bias;
        }
        put_numbers(self.format, &values, out);
        Ok(())
    }
}

/// Each of `values` as one of the plain types stores it, rounded once.
pub(super) fn put_numbers(format: QuantFormat, values: &[f32], out: &mut [u8]) {
    fn each<const N: usize>(values: &[f32], out: &mut [u8], stored: impl Fn(f32) -> [u8; N]) {
        out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, &value)| *bytes = stored(value));
    }
    match format {
        QuantFormat::BF16 => each(values, out, |x| bf16::from_f32(x).to_le_bytes()),
        QuantFormat::F16 => each(values, out, |x| f16::from_f32_const(x).to_le_bytes()),
        _ => each(values, out, f32::to_le_bytes),
    }
}

/// A stream of 32 integers of `bits` bits, the first in the lowest.
fn unpack(bits: usize, stream: &[u8], out: &mut [u8; BLOCK]) {
    match bits {
        4 => {
            for (pair, byte) in out.chunks_exact_mut(2).zip(stream) {
                (pair[0], pair[1]) = (byte & 15, byte >> 4);
            }
        }
        8 => out.copy_from_slice(stream),
        _ => out.iter_mut().zip(0..).for_each(|(code, i)| *code = bits_at(stream, i * bits, bits)),
    }
}

/// The `bits` bits, 8 at most, of `stream` from bit `at` on.
pub(super) fn bits_at(stream: &[u8], at: usize, bits: usize) -> u8 {
    let (low, high) = (stream[at / 8], stream.get(at / 8 + 1).copied().unwrap_or(0));
    (u16::from_le_bytes([low, high]) >> (at % 8)) as u8 & ((1u16 << bits) - 1) as u8
}

impl PerGroup<'_> {
    fn at(&self, row: usize, group: usize) -> f32 {
        let (index, bytes) = (row * self.row_stride + group * self.group_stride, &*self.tensor.bytes);
        match self.tensor.element() {
            Some(DType::F16) => f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32_const(),
            Some(DType::BF16) => bf16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32(),
            _ => f32::from_bits(word_at(bytes, index)),
        }
    }

    /// Whether it is plain, without a look at what they stand beside, that a block can have each of them.
    fn all_are_halves(&self) -> bool {
        // A bfloat16 of these exponents is a normal binary16, or a subnormal one whose 8 bits fit.
        let exponents = 110 << 7..143 << 7;
        let bytes = &*self.tensor.bytes;
        match self.tensor.element() {
            Some(DType::F16) => true,
            Some(DType::BF16) => bytes.as_chunks().0.iter().all(|bytes| {
                let magnitude = u16::from_le_bytes(*bytes) & 0x7fff;
                magnitude == 0 || exponents.contains(&magnitude)
            }),
            _ => bytes.as_chunks().0.iter().all(|bytes| {
                let value = f32::from_le_bytes(*bytes);
                f16::from_f32_const(value).to_f32_const() == value
            }),
        }
    }

    /// The same as a block stores it. Where it does not `matter`, another stands for one that cannot be stored.
    fn half(&self, row: usize, group: usize, matters: bool) -> Result<[u8; 2], TensorProblem> {
        let value = self.at(row, group);
        let half = f16::from_f32_const(value);
        if half.to_f32_const() == value {
            return Ok(half.to_le_bytes());
        }
        if !matters {
            return Ok([0; 2]);
        }
        let found = format!("{value:e} for row {row} and group {group}");
        let problem = TensorProblem::tensor(&self.tensor.file, self.name, "numbers that are binary16", found);
        Err(problem.mended_by(INEXACT))
    }
}

/// What to do where a scale has no exact form.
const INEXACT: &str = "These weights have no exact form here: too many of their scales are finer or larger than \
    binary16 has them. Serve the official FP8 checkpoint or a GGUF file of the same model, or the BF16 checkpoint with --quantization \
    q4_k_m.";

impl Zeros<'_> {
    /// As an unsigned integer of `bits`, like the codes.
    fn at(&self, row: usize, group: usize, bits: usize) -> i32 {
        let bytes = &*self.tensor.bytes;
        if self.signed {
            let byte = bytes[row * self.row_stride + group * self.group_stride];
            return i32::from(byte as i8) + (1 << (bits - 1));
        }
        let word = |index: usize| word_at(bytes, index * self.row_stride + group * self.group_stride);
        let code = if self.interleaved {
            word(row / 8) >> (4 * INTERLEAVED[row % 8])
        } else {
            let (index, from) = (row * bits / 32, row * bits % 32);
            let across = from + bits > 32;
            let both = u64::from(word(index)) | if across { u64::from(word(index + 1)) << 32 } else { 0 };
            (both >> from) as u32
        };
        // A zero point of 0 is stored as -1 where 1 is to be added: it wraps around.
        (code.wrapping_add(self.added.into()) & ((1 << bits) - 1)) as i32
    }
}

/// Word `index` of little-endian words.
#[inline]
fn word_at(bytes: &[u8], index: usize) -> u32 {
    let [a, b, c, d] = bytes[4 * index..][..4] else { unreachable!("a slice of four") };
    u32::from_le_bytes([a, b, c, d])
}

/// Where the blocks of `block` columns lie, counted over a matrix of `row_cols`, that hold columns `cols` of the rows from
/// `first` on.
pub(super) fn block_indices(
    first: usize,
    cols: &Range<usize>,
    row_cols: usize,
    block: usize,
) -> impl Iterator<Item = usize> {
    let blocks = cols.start / block..cols.end / block;
    (first..).flat_map(move |row| blocks.clone().map(move |index| row * (row_cols / block) + index))
}

/// Codes of 4 bits as blocks have them: the first half in the low nibbles, the second in the high ones.
pub(super) fn nibbles(codes: &[u8; BLOCK], out: &mut [u8]) {
    let (low, high) = codes.split_at(BLOCK / 2);
    for (byte, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *byte = low | high << 4;
    }
}

/// Codes of 5 bits as blocks have them: the fifth bits, then the others as [`nibbles`].
fn fives(codes: &[u8; BLOCK], out: &mut [u8]) {
    let fifths = codes.iter().zip(0..).fold(0, |bits, (code, i)| bits | u32::from(code >> 4) << i);
    out[..4].copy_from_slice(&fifths.to_le_bytes());
    nibbles(&codes.map(|code| code & 15), &mut out[4..]);
}
