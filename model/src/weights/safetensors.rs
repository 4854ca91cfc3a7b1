//! [`Safetensors`]: checkpoints in the safetensors format, mapped, and the check that the files hold exactly the
//! network's tensors.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use quern_backend::{DType, PackedMatrix, QuantFormat, SharedBytes};

pub use super::tensor::{Tensor, fuzz_header};
use super::{
    LoadError, TensorProblem, WeightSource,
    contents::ContentCheck,
    files::Files,
    mapping,
    stacked::{Tensors, cut_experts, insert},
    stored::{Lookup, SCALES, StoredMatrix},
    tensor::{floats, read_file},
    transcoded,
};
use crate::{
    config::{ModelConfig, Quantization},
    foreign::Foreign,
    network::{Describe, EMBEDDING, HEAD, NetworkSpec, Shape, TensorSpec},
    shard::Shard,
};

/// Ends of names of tensors that are passed over, and why they change nothing.
const SET_ASIDE: [(&[&str], &str); 3] = [
    (&["rotary_emb.inv_freq"], "the angles of positions follow from config.json"),
    (&[".k_scale", ".v_scale"], "keys and values are stored without scales"),
    (&[".input_scale", ".input_global_scale"], "inputs of products are not rounded to FP8 or FP4"),
];

/// A checkpoint's tensors, verified against a config.
#[derive(Debug)]
pub struct Safetensors {
    place: String,
    tensors: Tensors,
    notes: Vec<String>,
    /// How quantised matrices are stored.
    quantization: Option<Quantization>,
    /// Matrices of integers that are held as F32: blocks would not hold the same numbers.
    widened: BTreeSet<String>,
    /// Matrices of integers in which columns of several groups would share a block.
    scattered: BTreeSet<String>,
    formats: Vec<QuantFormat>,
    has_row_scales: bool,
    num_bytes: u64,
}

