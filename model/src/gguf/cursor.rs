//! [`Cursor`]: a place in a file's bytes, and what is read from there.

use crate::weights::Remedy;

/// What a reader wanted and found instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadFault {
    pub(super) expected: String,
    pub(super) found: String,
    pub(super) remedy: Remedy,
    /// Whether the bytes ended too early, so that more of them would be read on.
    pub(super) at_end: bool,
}

impl ReadFault {
    pub(super) fn new(expected: impl ToString, found: impl ToString) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self { expected, found, remedy: Remedy::FetchAgain, at_end: false }
    }

    /// The same, because the bytes end here.
    pub(super) fn at_end(self) -> Self {
        Self { at_end: true, ..self }
    }

    /// The same, mended by `what`: a sentence.
    pub(super) fn mended_by(self, what: &str) -> Self {
        Self { remedy: Remedy::Do(what.into()), ..self }
    }
}

/// Reads forward; never past the end, and nothing is allocated for what is not there.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], ReadFault> {
        if count > self.left() {
            let found = format!("the file's end after {} of them, at byte {}", self.left(), self.bytes.len());
            return Err(ReadFault::new(format!("{count} bytes of {what}"), found).at_end());
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ReadFault> {
        Ok(self.take(N, what)?.try_into().expect("as many as were asked for"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ReadFault> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ReadFault> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length, then as many bytes of UTF-8, `most` of them.
    pub(super) fn text(&mut self, what: &str, most: usize) -> Result<String, ReadFault> {
        let count = self.u64(&format!("the length of {what}"))?;
        if count > most as u64 {
            return Err(ReadFault::new(format!("{what} of at most {most} bytes"), format!("a length of {count}")));
        }
        let bytes = self.take(count as usize, what)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|cause| ReadFault::new(format!("{what} in UTF-8"), cause))
    }
}
