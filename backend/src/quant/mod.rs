//! Encodings of weight matrices, and [`PackedMatrix`]: rows × columns in one of them.
//!
//! A new encoding is one description here (block layout, scalar encode and decode, a link to its origin),
//! one line in [`QuantFormat::ALL`], and the decoders of the backends that can run it.

pub mod block;
pub mod blocks32;
pub mod codebook;
mod encode;
pub mod fp8;
pub mod grid_quants;
mod grids;
pub mod k_quants;
pub mod ternary;

use std::{fmt, ops::Range, sync::Arc};

use half::{bf16, f16};

use crate::DType;
pub use block::{Block, BlockFormat, Halves};

/// Name of an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantFormat {
    /// One binary32 an element.
    F32,
    /// One binary16 an element.
    F16,
    /// One bfloat16 an element.
    BF16,
    /// One E4M3 byte an element, one scale for each block of 128 rows × 128 columns, or for each row's 128 columns;
    /// the last block of a row or column may be ragged. `value = byte * scale`.
    Fp8Block128,
    /// See [`blocks32`].
    Q4_0,
    /// See [`blocks32`].
    Q4_1,
    /// See [`blocks32`].
    Q5_0,
    /// See [`blocks32`].
    Q5_1,
    /// See [`blocks32`].
    Q8_0,
    /// See [`k_quants`].
    Q2K,
    /// See [`k_quants`].
    Q3K,
    /// See [`k_quants`].
    Q4K,
    /// See [`k_quants`].
    Q5K,
    /// See [`k_quants`].
    Q6K,
    /// See [`codebook`].
    Iq4Nl,
    /// See [`codebook`].
    Iq4Xs,
    /// See [`codebook`].
    Mxfp4,
    /// See [`grid_quants`].
    Iq1S,
    /// See [`grid_quants`].
    Iq1M,
    /// See [`grid_quants`].
    Iq2Xxs,
    /// See [`grid_quants`].
    Iq2Xs,
    /// See [`grid_quants`].
    Iq2S,
    /// See [`grid_quants`].
    Iq3Xxs,
    /// See [`grid_quants`].
    Iq3S,
    /// See [`ternary`].
    Tq1_0,
    /// See [`ternary`].
    Tq2_0,
    /// See [`codebook`].
    Nvfp4,
}

impl QuantFormat {
    /// Every encoding that can be read.
    pub const ALL: [QuantFormat; 27] = [
        QuantFormat::F32,
        QuantFormat::F16,
        QuantFormat::BF16,
        QuantFormat::Fp8Block128,
        QuantFormat::Q4_0,
        QuantFormat::Q4_1,
        QuantFormat::Q5_0,
        QuantFormat::Q5_1,
        QuantFormat::Q8_0,
        QuantFormat::Q2K,
        QuantFormat::Q3K,
        QuantFormat::Q4K,
        QuantFormat::Q5K,
        QuantFormat::Q6K,
        QuantFormat::Iq4Nl,
        QuantFormat::Iq4Xs,
        QuantFormat::Mxfp4,
        QuantFormat::Iq1S,
        QuantFormat::Iq1M,
        QuantFormat::Iq2Xxs,
        QuantFormat::Iq2Xs,
        QuantFormat::Iq2S,
        QuantFormat::Iq3Xxs,
        QuantFormat::Iq3S,
        QuantFormat::Tq1_0,
        QuantFormat::Tq2_0,
        QuantFormat::Nvfp4,
    ];

    /// Rows and columns that share a scale in [`QuantFormat::Fp8Block128`].
    pub const FP8_BLOCK: usize = 128;

    /// The encoding that stores each element by itself as `dtype`.
    pub fn plain(dtype: DType) -> Self {
        match dtype {
            DType::F32 => QuantFormat::F32,
            DType::F16 => QuantFormat::F16,
            DType::BF16 => QuantFormat::BF16,
            DType::F8E4M3 => QuantFormat::Fp8Block128,
        }
    }

