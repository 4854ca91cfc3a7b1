//! [`GgufModel`]: all files of a model, its configuration and its weights.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use quern_backend::{PackedMatrix, QuantFormat, SharedBytes};
use serde_json::{Map, Value};

use super::{FilePiece, GgufBytes, GgufFile, GgufValue, TensorInfo, config, names, sampling};
use crate::{
    GenerationConfig,
    config::ModelConfig,
    network::{NetworkSpec, Shape, TensorSpec},
    shard::Shard,
    weights::{LoadError, TensorProblem, WeightSource, mapping},
};

/// Most files of one model.
const MAX_SPLITS: u64 = 1024;

/// A model out of one file or several.
#[derive(Debug)]
pub struct GgufModel {
    place: String,
    /// Its files; none if it is in memory.
    paths: Vec<PathBuf>,
    first: GgufFile,
    /// Each tensor with the name of its file.
    tensors: BTreeMap<String, (String, TensorInfo)>,
    /// The metadata in the words of `config.json`.
    config: Map<String, Value>,
    generation: GenerationConfig,
}

impl GgufModel {
    /// Map and read `path` and, if it is the first of several, those that follow; if it is a piece of a file that was cut,
    /// all pieces.
    ///
    /// # Errors
    /// If a file is missing, malformed, or not supported.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let refused = |problem| LoadError::Checkpoint { dir: path.display().to_string(), problems: vec![problem] };
        let (first, mut paths) = read(path).map_err(refused)?;
        let mut files = Vec::new();
        let count = first.metadata().get("split.count").and_then(GgufValue::as_u64).unwrap_or(1);
        if count > MAX_SPLITS {
            return Err(refused(TensorProblem::file(first.name(), format!("at most {MAX_SPLITS} files"), count)));
        }
        for number in 2..=count {
            let next = split_path(path, number, count).ok_or_else(|| {
                let expected = format!("a name that ends in -00001-of-{count:05}.gguf, the first of its files");
                refused(TensorProblem::file(first.name(), expected, path.display()))
            })?;
            let (file, next) = read(&next).map_err(refused)?;
            // Counted from 0 there.
            let stated = file.metadata().get("split.no").and_then(GgufValue::as_u64);
            if stated != Some(number - 1) {
                let found = stated.map_or_else(|| "nothing".to_owned(), |no| no.to_string());
                let expected = format!("split.no {}, as its name says", number - 1);
                return Err(refused(TensorProblem::file(file.name(), expected, found)));
            }
            files.push(file);
            paths.extend(next);
        }
        Self::gather(path.display().to_string(), paths, first, files).map_err(refused)
    }

    /// The same for one file that is in memory. `place` names it in errors.
    ///
    /// # Errors
    /// If the file is malformed or not supported.
    pub fn embedded(place: &str, bytes: &SharedBytes) -> Result<Self, LoadError> {
        let refused = |problem| LoadError::Checkpoint { dir: place.to_owned(), problems: vec![problem] };
        let first = GgufFile::parse(place, bytes).map_err(refused)?;
        Self::gather(place.to_owned(), Vec::new(), first, Vec::new()).map_err(refused)
    }

    /// What the headers of its `files` say of a model that is not here yet: its configuration, and its tensors without
    /// their bytes. It can be verified and planned for, not loaded. `place` names it in errors.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn announced(place: &str, files: Vec<GgufFile>) -> Result<Self, LoadError> {
        let refused = |problem| LoadError::Checkpoint { dir: place.to_owned(), problems: vec![problem] };
        let mut files = files.into_iter();
        let first = files.next().ok_or_else(|| refused(TensorProblem::file("(no file)", "a file", "nothing")))?;
        Self::gather(place.to_owned(), Vec::new(), first, files.collect()).map_err(refused)
    }

    fn gather(
        place: String,
        paths: Vec<PathBuf>,
        first: GgufFile,
        others: Vec<GgufFile>,
    ) -> Result<Self, TensorProblem> {
        let mut tensors: BTreeMap<String, (String, TensorInfo)> = BTreeMap::new();
        for file in std::iter::once(&first).chain(&others) {
            for tensor in file.tensors() {
                let entry = (file.name().to_owned(), tensor.clone());
                if let Some((earlier, _)) = tensors.insert(tensor.name.clone(), entry) {
                    return Err(TensorProblem::tensor(
                        file.name(),
                        &tensor.name,
                        format!("once, in {earlier}"),
                        "it again",
                    ));
                }
            }
        }
        let stated = first.metadata().get("split.tensors.count").and_then(GgufValue::as_u64);
        if let Some(stated) = stated.filter(|&stated| stated != tensors.len() as u64) {
            return Err(TensorProblem::file(first.name(), format!("{stated} tensors in all files"), tensors.len()));
        }
        let config = config::config(&first, |name| tensors.get(name).map(|(_, tensor)| tensor))?;
        let generation = sampling::read(&first)?;
        Ok(Self { place, paths, first, tensors, config, generation })
    }

    /// Its files, none if it is in memory.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What the first file says of the model.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        self.first.metadata()
    }

    /// The metadata in the words of `config.json`.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The sampling that the first file recommends.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// File, name and tensor of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.values().map(|(file, tensor)| (file.as_str(), tensor))
    }

    /// Check that the files hold exactly the tensors of `network`, which `config` describes. Lists everything that is
    /// wrong.
    ///
    /// # Errors
    /// If they hold others.
    pub fn verify(&self, network: &NetworkSpec, config: &ModelConfig) -> Result<(), LoadError> {
        let mut problems = Vec::new();
        let mut wanted: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for spec in network.tensors() {
            let TensorPlace { name, dims, .. } = self.place(spec);
            if let (Shape::Vector(_), Some((file, tensor))) = (spec.shape, self.tensors.get(&name))
                && tensor.format.element().is_none()
            {
                problems.push(TensorProblem::tensor(file, &name, "one of f32, f16, bf16", tensor.found()));
            }
            wanted.insert(name, dims);
        }
        for (name, dims) in &wanted {
            match self.tensors.get(name) {
                None => {
                    problems.push(TensorProblem::tensor("(no file)", name, format!("a tensor {dims:?}"), "nothing"))
                }
                Some((file, tensor)) if tensor.dims != *dims => {
                    problems.push(TensorProblem::tensor(file, name, format!("sizes {dims:?}"), tensor.found()));
                }
                Some(_) => {}
            }
        }
        for (name, (file, tensor)) in &self.tensors {
            if let Some((whole, expected)) = self.factors_of(name) {
                if !(tensor.format == QuantFormat::F32 && tensor.dims == expected) {
                    let expected = format!("f32 {expected:?}, since `{whole}` is in {}", QuantFormat::Nvfp4);
                    problems.push(TensorProblem::tensor(file, name, expected, tensor.found()));
                }
            } else if !wanted.contains_key(name) {
                let expected = format!("no such tensor in {}", config.architecture);
                problems.push(TensorProblem::tensor(file, name, expected, tensor.found()));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(LoadError::Checkpoint { dir: self.place.clone(), problems })
    }

    /// The encodings of the matrices, in the order of their names.
    pub fn all_formats(&self) -> Vec<QuantFormat> {
        let mut formats = Vec::new();
        for (_, tensor) in self.tensors.values().filter(|(_, tensor)| tensor.dims.len() > 1) {
            if !formats.contains(&tensor.format) {
                formats.push(tensor.format);
            }
        }
        formats
    }

    /// Bytes of all tensors in the files.
    pub fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, tensor)| tensor.stored_bytes).sum()
    }

    /// Of the tensor `name`, if it holds factors beside a tensor in NVFP4: that tensor's name, and the sizes that they
    /// have, a number for each matrix. Those of inputs are not used, since inputs are not rounded to E2M1.
    fn factors_of(&self, name: &str) -> Option<(String, Vec<u64>)> {
        let module = name.strip_suffix(".scale").or_else(|| name.strip_suffix(".input_scale"))?;
        let whole = format!("{module}.weight");
        let (_, tensor) = self.tensors.get(&whole)?;
        let count = tensor.dims.get(2).copied().unwrap_or(1);
        (tensor.format == QuantFormat::Nvfp4).then(|| (whole, vec![count]))
    }

    /// Where `spec` is stored.
    fn place(&self, spec: &TensorSpec) -> TensorPlace {
        let (name, mut dims) = (names::of(spec), names::dims(spec));
        match names::fused(spec) {
            Some((fused, half)) if !self.tensors.contains_key(&name) && self.tensors.contains_key(&fused) => {
                dims[1] *= 2;
                TensorPlace { name: fused, dims, part: half, parts: 2 }
            }
            _ => TensorPlace { name, dims, part: 0, parts: 1 },
        }
    }

    /// The tensor that holds `spec`, of the sizes that were verified.
    fn find(&self, TensorPlace { name, dims, .. }: &TensorPlace) -> Result<&TensorInfo, LoadError> {
        let found = self.tensors.get(name).map(|(_, tensor)| tensor);
        found.filter(|tensor| tensor.dims == *dims).ok_or_else(|| {
            let found = found.map_or_else(|| "nothing".into(), TensorInfo::found);
            let problem = TensorProblem::tensor("(no file)", name, format!("a tensor {dims:?}"), found);
            LoadError::Checkpoint { dir: self.place.clone(), problems: vec![problem] }
        })
    }

    /// The same, whose bytes must be here.
    fn find_bytes(&self, place: &TensorPlace) -> Result<&TensorInfo, LoadError> {
        let tensor = self.find(place)?;
        if tensor.bytes.len() as u64 == tensor.stored_bytes {
            return Ok(tensor);
        }
        let problem = TensorProblem::tensor(self.first.name(), &place.name, "its bytes", "only the file's header");
        Err(LoadError::Checkpoint { dir: self.place.clone(), problems: vec![problem.broken()] })
    }
}

