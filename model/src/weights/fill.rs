//! [`filled`]: rows of bytes, made by all cores of the machine.

use std::{num::NonZeroUsize, sync::Mutex, thread};

/// Bytes that one thread makes at a time: a millisecond or so, long against taking the next part and short
/// against the work of one matrix, so that no core waits for a slow one.
const PART_BYTES: usize = 64 << 10;

/// Buffers of `(rows, bytes of a row)` each. `fill` writes some rows that follow one another: it is told
/// the buffer, the first of the rows and their bytes.
///
/// Several buffers at once are shared out together: an expert's matrix alone has too few rows for many cores.
pub(crate) fn filled(shapes: &[(usize, usize)], fill: impl Fn(usize, usize, &mut [u8]) + Sync) -> Vec<Vec<u8>> {
    let mut buffers: Vec<Vec<u8>> = shapes.iter().map(|&(rows, row_bytes)| vec![0; rows * row_bytes]).collect();
    let mut parts = Vec::new();
    for (index, (buffer, &(_, row_bytes))) in buffers.iter_mut().zip(shapes).enumerate() {
        let rows = (PART_BYTES / row_bytes.max(1)).max(1);
        let pieces = buffer.chunks_mut((rows * row_bytes).max(1));
        parts.extend(pieces.enumerate().map(|(piece, bytes)| (index, piece * rows, bytes)));
    }
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(parts.len());
    let parts = Mutex::new(parts.into_iter());
    let work = || {
        // The lock is let go of before the part is filled.
        let next = || parts.lock().expect("taking a part cannot panic").next();
        while let Some((index, row, bytes)) = next() {
            fill(index, row, bytes);
        }
    };
    thread::scope(|scope| {
        // Where the system refuses a thread, the others do its part.
        (1..threads).for_each(|_| drop(thread::Builder::new().spawn_scoped(scope, work)));
        work();
    });
    buffers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_filled_once() {
        let shapes = [(3, 5), (0, 7), (70_000, 3), (1, 2 * PART_BYTES), (4, 0)];
        let buffers = filled(&shapes, |index, first, bytes| {
            for (row, bytes) in bytes.chunks_exact_mut(shapes[index].1).enumerate() {
                bytes.iter_mut().for_each(|byte| *byte += ((index + 1) * (first + row + 1)) as u8);
            }
        });
        for (index, (buffer, (rows, row_bytes))) in buffers.iter().zip(shapes).enumerate() {
            assert_eq!(buffer.len(), rows * row_bytes);
            let wanted = (0..rows).flat_map(|row| vec![((index + 1) * (row + 1)) as u8; row_bytes]);
            assert!(wanted.eq(buffer.iter().copied()), "buffer {index}");
        }
    }
}