    /// The encoding that GGUF knows by this number (`enum ggml_type`), if it is one of ours.
    pub fn from_ggml_type(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ggml_type() == Some(number))
    }

    /// Its number in GGUF, where it has one.
    pub fn ggml_type(self) -> Option<u32> {
        match self {
            QuantFormat::F32 => Some(0),
            QuantFormat::F16 => Some(1),
            QuantFormat::BF16 => Some(30),
            _ => self.blocks().map(|blocks| blocks.ggml_type),
        }
    }

    /// How its blocks are stored, where it has blocks within rows.
    pub fn blocks(self) -> Option<&'static BlockFormat> {
        match self {
            QuantFormat::F32 | QuantFormat::F16 | QuantFormat::BF16 | QuantFormat::Fp8Block128 => None,
            QuantFormat::Q4_0 => Some(&blocks32::Q4_0),
            QuantFormat::Q4_1 => Some(&blocks32::Q4_1),
            QuantFormat::Q5_0 => Some(&blocks32::Q5_0),
            QuantFormat::Q5_1 => Some(&blocks32::Q5_1),
            QuantFormat::Q8_0 => Some(&blocks32::Q8_0),
            QuantFormat::Q2K => Some(&k_quants::Q2_K),
            QuantFormat::Q3K => Some(&k_quants::Q3_K),
            QuantFormat::Q4K => Some(&k_quants::Q4_K),
            QuantFormat::Q5K => Some(&k_quants::Q5_K),
            QuantFormat::Q6K => Some(&k_quants::Q6_K),
            QuantFormat::Iq4Nl => Some(&codebook::IQ4_NL),
            QuantFormat::Iq4Xs => Some(&codebook::IQ4_XS),
            QuantFormat::Mxfp4 => Some(&codebook::MXFP4),
            QuantFormat::Iq1S => Some(&grid_quants::IQ1_S),
            QuantFormat::Iq1M => Some(&grid_quants::IQ1_M),
            QuantFormat::Iq2Xxs => Some(&grid_quants::IQ2_XXS),
            QuantFormat::Iq2Xs => Some(&grid_quants::IQ2_XS),
            QuantFormat::Iq2S => Some(&grid_quants::IQ2_S),
            QuantFormat::Iq3Xxs => Some(&grid_quants::IQ3_XXS),
            QuantFormat::Iq3S => Some(&grid_quants::IQ3_S),
            QuantFormat::Tq1_0 => Some(&ternary::TQ1_0),
            QuantFormat::Tq2_0 => Some(&ternary::TQ2_0),
            QuantFormat::Nvfp4 => Some(&codebook::NVFP4),
        }
    }

    /// Elements that are stored together; a row is a whole number of them.
    pub fn block_elements(self) -> usize {
        self.blocks().map_or(1, |blocks| blocks.elements)
    }

    /// Bytes of one block (of one element where there are no blocks), scales beside the rows not counted.
    pub fn block_bytes(self) -> usize {
        match self.blocks() {
            Some(blocks) => blocks.bytes,
            None => self.element().map_or(0, DType::size),
        }
    }

    /// Bytes of one row of `cols` elements, a whole number of blocks; scales beside the rows not counted.
    pub fn row_bytes(self, cols: usize) -> usize {
        cols / self.block_elements() * self.block_bytes()
    }

    /// Bytes of one row of `cols` elements as kernels read it from memory ([`BlockFormat::held_bytes`]); scales beside the
    /// rows not counted.
    pub fn held_row_bytes(self, cols: usize) -> usize {
        match self.blocks() {
            Some(blocks) => cols / blocks.elements * blocks.held_bytes,
            None => self.row_bytes(cols),
        }
    }

    /// The stored element, where each is stored by itself.
    pub fn element(self) -> Option<DType> {
        match self {
            QuantFormat::F32 => Some(DType::F32),
            QuantFormat::F16 => Some(DType::F16),
            QuantFormat::BF16 => Some(DType::BF16),
            QuantFormat::Fp8Block128 => Some(DType::F8E4M3),
            _ => None,
        }
    }
}

impl fmt::Display for QuantFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantFormat::F32 => "f32",
            QuantFormat::F16 => "f16",
            QuantFormat::BF16 => "bf16",
            QuantFormat::Fp8Block128 => "fp8-e4m3-128x128",
            _ => self.blocks().map_or("", |blocks| blocks.name),
        })
    }
}

/// Who keeps read-only bytes: a mapped file, or a buffer.
pub trait ByteOwner: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// The bytes of `range` will hardly be read again. They stay readable; a mapped file may let go of
    /// the memory that holds them.
    fn release(&self, _range: Range<usize>) {}
}

impl<T: AsRef<[u8]> + Send + Sync> ByteOwner for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

/// Read-only bytes with a shared owner: a slice of a mapped file, or of an owned buffer.
///
/// Cloning shares; nothing is ever copied, so a checkpoint stays where the operating system mapped it.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn ByteOwner>,
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn ByteOwner>) -> Self {
        let range = 0..owner.bytes().len();
        Self { owner, range }
    }

    /// A part of these bytes, sharing the owner; `None` if `range` does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end).then(|| Self { owner: Arc::clone(&self.owner), range: start..end })
    }

    /// See [`ByteOwner::release`].
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }
}

impl std::ops::Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}

