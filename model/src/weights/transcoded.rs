//! [`loaded`]: stored matrices as they are computed with, those of other layouts written anew.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use quern_backend::{PackedMatrix, SharedBytes};

use super::{TensorProblem, fill::filled, int_groups::BLOCK, stored::StoredMatrix};

/// These rows and columns of each of `stored`, matrices of one shape. What is computed with as it lies stays mapped; the
/// rest is written by the machine's cores side by side, so that memory holds these parts once and nothing of them twice.
///
/// # Errors
/// The first number without an exact form.
pub(super) fn loaded(
    stored: &[StoredMatrix<'_>],
    rows: &Range<usize>,
    cols: &Range<usize>,
) -> Result<Vec<PackedMatrix>, TensorProblem> {
    let mapped: Vec<Option<PackedMatrix>> = stored.iter().map(StoredMatrix::mapped).collect();
    let anew: Vec<_> = stored.iter().zip(&mapped).filter(|(_, m)| m.is_none()).map(|(matrix, _)| matrix).collect();
    // Numbers by themselves may be cut where blocks may not.
    let wider = cols.start / BLOCK * BLOCK..cols.end.next_multiple_of(BLOCK);
    let shapes: Vec<_> = anew.iter().map(|matrix| (rows.len(), matrix.format().row_bytes(wider.len()))).collect();
    let first_problem: Mutex<Option<((usize, usize), TensorProblem)>> = Mutex::new(None);
    let mut buffers = filled(&shapes, |index, first, bytes| {
        if let Err(problem) = anew[index].fill(rows.start + first, &wider, bytes) {
            let mut earliest = first_problem.lock().expect("keeping a problem cannot panic");
            if earliest.as_ref().is_none_or(|(place, _)| (index, first) < *place) {
                *earliest = Some(((index, first), problem));
            }
        }
    })
    .into_iter();
    if let Some((_, problem)) = first_problem.into_inner().expect("keeping a problem cannot panic") {
        return Err(problem);
    }
    let part = |(matrix, mapped): (&StoredMatrix<'_>, Option<PackedMatrix>)| match mapped {
        Some(mapped) => mapped.part(rows.clone(), cols.clone()),
        None => {
            matrix.release();
            let bytes = SharedBytes::new(Arc::new(buffers.next().expect("a buffer for each that was written")));
            let written = matrix.written(rows.len(), wider.len(), bytes);
            written.part(0..rows.len(), cols.start - wider.start..cols.end - wider.start)
        }
    };
    Ok(stored.iter().zip(mapped).map(part).collect())
}
