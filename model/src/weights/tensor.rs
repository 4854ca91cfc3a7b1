//! [`Tensor`]: the tensors of one safetensors file, whose header is read with bounds.
//!
//! Format: 8 bytes little-endian length, a JSON object `{name: {dtype, shape, data_offsets}}`, then the
//! data without gaps. Source: huggingface/safetensors, "Format".

use std::{collections::BTreeSet, fmt, io, sync::Arc};

use half::bf16;
use quern_backend::{DType, QuantFormat, SharedBytes};
use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};

use super::{TensorProblem, files::READABLE, scan::Scanned};
use crate::lfs;

/// Longest header that is read; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// One stored tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The file it lies in, without its folder.
    pub file: Arc<str>,
    /// Element type as the header names it (`BF16`, `F8_E4M3`, …).
    pub dtype: String,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// Its bytes, mapped.
    pub bytes: SharedBytes,
}

impl Tensor {
    /// The element type, if it is one that weights may have.
    pub fn element(&self) -> Option<DType> {
        element(&self.dtype)
    }

    /// What a scan looks at, if it is a weight; its name is `name`.
    pub fn scanned<'a>(&'a self, name: &'a str) -> Option<Scanned<'a>> {
        let format = QuantFormat::plain(self.element()?);
        Some(Scanned { file: &self.file, name, format, bytes: &self.bytes })
    }

    /// Its type and shape, for an error.
    pub(super) fn found(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }
}

/// A tensor and its name, as long-lived as the checkpoint.
pub(super) type Named<'a> = (&'a str, &'a Tensor);

/// A tensor that is not what is `expected`.
pub(super) fn wrong((name, of): Named<'_>, expected: impl ToString) -> TensorProblem {
    TensorProblem::tensor(&of.file, name, expected, of.found())
}

/// A small tensor of one of the plain types as f32.
///
/// # Panics
/// If it is of another type.
pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    let bytes = &*tensor.bytes;
    match tensor.element().expect("verified when opened") {
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        DType::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        DType::F8E4M3 => bytes.iter().map(|&b| quern_backend::quant::fp8::E4M3[b as usize]).collect(),
    }
}

fn element(dtype: &str) -> Option<DType> {
    match dtype {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        "F8_E4M3" => Some(DType::F8E4M3),
        _ => None,
    }
}

/// Bytes of an element of any type the format knows; `None` for a name it does not.
fn element_bytes(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" => Some(8),
        _ => None,
    }
}

/// The tensors of one file; what is wrong with it goes to `problems` and yields no tensors.
pub(super) fn read_file(
    file: &str,
    bytes: io::Result<SharedBytes>,
    problems: &mut Vec<TensorProblem>,
) -> Vec<(String, Tensor)> {
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(cause) => {
            problems.push(TensorProblem::file(file, "a readable file", cause).mended_by(READABLE));
            return Vec::new();
        }
    };
    match parse(&bytes) {
        Err(found) => {
            let pointer = lfs::is_pointer(&bytes)
                .then(|| TensorProblem::file(file, "weights", lfs::FOUND).mended_by(lfs::REMEDY));
            problems.push(pointer.unwrap_or(TensorProblem { file: file.into(), ..found }.broken()));
            Vec::new()
        }
        Ok((data, entries)) => {
            let file: Arc<str> = file.into();
            let tensor = |entry: HeaderEntry| {
                let range = data + entry.begin as usize..data + entry.end as usize;
                let bytes = bytes.slice(range).expect("parse checked the offsets against the file's length");
                (entry.name, Tensor { file: Arc::clone(&file), dtype: entry.dtype, shape: entry.shape, bytes })
            };
            entries.into_iter().map(tensor).collect()
        }
    }
}

/// One line of a header.
#[derive(Debug)]
struct HeaderEntry {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

/// Read a file's header: where its data starts, and its tensors in the order they lie. Checks that they
/// fill the data exactly. The `file` of the problem is left empty.
fn parse(bytes: &[u8]) -> Result<(usize, Vec<HeaderEntry>), TensorProblem> {
    let wrong = |expected: String, found: String| TensorProblem::file("", expected, found);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(wrong("at least 8 bytes".into(), format!("{} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        let limit = MAX_HEADER_BYTES.min(rest.len() as u64);
        return Err(wrong(format!("a header of at most {limit} bytes"), format!("a header length of {length}")));
    }
    let (header, data) = rest.split_at(length as usize);
    let FileHeader(mut entries) =
        serde_json::from_slice(header).map_err(|e| wrong("a JSON header".into(), format!("{e}")))?;
    entries.sort_by_key(|e| (e.begin, e.end));
    let mut position = 0;
    for entry in &entries {
        let problem = |expected: String, found: String| TensorProblem::tensor("", &entry.name, expected, found);
        if entry.shape.len() > MAX_DIMS {
            return Err(problem(format!("at most {MAX_DIMS} dimensions"), format!("{}", entry.shape.len())));
        }
        let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let size = element_bytes(&entry.dtype).zip(elements).and_then(|(size, n)| size.checked_mul(n));
        let Some(size) = size else {
            return Err(problem("a known dtype and a sane shape".into(), format!("{} {:?}", entry.dtype, entry.shape)));
        };
        if entry.begin != position {
            return Err(problem(format!("data from byte {position}"), format!("data from byte {}", entry.begin)));
        }
        if entry.end.checked_sub(entry.begin) != Some(size) {
            let found = format!("bytes {}..{}", entry.begin, entry.end);
            return Err(problem(format!("{size} bytes for {} {:?}", entry.dtype, entry.shape), found));
        }
        position = entry.end;
        if position > data.len() as u64 {
            return Err(problem(format!("data up to byte {position}"), format!("only {} bytes of data", data.len())));
        }
    }
    if position != data.len() as u64 {
        return Err(wrong(format!("{position} bytes of data"), format!("{}", data.len())));
    }
    Ok((8 + header.len(), entries))
}

/// A header as JSON; unlike a map it notices a name that comes twice.
struct FileHeader(Vec<HeaderEntry>);

#[derive(Deserialize)]
struct EntryFields {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for FileHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = FileHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FileHeader, A::Error> {
                let mut seen = BTreeSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("tensor `{name}` is listed twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let EntryFields { dtype, shape, data_offsets: (begin, end) } = map.next_value()?;
                    entries.push(HeaderEntry { name, dtype, shape, begin, end });
                }
                Ok(FileHeader(entries))
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Parse a header and throw the result away: the entry point for fuzzing.
pub fn fuzz_header(bytes: &[u8]) {
    let _ = parse(bytes);
}
