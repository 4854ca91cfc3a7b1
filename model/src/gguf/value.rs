//! [`GgufValue`]: one value of a file's metadata.

use super::cursor::{Cursor, ReadFault};

/// Elements of all arrays of a file together.
const MAX_ELEMENTS: usize = 1 << 23;

/// Longest text: chat templates are some tens of kilobytes.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// Arrays in arrays.
const MAX_DEPTH: usize = 4;

/// A value; numbers of all widths are one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// Unsigned, of 8 to 64 bits.
    Unsigned(u64),
    /// Signed, of 8 to 64 bits.
    Signed(i64),
    /// Of 32 or 64 bits.
    Float(f64),
    /// A byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Of one kind.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// A number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            GgufValue::Unsigned(n) => Some(n),
            GgufValue::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// A number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            GgufValue::Float(x) => Some(x),
            GgufValue::Unsigned(n) => Some(n as f64),
            GgufValue::Signed(n) => Some(n as f64),
            _ => None,
        }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            GgufValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An array's elements.
    pub fn as_array(&self) -> Option<&[GgufValue]> {
        match self {
            GgufValue::Array(list) => Some(list),
            _ => None,
        }
    }

    /// For messages: the value, or what kind of thing it is.
    pub fn shown(&self) -> String {
        match self {
            GgufValue::Unsigned(n) => n.to_string(),
            GgufValue::Signed(n) => n.to_string(),
            GgufValue::Float(x) => x.to_string(),
            GgufValue::Bool(b) => b.to_string(),
            GgufValue::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            GgufValue::Array(list) => format!("an array of {}", list.len()),
        }
    }

    /// The value of type `kind` at the cursor. `elements` is what arrays of this file may still hold.
    pub(super) fn read(kind: u32, from: &mut Cursor<'_>, elements: &mut Elements) -> Result<Self, ReadFault> {
        Self::read_at(0, kind, from, elements)
    }

    fn read_at(depth: usize, kind: u32, from: &mut Cursor<'_>, elements: &mut Elements) -> Result<Self, ReadFault> {
        let what = "a value";
        Ok(match kind {
            0 => GgufValue::Unsigned(from.array::<1>(what)?[0].into()),
            1 => GgufValue::Signed((from.array::<1>(what)?[0] as i8).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(from.array(what)?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(from.array(what)?).into()),
            4 => GgufValue::Unsigned(from.u32(what)?.into()),
            5 => GgufValue::Signed((from.u32(what)? as i32).into()),
            6 => GgufValue::Float(f32::from_le_bytes(from.array(what)?).into()),
            7 => match from.array::<1>(what)?[0] {
                byte @ (0 | 1) => GgufValue::Bool(byte == 1),
                byte => return Err(ReadFault::new("a boolean, 0 or 1", byte)),
            },
            8 => GgufValue::Text(from.text("a text", MAX_TEXT_BYTES)?),
            9 if depth < MAX_DEPTH => {
                let (inner, count) = (from.u32("an array's type")?, from.u64("an array's length")?);
                elements.claim(count, from.left())?;
                let list = (0..count).map(|_| Self::read_at(depth + 1, inner, from, elements));
                GgufValue::Array(list.collect::<Result<_, _>>()?)
            }
            9 => return Err(ReadFault::new(format!("arrays at most {MAX_DEPTH} deep"), "a deeper one")),
            10 => GgufValue::Unsigned(from.u64(what)?),
            11 => GgufValue::Signed(from.u64(what)? as i64),
            12 => GgufValue::Float(f64::from_le_bytes(from.array(what)?)),
            other => return Err(ReadFault::new("a type of value, 0 to 12", other)),
        })
    }
}

/// How many elements the arrays of a file may still have.
pub(super) struct Elements(usize);

impl Elements {
    pub(super) fn new() -> Self {
        Self(MAX_ELEMENTS)
    }

    /// Each element has a byte at least.
    fn claim(&mut self, count: u64, bytes_left: usize) -> Result<(), ReadFault> {
        if count > bytes_left as u64 {
            let expected = format!("an array that fits into the {bytes_left} bytes behind");
            return Err(ReadFault::new(expected, count).at_end());
        }
        if count > self.0 as u64 {
            return Err(ReadFault::new(format!("at most {MAX_ELEMENTS} elements in all arrays"), count));
        }
        self.0 -= count as usize;
        Ok(())
    }
}
