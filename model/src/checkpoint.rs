//! [`Checkpoint`]: a model's files, in a folder or in memory, read and verified, ready to be loaded into a
//! backend.

use std::path::{Path, PathBuf};

use quern_backend::{QuantFormat, SharedBytes};
use serde_json::{Map, Value};

use crate::{
    config::ModelConfig,
    foreign::Foreign,
    generation_config::GenerationConfig,
    gguf::GgufModel,
    network::{NetworkSpec, Shape},
    split::{Parallelism, Split},
    split_error::SplitError,
    weights::{
        LoadError, QuantRecipe, Quantised, WeightSource,
        dummy::DummyWeights,
        safetensors::Safetensors,
        scan::{self, Scanned},
    },
};

/// Where weights are to come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightOrigin {
    /// The folder's safetensors files.
    #[default]
    Safetensors,
    /// Random numbers; only `config.json` is read.
    Dummy,
}

/// How to read a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// Where weights come from.
    pub weight_origin: WeightOrigin,
    /// Merged over the top level of `config.json`.
    pub config_overrides: Option<Map<String, Value>>,
}

/// A verified checkpoint. Its weights are mapped; read are only the small tensors that say how others are stored.
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    network: NetworkSpec,
    generation: GenerationConfig,
    source: TensorSource,
    recipe: Option<QuantRecipe>,
    notes: Vec<String>,
}

enum TensorSource {
    Files(Box<Safetensors>),
    Gguf(Box<GgufModel>),
    Dummy(DummyWeights),
}

impl Checkpoint {
    /// Read the configs of `dir` and verify that its files hold exactly the network's tensors.
    ///
    /// # Errors
    /// If a file cannot be read, is of another program, or holds other tensors than the network has.
    pub fn open(dir: &Path, options: &CheckpointOptions) -> Result<Self, LoadError> {
        if let Some(foreign) = Foreign::in_dir(dir) {
            return Err(LoadError::Foreign { dir: dir.display().to_string(), foreign });
        }
        let mut config = ModelConfig::open(dir, options.config_overrides.as_ref())?;
        let generation = GenerationConfig::open(dir)?;
        let source = match options.weight_origin {
            WeightOrigin::Safetensors => {
                TensorSource::Files(Box::new(Safetensors::open(dir, &mut config, ModelConfig::network)?))
            }
            WeightOrigin::Dummy => TensorSource::Dummy(DummyWeights::new(&config.network(), &config)),
        };
        Ok(Self::of(dir.to_path_buf(), config, generation, source))
    }

