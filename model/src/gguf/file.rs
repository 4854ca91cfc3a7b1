//! [`GgufFile`]: the metadata of one file and where its tensors lie.

use std::{collections::BTreeMap, fmt, path::Path};

use quern_backend::{QuantFormat, SharedBytes};

use super::{
    bytes::GgufBytes,
    cursor::{Cursor, ReadFault},
    types,
    value::{Elements, GgufValue},
};
use crate::{
    foreign::OTHER_GGUF,
    lfs,
    weights::{TensorProblem, mapping, scan::Scanned},
};

const MAGIC: &[u8; 4] = b"GGUF";
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
const MAX_NAME_BYTES: usize = 1024;
const MAX_DIMS: usize = 4;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A parsed file; its tensors are where the operating system mapped them.
#[derive(Debug)]
pub struct GgufFile {
    name: String,
    metadata: BTreeMap<String, GgufValue>,
    tensors: Vec<TensorInfo>,
}

/// One stored tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Sizes, **innermost first**: a matrix is `[columns, rows]`.
    pub dims: Vec<u64>,
    /// Its encoding.
    pub format: QuantFormat,
    /// Bytes of it in the file.
    pub stored_bytes: u64,
    /// Its bytes; none where only the file's header is here.
    pub bytes: SharedBytes,
}

impl TensorInfo {
    /// For messages: `Q4_K [2048, 768]`.
    pub fn found(&self) -> String {
        format!("{} {:?}", self.format, self.dims)
    }

    /// Bytes of it once loaded.
    pub fn held_bytes(&self) -> u64 {
        match self.format.blocks() {
            Some(blocks) => self.stored_bytes / blocks.bytes as u64 * blocks.held_bytes as u64,
            None => self.stored_bytes,
        }
    }

    /// What a scan looks at; it lies in `file`.
    pub fn scanned<'a>(&'a self, file: &'a str) -> Scanned<'a> {
        Scanned { file, name: &self.name, format: self.format, bytes: &self.bytes }
    }
}

impl GgufFile {
    /// Read the header of `bytes`; `name` is the file's, for messages.
    ///
    /// # Errors
    /// If it is no GGUF file, is cut short, or has an encoding that is not supported.
    pub fn parse(name: &str, bytes: &SharedBytes) -> Result<Self, TensorProblem> {
        Self::read(name, &GgufBytes::whole(bytes))
    }

    /// The same for a file that may have been cut into pieces.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn read(name: &str, bytes: &GgufBytes) -> Result<Self, TensorProblem> {
        let mut start = bytes.start(None).unwrap_or_else(|| bytes.slice(0..0));
        loop {
            let failed = match Self::read_start(name, &start, bytes) {
                Ok(file) => return Ok(file),
                Err(failed) => failed,
            };
            match bytes.start(Some(start.len())).filter(|_| failed.fault.at_end) {
                Some(longer) => start = longer,
                None => return Err(failed.problem(name)),
            }
        }
    }

    /// The header of a file of `size` bytes of which only the `beginning` is here, so that its tensors have no bytes;
    /// `None` if it ends before the header does.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse).
    pub fn header(name: &str, beginning: &SharedBytes, size: u64) -> Result<Option<Self>, TensorProblem> {
        match Self::read_start(name, beginning, &GgufBytes::beginning(beginning, size)) {
            Ok(file) => Ok(Some(file)),
            Err(failed) if failed.fault.at_end && (beginning.len() as u64) < size => Ok(None),
            Err(failed) => Err(failed.problem(name)),
        }
    }

    /// Read the header in `start`, with which `bytes` begin.
    fn read_start(name: &str, start: &SharedBytes, bytes: &GgufBytes) -> Result<Self, PartFault> {
        let mut part = FilePart::default();
        Self::parse_parts(name, start, bytes, &mut part).map_err(|fault| PartFault { part, fault })
    }

    fn parse_parts(
        name: &str,
        header: &SharedBytes,
        bytes: &GgufBytes,
        part: &mut FilePart,
    ) -> Result<Self, ReadFault> {
        let mut from = Cursor::new(header);
        let magic = from.take(4, "the header")?;
        if lfs::is_pointer(header) {
            return Err(ReadFault::new("a GGUF file", lfs::FOUND).mended_by(lfs::REMEDY));
        }
        if magic != MAGIC {
            return Err(ReadFault::new("a GGUF file, which begins with \"GGUF\"", format!("{magic:?}")));
        }
        match from.u32("the version")? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => {
                let fault = ReadFault::new("a little-endian file", "a big-endian one");
                return Err(fault.mended_by("Take the file for little-endian machines."));
            }
            version => return Err(ReadFault::new("version 2 or 3", format!("version {version}"))),
        }
        let num_tensors = from.u64("the number of tensors")?;
        let num_keys = from.u64("the number of keys")?;
        for (what, count, most) in [("tensors", num_tensors, MAX_TENSORS), ("keys", num_keys, MAX_KEYS)] {
            if count > most {
                return Err(ReadFault::new(format!("at most {most} {what}"), count));
            }
        }
        let mut metadata = BTreeMap::new();
        let mut elements = Elements::new();
        for _ in 0..num_keys {
            *part = FilePart::Header;
            let key = from.text("a key", MAX_NAME_BYTES)?;
            *part = FilePart::Key(key.clone());
            let kind = from.u32("a type")?;
            let value = GgufValue::read(kind, &mut from, &mut elements)?;
            if metadata.insert(key, value).is_some() {
                return Err(ReadFault::new("each key once", "it again"));
            }
        }
        *part = FilePart::Key("general.alignment".into());
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(value) => match value.as_u64() {
                Some(n) if n.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&n) => n,
                _ => return Err(ReadFault::new(format!("a power of two from 8 to {MAX_ALIGNMENT}"), value.shown())),
            },
        };
        let mut described = Vec::new();
        for _ in 0..num_tensors {
            *part = FilePart::Header;
            let name = from.text("a tensor's name", MAX_NAME_BYTES)?;
            *part = FilePart::Tensor(name.clone());
            described.push(TensorEntry::read(name, alignment, &mut from)?);
        }
        *part = FilePart::Header;
        let start = (from.position() as u64).next_multiple_of(alignment);
        let size = bytes.size().saturating_sub(start);
        let tensors = place(described, start, size, bytes, part)?;
        Ok(Self { name: name.to_owned(), metadata, tensors })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything it says of itself.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// Its tensors, in the order in which they lie.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The number under `key` of the metadata, if there is something.
    ///
    /// # Errors
    /// If it is no finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, TensorProblem> {
        let Some(value) = self.metadata().get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a number", value.shown()))
    }

    /// What is wrong with the value of `key` of the metadata.
    pub(super) fn wrong(&self, key: &str, expected: impl fmt::Display, found: impl ToString) -> TensorProblem {
        TensorProblem::file(self.name(), format!("{expected} (metadata `{key}`)"), found)
    }
}

