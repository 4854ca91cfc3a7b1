//! Matrix products as units of work: preparing inputs, cutting rows × tokens, running the units.

use std::ops::Range;

use quern_backend::{PackedMatrix, QuantFormat, UploadError};

use crate::{
    buffer::Buffer,
    dot::ActivationLayout,
    gemm::{Gemm, Inputs},
    kernels::Kernels,
    matrix::{Cut, Matrix},
    memory::{AlignedVec, DisjointMut},
    panels::PackedWeightCache,
    pool::Pool,
};

/// Tokens of a unit at most.
pub(crate) const UNIT_TOKENS: usize = 48;

/// Up to this many tokens the weights' way from memory takes the time, and units are cut by their bytes.
const FEW_TOKENS: usize = 8;

/// Weights of a unit with few tokens: four microseconds of one core's bandwidth. Twenty times what it costs
/// to take the next unit, and enough that what a kernel asks for behind the unit's end, which another worker
/// reads, is a small part.
const UNIT_BYTES: usize = 128 << 10;

/// Units that each worker should have at least, so that none waits long for the last.
const UNITS_A_WORKER: usize = 4;

/// Bytes of weights times tokens that the caller computes sooner than a second worker wakes.
const SMALL: usize = 64 << 10;

/// Elements that the caller prepares sooner than a second worker wakes.
const SMALL_INPUTS: usize = 32 << 10;

/// A weight: one or more matrices stacked by rows.
#[derive(Debug)]
pub struct Weight {
    parts: Vec<Matrix>,
    rows: usize,
    cols: usize,
}

impl Weight {
    pub(crate) fn new(
        pool: &Pool,
        file: Option<&mut PackedWeightCache>,
        parts: &[PackedMatrix],
    ) -> Result<Self, UploadError> {
        let cols = parts.first().map_or(0, PackedMatrix::cols);
        assert!(cols > 0 && parts.iter().all(|p| p.cols() == cols), "stacked matrices share their columns");
        Ok(Self { parts: Matrix::take(pool, file, parts)?, rows: parts.iter().map(PackedMatrix::rows).sum(), cols })
    }

    pub(crate) fn parts(&self) -> &[Matrix] {
        &self.parts
    }
}

/// Some rows of one matrix times some tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductUnit {
    /// Index of the matrix, or of the expert.
    pub(crate) matrix: usize,
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) token: usize,
    pub(crate) tokens: usize,
}

/// Cut `rows × tokens` of matrix `index`, tokens innermost: units that share weights follow one another.
///
/// `parts` are all such pieces of the product, each at most [`UNIT_TOKENS`] tokens of a matrix.
pub(crate) fn cut_matrix(
    units: &mut Vec<ProductUnit>,
    index: usize,
    (rows, cut): (usize, Cut),
    tokens: Range<usize>,
    (parts, workers): (usize, usize),
) {
    let mut unit_rows = rows / (UNITS_A_WORKER * workers).div_ceil(parts.max(1));
    if tokens.len() <= FEW_TOKENS {
        unit_rows = unit_rows.min(UNIT_BYTES / cut.row_bytes.max(1));
    }
    let unit_rows = unit_rows.next_multiple_of(cut.tile_rows).clamp(cut.tile_rows, cut.unit_rows);
    for row in (0..rows).step_by(unit_rows) {
        for token in tokens.clone().step_by(UNIT_TOKENS) {
            let (rows, tokens) = ((rows - row).min(unit_rows), (tokens.end - token).min(UNIT_TOKENS));
            units.push(ProductUnit { matrix: index, row, rows, token, tokens });
        }
    }
}

/// Whether the caller computes `units`, whose rows are `row_bytes` long at most, sooner than a second worker wakes.
pub(crate) fn is_small(units: &[ProductUnit], row_bytes: usize) -> bool {
    let work: usize = units.iter().map(|unit| unit.rows * unit.tokens).sum();
    work.saturating_mul(row_bytes) <= SMALL
}

/// Inputs in each layout that some weight wants.
#[derive(Debug, Default)]
pub(crate) struct PreparedInputs {
    rows: [AlignedVec; ActivationLayout::ALL.len()],
}

impl PreparedInputs {
    /// Prepare the rows of `x`, `[_, cols]`, for weights of `formats`.
    pub(crate) fn prepare(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        x: &[f32],
        cols: usize,
        formats: impl Iterator<Item = QuantFormat> + Clone,
    ) {
        for layout in ActivationLayout::ALL {
            if !formats.clone().any(|format| kernels.layout(format) == layout) {
                continue;
            }
            let rows = x.len() / cols;
            let stride = layout.row_bytes(cols) / 4;
            let out = DisjointMut::new(self.rows[layout as usize].at_least(rows * stride));
            let grain = if x.len() <= SMALL_INPUTS { rows } else { 1 + SMALL_INPUTS / 4 / cols };
            pool.for_each(rows, grain, |_, range| {
                for row in range {
                    // SAFETY: each row is prepared by one worker.
                    let out = unsafe { out.part(row * stride..(row + 1) * stride) };
                    kernels.prepare(layout, &x[row * cols..(row + 1) * cols], out);
                }
            });
        }
    }

