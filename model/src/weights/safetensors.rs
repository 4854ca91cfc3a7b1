//! Checkpoints in the safetensors format: bounded header reading, mapping, and the check that the files
//! hold exactly the network's tensors.
//!
//! Format: 8 bytes little-endian length, a JSON object `{name: {dtype, shape, data_offsets}}`, then the
//! data without gaps. Source: huggingface/safetensors, "Format".

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::Path,
    sync::Arc,
};

use half::bf16;
use quern_backend::{DType, PackedMatrix, QuantFormat, SharedBytes};
use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};

use super::{
    LoadError, TensorProblem, WeightSource,
    files::{Files, READABLE},
    mapping,
    scan::Scanned,
};
use crate::{
    config::ModelConfig,
    foreign::Foreign,
    lfs,
    network::{Describe, EMBEDDING, HEAD, NetworkSpec, Shape, TensorSpec, module},
    shard::Shard,
};

/// Longest header that is read; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// Behind the name of an FP8 matrix: its scales, by DeepSeek's and Qwen's name and by that of compressed-tensors.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// Ends of names of tensors that are passed over, and why they change nothing.
const SET_ASIDE: [(&[&str], &str); 3] = [
    (&["rotary_emb.inv_freq"], "the angles of positions follow from config.json"),
    (&[".k_scale", ".v_scale"], "keys and values are stored without scales"),
    (&[".input_scale"], "inputs of products are not rounded to FP8"),
];

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

    fn found(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }
}

/// A checkpoint's tensors, verified against a config.
#[derive(Debug)]
pub struct Safetensors {
    tensors: BTreeMap<String, Tensor>,
    notes: Vec<String>,
}

impl Safetensors {
    /// Map the files of `dir` and check that together they hold exactly the tensors of the network that `config` is of,
    /// by `describe`. Lists everything that is wrong. A head that is stored beside a tied embedding and differs from it
    /// counts, as in transformers 5: `config` says so afterwards.
    ///
    /// # Errors
    /// If a file cannot be read, or they hold other tensors.
    pub fn open(dir: &Path, config: &mut ModelConfig, describe: Describe) -> Result<Self, LoadError> {
        let mut problems = Vec::new();
        let files = Files::list(dir, &mut problems);
        let map = |file: &str| mapping::map(&dir.join(file));
        Self::gather(&dir.display().to_string(), &files, map, problems, (config, describe))
    }

    /// The same for files that are in memory already: `(name, bytes)` of each. `place` names them in errors.
    ///
    /// # Errors
    /// If they hold other tensors.
    pub fn embedded(
        place: &str,
        files: &[(&str, SharedBytes)],
        config: &mut ModelConfig,
        describe: Describe,
    ) -> Result<Self, LoadError> {
        let names = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        let find = |file: &str| {
            let found = files.iter().find(|(name, _)| *name == file);
            Ok(found.expect("names come from the same list").1.clone())
        };
        Self::gather(place, &Files { names, ..Files::default() }, find, Vec::new(), (config, describe))
    }

    /// Read all files, `bytes` giving the contents of each, and check what they hold.
    fn gather(
        place: &str,
        files: &Files,
        bytes: impl Fn(&str) -> io::Result<SharedBytes>,
        mut problems: Vec<TensorProblem>,
        (config, describe): (&mut ModelConfig, Describe),
    ) -> Result<Self, LoadError> {
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for file in &files.names {
            for (name, tensor) in read_file(file, bytes(file), &mut problems) {
                if let Some(declared) = files.index.get(&name).filter(|declared| *declared != file) {
                    problems.push(TensorProblem::tensor(
                        file,
                        &name,
                        format!("in {declared}, as the index says"),
                        "it here",
                    ));
                }
                if let Some(earlier) = tensors.get(&name) {
                    problems.push(TensorProblem::tensor(file, &name, format!("once, in {}", earlier.file), "it again"));
                } else {
                    tensors.insert(name, tensor);
                }
            }
        }
        for (name, file) in &files.index {
            if files.names.contains(file) && !tensors.contains_key(name) && problems.iter().all(|p| p.file != *file) {
                problems.push(TensorProblem::tensor(file, name, "the tensor, as the index says", "nothing"));
            }
        }
        let mut opened = Self { tensors, notes: files.notes.clone() };
        let dir = place.to_owned();
        if problems.is_empty() {
            opened.untie(config);
            opened.set_aside();
            opened.part_experts(config, &mut problems);
        }
        if problems.is_empty() {
            let unexpected = opened.verify(config, &describe(config), &mut problems);
            // One line says more than a thousand tensors that are missing and as many that are not known.
            if let Some(foreign) = Foreign::of_tensors(unexpected.iter().map(String::as_str)) {
                return Err(LoadError::Foreign { dir, foreign });
            }
        }
        if problems.is_empty() { Ok(opened) } else { Err(LoadError::Checkpoint { dir, problems }) }
    }

