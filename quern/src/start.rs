//! The way from a command line to an engine that runs: [`Prepared`], then a [`Service`].

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use quern_api::{ModelCard, Service, config::ToolCallParser, listen::BoundAddress, model_card::Recommended};
use quern_backend::{Backend, Device, KvFormat, Precision};
use quern_cpu::{CpuBackend, CpuConfig, CpuError, Isa, OnSaved, PackedWeightCache};
use quern_engine::{EngineHandle, FailureObserver};
use quern_gpu::GpuBackend;
use quern_model::{Checkpoint, Model, RankLoader, Ranks, Split, StepCost, StepLimits};
use quern_ranks::{NodeRank, Peers, StepBounds};
use quern_text::{ChatTemplate, Tokenizer};

use crate::{
    cli::ServeArgs,
    config::{Config, CpuFlags, CpuIsa, DeviceSettings, EngineSettings, LoadFormat, model::ModelPaths},
    configure::table::Table,
    gpus,
    hub::Wanted,
    machine::{self, Machine},
    memory::gib,
    model_files::{ModelFiles, Source, Unfetched},
    nodes::{Follower, Met},
    progress::ByteProgress,
    resolve::{self, Decision, Facts, Host, WeightFacts},
    start_error::StartError,
    summary,
    weight_cache::{Found, WeightFile},
};

/// Everything that is known before weights are read.
pub struct Prepared {
    /// What was decided.
    pub config: Config,
    /// Lines for the log.
    pub notes: Vec<String>,
    /// The model, its weights still on disk.
    pub checkpoint: Checkpoint,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
}

impl Prepared {
    /// Find the model (downloading it if need be), read all of it but the weights, and decide. The memory is that of
    /// `processes` like this one.
    ///
    /// # Errors
    /// If it cannot be found, fetched or read, or what was asked for and the model do not go together.
    pub async fn new(args: &ServeArgs, processes: usize) -> Result<Self, StartError> {
        let mut notes = args.check()?;
        let host = Host { gpu: gpus::find(&args.device, &mut notes)?, ..Host::probe(processes) };
        let source = source(args);
        let files = ModelFiles::locate_judged(&source, |unfetched| judge(args, host, unfetched)).await?;
        let tokenizer_files = files.with_tokenizer_at(args.model.tokenizer_path.as_deref(), &source).await?;

        let load_format = args.model.load_format(files.is_gguf())?;
        let checkpoint = files.checkpoint(load_format, &args.model.json_model_override_args)?;
        let recipe = args.model.recipe(checkpoint.config().is_fp8())?;
        let checkpoint = checkpoint.quantised(recipe);
        let place = tokenizer_files.place();
        let tokenizer =
            tokenizer_files.tokenizer().map_err(|cause| StartError::Tokenizer { place: place.clone(), cause })?;
        if tokenizer.vocab_size() > checkpoint.config().vocab_size {
            let (tokenizer, model) = (tokenizer.vocab_size(), checkpoint.config().vocab_size);
            return Err(StartError::Vocabulary { place, tokenizer, model });
        }
        let (file, name) =
            (args.api.template.chat_template.as_deref(), args.api.template.hf_chat_template_name.as_deref());
        let template = tokenizer_files.chat_template(&tokenizer, file, name).map_err(|cause| {
            let place = file.map_or_else(|| place.clone(), |file| file.display().to_string());
            StartError::Template { place, cause }
        })?;
        if let (None, Some(name)) = (&template, name) {
            return Err(StartError::NoSuchTemplate { name: name.to_owned(), place });
        }

        let facts = Facts {
            network: checkpoint.config(),
            weights: WeightFacts::of(&checkpoint, args.device.parallel.options())?,
            load_format,
            places: ModelPaths { model: files.dir().map(Into::into), tokenizer: tokenizer_files.dir().map(Into::into) },
            template_parser: template.as_ref().and_then(|template| {
                ToolCallParser::of_template(template.tool_use_source().unwrap_or(template.source()))
            }),
            host,
        };
        let Decision { config, mut notes } = resolve::resolve(args, facts, notes)?;
        notes.extend_from_slice(checkpoint.notes());
        notes.extend(config.device.advice(machine::memory_nodes(), &checkpoint));
        if template.is_none() {
            notes.push("The model has no chat template; chat requests are refused (--chat-template gives one).".into());
        }
        Ok(Self { config, notes, checkpoint, tokenizer, template })
    }