/// A matrix of integers that blocks cannot hold.
struct Widened {
    name: String,
    /// As F32.
    bytes: u64,
    /// Why blocks cannot.
    problem: TensorProblem,
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
        let mut tensors = Tensors::new();
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
                insert(&mut tensors, (name, tensor), "it again", &mut problems);
            }
        }
        for (name, file) in &files.index {
            if files.names.contains(file) && !tensors.contains_key(name) && problems.iter().all(|p| p.file != *file) {
                problems.push(TensorProblem::tensor(file, name, "the tensor, as the index says", "nothing"));
            }
        }
        let mut opened = Self {
            place: place.to_owned(),
            tensors,
            notes: files.notes.clone(),
            quantization: config.quantization.clone(),
            widened: BTreeSet::new(),
            scattered: BTreeSet::new(),
            formats: Vec::new(),
            has_row_scales: false,
            num_bytes: 0,
        };
        let dir = place.to_owned();
        if problems.is_empty() {
            opened.untie(config);
            opened.set_aside();
            cut_experts(&mut opened.tensors, config, &mut problems);
        }
        if problems.is_empty() {
            let unexpected = opened.verify(config, &describe(config), &mut problems);
            // One line says more than a thousand tensors that are missing and as many that are not known. Where none is
            // missing, what is not known is a few strays.
            let foreign = Foreign::of_tensors(unexpected.iter().map(String::as_str));
            if let Some(foreign) = foreign.filter(|_| problems.len() > unexpected.len()) {
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

    /// The encodings of the matrices as they are computed with, that of most bytes first.
    pub fn all_formats(&self) -> &[QuantFormat] {
        &self.formats
    }

    /// Whether a matrix is in FP8 with a scale for each row.
    pub fn has_row_scales(&self) -> bool {
        self.has_row_scales
    }

    /// Bytes of the tensors that a scan looks at.
    pub fn scanned_bytes(&self) -> u64 {
        self.tensors.iter().filter_map(|(name, tensor)| tensor.scanned(name)).map(|t| t.bytes.len() as u64).sum()
    }

    fn lookup(&self) -> Lookup<'_> {
        let (tensors, quantization) = (&self.tensors, self.quantization.as_ref());
        Lookup { tensors, quantization, widened: &self.widened, scattered: &self.scattered }
    }

    /// Check names, types and shapes, and count what is to be held. Returns the names that the network does not have.
    fn verify(
        &mut self,
        config: &ModelConfig,
        network: &NetworkSpec,
        problems: &mut Vec<TensorProblem>,
    ) -> Vec<String> {
        self.scattered = self.find_scattered(network);
        let mut wanted = BTreeSet::new();
        let mut unpacked: Option<(String, QuantFormat, usize)> = None;
        let mut held: Vec<(QuantFormat, u64)> = Vec::new();
        let mut widened = Vec::new();
        let (mut vector_bytes, mut has_row_scales) = (0, false);
        for spec in network.tensors() {
            for name in spec.names() {
                match spec.shape {
                    Shape::Vector(len) => {
                        problems.extend(self.verify_vector(&name, len));
                        vector_bytes += self.tensors.get(&name).map_or(0, |tensor| tensor.bytes.len() as u64);
                    }
                    Shape::Matrix(rows, cols) => match self.lookup().matrix(spec.role, &name, (rows, cols)) {
                        Ok(matrix) => {
                            has_row_scales |= matrix.has_row_scales();
                            wanted.extend(matrix.names.iter().map(|name| (*name).to_owned()));
                            problems.extend(matrix.checks.iter().filter_map(ContentCheck::problem));
                            if matrix.is_unpacked() {
                                unpacked.get_or_insert((name.clone(), matrix.format(), 0)).2 += 1;
                            }
                            match matrix.inexact() {
                                None => held.push((matrix.format(), matrix.num_bytes())),
                                Some(problem) => {
                                    let bytes = 4 * (rows * cols) as u64;
                                    held.push((QuantFormat::F32, bytes));
                                    widened.push(Widened { name: name.clone(), bytes, problem });
                                }
                            }
                        }
                        Err(found) => {
                            // What is wrong with some of them is said; the others are no surprise.
                            wanted.extend(self.lookup().parts(&name));
                            wanted.extend(SCALES.map(|suffix| format!("{name}{suffix}")));
                            problems.extend(found);
                        }
                    },
                }
                wanted.insert(name);
            }
        }
        let stray =
            |(name, tensor): &(&String, &Tensor)| !wanted.contains(*name) && !adds_nothing(name, tensor, &wanted);
        let unexpected = self.tensors.iter().filter(stray);
        for (name, tensor) in unexpected.clone() {
            let expected = format!("no such tensor in {}", config.architecture);
            problems.push(TensorProblem::tensor(&tensor.file, name, expected, tensor.found()));
        }
        let unexpected = unexpected.map(|(name, _)| name.clone()).collect();
        self.has_row_scales = has_row_scales;
        self.count(&held, vector_bytes);
        self.widen(widened, problems);
        self.notes.extend(unpacked.map(|(name, format, count)| {
            format!(
                "{count} matrices such as {name} are held number by number, as {format}: no blocks hold theirs. \
                 --quantization q8_0 (or q4_k_m, …) rounds them to blocks."
            )
        }));
        unexpected
    }

    /// The matrices in which columns of several groups would share a block. Nothing is read where no column says which
    /// group it is in.
    fn find_scattered(&self, network: &NetworkSpec) -> BTreeSet<String> {
        if !self.tensors.keys().any(|name| name.ends_with("g_idx")) {
            return BTreeSet::new();
        }
        let lookup = self.lookup();
        let matrices = network.tensors().iter().filter(|spec| matches!(spec.shape, Shape::Matrix(..)));
        let names = matrices.flat_map(|spec| spec.names().map(move |name| (spec, name)));
        let scattered = names.filter(|(spec, name)| {
            lookup.matrix(spec.role, name, spec.matrix()).is_ok_and(|matrix| matrix.is_scattered())
        });
        scattered.map(|(_, name)| name).collect()
    }

    /// Hold as F32 what blocks cannot hold, if most of the bytes are something else's: these matrices are to be an
    /// exception, not eight times a quantised model's memory.
    fn widen(&mut self, widened: Vec<Widened>, problems: &mut Vec<TensorProblem>) {
        let Some(Widened { name: first, problem, .. }) = widened.first() else { return };
        if widened.iter().map(|matrix| matrix.bytes).sum::<u64>() > self.num_bytes / 2 {
            problems.extend(widened.into_iter().map(|matrix| matrix.problem));
            return;
        }
        let (count, found) = (widened.len(), &problem.found);
        self.notes.push(format!(
            "{count} matrices such as {first} are held as F32, since blocks would not hold the same numbers: {found}."
        ));
        self.widened = widened.into_iter().map(|matrix| matrix.name).collect();
    }

    /// Add up what matrices are `held` as, bytes of each.
    fn count(&mut self, held: &[(QuantFormat, u64)], vector_bytes: u64) {
        let mut sums: Vec<(QuantFormat, u64)> = Vec::new();
        for &(format, bytes) in held {
            match sums.iter_mut().find(|(known, _)| *known == format) {
                Some((_, sum)) => *sum = sum.saturating_add(bytes),
                None => sums.push((format, bytes)),
            }
        }
        sums.sort_by_key(|&(_, bytes)| Reverse(bytes));
        self.formats = sums.iter().map(|(format, _)| *format).collect();
        self.num_bytes = vector_bytes + sums.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }

    /// What is wrong with the vector `name`.
    fn verify_vector(&self, name: &str, len: usize) -> Option<TensorProblem> {
        let dims = [len as u64];
        let Some(tensor) = self.tensors.get(name) else {
            return Some(TensorProblem::tensor("(no file)", name, format!("a tensor {dims:?}"), "nothing"));
        };
        let expected = match tensor.element() {
            None | Some(DType::F8E4M3) => "one of BF16, F16, F32".into(),
            Some(_) if tensor.shape != dims => format!("shape {dims:?}"),
            Some(_) => return None,
        };
        Some(TensorProblem::tensor(&tensor.file, name, expected, tensor.found()))
    }

    /// These problems of tensors.
    fn unusable(&self, problems: Vec<TensorProblem>) -> LoadError {
        LoadError::Checkpoint { dir: self.place.clone(), problems }
    }

    /// The matrices of `spec` that `shard` has parts of, as they are stored.
    fn stored(&self, spec: &TensorSpec, shard: &Shard) -> Result<Vec<StoredMatrix<'_>>, LoadError> {
        let lookup = self.lookup();
        let matrix = |index| lookup.matrix(spec.role, &spec.name(index), spec.matrix());
        shard.experts.clone().map(matrix).collect::<Result<_, _>>().map_err(|problems| self.unusable(problems))
    }
}