impl WeightSource for GgufModel {
    fn parts(&self, spec: &TensorSpec, shard: &Shard) -> Result<Vec<PackedMatrix>, LoadError> {
        let place = self.place(spec);
        let tensor = self.find_bytes(&place)?;
        let (rows, cols) = spec.matrix();
        let len = rows * tensor.format.row_bytes(cols);
        let part = |index: usize| {
            let index = index * place.parts + place.part;
            let bytes = tensor.bytes.slice(index * len..(index + 1) * len).expect("sizes that were verified");
            PackedMatrix::plain(tensor.format, rows, cols, bytes).part(shard.rows.clone(), shard.cols.clone())
        };
        let factors = self.tensors.get(&names::factors(&place.name)).map(|(_, factors)| &factors.bytes);
        let scaled = |index: usize| match factors.and_then(|bytes| bytes.as_chunks().0.get(index)) {
            Some(factor) if tensor.format == QuantFormat::Nvfp4 => part(index).scaled_by(f32::from_le_bytes(*factor)),
            _ => part(index),
        };
        Ok(shard.experts.clone().map(scaled).collect())
    }

    fn formats(&self, spec: &TensorSpec) -> Vec<QuantFormat> {
        self.find(&self.place(spec)).map_or_else(|_| Vec::new(), |tensor| vec![tensor.format])
    }