    /// Read the weights into what was chosen, which is a part of what node 0 computes on: what follows it.
    ///
    /// # Errors
    /// If a weight cannot be read or memory is too scarce.
    pub fn follow(self, chosen: Chosen, met: &Met, address: BoundAddress) -> Result<Follower, StartError> {
        let Self { config, checkpoint, .. } = self;
        scan(&config, &checkpoint, &chosen)?;
        let limits = config.engine.limits(met.max_tokens, config.model.kv_cache_dtype);
        let bounds = StepBounds {
            max_tokens: limits.max_tokens,
            vocab_size: checkpoint.config().vocab_size,
            page_size: limits.page_size,
            num_pages: limits.num_pages,
        };
        let (model, peers) = (chosen.model(limits, &checkpoint)?, Arc::clone(&met.peers));
        Ok(Follower { model, peers, bounds, address, drain_timeout: config.api.drain_timeout })
    }

    /// Read the weights into what was chosen and start the engine, whose internal errors go to `observer`.
    ///
    /// # Errors
    /// If a weight cannot be read or memory is too scarce.
    pub fn start(self, chosen: Chosen, observer: FailureObserver) -> Result<Service, StartError> {
        let Self { config, checkpoint, tokenizer, template, .. } = self;
        let begin = Instant::now();
        let device = chosen.device();
        let available = || machine::available_bytes(&*device);
        let shown = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), gib);
        tracing::info!("Load weight begin. avail mem={}", shown(available()));
        scan(&config, &checkpoint, &chosen)?;
        let (kv_format, log_interval) = (config.model.kv_cache_dtype, config.log.decode_log_interval);
        let weight_cache_failures = chosen.weight_cache_failures();
        let engine = chosen.engine(&config.engine, kv_format, log_interval, &checkpoint, observer)?;
        tracing::info!(
            "Load weight end. elapsed={:.2} s, avail mem={}",
            begin.elapsed().as_secs_f64(),
            shown(available())
        );
        tracing::info!("{}", summary::pool_line(&config.engine, kv_format));
        tracing::info!("Memory pool end. avail mem={}", shown(available()));
        tracing::info!("{}", summary::limits_line(&config.engine, config.api.context_length, available()));
        Ok(Service {
            model: model_card(&config, &checkpoint),
            settings: serde_json::to_value(&config).expect("a config is plain data"),
            config: config.api,
            engine,
            tokenizer,
            template,
            configure_table: Table::json,
            weight_cache_failures,
        })
    }
}

/// Check the weights, unless an earlier start kept what it made of them.
fn scan(config: &Config, checkpoint: &Checkpoint, chosen: &Chosen) -> Result<(), StartError> {
    if config.model.load_format != LoadFormat::Dummy && !chosen.has_weights() {
        let progress = ByteProgress::new("Checking weights", checkpoint.scanned_bytes());
        checkpoint.scan(config.device.cpu_threads, &mut |bytes| progress.advance(bytes))?;
    }
    Ok(())
}

/// Where the model is looked for.
pub fn source(args: &ServeArgs) -> Source<'_> {
    Source {
        path: args.model.model_path.as_deref(),
        revision: args.model.revision.as_deref(),
        download_dir: args.model.download_dir.as_deref(),
        wanted: if args.model.is_dummy() { Wanted::NoWeights } else { Wanted::Everything },
    }
}

/// Refuse by config.json, or the headers of GGUF files, what cannot be served, before its weights are fetched.
///
/// # Errors
/// Those of [`Prepared::new`], as far as neither weights nor tokenizer decide.
pub fn judge(args: &ServeArgs, host: Host, unfetched: Unfetched) -> Result<(), StartError> {
    args.model.load_format(unfetched.is_gguf())?;
    let knows_weights = unfetched.knows_weights();
    let checkpoint = unfetched.checkpoint(&args.model.json_model_override_args)?;
    let recipe = args.model.recipe(checkpoint.config().is_fp8())?;
    let checkpoint = checkpoint.quantised(recipe);
    let network = checkpoint.config();
    // Each of them is said again when all is known.
    let mut notes = Vec::new();
    let numbers = resolve::numbers(args, network, &host, &mut notes)?;
    args.device.parallel.options().split(&checkpoint)?;
    if knows_weights {
        let weights = WeightFacts::of(&checkpoint, args.device.parallel.options())?;
        resolve::place(args, numbers, network, &weights, host, &mut notes)?;
    }
    Ok(())
}

