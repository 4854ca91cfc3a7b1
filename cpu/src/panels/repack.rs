//! [`Panels`]: a matrix of blocks, repacked once so that kernels read it in order.
//!
//! ```text
//! matrix   panel (16 rows) │ panel │ … │ last panel, zeros where rows are missing
//! panel    scales of all columns, to a whole cache line │ codes of all columns
//! ```
//!
//! The bits are the file's, in the order of `format.rs`; indices into grids become a code for each element. What the
//! file gave for an element comes back exactly ([`Panels::decode_row`]). The mapped file is told that it will not be
//! read again, matrix by matrix, so that weights are not held twice even while they are loaded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use quern_backend::{PackedMatrix, QuantFormat, UploadError, quant::Block};

use crate::{
    int_lanes::BYTES,
    int8::BLOCK,
    lanes::LANES,
    memory::{ReadRegion, Region},
    panels::format::{Codes, STEP, STEPS, Scales, panel_format},
    panels::packed_weight_cache::{PackedWeightCache, PanelRegion},
    pool::Pool,
};

/// Sizes of a panel, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelShape {
    /// Scales of all columns.
    pub(crate) scales: usize,
    /// Scales and codes.
    pub(crate) bytes: usize,
}

impl PanelShape {
    fn of(format: QuantFormat, cols: usize) -> Self {
        let shape: fn(usize) -> Self = panel_format!(format, shape_of);
        shape(cols)
    }
}

fn shape_of<C: Codes, S: Scales>(cols: usize) -> PanelShape {
    let blocks = cols / BLOCK;
    let scales = (blocks / S::BLOCKS * S::BYTES).next_multiple_of(BYTES);
    PanelShape { scales, bytes: scales + blocks * C::BYTES }
}

/// A matrix in panels: a part of a region that several share.
#[derive(Debug)]
pub(crate) struct Panels {
    format: QuantFormat,
    rows: usize,
    cols: usize,
    shape: PanelShape,
    region: Arc<ReadRegion>,
    start: usize,
}

/// Where one of several matrices is repacked to.
struct PackTarget {
    shape: PanelShape,
    /// Panels of the matrices before it.
    panel: usize,
    /// Their bytes.
    byte: usize,
    /// Panels of its own that are not packed yet.
    left: AtomicUsize,
}

impl Panels {
    /// Repack `matrices` into one region, a part of `file` if there is one; if it has their panels already, they are
    /// not read.
    pub(crate) fn pack(
        pool: &Pool,
        file: Option<&mut PackedWeightCache>,
        matrices: &[&PackedMatrix],
    ) -> Result<Vec<Self>, UploadError> {
        // Where each matrix's panels begin, counted in panels and in bytes.
        let (mut panels, mut bytes) = (0, 0);
        let places: Vec<_> = matrices
            .iter()
            .map(|matrix| {
                let (shape, count) = (PanelShape::of(matrix.format(), matrix.cols()), matrix.rows().div_ceil(LANES));
                let place = PackTarget { shape, panel: panels, byte: bytes, left: AtomicUsize::new(count) };
                panels += count;
                bytes += count * shape.bytes;
                place
            })
            .collect();
        let place = file.map_or(PanelRegion::Nowhere, |file| file.region(&describe(matrices), bytes));
        let region = Arc::new(match place {
            PanelRegion::Packed(region) => region,
            PanelRegion::Empty(region) => pack_into(region, pool, matrices, &places, panels),
            PanelRegion::Nowhere => {
                let refused = UploadError::OutOfMemory { what: "repacked weights", bytes, backend: "cpu" };
                let region = Region::zeroed(bytes).ok_or(refused)?;
                pack_into(region, pool, matrices, &places, panels)
            }
        });
        let panels = matrices.iter().zip(places).map(|(matrix, place)| Self {
            format: matrix.format(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            shape: place.shape,
            region: Arc::clone(&region),
            start: place.byte,
        });
        Ok(panels.collect())
    }

    pub(crate) fn format(&self) -> QuantFormat {
        self.format
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn shape(&self) -> PanelShape {
        self.shape
    }

    /// All panels.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.region.bytes()[self.start..self.start + self.rows.div_ceil(LANES) * self.shape.bytes]
    }

    /// See [`PackedMatrix::decode_row`].
    pub(crate) fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} values", self.rows, out.len());
        let panel = &self.bytes()[row / LANES * self.shape.bytes..][..self.shape.bytes];
        let (scales, codes) = panel.split_at(self.shape.scales);
        let decode: fn(QuantFormat, &[u8], &[u8], usize, &mut [f32]) = panel_format!(self.format, decode_panel_row);
        decode(self.format, scales, codes, row % LANES, out);
    }
}

/// Pack `panels` panels of `matrices` to their `places`, each by one worker.
fn pack_into(
    mut region: Region,
    pool: &Pool,
    matrices: &[&PackedMatrix],
    places: &[PackTarget],
    panels: usize,
) -> ReadRegion {
    let all = region.disjoint();
    pool.for_each(panels, 1, |_, range| {
        for panel in range {
            let index = places.partition_point(|place| place.panel <= panel) - 1;
            let (matrix, place) = (matrices[index], &places[index]);
            let nth = panel - place.panel;
            let at = place.byte + nth * place.shape.bytes;
            // SAFETY: each panel is one worker's.
            let out = unsafe { all.part(at..at + place.shape.bytes) };
            pack_panel(matrix, nth * LANES, place.shape, out);
            if place.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                matrix.release();
            }
        }
    });
    region.freeze()
}