    /// Its header says it.
    fn part_bytes(&self, spec: &TensorSpec, shard: &Shard) -> Result<u64, LoadError> {
        let format = self.find(&self.place(spec))?.format;
        let rows = (shard.experts.len() * shard.rows.len()) as u64;
        Ok(rows * format.held_row_bytes(shard.cols.len()) as u64)
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, LoadError> {
        let tensor = self.find_bytes(&self.place(spec))?;
        let len = spec.shape.dims()[0];
        let mut values = vec![0.0; len];
        PackedMatrix::plain(tensor.format, 1, len, tensor.bytes.clone()).decode_row(0, &mut values);
        Ok(values)
    }

    fn num_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, tensor)| tensor.held_bytes()).sum()
    }
}

/// Where the matrices of a [`TensorSpec`] are stored.
struct TensorPlace {
    name: String,
    /// Sizes, innermost first.
    dims: Vec<u64>,
    /// Of `parts` matrices of one expert in the tensor, which one it is.
    part: usize,
    parts: usize,
}

/// The file at `path` and where it lies: there, or in pieces beside one another of which `path` is one.
fn read(path: &Path) -> Result<(GgufFile, Vec<PathBuf>), TensorProblem> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let map = |path: &Path| {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        mapping::map(path).map_err(|cause| TensorProblem::file(&name, "a readable file", cause))
    };
    let Some(piece) = FilePiece::of(&name) else {
        return Ok((GgufFile::parse(&name, &map(path)?)?, vec![path.to_owned()]));
    };
    let beside = fs::read_dir(path.parent().unwrap_or(path)).into_iter().flatten().flatten();
    let beside: Vec<String> = beside.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let names = piece.all_among(beside.iter().map(String::as_str)).map_err(|missing| {
        TensorProblem::file(&name, format!("{missing} beside it"), "nothing").mended_by(ALL_PIECES)
    })?;
    let paths: Vec<PathBuf> = names.iter().map(|name| path.with_file_name(name)).collect();
    let pieces = paths.iter().map(|path| map(path)).collect::<Result<_, _>>()?;
    Ok((GgufFile::read(piece.whole(), &GgufBytes::joined(pieces))?, paths))
}

/// What to do where a piece is missing.
const ALL_PIECES: &str = "Fetch all pieces into one folder; they need not be joined.";

/// File `number` of `count`, where `first` is the first: `…-00002-of-00003.gguf`.
fn split_path(first: &Path, number: u64, count: u64) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(first.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf")))
}
