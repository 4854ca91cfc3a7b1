//! [`Matrix`]: a weight matrix as kernels read it, in the mapped file or in panels.

use quern_backend::{PackedMatrix, QuantFormat, UploadError};

use crate::{lanes::LANES, panels::Panels, pool::Pool};

/// Rows × columns in one place or the other.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// Where the checkpoint's owner keeps it.
    Mapped(PackedMatrix),
    /// Repacked: formats made of blocks.
    Panels(Panels),
}

impl Matrix {
    /// Take `matrices`, those made of blocks repacked into one region.
    pub(crate) fn take(pool: &Pool, matrices: &[PackedMatrix]) -> Result<Vec<Self>, UploadError> {
        let has_blocks = |matrix: &&PackedMatrix| matrix.format().blocks().is_some();
        let repacked: Vec<_> = matrices.iter().filter(has_blocks).collect();
        let panels = Panels::pack(pool, &repacked).ok_or_else(|| UploadError::OutOfMemory {
            what: "repacked weights",
            bytes: repacked.iter().map(|matrix| matrix.num_bytes()).sum(),
            backend: "cpu",
        })?;
        let mut panels = panels.into_iter();
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

    /// Bytes that a kernel reads for a row.
    pub(crate) fn row_bytes(&self) -> usize {
        match self {
            Matrix::Mapped(matrix) => matrix.format().row_bytes(matrix.cols()),
            Matrix::Panels(panels) => panels.shape().bytes / LANES,
        }
    }

    /// Rows that a kernel takes at once: units of work begin at multiples of it.
    pub(crate) fn tile_rows(&self) -> usize {
        match self {
            Matrix::Mapped(_) => 4,
            Matrix::Panels(_) => LANES,
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