/// What was decided on to compute: this file and `gpus` alone know which backends there are.
pub enum Chosen {
    /// Threads of this machine.
    Cpu(CpuRanks),
    /// A GPU.
    Gpu(Arc<GpuBackend>),
}

/// The CPU, divided over ranks or not.
pub struct CpuRanks {
    /// That of all ranks together.
    config: CpuConfig,
    /// What each rank computes with; at least one.
    ranks: Vec<RankBackend>,
    ep: usize,
    /// Of `--weight-cache`.
    failures: Arc<AtomicU64>,
    /// The nodes with the other ranks.
    peers: Option<Arc<Peers>>,
}

/// Starts the device that is to be measured, as a whole.
pub type OpenWhole = Box<dyn Fn() -> Result<Arc<dyn Device>, StartError> + Send>;

/// What one rank computes with.
struct RankBackend {
    backend: Arc<CpuBackend>,
    /// Where its repacked weights are kept.
    panels: Option<(PackedWeightCache, OnSaved)>,
}

impl Chosen {
    /// What `device` decided on, for `checkpoint` and products in `precision`. `peers` have the ranks that are not here.
    ///
    /// # Errors
    /// If the GPU or this CPU cannot do what was asked for, or repacked weights cannot be kept.
    pub fn new(
        device: &DeviceSettings,
        precision: Precision,
        checkpoint: &Checkpoint,
        peers: Option<Arc<Peers>>,
    ) -> Result<Self, StartError> {
        if let Some(gpu) = gpus::open(device)? {
            return Ok(Self::Gpu(Arc::new(gpu)));
        }
        let config = CpuConfig { threads: Some(device.cpu_threads), isa: device.cpu_isa.map(isa), precision };
        let here = device.parallel.ranks_here();
        let backends = CpuBackend::ranks(config, here.len()).map_err(refused)?;
        let mut ranks = Vec::with_capacity(here.len());
        let failures = Arc::default();
        for (backend, part) in backends.into_iter().zip(&device.parallel.split(checkpoint)?[here]) {
            let panels =
                device.weight_cache.as_ref().map(|dir| panels(dir, checkpoint, part, &failures)).transpose()?;
            let backend = match &peers {
                Some(peers) => {
                    let rank = NodeRank::new(backend.collective(), Arc::clone(peers));
                    backend.with_collective(Arc::new(rank))
                }
                None => backend,
            };
            ranks.push(RankBackend { backend: Arc::new(backend), panels: panels.flatten() });
        }
        Ok(Self::Cpu(CpuRanks { config, ranks, ep: device.parallel.ep_size, failures, peers }))
    }