/// What the file at `path` says it is: `model`, `adapter`, `imatrix`, `mmproj`; `None` if it does not say or cannot be
/// read.
pub fn general_type(path: &Path) -> Option<String> {
    let bytes = mapping::map(path).ok()?;
    let file = GgufFile::parse("", &bytes).ok()?;
    file.metadata().get("general.type").and_then(GgufValue::as_str).map(str::to_owned)
}

/// A fault, and what was being read.
struct PartFault {
    part: FilePart,
    fault: ReadFault,
}

impl PartFault {
    /// The same of the file `name`.
    fn problem(self, name: &str) -> TensorProblem {
        let ReadFault { expected, found, remedy, .. } = self.fault;
        let problem = match self.part {
            FilePart::Header => TensorProblem::file(name, expected, found),
            FilePart::Key(key) => TensorProblem::file(name, format!("{expected} (metadata `{key}`)"), found),
            FilePart::Tensor(tensor) => TensorProblem::tensor(name, &tensor, expected, found),
        };
        TensorProblem { remedy, ..problem }
    }
}

/// What is being read, for messages.
#[derive(Default)]
enum FilePart {
    #[default]
    Header,
    Key(String),
    Tensor(String),
}

/// A tensor as the header describes it.
struct TensorEntry {
    name: String,
    dims: Vec<u64>,
    format: QuantFormat,
    /// From the beginning of the data.
    offset: u64,
    len: u64,
}

impl TensorEntry {
    fn read(name: String, alignment: u64, from: &mut Cursor<'_>) -> Result<Self, ReadFault> {
        let num_dims = from.u32("the number of dimensions")? as usize;
        if num_dims == 0 || num_dims > MAX_DIMS {
            return Err(ReadFault::new(format!("1 to {MAX_DIMS} dimensions"), num_dims));
        }
        let dims: Vec<u64> = (0..num_dims).map(|_| from.u64("a dimension")).collect::<Result<_, _>>()?;
        let number = from.u32("the type")?;
        let Some(format) = QuantFormat::from_ggml_type(number) else {
            let known = QuantFormat::ALL.iter();
            let known = known.filter_map(|format| Some(format!("{format} ({})", format.ggml_type()?)));
            let known: Vec<String> = known.collect();
            let fault = ReadFault::new(format!("one of the types {}", known.join(", ")), types::named(number));
            return Err(fault.mended_by(OTHER_GGUF));
        };
        let offset = from.u64("the offset")?;
        if !offset.is_multiple_of(alignment) {
            return Err(ReadFault::new(format!("an offset that is a multiple of {alignment}"), offset));
        }
        let block = format.block_elements() as u64;
        if dims.contains(&0) || !dims[0].is_multiple_of(block) {
            return Err(ReadFault::new(format!("rows of whole blocks of {block}"), format!("{format} {dims:?}")));
        }
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let len = elements.and_then(|n| (n / block).checked_mul(format.block_bytes() as u64));
        let len = len.ok_or_else(|| ReadFault::new("a size that can be counted", format!("{dims:?}")))?;
        Ok(Self { name, dims, format, offset, len })
    }
}

/// Check that the tensors lie inside the data, `size` bytes from `start`, and nowhere on one another.
fn place(
    mut described: Vec<TensorEntry>,
    start: u64,
    size: u64,
    bytes: &GgufBytes,
    part: &mut FilePart,
) -> Result<Vec<TensorInfo>, ReadFault> {
    described.sort_by_key(|tensor| tensor.offset);
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut end = 0;
    for TensorEntry { name, dims, format, offset, len } in described {
        *part = FilePart::Tensor(name.clone());
        if offset < end {
            let before = tensors.last().map_or("", |tensor| &tensor.name);
            return Err(ReadFault::new(format!("bytes of its own behind `{before}`, which ends at {end}"), offset));
        }
        end = offset.checked_add(len).filter(|&end| end <= size).ok_or_else(|| {
            ReadFault::new(format!("{len} bytes at {offset}"), format!("data of {size} bytes; the file is cut"))
        })?;
        let bytes = bytes.slice(start + offset..start + end);
        tensors.push(TensorInfo { name, dims, format, stored_bytes: len, bytes });
    }
    Ok(tensors)
}
