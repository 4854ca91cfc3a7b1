//! [`GgufWriter`]: writes a file whose tensors come one after another, so that none need be kept.

use std::io::{self, Write};

use quern_backend::QuantFormat;

use super::GgufValue;

/// Bytes that the data and each tensor begin at multiples of.
const ALIGNMENT: u64 = 32;

/// A tensor to be written, as the header announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its name.
    pub name: String,
    /// Sizes, innermost first.
    pub dims: Vec<u64>,
    /// Its encoding: one that GGUF knows.
    pub format: QuantFormat,
}

impl Announced {
    /// Its bytes.
    pub fn len(&self) -> u64 {
        let rows: u64 = self.dims[1..].iter().product();
        rows * self.format.row_bytes(self.dims[0] as usize) as u64
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }
}

/// Writes a header, then the tensors' bytes in the order in which it announced them.
pub struct GgufWriter<W: Write> {
    out: W,
    written: u64,
}

impl<W: Write> GgufWriter<W> {
    /// Write the header. Numbers of metadata are written as llama.cpp writes them: unsigned ones, and
    /// elements of arrays of numbers, in 32 bits.
    ///
    /// # Errors
    /// If `out` cannot be written.
    ///
    /// # Panics
    /// If a tensor's encoding has no number in GGUF.
    pub fn begin(out: W, metadata: &[(String, GgufValue)], tensors: &[Announced]) -> io::Result<Self> {
        let mut writer = Self { out, written: 0 };
        writer.put(b"GGUF")?;
        writer.put(&3u32.to_le_bytes())?;
        writer.put(&(tensors.len() as u64).to_le_bytes())?;
        writer.put(&(metadata.len() as u64).to_le_bytes())?;
        for (key, value) in metadata {
            writer.text(key)?;
            writer.put(&kind(value).to_le_bytes())?;
            writer.value(value)?;
        }
        let mut offset = 0;
        for tensor in tensors {
            writer.text(&tensor.name)?;
            writer.put(&(tensor.dims.len() as u32).to_le_bytes())?;
            for dim in &tensor.dims {
                writer.put(&dim.to_le_bytes())?;
            }
            writer.put(&tensor.format.ggml_type().expect("an encoding of GGUF").to_le_bytes())?;
            writer.put(&u64::to_le_bytes(offset))?;
            offset = (offset + tensor.len()).next_multiple_of(ALIGNMENT);
        }
        writer.align()?;
        Ok(writer)
    }

    /// The next bytes of the tensor that is being written.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// The tensor is complete; the next one begins.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn align(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.put(&[0; ALIGNMENT as usize][..missing as usize])
    }

    /// All tensors are complete.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.put(&(text.len() as u64).to_le_bytes())?;
        self.put(text.as_bytes())
    }

    fn value(&mut self, value: &GgufValue) -> io::Result<()> {
        match value {
            GgufValue::Unsigned(n) => self.put(&(*n as u32).to_le_bytes()),
            GgufValue::Signed(n) => self.put(&(*n as i32).to_le_bytes()),
            GgufValue::Float(x) => self.put(&(*x as f32).to_le_bytes()),
            GgufValue::Bool(b) => self.put(&[u8::from(*b)]),
            GgufValue::Text(text) => self.text(text),
            GgufValue::Array(list) => {
                self.put(&list.first().map_or(8, kind).to_le_bytes())?;
                self.put(&(list.len() as u64).to_le_bytes())?;
                list.iter().try_for_each(|value| self.value(value))
            }
        }
    }
}

/// The type that a value is written as.
fn kind(value: &GgufValue) -> u32 {
    match value {
        GgufValue::Unsigned(_) => 4,
        GgufValue::Signed(_) => 5,
        GgufValue::Float(_) => 6,
        GgufValue::Bool(_) => 7,
        GgufValue::Text(_) => 8,
        GgufValue::Array(_) => 9,
    }
}