    /// Lines about what was read otherwise than a user may think.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Some exporters write a tied head a second time; only one that differs from the embedding is a head of its own.
    fn untie(&mut self, config: &mut ModelConfig) {
        if !config.tie_word_embeddings {
            return;
        }
        let embedding = self.tensors.get(EMBEDDING);
        let (Some(head), Some(embedding)) = (self.tensors.get(HEAD), embedding) else { return };
        if (&head.dtype, &head.shape, &*head.bytes) == (&embedding.dtype, &embedding.shape, &*embedding.bytes) {
            self.tensors.remove(HEAD);
            return;
        }
        config.tie_word_embeddings = false;
        self.notes.push(format!(
            "{HEAD} is stored and differs from the embedding although config.json says tie_word_embeddings: the stored \
             head is used, as transformers 5 does."
        ));
    }

    /// Cut tensors that hold all experts of a layer, as transformers 5 stores them, into those of each expert. They are
    /// parts of the same mapped bytes.
    fn part_experts(&mut self, config: &ModelConfig, problems: &mut Vec<TensorProblem>) {
        let Some(moe) = &config.moe else { return };
        let (inner, hidden) = (moe.inner as u64, config.hidden as u64);
        // Behind the layer's name: the tensor, and the matrices of one expert in it from the first row on.
        let fused: [(&str, &[&str], [u64; 2]); 2] = [
            ("gate_up_proj", &["gate_proj", "up_proj"], [inner, hidden]),
            ("down_proj", &["down_proj"], [hidden, inner]),
        ];
        for layer in 0..config.num_layers {
            for (name, matrices, [rows, cols]) in fused {
                let experts = format!("model.layers.{layer}.mlp.experts");
                let whole = format!("{experts}.{name}");
                let Some(tensor) = self.tensors.remove(&whole) else { continue };
                let shape = [moe.num_experts as u64, rows * matrices.len() as u64, cols];
                if tensor.shape != shape {
                    problems.push(TensorProblem::tensor(
                        &tensor.file,
                        &whole,
                        format!("shape {shape:?}"),
                        tensor.found(),
                    ));
                    continue;
                }
                // The header's check made the bytes as many as the shape says.
                let bytes = tensor.bytes.len() / (moe.num_experts * matrices.len());
                let parts = (0..moe.num_experts).flat_map(|expert| matrices.iter().map(move |part| (expert, part)));
                for (index, (expert, part)) in parts.enumerate() {
                    let slice = tensor.bytes.slice(index * bytes..(index + 1) * bytes).expect("a part of the whole");
                    let part_of = Tensor { shape: vec![rows, cols], bytes: slice, ..tensor.clone() };
                    self.tensors.insert(format!("{experts}.{expert}.{part}.weight"), part_of);
                }
            }
        }
    }

    /// Take out tensors that some programs store and that change nothing here.
    fn set_aside(&mut self) {
        for (suffixes, why) in SET_ASIDE {
            let is = |name: &String| suffixes.iter().any(|suffix| name.ends_with(suffix));
            let before = self.tensors.len();
            let first = self.tensors.keys().find(|name| is(name)).cloned();
            self.tensors.retain(|name, _| !is(name));
            if let Some(first) = first {
                let count = before - self.tensors.len();
                self.notes.push(format!("{count} tensors such as {first} are not used: {why}."));
            }
        }
    }

    /// Every tensor by its full name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Check names, types and shapes. Returns the names that the network does not have.
    fn verify(&self, config: &ModelConfig, network: &NetworkSpec, problems: &mut Vec<TensorProblem>) -> Vec<String> {
        let mut wanted = BTreeSet::new();
        for spec in network.tensors() {
            for name in spec.names() {
                match self.tensors.get(&name) {
                    None => {
                        let expected = format!("a tensor {:?}", spec.shape.dims());
                        problems.push(TensorProblem::tensor("(no file)", &name, expected, "nothing"));
                    }
                    Some(tensor) => self.verify_tensor(config, (&name, spec.shape), tensor, problems),
                }
                wanted.extend(SCALES.map(|suffix| format!("{name}{suffix}")));
                wanted.insert(name);
            }
        }
        let unexpected = self.tensors.iter().filter(|(name, _)| !wanted.contains(*name));
        for (name, tensor) in unexpected.clone() {
            let expected = format!("no such tensor in {}", config.architecture);
            problems.push(TensorProblem::tensor(&tensor.file, name, expected, tensor.found()));
        }
        unexpected.map(|(name, _)| name.clone()).collect()
    }