/// A weight matrix as stored: `rows × cols`, row-major, little-endian, in one encoding.
///
/// `rows` are output features and `cols` input features, as `torch.nn.Linear.weight` has them.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    format: QuantFormat,
    rows: usize,
    cols: usize,
    /// From the first row's first byte to the last row's last.
    data: SharedBytes,
    /// Bytes from one row to the next: more than a row where this is some columns of a wider matrix.
    stride: usize,
    scales: Option<BlockScales>,
    /// What all of its values are multiplied by, see [`PackedMatrix::scaled_by`].
    factor: f32,
}

/// The scales of a whole fp8 matrix, and where in it a part begins.
#[derive(Clone, Debug)]
struct BlockScales {
    /// `[ceil(rows / block_rows), per_row]` of the whole.
    values: Arc<[f32]>,
    per_row: usize,
    /// Rows of a block: 128, or 1 where each row has a scale of its own.
    block_rows: usize,
    row: usize,
    col: usize,
}

impl PackedMatrix {
    /// A matrix whose rows hold everything: one of the plain formats (`f32`, `f16`, `bf16`) or of those
    /// made of blocks.
    ///
    /// # Panics
    /// If `data` is not exactly `rows × cols` elements, or a row not a whole number of blocks; the loader
    /// has checked both.
    pub fn plain(format: QuantFormat, rows: usize, cols: usize, data: SharedBytes) -> Self {
        assert!(format != QuantFormat::Fp8Block128, "{format} needs scales");
        assert_eq!(cols % format.block_elements(), 0, "{cols} columns in blocks of {}", format.block_elements());
        assert_eq!(data.len(), rows * format.row_bytes(cols), "bytes of a {rows}×{cols} {format} matrix");
        Self { format, rows, cols, stride: format.row_bytes(cols), data, scales: None, factor: 1.0 }
    }

    /// An E4M3 matrix with its block scales, `[ceil(rows / 128), ceil(cols / 128)]` row-major.
    ///
    /// # Panics
    /// If `data` or `scales` have another length; the loader has checked both.
    pub fn fp8(rows: usize, cols: usize, data: SharedBytes, scales: Arc<[f32]>) -> Self {
        Self::scaled(rows, cols, data, scales, QuantFormat::FP8_BLOCK)
    }

    /// An E4M3 matrix with a scale for each row. Kernels meet it as one whose blocks are a row high.
    ///
    /// # Panics
    /// If `data` or `scales` have another length; the loader has checked both.
    pub fn fp8_rows(rows: usize, cols: usize, data: SharedBytes, scales: &[f32]) -> Self {
        let blocks = cols.div_ceil(QuantFormat::FP8_BLOCK);
        let repeated = scales.iter().flat_map(|&scale| std::iter::repeat_n(scale, blocks)).collect();
        Self::scaled(rows, cols, data, repeated, 1)
    }

    fn scaled(rows: usize, cols: usize, data: SharedBytes, scales: Arc<[f32]>, block_rows: usize) -> Self {
        let per_row = cols.div_ceil(QuantFormat::FP8_BLOCK);
        assert_eq!(data.len(), rows * cols, "bytes of a {rows}×{cols} fp8 matrix");
        assert_eq!(scales.len(), rows.div_ceil(block_rows) * per_row, "scales of a {rows}×{cols} fp8 matrix");
        let scales = BlockScales { values: scales, per_row, block_rows, row: 0, col: 0 };
        Self { format: QuantFormat::Fp8Block128, rows, cols, stride: cols, data, scales: Some(scales), factor: 1.0 }
    }

    /// The same with all values times `factor`, which belongs to the whole matrix in [`QuantFormat::Nvfp4`]. A block's
    /// scale is multiplied by it, rounded to f32, before anything else is.
    ///
    /// # Panics
    /// If it is in another format.
    pub fn scaled_by(self, factor: f32) -> Self {
        assert_eq!(self.format, QuantFormat::Nvfp4, "a factor for a whole matrix");
        Self { factor, ..self }
    }

