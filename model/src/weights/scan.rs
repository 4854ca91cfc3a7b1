//! One pass over all weights for values that are no numbers: a flipped bit or a broken download shows
//! here rather than as "!!!!" in an answer.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use quern_backend::{DType, QuantFormat};

use super::TensorProblem;

/// Bytes that one worker reads at a time: large enough to stream, small enough to share out evenly.
const CHUNK_BYTES: usize = 8 << 20;

/// Most problems that are collected; a file full of garbage has millions.
const MAX_PROBLEMS: usize = 64;

/// A tensor to be looked at.
pub struct Scanned<'a> {
    /// The file it lies in.
    pub file: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its encoding.
    pub format: QuantFormat,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Look at every element of `tensors` (of blocks, at their scales) with `threads` threads, or with as many as
/// the system lets us start; `advanced` hears of every chunk's bytes.
pub fn non_finite(tensors: &[Scanned<'_>], threads: usize, advanced: &mut dyn FnMut(u64)) -> Vec<TensorProblem> {
    let mut chunks: Vec<(&Scanned<'_>, usize, &[u8])> = Vec::new();
    for tensor in tensors {
        // Whole blocks.
        let blocks = CHUNK_BYTES / tensor.format.block_bytes();
        let pieces = tensor.bytes.chunks(blocks * tensor.format.block_bytes()).enumerate();
        chunks.extend(pieces.map(|(i, piece)| (tensor, i * blocks * tensor.format.block_elements(), piece)));
    }
    let next = AtomicUsize::new(0);
    let (report, reports) = mpsc::channel();
    let mut problems = Vec::new();
    let look = |report: &mpsc::Sender<_>| {
        while let Some(&(tensor, first, bytes)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let problem = first_non_finite(tensor.format, bytes).map(|index| {
                let found = format!("a value that is no number at element {}", first + index);
                TensorProblem::tensor(tensor.file, tensor.name, "finite values", found).broken()
            });
            // The receiver lives as long as the scope; a failed send would only lose progress.
            let _ = report.send((bytes.len() as u64, problem));
        }
    };
    thread::scope(|scope| {
        let spawned = (0..threads.max(1)).map(|_| {
            let (report, look) = (report.clone(), &look);
            thread::Builder::new().spawn_scoped(scope, move || look(&report))
        });
        if spawned.filter(Result::is_ok).count() == 0 {
            look(&report);
        }
        drop(report);
        for (bytes, problem) in reports {
            advanced(bytes);
            problems.extend(problem.filter(|_| problems.len() < MAX_PROBLEMS));
        }
    });
    problems
}

/// Index of the first element that is infinite or NaN, or of the first of a block with such a scale.
fn first_non_finite(format: QuantFormat, bytes: &[u8]) -> Option<usize> {
    let half = |bits: u16| bits & 0x7c00 == 0x7c00;
    if let Some(blocks) = format.blocks() {
        let bad = |block: &[u8]| (0..blocks.halves.count()).any(|index| half(blocks.halves.get(block, index)));
        return bytes.chunks_exact(blocks.bytes).position(bad).map(|block| block * blocks.elements);
    }
    match format.element()? {
        DType::F32 => find::<4>(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        DType::F16 => find::<2>(bytes, |b| half(u16::from_le_bytes(b))),
        DType::BF16 => find::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        DType::F8E4M3 => find::<1>(bytes, |[b]| b & 0x7f == 0x7f),
    }
}

/// First element for which `bad` holds. Blocks are judged whole, which compiles to SIMD; only a bad one
/// is searched.
fn find<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 4096;
    let element = |b: &[u8]| bad(b.try_into().expect("chunks_exact yields N bytes"));
    for (i, block) in bytes.chunks(BLOCK).enumerate() {
        if block.chunks_exact(N).fold(false, |any, b| any | element(b)) {
            let inside = block.chunks_exact(N).position(element).expect("the block holds one");
            return Some((i * BLOCK) / N + inside);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_element_is_named() {
        let mut values = vec![1.0f32; 5000];
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(first_non_finite(QuantFormat::F32, &bytes(&values)), None);
        values[4321] = f32::NEG_INFINITY;
        values[4400] = f32::NAN;
        assert_eq!(first_non_finite(QuantFormat::F32, &bytes(&values)), Some(4321));
        assert_eq!(first_non_finite(QuantFormat::BF16, &[0, 0, 0x80, 0x7f]), Some(1));
        assert_eq!(first_non_finite(QuantFormat::F16, &[0xff, 0x7b, 0, 0xfc]), Some(1));
        assert_eq!(first_non_finite(QuantFormat::Fp8Block128, &[0x7e, 0xfe, 0xff]), Some(2));
        for format in QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some()) {
            let blocks = format.blocks().unwrap();
            let mut bytes = vec![0; 3 * blocks.bytes];
            assert_eq!(first_non_finite(format, &bytes), None, "{format}");
            for index in 0..blocks.halves.count() {
                bytes.fill(0xff);
                bytes[..2 * blocks.bytes].fill(0);
                assert_eq!(first_non_finite(format, &bytes), Some(2 * blocks.elements), "{format}");
                blocks.halves.set(&mut bytes[blocks.bytes..], index, 0xfc00);
                assert_eq!(first_non_finite(format, &bytes), Some(blocks.elements), "{format}");
            }
        }
    }
}