impl WeightSource for Safetensors {
    fn parts(&self, spec: &TensorSpec, shard: &Shard) -> Result<Vec<PackedMatrix>, LoadError> {
        let stored = self.stored(spec, shard)?;
        transcoded::loaded(&stored, &shard.rows, &shard.cols).map_err(|problem| self.unusable(vec![problem]))
    }

    fn formats(&self, spec: &TensorSpec) -> Vec<QuantFormat> {
        let lookup = self.lookup();
        let mut formats = Vec::new();
        for matrix in spec.names().filter_map(|name| lookup.matrix(spec.role, &name, spec.matrix()).ok()) {
            if !formats.contains(&matrix.format()) {
                formats.push(matrix.format());
            }
        }
        formats
    }

    fn part_bytes(&self, spec: &TensorSpec, shard: &Shard) -> Result<u64, LoadError> {
        let stored = self.stored(spec, shard)?;
        Ok(stored.iter().map(|matrix| matrix.part_bytes(&shard.rows, &shard.cols)).sum())
    }

    fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>, LoadError> {
        let name = spec.name(0);
        let Shape::Vector(len) = spec.shape else { panic!("{name} is a matrix") };
        match self.verify_vector(&name, len) {
            None => Ok(floats(&self.tensors[&name])),
            Some(problem) => Err(self.unusable(vec![problem])),
        }
    }

    fn num_bytes(&self) -> u64 {
        self.num_bytes
    }
}

/// A bias of zeros of a matrix that has none: programs that quantise give one to each.
fn adds_nothing(name: &str, tensor: &Tensor, wanted: &BTreeSet<String>) -> bool {
    let of_a_matrix = name.strip_suffix(".bias").is_some_and(|module| wanted.contains(&format!("{module}.weight")));
    of_a_matrix && tensor.bytes.iter().all(|byte| *byte == 0)
}