    /// The scales of the FP8 matrix `weight`, with their name.
    fn scales(&self, weight: &str) -> Option<(String, &Tensor)> {
        SCALES.into_iter().find_map(|suffix| {
            let name = format!("{weight}{suffix}");
            let tensor = self.tensors.get(&name)?;
            Some((name, tensor))
        })
    }

    fn verify_tensor(
        &self,
        config: &ModelConfig,
        (weight, shape): (&str, Shape),
        tensor: &Tensor,
        problems: &mut Vec<TensorProblem>,
    ) {
        let found = self.scales(weight);
        let scale_name = found.as_ref().map_or_else(|| format!("{weight}{}", SCALES[0]), |(name, _)| name.clone());
        let scales = found.map(|(_, tensor)| tensor);
        let dims: Vec<u64> = shape.dims().iter().map(|&d| d as u64).collect();
        let mut problem = |name: &str, of: &Tensor, expected: String| {
            problems.push(TensorProblem::tensor(&of.file, name, expected, of.found()));
        };
        if tensor.shape != dims {
            problem(weight, tensor, format!("shape {dims:?}"));
        }
        let quantised = tensor.element() == Some(DType::F8E4M3);
        match (tensor.element(), shape) {
            (None, _) => problem(weight, tensor, "one of BF16, F16, F32, F8_E4M3".into()),
            (Some(DType::F8E4M3), Shape::Vector(_)) => problem(weight, tensor, "one of BF16, F16, F32".into()),
            _ => {}
        }
        if quantised && (!config.fp8 || config.keeps_unquantised(module(weight))) {
            problem(weight, tensor, "an unquantised weight, as config.json says".into());
        }
        match (quantised, scales, shape) {
            (true, None, _) => problem(weight, tensor, format!("`{scale_name}` beside it")),
            (false, Some(scales), _) => problem(&scale_name, scales, "no scales beside an unquantised weight".into()),
            (true, Some(scales), Shape::Matrix(rows, cols)) => {
                let blocks = [rows, cols].map(|n| n.div_ceil(QuantFormat::FP8_BLOCK) as u64);
                let plain = matches!(scales.element(), Some(DType::F32 | DType::BF16));
                if scales.shape != blocks || !plain {
                    problem(&scale_name, scales, format!("F32 or BF16 {blocks:?}"));
                }
            }
            _ => {}
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&Tensor, LoadError> {
        let missing = |found: String| LoadError::Checkpoint {
            dir: "the checkpoint".into(),
            problems: vec![TensorProblem::tensor("(no file)", name, format!("{shape:?}"), found)],
        };
        let tensor = self.tensors.get(name).ok_or_else(|| missing("nothing".into()))?;
        let same = tensor.shape.len() == shape.len() && tensor.shape.iter().zip(shape).all(|(a, b)| *a == *b as u64);
        if same { Ok(tensor) } else { Err(missing(tensor.found())) }
    }
}

impl WeightSource for Safetensors {
    fn parts(&self, spec: &TensorSpec, shard: &Shard) -> Result<Vec<PackedMatrix>, LoadError> {
        let (rows, cols) = spec.matrix();
        let matrix = |index: usize| {
            let name = spec.name(index);
            let tensor = self.tensor(&name, &[rows, cols])?;
            let plain = |format| PackedMatrix::plain(format, rows, cols, tensor.bytes.clone());
            let whole = match tensor.element().expect("verified when opened") {
                DType::F32 => plain(QuantFormat::F32),
                DType::F16 => plain(QuantFormat::F16),
                DType::BF16 => plain(QuantFormat::BF16),
                DType::F8E4M3 => {
                    let blocks = [rows, cols].map(|n| n.div_ceil(QuantFormat::FP8_BLOCK));
                    let (scales, _) = self.scales(&name).expect("verified when opened");
                    let scales = self.tensor(&scales, &blocks)?;
                    PackedMatrix::fp8(rows, cols, tensor.bytes.clone(), floats(scales).into())
                }
            };
            Ok(whole.part(shard.rows.clone(), shard.cols.clone()))
        };
        shard.experts.clone().map(matrix).collect()
    }

    fn formats(&self, spec: &TensorSpec) -> Vec<QuantFormat> {
        let mut formats = Vec::new();
        for element in spec.names().filter_map(|name| self.tensors.get(&name)?.element()) {
            let format = QuantFormat::plain(element);
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        formats
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, LoadError> {
        Ok(floats(self.tensor(&spec.name(0), &spec.shape.dims())?))
    }

    fn num_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.bytes.len() as u64).sum()
    }
}

/// A small tensor of one of the plain types as f32.
fn floats(tensor: &Tensor) -> Vec<f32> {
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
fn read_file(file: &str, bytes: io::Result<SharedBytes>, problems: &mut Vec<TensorProblem>) -> Vec<(String, Tensor)> {
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
