//! [`GgufBytes`]: a file's bytes, all of them, in pieces that were cut to be joined again, or only its beginning.

use std::{ops::Range, sync::Arc};

use quern_backend::SharedBytes;

/// Longest beginning of a file in pieces that is joined to read its header: those of large vocabularies are about 10 MB.
const MAX_HEADER_BYTES: usize = 256 << 20;

/// The bytes of one file.
#[derive(Clone, Debug)]
pub struct GgufBytes {
    /// What follows one another, from the beginning on.
    pieces: Vec<SharedBytes>,
    /// Bytes of the file, which the pieces may hold fewer of.
    size: u64,
}

impl GgufBytes {
    /// All of a file.
    pub fn whole(bytes: &SharedBytes) -> Self {
        Self { pieces: vec![bytes.clone()], size: bytes.len() as u64 }
    }

    /// A file that was cut into these.
    pub fn joined(pieces: Vec<SharedBytes>) -> Self {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, size }
    }

    /// The beginning of a file of `size` bytes, whose tensors are not here.
    pub fn beginning(bytes: &SharedBytes, size: u64) -> Self {
        Self { pieces: vec![bytes.clone()], size }
    }

    /// Bytes of the whole file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that lie in one place from the file's beginning on; with `more`, twice as many as these at least.
    /// `None`: there are no more.
    pub(super) fn start(&self, more: Option<usize>) -> Option<SharedBytes> {
        let Some(before) = more else { return self.pieces.first().cloned() };
        let here: usize = self.pieces.iter().map(|piece| piece.len()).sum();
        let wanted = (2 * before).max(1 << 20).min(here);
        if wanted <= before || before >= MAX_HEADER_BYTES {
            return None;
        }
        Some(self.copied(0..wanted as u64))
    }

    /// The bytes `range` of the file, where they are mapped or, across the cut of two pieces, copied. None where they are
    /// not here.
    pub(super) fn slice(&self, range: Range<u64>) -> SharedBytes {
        let mut begin = 0;
        for piece in &self.pieces {
            let end = begin + piece.len() as u64;
            if begin <= range.start && range.end <= end {
                let inside = (range.start - begin) as usize..(range.end - begin) as usize;
                return piece.slice(inside).expect("a part of this piece");
            }
            begin = end;
        }
        if range.end <= begin { self.copied(range) } else { SharedBytes::new(Arc::new(Vec::new())) }
    }

    /// The same, in memory of their own. They are here.
    fn copied(&self, range: Range<u64>) -> SharedBytes {
        let mut all = Vec::with_capacity((range.end - range.start) as usize);
        let mut begin = 0;
        for piece in &self.pieces {
            let end = begin + piece.len() as u64;
            let (from, to) = (range.start.clamp(begin, end), range.end.clamp(begin, end));
            all.extend_from_slice(&piece[(from - begin) as usize..(to - begin) as usize]);
            begin = end;
        }
        SharedBytes::new(Arc::new(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(bytes: &[u8]) -> SharedBytes {
        SharedBytes::new(Arc::new(bytes.to_vec()))
    }

    #[test]
    fn any_range_of_pieces_is_that_of_the_whole() {
        let whole: Vec<u8> = (0..23).collect();
        for (a, b) in [(0, 1), (5, 5), (1, 22), (7, 14)] {
            let pieces = [&whole[..a], &whole[a..b], &whole[b..]];
            let bytes = GgufBytes::joined(pieces.map(shared).to_vec());
            assert_eq!(bytes.size(), 23);
            for range in (0..=23).flat_map(|end| (0..=end).map(move |start| start..end)) {
                let wanted = &whole[range.start as usize..range.end as usize];
                assert_eq!(&*bytes.slice(range.clone()), wanted, "{a} {b} {range:?}");
            }
            assert_eq!(&*bytes.start(Some(pieces[0].len())).unwrap(), &whole[..]);
            assert!(bytes.start(Some(23)).is_none());
        }
    }

    #[test]
    fn of_a_beginning_the_rest_is_not_here() {
        let bytes = GgufBytes::beginning(&shared(&[1, 2, 3]), 1 << 40);
        assert_eq!((bytes.size(), &*bytes.slice(1..3), bytes.slice(2..4).len()), (1 << 40, &[2, 3][..], 0));
        assert!(bytes.start(Some(3)).is_none());
    }
}