    /// See [`scaled_by`](Self::scaled_by); 1 where nothing was said.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// These rows and columns of it, sharing the bytes and the scales; either may be empty.
    ///
    /// # Panics
    /// If they reach past the matrix, or cut a block of its encoding ([`QuantFormat::block_elements`]). An fp8 matrix
    /// may be cut within its blocks of 128 × 128: a part knows where in them it begins.
    pub fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        let block = self.format.block_elements();
        let whole = [cols.start, cols.end].iter().all(|col| col.is_multiple_of(block));
        assert!(whole, "columns {cols:?} cut a block of {block} of {}", self.format);
        let (before, width) = (self.format.row_bytes(cols.start), self.format.row_bytes(cols.len()));
        // The last row ends before the next one would begin.
        let bytes = match rows.is_empty() || cols.is_empty() {
            true => 0..0,
            false => rows.start * self.stride + before..(rows.end - 1) * self.stride + before + width,
        };
        let data = self.data.slice(bytes).expect("rows and columns of the matrix");
        let scales = self.scales.clone().map(|scales| BlockScales {
            row: scales.row + rows.start,
            col: scales.col + cols.start,
            ..scales
        });
        Self { rows: rows.len(), cols: cols.len(), data, scales, ..*self }
    }

    /// The encoding.
    pub fn format(&self) -> QuantFormat {
        self.format
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored bytes from the first row's first to the last row's last.
    pub fn span(&self) -> &[u8] {
        &self.data
    }

    /// Bytes from one row of the [`span`](Self::span) to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The stored bytes of all rows, one behind the other.
    ///
    /// # Panics
    /// If this is some columns of a wider matrix, whose rows lie apart.
    pub fn bytes(&self) -> &[u8] {
        let row_bytes = self.format.row_bytes(self.cols);
        assert!(self.data.is_empty() || self.stride == row_bytes, "rows of {row_bytes} bytes every {}", self.stride);
        &self.data
    }

    /// The stored bytes of row `row`.
    pub fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let bytes = self.format.row_bytes(self.cols);
        if bytes == 0 { &[] } else { &self.data[row * self.stride..][..bytes] }
    }

    /// The block scales of an fp8 matrix that hold for row `row`, one for each 128 columns of the whole matrix that the
    /// row lies in: the first holds for [`scale_origin`](Self::scale_origin) columns fewer.
    pub fn row_scales(&self, row: usize) -> Option<&[f32]> {
        let scales = self.scales.as_ref()?;
        let at = (scales.row + row) / scales.block_rows * scales.per_row;
        let [first, end] = [scales.col, scales.col + self.cols];
        Some(&scales.values[at + first / QuantFormat::FP8_BLOCK..at + end.div_ceil(QuantFormat::FP8_BLOCK)])
    }

    /// Rows that share a scale of an fp8 matrix: 128, or 1 where each row has its own.
    pub fn scale_rows(&self) -> usize {
        self.scales.as_ref().map_or(1, |scales| scales.block_rows)
    }

    /// Columns of the first scale's block that lie before the first column.
    pub fn scale_origin(&self) -> usize {
        self.scales.as_ref().map_or(0, |scales| scales.col % QuantFormat::FP8_BLOCK)
    }

    /// Row `row` as f32, exactly as stored (an fp8 byte times its block's scale, rounded once to f32;
    /// an element of a block as [`Block`] says).
    ///
    /// # Panics
    /// If `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "length of a decoded row");
        let bytes = self.row(row);
        match self.format {
            QuantFormat::F32 => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            QuantFormat::F16 => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            QuantFormat::BF16 => {
                for (value, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            QuantFormat::Fp8Block128 => {
                let scales = self.row_scales(row).expect("an fp8 matrix is built with scales");
                let origin = self.scale_origin();
                for (col, (value, &code)) in out.iter_mut().zip(bytes).enumerate() {
                    *value = fp8::E4M3[code as usize] * scales[(origin + col) / QuantFormat::FP8_BLOCK];
                }
            }
            blocks => {
                let blocks = blocks.blocks().expect("every other format has blocks");
                let mut block = Block::ZERO;
                for (values, bytes) in out.chunks_exact_mut(blocks.elements).zip(bytes.chunks_exact(blocks.bytes)) {
                    (blocks.unpack)(bytes, &mut block);
                    block.scale *= self.factor;
                    block.values(blocks.group, values);
                }
            }
        }
    }

    /// The stored bytes were copied and will hardly be read again, see [`ByteOwner::release`].
    pub fn release(&self) {
        self.data.release();
    }

    /// Bytes in memory as kernels read it, with the scales that hold for some of it.
    pub fn held_bytes(&self) -> usize {
        let rows = self.rows * self.format.held_row_bytes(self.cols);
        let Some(scales) = &self.scales else { return rows };
        let places = [scales.row..scales.row + self.rows, scales.col..scales.col + self.cols];
        rows + Self::num_scales(&places, scales.block_rows) * size_of::<f32>()
    }

    /// Scales of an fp8 matrix, `block_rows` rows of which share one, that hold for some of these rows and columns.
    pub fn num_scales([rows, cols]: &[Range<usize>; 2], block_rows: usize) -> usize {
        let blocks = |of: &Range<usize>, block: usize| match of.is_empty() {
            true => 0,
            false => of.end.div_ceil(block) - of.start / block,
        };
        blocks(rows, block_rows) * blocks(cols, QuantFormat::FP8_BLOCK)
    }
}