    /// What computes, as the rest of the program sees it; of several ranks the first, which has its share of the threads.
    pub fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Cpu(CpuRanks { ranks, .. }) => Arc::clone(&ranks[0].backend) as Arc<dyn Device>,
            Self::Gpu(gpu) => Arc::clone(gpu) as Arc<dyn Device>,
        }
    }

    /// What computes, with all of its threads: what the machine can do is not what one of several ranks can. Their threads
    /// are started when that is called for, and end with the device.
    pub fn whole(&self) -> OpenWhole {
        match self {
            Self::Cpu(CpuRanks { config, ranks, .. }) if ranks.len() > 1 => {
                let config = *config;
                Box::new(move || Ok(Arc::new(cpu(config)?)))
            }
            _ => {
                let device = self.device();
                Box::new(move || Ok(Arc::clone(&device)))
            }
        }
    }

    /// Counts what went wrong with `--weight-cache`, also after the start.
    fn weight_cache_failures(&self) -> Arc<AtomicU64> {
        match self {
            Self::Cpu(CpuRanks { failures, .. }) => Arc::clone(failures),
            Self::Gpu(_) => Arc::default(),
        }
    }

    /// Whether an earlier start kept what it made of these very weights: they were checked then, and need no second
    /// check.
    fn has_weights(&self) -> bool {
        let is_whole = |rank: &RankBackend| rank.panels.as_ref().is_some_and(|(file, _)| file.is_whole());
        matches!(self, Self::Cpu(CpuRanks { ranks, .. }) if ranks.iter().all(is_whole))
    }

    /// Load the weights and start an engine over them, with keys and values in `kv_format` and `log_interval` decode
    /// steps between two log lines.
    ///
    /// # Errors
    /// If a weight cannot be read or memory is too scarce.
    pub fn engine(
        self,
        settings: &EngineSettings,
        kv_format: KvFormat,
        log_interval: usize,
        checkpoint: &Checkpoint,
        observer: FailureObserver,
    ) -> Result<EngineHandle, StartError> {
        let balanced_context = checkpoint.network().balanced_context();
        let cost = StepCost::of(checkpoint, kv_format)?;
        let engine_config = settings.engine_config(log_interval, balanced_context, cost);
        let limits = settings.limits(settings.step_tokens(), kv_format);
        let model = self.model(limits, checkpoint)?;
        quern_engine::start_observed(model, engine_config, observer).map_err(StartError::Thread)
    }

    /// Load the weights into a network that keeps to `limits`.
    ///
    /// # Errors
    /// If a weight cannot be read or memory is too scarce.
    fn model(self, limits: StepLimits, checkpoint: &Checkpoint) -> Result<Box<dyn Model>, StartError> {
        let layers = checkpoint.config().num_layers as u64;
        let per_layer = checkpoint.weight_bytes() / layers.max(1);
        let doing = if checkpoint.recipe().is_some() { "Quantising weights" } else { "Loading weights" };
        let progress = ByteProgress::new(doing, per_layer * layers);
        let loaded = &mut |_| progress.advance(per_layer);
        match self {
            Self::Cpu(CpuRanks { ranks, ep, peers, .. }) => load(ranks, ep, peers, checkpoint, limits, loaded),
            Self::Gpu(gpu) => Ok(quern_model::load(checkpoint, gpu, limits, loaded)?),
        }
    }
}

/// The network of `checkpoint` on `ranks`, and on those of `peers`.
fn load(
    ranks: Vec<RankBackend>,
    ep: usize,
    peers: Option<Arc<Peers>>,
    checkpoint: &Checkpoint,
    limits: StepLimits,
    loaded: &mut (dyn FnMut(usize) + Send),
) -> Result<Box<dyn Model>, StartError> {
    let (backends, panels): (Vec<_>, Vec<_>) = ranks.into_iter().map(|rank| (rank.backend, rank.panels)).unzip();
    let with_panels = backends.iter().zip(panels);
    if let ([backend], None) = (backends.as_slice(), &peers) {
        let uploaders = with_panels.map(|(backend, panels)| Box::new(backend.uploader_with(panels)));
        let uploader = uploaders.last().expect("one of each");
        return Ok(quern_model::load_through(uploader, checkpoint, Arc::clone(backend), limits, loaded)?);
    }
    let loaders = with_panels.map(|(backend, panels)| RankLoader {
        backend: Arc::clone(backend),
        uploader: Box::new(backend.uploader_with(panels)),
        collective: backend.collective().expect("one of several ranks"),
    });
    let models = quern_model::load_ranks(loaders.collect(), ep, checkpoint, limits, loaded)?;
    let ranks = Ranks::new(models).map_err(StartError::Thread)?;
    match peers.filter(|peers| peers.node().index == 0) {
        None => Ok(Box::new(ranks)),
        Some(peers) => {
            peers.wait_loaded()?;
            Ok(Box::new(ranks.with_followers(Box::new(move |batch| peers.send_step(batch)))))
        }
    }
}

/// The file of the repacked weights of a `part` of `checkpoint` in `dir`, and what to say once it is written; `None`
/// where this start does without.
fn panels(
    dir: &Path,
    checkpoint: &Checkpoint,
    part: &Split,
    failures: &Arc<AtomicU64>,
) -> Result<Option<(PackedWeightCache, OnSaved)>, StartError> {
    let place = WeightFile::locate(dir, checkpoint, part, Arc::clone(failures))?;
    let opened = place.make_dir().and_then(|()| PackedWeightCache::open(&place.path, &place.identity));
    // A full disk is found out before there are panels in a part of the file.
    let reserve = |file: PackedWeightCache| file.reserve(place.weight_bytes).map(|()| file);
    let file = match opened.and_then(|file| file.map(reserve).transpose()) {
        Ok(file) => file,
        Err(error) => return place.do_without(&error).map(|()| None),
    };
    place.announce(match &file {
        None => Found::Busy,
        Some(file) if file.is_whole() => Found::Whole,
        Some(file) => file.damage().map_or(Found::Nothing, Found::Damaged),
    });
    Ok(file.map(|file| (file, Box::new(move |result| place.announce_saved(result)) as OnSaved)))
}

