//! The order in which a 16-row tile of weights is stored, the twin of `tile_index` in kernels/product.cu.

use crate::{Arch, Vendor};

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;

/// Columns that share a scale, and to whose multiples rows are padded.
pub(crate) const BLOCK: usize = 128;

/// `cols` with the padding of a row of activations or weights.
pub(crate) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(BLOCK)
}

/// How a unit of a tile, the 16 bytes of each lane, is put together: for its elements, taken in runs, where they lie in a
/// row-major block of 16 rows.
pub(crate) struct TileLayout {
    /// Columns of a unit.
    unit_cols: usize,
    /// Bytes of an element.
    element: usize,
    /// Byte offsets into the block of 16 rows × `unit_cols`, for one run of bytes after the other.
    runs: Vec<usize>,
    /// Bytes of a run.
    run_bytes: usize,
}

impl TileLayout {
    /// The layout of elements of `element` bytes, 1 or 2.
    pub(crate) fn new(arch: &Arch, element: usize) -> Self {
        let registers = registers(arch);
        let unit_cols = 16 * (16 / element / (2 * registers));
        let run = run_elements(arch);
        let mut runs = vec![0; TILE_ROWS * unit_cols / run];
        for m in 0..TILE_ROWS {
            for k in (0..unit_cols).step_by(run) {
                runs[tile_index(arch, element, m, k) / run] = (m * unit_cols + k) * element;
            }
        }
        Self { unit_cols, element, runs, run_bytes: run * element }
    }

    /// Bytes of a tile with `cols` columns.
    pub(crate) fn tile_bytes(&self, cols: usize) -> usize {
        TILE_ROWS * padded(cols) * self.element
    }

    /// Store at most 16 rows of equal length as a tile; what they lack is zero.
    pub(crate) fn store<'a>(&self, rows: impl Iterator<Item = &'a [u8]>, tile: &mut [u8]) {
        let rows: Vec<&[u8]> = rows.collect();
        let unit_row = self.unit_cols * self.element;
        let mut block = vec![0u8; TILE_ROWS * unit_row];
        for (unit, stored) in tile.chunks_exact_mut(block.len()).enumerate() {
            block.fill(0);
            for (to, row) in block.chunks_exact_mut(unit_row).zip(&rows) {
                let from = row.get(unit * unit_row..).unwrap_or(&[]);
                let len = from.len().min(unit_row);
                to[..len].copy_from_slice(&from[..len]);
            }
            for (to, &from) in stored.chunks_exact_mut(self.run_bytes).zip(&self.runs) {
                to.copy_from_slice(&block[from..from + self.run_bytes]);
            }
        }
    }
}

/// 32-bit registers of a lane for the operand with 16 rows.
fn registers(arch: &Arch) -> usize {
    match arch.vendor() {
        Vendor::Nvidia => 4,
        Vendor::Amd => 2,
    }
}

/// Elements that are neighbours both in a row and in a lane.
fn run_elements(arch: &Arch) -> usize {
    match arch.vendor() {
        Vendor::Nvidia => 2,
        Vendor::Amd => 4,
    }
}

/// Index of the element `(m, k)` among those of its tile.
fn tile_index(arch: &Arch, element: usize, m: usize, k: usize) -> usize {
    let registers = registers(arch);
    let steps = 16 / element / (2 * registers);
    let (unit, group, step, j) = (k / (16 * steps), k / (4 * steps) % 4, k / 4 % steps, k % 4);
    let (lane, slot) = match arch.vendor() {
        Vendor::Nvidia => ((m % 8) * 4 + group, (j & 1) + 2 * (m / 8) + 4 * (j >> 1)),
        Vendor::Amd => (group * 16 + m, j),
    };
    ((unit * arch.lanes() + lane) * steps + step) * 2 * registers + slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_holds_every_element_once_where_the_kernels_look_for_it() {
        for arch in [Arch::of(Vendor::Nvidia, 9, 0), Arch::of(Vendor::Amd, 9, 4)].map(Option::unwrap) {
            for element in [1, 2] {
                // Ragged in both directions; every element is its own number.
                let (rows, cols) = (13, 203);
                let value = |m: usize, k: usize| (m * 251 + k * 7) as u16;
                let bytes = |m: usize| -> Vec<u8> {
                    (0..cols).flat_map(|k| value(m, k).to_le_bytes()[..element].to_vec()).collect()
                };
                let stored: Vec<Vec<u8>> = (0..rows).map(bytes).collect();
                let layout = TileLayout::new(&arch, element);
                let mut tile = vec![0xaa; layout.tile_bytes(cols)];
                layout.store(stored.iter().map(Vec::as_slice), &mut tile);
                let mut seen = vec![false; TILE_ROWS * padded(cols)];
                for m in 0..TILE_ROWS {
                    for k in 0..padded(cols) {
                        let index = tile_index(&arch, element, m, k);
                        assert!(!std::mem::replace(&mut seen[index], true), "{arch}: ({m}, {k}) shares its place");
                        let want = if m < rows && k < cols { value(m, k) } else { 0 };
                        let got = &tile[index * element..(index + 1) * element];
                        assert_eq!(got, &want.to_le_bytes()[..element], "{arch}, {element} bytes, ({m}, {k})");
                    }
                }
            }
        }
    }
}
