//! [`of_chunks`]: checksums of a large file, chunk by chunk, by all cores.

use std::{
    fs::File,
    io,
    num::NonZero,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Bytes read at a time: they stay in a core's own cache until they are summed up.
const PIECE: usize = 256 << 10;

/// CRC-32 of each chunk of the `bytes` of `file`. Chunks end at multiples of `chunk`, and at the last byte.
///
/// # Errors
/// If the file cannot be read, or ends earlier.
pub(crate) fn of_chunks(file: &File, bytes: Range<u64>, chunk: u64) -> io::Result<Vec<u32>> {
    let first = bytes.start / chunk;
    let count = if bytes.is_empty() { 0 } else { bytes.end.div_ceil(chunk) - first };
    let next = AtomicU64::new(0);
    let sums = Mutex::new(Ok(vec![0; usize::try_from(count).map_err(io::Error::other)?]));
    let work = || {
        let mut piece = vec![0; PIECE];
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count {
                return;
            }
            let begin = (first + nth) * chunk;
            let sum = of_bytes(file, begin.max(bytes.start)..(begin + chunk).min(bytes.end), &mut piece);
            let mut sums = sums.lock().expect("nothing panics while it is held");
            match (&mut *sums, sum) {
                (Ok(sums), Ok(sum)) => sums[nth as usize] = sum,
                (Ok(_), Err(error)) => *sums = Err(error),
                (Err(_), _) => return,
            }
        }
    };
    thread::scope(|scope| {
        let others = thread::available_parallelism().map_or(0, NonZero::get).saturating_sub(1);
        for _ in 0..others {
            // Where there is no thread to spare, those that are there do it.
            let _ = thread::Builder::new().name("quern-checksum".into()).spawn_scoped(scope, work);
        }
        work();
    });
    sums.into_inner().expect("nothing panics while it is held")
}

fn of_bytes(file: &File, bytes: Range<u64>, piece: &mut [u8]) -> io::Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut at = bytes.start;
    while at < bytes.end {
        let length = usize::try_from(bytes.end - at).map_or(piece.len(), |left| left.min(piece.len()));
        file.read_exact_at(&mut piece[..length], at)?;
        sum.update(&piece[..length]);
        at += length as u64;
    }
    Ok(sum.finalize())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn each_chunk_has_the_checksum_of_its_own_bytes() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for (range, chunk) in [(0..3_000_000, 1 << 20), (4096..2_500_001, 300_000), (700..700, 64), (5..6, 4)] {
            let ends = |at: usize| (at + 1).next_multiple_of(chunk).min(range.end);
            let mut want = Vec::new();
            let mut at = range.start;
            while at < range.end {
                want.push(crc32fast::hash(&bytes[at..ends(at)]));
                at = ends(at);
            }
            let found = of_chunks(&file, range.start as u64..range.end as u64, chunk as u64).unwrap();
            assert_eq!(found, want, "{range:?} in chunks of {chunk}");
        }
        let error = of_chunks(&file, 0..3_000_001, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