fn cpu(config: CpuConfig) -> Result<CpuBackend, StartError> {
    CpuBackend::new(config).map_err(refused)
}

fn refused(error: CpuError) -> StartError {
    StartError::Device(error.into())
}

/// The name of the instruction set that kernels on the CPU are for.
pub fn isa_of(device: &DeviceSettings) -> String {
    device.cpu_isa.map_or_else(Isa::detect, isa).to_string()
}

fn isa(asked: CpuIsa) -> Isa {
    match asked {
        CpuIsa::Scalar => Isa::Scalar,
        CpuIsa::Avx2 => Isa::Avx2,
        CpuIsa::AvxVnni => Isa::AvxVnni,
        CpuIsa::Avx512 => Isa::Avx512,
        CpuIsa::Avx512Vnni => Isa::Avx512Vnni,
        CpuIsa::Avx512Bf16 => Isa::Avx512Bf16,
        CpuIsa::Neon => Isa::Neon,
        CpuIsa::NeonDot => Isa::NeonDot,
    }
}

/// A backend for measuring the machine, without a model that decides.
///
/// # Errors
/// If this CPU cannot do what was asked for.
pub fn for_measuring(flags: &CpuFlags) -> Result<impl Backend + Device, StartError> {
    let threads = Some(flags.threads(&Machine::probe()));
    cpu(CpuConfig { threads, isa: flags.cpu_isa.map(isa), precision: Precision::default() })
}

/// What the API is told of the model.
pub fn model_card(config: &Config, checkpoint: &Checkpoint) -> ModelCard {
    let (network, generation) = (checkpoint.config(), checkpoint.generation());
    ModelCard {
        path: config.model.model_path.clone(),
        tokenizer_path: config.model.tokenizer_path.clone(),
        load_format: config.model.load_format.name(),
        device: config.device.device.name(),
        architecture: network.architecture.to_string(),
        model_type: network.architecture.model_type(),
        family: network.architecture.gguf_name(),
        vocab_size: network.vocab_size,
        eos_token_ids: checkpoint.eos_token_ids(),
        parameters: checkpoint.network().total_params(),
        weight_bytes: checkpoint.weight_bytes(),
        encoding: checkpoint.formats().first().map(ToString::to_string),
        recommended: Recommended {
            temperature: generation.temperature,
            top_p: generation.top_p,
            top_k: generation.top_k,
            min_p: generation.min_p,
            repetition_penalty: generation.repetition_penalty,
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::Map;

    use super::*;
    use crate::resolve::tests::decide;

    #[test]
    fn ranks_have_no_second_team_of_all_threads_until_the_machine_is_measured() {
        let checkpoint = ModelFiles::Shipped.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap();
        for (line, of_rank) in [("--cpu-threads 4", 4), ("--cpu-threads 4 --tp-size 2", 2)] {
            let config = decide(line).unwrap().config;
            let chosen = Chosen::new(&config.device, config.model.dtype, &checkpoint, None).unwrap();
            assert_eq!(chosen.device().threads(), of_rank, "{line}");
            let whole = chosen.whole()().unwrap();
            assert!(whole.can_be_measured());
            assert_eq!((whole.threads(), Arc::ptr_eq(&whole, &chosen.device())), (4, of_rank == 4), "{line}");
        }
    }

    #[test]
    fn every_instruction_set_can_be_asked_for_by_its_name() {
        let asked = |set: &CpuIsa| (set.to_possible_value().unwrap().get_name().to_owned(), isa(*set));
        let asked: Vec<_> = CpuIsa::value_variants().iter().map(asked).collect();
        assert_eq!(asked, Isa::ALL.map(|set| (set.to_string(), set)));
    }
}
