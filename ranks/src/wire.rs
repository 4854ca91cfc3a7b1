//! Records of little-endian fields: [`RecordWriter`] writes one, [`RecordReader`] reads one and believes no length in it.

/// A record that is being written.
#[derive(Debug, Default)]
pub struct RecordWriter(Vec<u8>);

impl RecordWriter {
    /// Add four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Add a count of what is in memory as four bytes.
    ///
    /// # Panics
    /// If there are more than 2³² of it.
    pub fn count(&mut self, value: usize) -> &mut Self {
        self.u32(u32::try_from(value).expect("a count below 2^32"))
    }

    /// Add bytes whose number the reader knows.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Add a text behind its length.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).bytes(text.as_bytes())
    }

    /// What was written.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// A record that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {cause}")]
pub struct WireError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub cause: String,
}

impl WireError {
    /// An error of `field`.
    pub fn new(field: &'static str, cause: impl Into<String>) -> Self {
        Self { field, cause: cause.into() }
    }
}

/// The fields of a record, in the order in which they are read.
#[derive(Clone, Copy, Debug)]
pub struct RecordReader<'a>(&'a [u8]);

impl<'a> RecordReader<'a> {
    /// Those of `record`.
    pub fn new(record: &'a [u8]) -> Self {
        Self(record)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn bytes(&mut self, field: &'static str, n: usize) -> Result<&'a [u8], WireError> {
        let Some((bytes, rest)) = self.0.split_at_checked(n) else {
            return Err(WireError::new(field, format!("{n} bytes are wanted, {} are left", self.0.len())));
        };
        self.0 = rest;
        Ok(bytes)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        Ok(self.bytes(field, N)?.try_into().expect("as many bytes as asked for"))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// A count of at most `most`.
    ///
    /// # Errors
    /// If it is larger, or missing.
    pub fn count(&mut self, field: &'static str, most: usize) -> Result<usize, WireError> {
        let count = self.u32(field)? as usize;
        match count <= most {
            true => Ok(count),
            false => Err(WireError::new(field, format!("{count}, at most {most}"))),
        }
    }

    /// As many numbers as a count of at most `most` says.
    ///
    /// # Errors
    /// If the count is larger, or numbers are missing.
    pub fn numbers(
        &mut self,
        field: &'static str,
        most: usize,
    ) -> Result<impl ExactSizeIterator<Item = u32> + use<'a>, WireError> {
        let count = self.count(field, most)?;
        let length = count.checked_mul(4).ok_or_else(|| WireError::new(field, format!("{count} numbers")))?;
        let (numbers, _) = self.bytes(field, length)?.as_chunks::<4>();
        Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)))
    }

    /// A text of at most `most` bytes.
    ///
    /// # Errors
    /// If it is longer, cut off, or no UTF-8.
    pub fn text(&mut self, field: &'static str, most: usize) -> Result<&'a str, WireError> {
        let length = self.count(field, most)?;
        std::str::from_utf8(self.bytes(field, length)?).map_err(|error| WireError::new(field, error.to_string()))
    }

    /// The record ends here.
    ///
    /// # Errors
    /// If it does not.
    pub fn end(self) -> Result<(), WireError> {
        match self.0.len() {
            0 => Ok(()),
            rest => Err(WireError::new("end", format!("{rest} bytes follow that mean nothing"))),
        }
    }
}
