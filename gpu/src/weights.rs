//! [`Weight`] and [`Experts`]: matrices in the layout of the kernels; [`GpuUploader`]: how they get there.

use std::thread;

use quern_backend::{PackedMatrix, QuantFormat, UploadError, Uploader};

use crate::{
    GpuBackend, GpuError,
    driver::{Allocation, GpuDevice, MAX_EXPERTS},
    fault::upload_error,
    layout::{BLOCK, TILE_ROWS, TileLayout, padded},
};

/// Encodings of weights that the kernels read.
pub const WEIGHT_FORMATS: [QuantFormat; 4] =
    [QuantFormat::F32, QuantFormat::F16, QuantFormat::BF16, QuantFormat::Fp8Block128];

/// Least rows that share a scale of an FP8 matrix: a tile has one for each 128 columns.
pub const MIN_SCALE_ROWS: usize = TILE_ROWS;

/// How a matrix is stored.
pub(crate) enum Storage {
    /// Row by row: F32, or F16.
    Plain {
        /// Whether it is F16.
        half: bool,
    },
    /// In tiles of 16 rows: BF16, or FP8 with a scale for each tile and 128 columns.
    Tiles {
        /// Whether it is FP8.
        fp8: bool,
        /// Scales, `[tiles, blocks]` f32; a few bytes that nothing reads where there are none.
        scales: Allocation,
        /// For each tile the first column of its output and the number of its rows, u32 each.
        info: Allocation,
        /// Tiles of all matrices.
        num_tiles: usize,
        /// Bytes of a tile.
        tile_bytes: usize,
    },
}

/// Matrices of one encoding, stacked by rows.
pub(crate) struct Part {
    pub(crate) storage: Storage,
    pub(crate) bytes: Allocation,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// The first column of its output.
    pub(crate) column: usize,
}

impl Part {
    /// Blocks of 128 columns.
    pub(crate) fn blocks(&self) -> usize {
        padded(self.cols) / BLOCK
    }

    /// The kernels' number of its encoding: `Format` in kernels/product.cu.
    pub(crate) fn format_number(&self) -> u32 {
        match &self.storage {
            Storage::Plain { half } => u32::from(*half),
            Storage::Tiles { fp8, .. } => 2 + u32::from(*fp8),
        }
    }
}

/// Stacked matrices, neighbours of equal encoding as one part.
pub struct Weight(pub(crate) Vec<Part>);

/// The experts of a layer, those of each matrix stacked.
pub struct Experts {
    pub(crate) gate: Part,
    pub(crate) up: Part,
    pub(crate) down: Part,
    pub(crate) num_experts: usize,
    pub(crate) inner: usize,
    pub(crate) hidden: usize,
}

/// Packs weights and copies them to the device as they come.
pub(crate) struct GpuUploader<'a>(pub(crate) &'a GpuBackend);

impl Uploader<GpuBackend> for GpuUploader<'_> {
    fn weight(&mut self, parts: &[PackedMatrix]) -> Result<Weight, UploadError> {
        assert!(parts.windows(2).all(|w| w[0].cols() == w[1].cols()), "stacked matrices share their columns");
        let mut column = 0;
        let mut stacked = Vec::new();
        for equal in parts.chunk_by(|a, b| a.format() == b.format()) {
            stacked.push(self.part("linear", equal, column)?);
            column += equal.iter().map(PackedMatrix::rows).sum::<usize>();
        }
        Ok(Weight(stacked))
    }

    fn experts(
        &mut self,
        first: usize,
        gate: &[PackedMatrix],
        up: &[PackedMatrix],
        down: &[PackedMatrix],
    ) -> Result<Experts, UploadError> {
        assert!(gate.len() == up.len() && up.len() == down.len(), "three matrices an expert");
        let backend = self.0.name();
        let refused = |what| Err(UploadError::Unsupported { what, backend });
        if first > 0 {
            return refused(format!("experts from {first} on: one rank has all of them"));
        }
        let num_experts = gate.len();
        if num_experts > MAX_EXPERTS {
            return refused(format!("{num_experts} experts in a layer; at most {MAX_EXPERTS}"));
        }
        let format = gate[0].format();
        if let Some(odd) = gate.iter().chain(up).find(|matrix| matrix.format() != format) {
            return refused(format!("experts of a layer in {format} and in {}; all must be in one", odd.format()));
        }
        let format = down[0].format();
        if let Some(odd) = down.iter().find(|matrix| matrix.format() != format) {
            return refused(format!("experts of a layer in {format} and in {}; all must be in one", odd.format()));
        }
        let (inner, hidden) = (gate[0].rows(), gate[0].cols());
        {
            let widest = &mut self.0.scratch().expert_cols;
            *widest = (widest.0.max(inner), widest.1.max(hidden));
        }
        let [gate, up, down] = [gate, up, down].map(|matrices| self.part("moe", matrices, 0));
        Ok(Experts { gate: gate?, up: up?, down: down?, num_experts, inner, hidden })
    }

    fn finish(self: Box<Self>) -> Result<(), UploadError> {
        // Copies are queued, and gains and activations were allocated without a word.
        self.0.attempt(GpuDevice::wait);
        self.0.faults.while_loading(self.0.name())
    }
}