    /// The same for a model whose configs and safetensors files, `(name, bytes)` of each, are in memory
    /// already. `place` names it in errors.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn embedded(
        place: &str,
        mut config: ModelConfig,
        generation: GenerationConfig,
        files: &[(&str, SharedBytes)],
    ) -> Result<Self, LoadError> {
        let files = Safetensors::embedded(place, files, &mut config, ModelConfig::network)?;
        let source = TensorSource::Files(Box::new(files));
        Ok(Self::of(place.into(), config, generation, source))
    }

    fn of(dir: PathBuf, config: ModelConfig, generation: GenerationConfig, source: TensorSource) -> Self {
        let notes = match &source {
            TensorSource::Files(files) => files.notes().to_vec(),
            TensorSource::Gguf(_) | TensorSource::Dummy(_) => Vec::new(),
        };
        let network = config.network();
        Self { dir, config, network, generation, source, recipe: None, notes }
    }

    /// A model in llama.cpp's format; `overrides` are merged over its configuration in `config.json`'s words.
    ///
    /// # Errors
    /// If the config is not supported, or the files hold other tensors than the network has.
    pub fn gguf(model: GgufModel, overrides: &Map<String, Value>) -> Result<Self, LoadError> {
        let config = ModelConfig::overridden(model.config().clone(), overrides)?;
        model.verify(&config.network(), &config)?;
        let generation = model.generation().clone();
        Ok(Self::of(PathBuf::new(), config, generation, TensorSource::Gguf(Box::new(model))))
    }

    /// Random weights for configs that are already in memory.
    pub fn dummy(config: ModelConfig, generation: GenerationConfig) -> Self {
        let source = TensorSource::Dummy(DummyWeights::new(&config.network(), &config));
        Self::of(PathBuf::new(), config, generation, source)
    }

    /// The same, to be quantised as it is loaded.
    pub fn quantised(self, recipe: Option<QuantRecipe>) -> Self {
        Self { recipe, ..self }
    }

    /// Lines for the log about what was read otherwise than a user may think.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its files in llama.cpp's format; none if it is of another kind, or in memory.
    pub fn gguf_files(&self) -> &[PathBuf] {
        match &self.source {
            TensorSource::Gguf(model) => model.paths(),
            TensorSource::Files(_) | TensorSource::Dummy(_) => &[],
        }
    }

    /// How its weights are quantised as they are loaded.
    pub fn recipe(&self) -> Option<QuantRecipe> {
        self.recipe
    }

    /// The network's numbers.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its tensors.
    pub fn network(&self) -> &NetworkSpec {
        &self.network
    }

    /// The recommended sampling.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Tokens that end a sequence: those of both configs.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let mut ids = self.config.eos_token_ids.clone();
        ids.extend(&self.generation.eos_token_ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Bytes of all weights as they are held once loaded.
    pub fn weight_bytes(&self) -> u64 {
        self.quantised_weights().map_or(self.weights().num_bytes(), |weights| weights.num_bytes())
    }

    /// The encodings of the matrices as they are held once loaded.
    pub fn formats(&self) -> Vec<QuantFormat> {
        if let Some(weights) = self.quantised_weights() {
            return weights.all_formats().to_vec();
        }
        match &self.source {
            TensorSource::Files(files) => files.all_formats().to_vec(),
            TensorSource::Gguf(model) => model.all_formats(),
            TensorSource::Dummy(dummy) => dummy.all_formats().to_vec(),
        }
    }

    /// Whether a matrix is stored in FP8 with a scale for each row; of random weights, whether those that they stand for
    /// are said to be.
    pub fn has_row_scales(&self) -> bool {
        match &self.source {
            TensorSource::Files(files) => files.has_row_scales(),
            TensorSource::Gguf(_) => false,
            TensorSource::Dummy(_) => self.config.quantization.as_ref().is_some_and(|stored| stored.has_row_scales),
        }
    }

    /// The weights as they are to be held, if that is not as they are stored.
    pub fn quantised_weights(&self) -> Option<Quantised<'_>> {
        self.recipe.map(|recipe| Quantised::new(self.weights(), recipe, &self.network))
    }

    /// What each rank holds if the network is divided like this.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn split(&self, parallelism: Parallelism) -> Result<Vec<Split>, SplitError> {
        self.with_held_weights(|weights| Split::ranks(parallelism, &self.config, &self.network, weights))
    }

    /// Bytes of the weights that `part` holds, once loaded.
    ///
    /// # Errors
    /// If a tensor is missing.
    pub fn part_bytes(&self, part: &Split) -> Result<u64, LoadError> {
        let matrices = self.with_held_weights(|weights| part.matrix_bytes(&self.network, weights))?;
        // Vectors are on every rank but for a few kilobytes of biases; they are held as f32 where all is quantised.
        let size = if self.recipe.is_some() { 4 } else { 2 };
        let vectors = self.network.tensors().iter().filter(|tensor| matches!(tensor.shape, Shape::Vector(_)));
        Ok(matrices + vectors.map(|tensor| size * tensor.params() as u64).sum::<u64>())
    }

    /// Call `f` with the weights as they are to be held.
    pub(crate) fn with_held_weights<T>(&self, f: impl FnOnce(&dyn WeightSource) -> T) -> T {
        let quantised = self.quantised_weights();
        f(quantised.as_ref().map_or(self.weights(), |weights| weights as &dyn WeightSource))
    }

    /// Where the weights come from, as they are stored.
    pub fn weights(&self) -> &dyn WeightSource {
        match &self.source {
            TensorSource::Files(files) => &**files,
            TensorSource::Gguf(model) => &**model,
            TensorSource::Dummy(dummy) => dummy,
        }
    }

    /// Whether the weights are random.
    pub fn is_dummy(&self) -> bool {
        matches!(self.source, TensorSource::Dummy(_))
    }

    /// Bytes that [`scan`](Self::scan) reads.
    pub fn scanned_bytes(&self) -> u64 {
        match &self.source {
            TensorSource::Files(files) => files.scanned_bytes(),
            TensorSource::Gguf(model) => model.stored_bytes(),
            TensorSource::Dummy(_) => 0,
        }
    }

    /// Read every weight once and refuse values that are no numbers. `advanced` hears of bytes read, of
    /// those that are stored in all.
    ///
    /// # Errors
    /// For the tensors that hold a value that is not finite.
    pub fn scan(&self, threads: usize, advanced: &mut dyn FnMut(u64)) -> Result<(), LoadError> {
        let tensors: Vec<Scanned<'_>> = match &self.source {
            TensorSource::Files(files) => files.tensors().iter().filter_map(|(name, t)| t.scanned(name)).collect(),
            TensorSource::Gguf(model) => model.tensors().map(|(file, t)| t.scanned(file)).collect(),
            TensorSource::Dummy(_) => return Ok(()),
        };
        let problems = scan::non_finite(&tensors, threads, advanced);
        if problems.is_empty() {
            return Ok(());
        }
        Err(LoadError::Checkpoint { dir: self.dir.display().to_string(), problems })
    }
}
