//! [`Matrix`]: a weight matrix as kernels read it, in the mapped file or in panels.

use quern_backend::{PackedMatrix, QuantFormat, UploadError};

use crate::{
    gemm::Gemm,
    lanes::LANES,
    panels::{PackedWeightCache, Panels},
    pool::Pool,
};

/// Rows of a mapped matrix in a unit of work with many tokens: at 2048 columns of bf16 they are 256 KiB, which
/// with the unit's inputs fill half of a second-level cache. The kernel walks them once a tile of tokens.
const MAPPED_ROWS: usize = 64;

/// Rows of panels in such a unit: each is read once, so that they need no cache, and the more of them there are,
/// the more the way of the unit's inputs into the second-level cache is worth (experts 6 % over 64 rows).
const PANEL_ROWS: usize = 256;

/// A part of an fp8 matrix begins at a multiple of it within a block of scales: a step of all its kernels.
const ORIGIN_STEP: usize = 2 * LANES;

/// How a matrix may be cut into units of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Rows that a kernel takes at once: units begin at multiples of it.
    pub(crate) tile_rows: usize,
    /// Rows of a unit at most; a multiple of `tile_rows`.
    pub(crate) unit_rows: usize,
    /// Bytes that a kernel reads for a row.
    pub(crate) row_bytes: usize,
}

impl Cut {
    /// Rows of a unit at most, of any matrix.
    pub(crate) const MOST_ROWS: usize = if MAPPED_ROWS > PANEL_ROWS { MAPPED_ROWS } else { PANEL_ROWS };

    /// Of two matrices whose units are the same rows.
    pub(crate) fn beside(self, other: Self) -> Self {
        Self {
            tile_rows: self.tile_rows.max(other.tile_rows),
            unit_rows: self.unit_rows.min(other.unit_rows),
            row_bytes: self.row_bytes + other.row_bytes,
        }
    }
}

/// Rows × columns in one place or the other.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// Where the checkpoint's owner keeps it.
    Mapped(PackedMatrix),
    /// Repacked: formats made of blocks.
    Panels(Panels),
}

impl Matrix {
    /// Take `matrices`, those made of blocks repacked into one region, see [`Panels::pack`].
    pub(crate) fn take(
        pool: &Pool,
        file: Option<&mut PackedWeightCache>,
        matrices: &[PackedMatrix],
    ) -> Result<Vec<Self>, UploadError> {
        let has_blocks = |matrix: &&PackedMatrix| matrix.format().blocks().is_some();
        let repacked: Vec<_> = matrices.iter().filter(has_blocks).collect();
        let mut panels = match repacked.is_empty() {
            true => Vec::new(),
            false => Panels::pack(pool, file, &repacked)?,
        }
        .into_iter();
        let taken = matrices.iter().map(|matrix| match has_blocks(&matrix) {
            true => Matrix::Panels(panels.next().expect("as many as have blocks")),
            false => Matrix::Mapped(matrix.clone()),
        });
        Ok(taken.collect())
    }

    pub(crate) fn format(&self) -> QuantFormat {
        match self {
            Matrix::Mapped(matrix) => matrix.format(),
            Matrix::Panels(panels) => panels.format(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Matrix::Mapped(matrix) => matrix.rows(),
            Matrix::Panels(panels) => panels.rows(),
        }
    }

    pub(crate) fn cols(&self) -> usize {
        match self {
            Matrix::Mapped(matrix) => matrix.cols(),
            Matrix::Panels(panels) => panels.cols(),
        }
    }

    /// How it may be cut.
    pub(crate) fn cut(&self) -> Cut {
        match self {
            Matrix::Mapped(matrix) => {
                Cut { tile_rows: 4, unit_rows: MAPPED_ROWS, row_bytes: matrix.format().row_bytes(matrix.cols()) }
            }
            Matrix::Panels(panels) => {
                Cut { tile_rows: LANES, unit_rows: PANEL_ROWS, row_bytes: panels.shape().bytes / LANES }
            }
        }
    }

    /// See [`PackedMatrix::decode_row`].
    pub(crate) fn decode_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Matrix::Mapped(matrix) => matrix.decode_row(row, out),
            Matrix::Panels(panels) => panels.decode_row(row, out),
        }
    }
}

impl Gemm<'_, Matrix> {
    /// What the kernels rely on.
    pub(crate) fn check(&self, row_words: usize) {
        if let Matrix::Mapped(matrix) = self.matrix {
            let origin = matrix.scale_origin();
            assert_eq!(origin % ORIGIN_STEP, 0, "{origin} columns of a scale's block lie before the first");
        }
        assert!(self.rows.end <= self.matrix.rows(), "rows {:?} of {}", self.rows, self.matrix.rows());
        assert_eq!(self.rows.start % self.matrix.cut().tile_rows, 0, "rows {:?} begin within a panel", self.rows);
        assert_eq!(self.x.stride, row_words, "prepared words of {} columns", self.matrix.cols());
        assert_eq!(self.x_rows.len(), self.out_rows.len(), "tokens read and tokens written");
        assert!(self.out_column + self.rows.len() <= self.out_stride, "columns of the output");
        let largest = |rows: &[u32]| rows.iter().max().map_or(0, |&row| row as usize + 1);
        assert!(largest(self.x_rows) * self.x.stride <= self.x.values.len(), "rows of the input");
        assert!(largest(self.out_rows) * self.out_stride <= self.out.len(), "rows of the output");
    }
}