    /// Room for `rows` rows of `cols` columns, which workers prepare for weights of `formats` as they make them.
    pub(crate) fn room(
        &mut self,
        kernels: &Kernels,
        rows: usize,
        cols: usize,
        formats: impl Iterator<Item = QuantFormat>,
    ) -> SharedInputs<'_> {
        for layout in formats.map(|format| kernels.layout(format)) {
            self.rows[layout as usize].at_least(rows * layout.row_bytes(cols) / 4);
        }
        SharedInputs { rows: self.rows.each_mut().map(|rows| DisjointMut::new(rows)), cols }
    }

    /// The rows prepared for weights of `format` with `cols` columns.
    pub(crate) fn inputs(&self, kernels: &Kernels, format: QuantFormat, cols: usize) -> Inputs<'_> {
        let layout = kernels.layout(format);
        Inputs { values: &self.rows[layout as usize], stride: layout.row_bytes(cols) / 4 }
    }
}

/// [`PreparedInputs`], for several workers.
pub(crate) struct SharedInputs<'a> {
    rows: [DisjointMut<'a, f32>; ActivationLayout::ALL.len()],
    cols: usize,
}

impl SharedInputs<'_> {
    /// Prepare `rows`, whose elements are `x`, for weights of `format`.
    ///
    /// # Safety
    /// Nobody else reads or writes those rows meanwhile.
    pub(crate) unsafe fn prepare(&self, kernels: &Kernels, format: QuantFormat, rows: Range<usize>, x: &[f32]) {
        let layout = kernels.layout(format);
        let stride = layout.row_bytes(self.cols) / 4;
        // SAFETY: by this function's contract.
        let out = unsafe { self.rows[layout as usize].part(rows.start * stride..rows.end * stride) };
        for (x, out) in x.chunks_exact(self.cols).zip(out.chunks_exact_mut(stride)) {
            kernels.prepare(layout, x, out);
        }
    }

    /// `rows` as prepared for weights of `format`.
    ///
    /// # Safety
    /// They have been, and nobody writes them meanwhile.
    pub(crate) unsafe fn inputs(&self, kernels: &Kernels, format: QuantFormat, rows: Range<usize>) -> Inputs<'_> {
        let layout = kernels.layout(format);
        let stride = layout.row_bytes(self.cols) / 4;
        // SAFETY: by this function's contract.
        let values = unsafe { self.rows[layout as usize].read(rows.start * stride..rows.end * stride) };
        Inputs { values, stride }
    }
}

/// Working space of [`linear`].
#[derive(Debug, Default)]
pub(crate) struct ProductScratch {
    pub(crate) prepared: PreparedInputs,
    pub(crate) units: Vec<ProductUnit>,
    /// 0, 1, 2, …
    pub(crate) identity: Vec<u32>,
}

impl ProductScratch {
    /// Make `identity` at least `rows` long.
    pub(crate) fn count_to(&mut self, rows: usize) {
        let known = self.identity.len();
        self.identity.extend(known as u32..rows.max(known) as u32);
    }
}

/// `out = x · wᵀ`.
pub(crate) fn linear(
    kernels: &Kernels,
    pool: &Pool,
    scratch: &mut ProductScratch,
    x: &Buffer,
    weight: &Weight,
    out: &mut Buffer,
) {
    assert_eq!(x.cols(), weight.cols, "columns of the input and of the weight");
    assert_eq!(out.cols(), weight.rows, "columns of the output and rows of the weight");
    let tokens = x.rows();
    out.set_rows(tokens);
    scratch.count_to(tokens);
    let formats = weight.parts.iter().map(Matrix::format);
    scratch.prepared.prepare(kernels, pool, x.values(), weight.cols, formats);
    scratch.units.clear();
    let mut widest = 0;
    let share = (weight.parts.len() * tokens.div_ceil(UNIT_TOKENS), pool.workers());
    for (index, part) in weight.parts.iter().enumerate() {
        let cut = part.cut();
        widest = widest.max(cut.row_bytes);
        cut_matrix(&mut scratch.units, index, (part.rows(), cut), 0..tokens, share);
    }
    let (units, prepared, identity) = (&scratch.units, &scratch.prepared, &scratch.identity);
    let out_stride = out.cols();
    let out = DisjointMut::new(out.values_mut());
    let grain = if is_small(units, widest) { units.len() } else { 1 };
    pool.for_each(units.len(), grain, |_, range| {
        for unit in &units[range] {
            let part = &weight.parts[unit.matrix];
            let before: usize = weight.parts[..unit.matrix].iter().map(Matrix::rows).sum();
            let tokens = &identity[unit.token..unit.token + unit.tokens];
            let task = Gemm {
                matrix: part,
                rows: unit.row..unit.row + unit.rows,
                x: prepared.inputs(kernels, part.format(), weight.cols),
                x_rows: tokens,
                out,
                out_stride,
                out_rows: tokens,
                out_column: before + unit.row,
            };
            // SAFETY: units do not overlap.
            unsafe { kernels.gemm(&task) };
        }
    });
}