/// What matrices are, in one line: each format and shape, once for as many as follow one another.
fn describe(matrices: &[&PackedMatrix]) -> String {
    let same =
        |a: &&PackedMatrix, b: &&PackedMatrix| (a.format(), a.rows(), a.cols()) == (b.format(), b.rows(), b.cols());
    let runs = matrices.chunk_by(same);
    let run = |run: &[&PackedMatrix]| format!("{}x{}[{},{}]", run.len(), run[0].format(), run[0].rows(), run[0].cols());
    runs.map(run).collect::<Vec<_>>().join("+")
}

/// Sixteen rows from `first` on, or as many as there are.
fn pack_panel(matrix: &PackedMatrix, first: usize, shape: PanelShape, out: &mut [u8]) {
    let (scales, codes) = out.split_at_mut(shape.scales);
    let pack: fn(&PackedMatrix, usize, &mut [u8], &mut [u8]) = panel_format!(matrix.format(), pack_panel_of);
    pack(matrix, first, scales, codes);
}

/// Row by row, so that the file is read in order; what is written over and over is a panel, which caches hold.
fn pack_panel_of<C: Codes, S: Scales>(matrix: &PackedMatrix, first: usize, scales: &mut [u8], codes: &mut [u8]) {
    let format = matrix.format().blocks().expect("a format of blocks");
    let mut block = Block::ZERO;
    for row in 0..LANES.min(matrix.rows() - first) {
        let pieces = scales.chunks_exact_mut(S::BYTES).zip(codes.chunks_exact_mut(S::BLOCKS * C::BYTES));
        for (bytes, (scales, codes)) in matrix.row(first + row).chunks_exact(format.bytes).zip(pieces) {
            (format.unpack)(bytes, &mut block);
            block.scale *= matrix.factor();
            S::pack(&block, row, scales);
            let (steps, _) = block.quants.as_chunks::<STEP>();
            let (steps, _) = steps.as_chunks::<STEPS>();
            codes.chunks_exact_mut(C::BYTES).zip(steps).for_each(|(codes, steps)| C::pack(steps, row, codes));
        }
    }
}

fn decode_panel_row<C: Codes, S: Scales>(
    format: QuantFormat,
    scales: &[u8],
    codes: &[u8],
    row: usize,
    out: &mut [f32],
) {
    let format = format.blocks().expect("a format of blocks");
    let mut block = Block::ZERO;
    let pieces = scales.chunks_exact(S::BYTES).zip(codes.chunks_exact(S::BLOCKS * C::BYTES));
    for (out, (scales, codes)) in out.chunks_exact_mut(format.elements).zip(pieces) {
        S::unpack(scales, row, &mut block);
        for (codes, quants) in codes.chunks_exact(C::BYTES).zip(block.quants.chunks_exact_mut(BLOCK)) {
            quants.iter_mut().enumerate().for_each(|(col, quant)| *quant = C::unpack(codes, row, col));
        }
        block.values(format.group, out);
    }
}

#[cfg(test)]
mod tests {
    use quern_backend::conformance::{Rng, matrix};

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes more than half an hour")]
    fn a_repacked_matrix_holds_the_same_values_bit_for_bit() {
        let mut rng = Rng(3);
        let pool = Pool::new(2).unwrap();
        for format in QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some()) {
            let cols = 3 * format.block_elements();
            let matrices = [1, 16, 37].map(|rows| matrix(&mut rng, format, rows, cols));
            let panels = Panels::pack(&pool, None, &matrices.each_ref()).unwrap();
            for (matrix, panels) in matrices.iter().zip(&panels) {
                for row in 0..matrix.rows() {
                    let (mut want, mut got) = (vec![0.0; cols], vec![0.0; cols]);
                    matrix.decode_row(row, &mut want);
                    panels.decode_row(row, &mut got);
                    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(&want), "{format}, row {row} of {}", matrix.rows());
                }
            }
        }
    }

    #[test]
    fn panels_take_the_room_that_is_planned_for_them() {
        for format in QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some()) {
            for cols in [1024, 2048, 6144] {
                let (planned, panel) = (LANES * format.held_row_bytes(cols), PanelShape::of(format, cols).bytes);
                assert_eq!(panel, planned, "{format}, {cols} columns");
            }
        }
    }

    #[test]
    fn formats_whose_codes_stay_as_they_are_take_hardly_more_room_than_the_file() {
        let blocks = QuantFormat::ALL.into_iter().filter_map(QuantFormat::blocks);
        for format in
            blocks.filter(|format| !["IQ1", "IQ2", "IQ3", "TQ1"].iter().any(|few| format.name.starts_with(few)))
        {
            // Q2_K's scales of 4 bits and Q4_K's of 6 become bytes; MXFP4's exponent becomes 16 bits.
            assert!(format.held_bytes as f64 <= 1.20 * format.bytes as f64, "{}", format.name);
        }
    }
}