impl GpuUploader<'_> {
    /// Matrices of one encoding, whose outputs begin at `column`.
    fn part(&self, op: &'static str, matrices: &[PackedMatrix], column: usize) -> Result<Part, UploadError> {
        let (format, cols) = (matrices[0].format(), matrices[0].cols());
        let backend = self.0.name();
        let uploaded = match format {
            QuantFormat::F32 => self.plain(matrices, false),
            QuantFormat::F16 => self.plain(matrices, true),
            QuantFormat::BF16 => self.tiles(matrices, column, false),
            QuantFormat::Fp8Block128 if matrices.iter().any(|matrix| matrix.scale_rows() < MIN_SCALE_ROWS) => {
                let what = "FP8 with a scale for each row (FP8 in blocks of 128 × 128 is supported)".to_owned();
                return Err(UploadError::Unsupported { what, backend });
            }
            QuantFormat::Fp8Block128 => self.tiles(matrices, column, true),
            format => return Err(UploadError::UnsupportedFormat { op, format, backend }),
        };
        let (bytes, storage) = uploaded.map_err(|error| upload_error("a weight", backend, error))?;
        matrices.iter().for_each(PackedMatrix::release);
        let rows = matrices.iter().map(PackedMatrix::rows).sum();
        Ok(Part { storage, bytes, rows, cols, column })
    }

    fn plain(&self, matrices: &[PackedMatrix], half: bool) -> Result<(Allocation, Storage), GpuError> {
        let device = self.0.device();
        let memory = device.alloc(matrices.iter().map(|matrix| matrix.bytes().len()).sum())?;
        let mut at = 0;
        for matrix in matrices {
            device.write(&memory, at, matrix.bytes())?;
            at += matrix.bytes().len();
        }
        Ok((memory, Storage::Plain { half }))
    }

    fn tiles(&self, matrices: &[PackedMatrix], column: usize, fp8: bool) -> Result<(Allocation, Storage), GpuError> {
        let device = self.0.device();
        let layout = TileLayout::new(device.arch(), if fp8 { 1 } else { 2 });
        let cols = matrices[0].cols();
        let (tile_bytes, blocks) = (layout.tile_bytes(cols), cols.div_ceil(BLOCK));
        let fnuz = fp8 && device.arch().is_fnuz();

        let tiles: Vec<WeightTile<'_>> = matrices
            .iter()
            .flat_map(|matrix| (0..matrix.rows()).step_by(TILE_ROWS).map(move |first| WeightTile { matrix, first }))
            .collect();
        let memory = device.alloc(tiles.len() * tile_bytes)?;
        let group = (STAGED_BYTES / tile_bytes).max(1);
        let mut staged = vec![0u8; group.min(tiles.len()) * tile_bytes];
        for (index, tiles) in tiles.chunks(group).enumerate() {
            let staged = &mut staged[..tiles.len() * tile_bytes];
            pack(&layout, tiles, tile_bytes, fnuz, self.0.host_threads(), staged);
            device.write(&memory, index * group * tile_bytes, staged)?;
        }

        let (mut scales, mut info, mut at) = (Vec::new(), Vec::new(), column);
        for tile in &tiles {
            if let Some(row_scales) = tile.matrix.row_scales(tile.first) {
                // FNUZ is worth half of what was stored.
                scales.extend(row_scales[..blocks].iter().map(|scale| if fnuz { 2.0 * scale } else { *scale }));
            }
            info.extend([at as u32, tile.rows() as u32]);
            at += tile.rows();
        }
        let (scales, info) = (device.upload(&scales)?, device.upload(&info)?);
        Ok((memory, Storage::Tiles { fp8, scales, info, num_tiles: tiles.len(), tile_bytes }))
    }
}

/// At most 16 rows of a matrix.
struct WeightTile<'a> {
    matrix: &'a PackedMatrix,
    first: usize,
}

impl WeightTile<'_> {
    fn rows(&self) -> usize {
        (self.matrix.rows() - self.first).min(TILE_ROWS)
    }
}

/// Bytes that are packed before they are copied; copies of this size reach the bus's speed.
const STAGED_BYTES: usize = 32 << 20;

/// Bytes from which on it pays to pack with several threads.
const PARALLEL_BYTES: usize = 1 << 20;

/// Store `tiles` in `staged`, by at most `threads` threads.
fn pack(
    layout: &TileLayout,
    tiles: &[WeightTile<'_>],
    tile_bytes: usize,
    fnuz: bool,
    threads: usize,
    staged: &mut [u8],
) {
    let pack_some = |tiles: &[WeightTile<'_>], staged: &mut [u8]| {
        for (tile, to) in tiles.iter().zip(staged.chunks_exact_mut(tile_bytes)) {
            layout.store((tile.first..tile.first + tile.rows()).map(|row| tile.matrix.row(row)), to);
            if fnuz {
                // -0 of OCP is NaN in FNUZ, which has one zero.
                to.iter_mut().filter(|byte| **byte == 0x80).for_each(|byte| *byte = 0);
            }
        }
    };
    let threads = if staged.len() < PARALLEL_BYTES { 1 } else { threads };
    let each = tiles.len().div_ceil(threads);
    thread::scope(|scope| {
        let mut parts = tiles.chunks(each).zip(staged.chunks_mut(each * tile_bytes));
        let own = parts.next();
        for (tiles, staged) in parts {
            scope.spawn(move || pack_some(tiles, staged));
        }
        if let Some((tiles, staged)) = own {
            pack_some(tiles, staged);
        }
    });
}

/// Whether `format` is stored in tiles, and multiplied with activations rounded to bfloat16.
pub(crate) fn is_tiled(format: QuantFormat) -> bool {
    matches!(format, QuantFormat::BF16 | QuantFormat::Fp8Block128)
}
