//! `quern bench offline`: decoding and prefill through the engine, as fractions of what the machine allows.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use quern_bench::report::Series;
use quern_engine::{EngineHandle, GenerateRequest, RequestHandle, TokenEvent};
use quern_model::{Checkpoint, GenerationConfig, StepCost, StepShape, Work};

use super::{MeasureError, table::BenchTable};
use crate::{
    cli::bench::OfflineArgs,
    config::{Config, RefusedFlag, model::ModelPaths},
    configure::network::Network,
    model_files::ModelFiles,
    resolve::{self, Decision, Facts, Host, WeightFacts},
    roofline::{self, Roofline},
    start::{self, Chosen},
    start_error::StartError,
    summary,
};

/// Steps of decoding before those that are measured.
const WARM_UP: usize = 3;

/// A step takes no longer than this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Measure what was typed.
///
/// # Errors
/// If the model cannot be loaded, or what is asked for does not fit.
pub(super) async fn run(args: &OfflineArgs) -> Result<(), MeasureError> {
    let (checkpoint, Decision { config, notes }) = prepare(args).await?;
    let decodes: Vec<(usize, usize)> = args
        .batch_sizes
        .iter()
        .flat_map(|&batch| args.depths.iter().map(move |&depth| (batch, depth.max(1))))
        .collect();
    for &(batch, depth) in &decodes {
        check(&config, batch, depth + WARM_UP + args.steps + 1)?;
    }
    args.prompt_lens.iter().try_for_each(|&tokens| check(&config, tokens.min(1), tokens + 1))?;

    let chosen = Chosen::new(&config.device, config.model.dtype, &checkpoint, None)?;
    // Its threads end before the engine's are at work.
    let device = chosen.whole()()?;
    let peaks = roofline::measure(&*device).ok_or(MeasureError::Memory)?;
    let roofline = Roofline::of(&peaks, &checkpoint.formats(), config.model.dtype);
    let mut lines = notes;
    lines.extend(summary::model_lines(&config.model, &checkpoint));
    lines.push(roofline::line(&peaks, &*device));
    if checkpoint.weight_bytes() < device.measured_bytes() {
        lines.push(
            "These weights may fit into caches, which are quicker than the memory whose bandwidth is the peak.".into(),
        );
    }
    drop(device);
    let (kv_format, log_interval) = (config.model.kv_cache_dtype, config.log.decode_log_interval);
    let engine = chosen.engine(&config.engine, kv_format, log_interval, &checkpoint, Box::new(|_| {}))?;
    let vocab = checkpoint.config().vocab_size;
    let bench = OfflineBench { cost: engine.config().cost, engine, config, vocab, roofline };
    let mut table =
        BenchTable::begin(format!("Offline: {}", bench.config.model.model_path), &lines, args.output.clone())?;
    for &(batch, depth) in &decodes {
        bench.add_decode(&mut table, batch, depth, args.steps)?;
    }
    for &tokens in &args.prompt_lens {
        bench.add_prefill(&mut table, tokens, args.repeats)?;
    }
    bench.engine.shutdown();

    let speeds: Vec<f64> = table.rows().iter().filter_map(|row| row.tokens_per_s).collect();
    let decoding = args.depths.iter().map(|depth| {
        let at_depth = decodes.iter().zip(&speeds).filter(|((_, at), _)| *at == (*depth).max(1));
        let points = at_depth.map(|((batch, _), speed)| (*batch as f64, *speed)).collect();
        Series { name: format!("at {depth}"), points, marked: true }
    });
    let points = args.prompt_lens.iter().zip(&speeds[decodes.len()..]);
    let points = points.map(|(tokens, speed)| (*tokens as f64, *speed)).collect();
    let prefill = Series { name: "prefill".into(), points, marked: true };
    table.finish(&[
        ("Decoding against batch size", "sequences at once", decoding.collect()),
        ("Prefill against length", "tokens of prompt", vec![prefill]),
    ])?;
    Ok(())
}

/// Open what is to be measured and decide as `quern serve` does; a prompt that comes again is read again.
async fn prepare(args: &OfflineArgs) -> Result<(Checkpoint, Decision), StartError> {
    let mut serve = args.serve.clone();
    serve.engine.schedule.disable_radix_cache = true;
    let notes = serve.check()?;
    if let nodes @ 2.. = serve.device.parallel.options().nnodes {
        let reason = "one process is measured; a server on several nodes by `quern bench serving`";
        return Err(RefusedFlag::new("nnodes", nodes, reason).into());
    }
    let (checkpoint, load_format, places) = match args.shape {
        Some(size) => {
            serve.model.model_path = Some(format!("{} (shape)", size.model()));
            let mut network = Network::of(size);
            network.layers = args.layers.unwrap_or(network.layers);
            let config = network.model_config(serve.model.wants_fp8());
            let checkpoint = Checkpoint::dummy(config, GenerationConfig::default());
            (checkpoint, serve.model.load_format(false)?, ModelPaths::default())
        }
        None => {
            let judged = |unfetched| start::judge(&serve, Host::probe(1), unfetched);
            let files = ModelFiles::locate_judged(&start::source(&serve), judged).await?;
            let load_format = serve.model.load_format(files.is_gguf())?;
            let checkpoint = files.checkpoint(load_format, &serve.model.json_model_override_args)?;
            (checkpoint, load_format, ModelPaths { model: files.dir().map(Into::into), tokenizer: None })
        }
    };
    let recipe = serve.model.recipe(checkpoint.config().is_fp8())?;
    let checkpoint = checkpoint.quantised(recipe);
    let facts = Facts {
        network: checkpoint.config(),
        weights: WeightFacts::of(&checkpoint, serve.device.parallel.options())?,
        load_format,
        places,
        template_parser: None,
        host: Host::probe(1),
    };
    let decision = resolve::resolve(&serve, facts, notes)?;
    Ok((checkpoint, decision))
}

/// Refuse what would not run in one go: `batch` sequences of `tokens` tokens.
fn check(config: &Config, batch: usize, tokens: usize) -> Result<(), MeasureError> {
    let (context, running) = (config.api.context_length, config.engine.max_running_requests);
    let (pool, page) = (config.engine.max_total_num_tokens, config.engine.memory.page_size);
    if batch == 0 {
        return Err(MeasureError::Nothing);
    }
    if batch > running {
        return Err(MeasureError::Batch { batch, limit: running });
    }
    if tokens > context {
        return Err(MeasureError::Context { tokens, limit: context });
    }
    if batch * tokens.next_multiple_of(page) > pool {
        return Err(MeasureError::Pool { batch, tokens, pool });
    }
    Ok(())
}

/// An engine and what it was started with.
struct OfflineBench {
    engine: EngineHandle,
    config: Config,
    vocab: usize,
    cost: StepCost,
    roofline: Roofline,
}

impl OfflineBench {
    /// The row of decoding `batch` sequences of `depth` tokens together.
    fn add_decode(&self, table: &mut BenchTable, batch: usize, depth: usize, steps: usize) -> Result<(), MeasureError> {
        let seconds = self.decode(batch, depth, steps)?;
        // In the middle of what is measured.
        let context = depth + WARM_UP + steps.div_ceil(2);
        let work = self.cost.step(StepShape::sequence(1, context, 1).times(batch));
        table.add(format!("decode, batch {batch} at {depth}"), Some(batch), work, seconds, self.roofline)?;
        Ok(())
    }

    /// The row of reading a prompt of `tokens`.
    fn add_prefill(&self, table: &mut BenchTable, tokens: usize, repeats: usize) -> Result<(), MeasureError> {
        let seconds = (0..repeats.max(1)).map(|seed| self.prefill(tokens, seed)).collect::<Result<_, _>>()?;
        let mut work = Work::default();
        let chunk = self.config.engine.chunked_prefill_size;
        for begin in (0..tokens).step_by(chunk) {
            let end = tokens.min(begin + chunk);
            work += self.cost.step(StepShape::sequence(end - begin, end, usize::from(end == tokens)));
        }
        table.add(format!("prefill, {tokens} tokens"), Some(tokens), work, seconds, self.roofline)?;
        Ok(())
    }

    /// Seconds of each step that decodes `batch` sequences of `depth` tokens together.
    fn decode(&self, batch: usize, depth: usize, steps: usize) -> Result<Vec<f64>, MeasureError> {
        let running: Vec<_> =
            (0..batch).map(|i| self.submit(self.prompt(depth, i), WARM_UP + steps + 1)).collect::<Result<_, _>>()?;
        // The last sequence's tokens come at the ends of the steps that all of them share.
        let mut arrivals = Vec::new();
        while arrivals.len() < WARM_UP + steps + 1 {
            arrivals.push(token(&running[batch - 1].1)?);
        }
        Ok(arrivals[WARM_UP..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect())
    }

    /// Seconds from a prompt of `tokens` to its first token.
    fn prefill(&self, tokens: usize, seed: usize) -> Result<f64, MeasureError> {
        let start = Instant::now();
        let (_handle, arrivals) = self.submit(self.prompt(tokens, seed), 1)?;
        Ok((token(&arrivals)? - start).as_secs_f64())
    }

    /// Tokens that route to all experts.
    fn prompt(&self, tokens: usize, seed: usize) -> Vec<u32> {
        (0..tokens).map(|i| ((i * 7919 + seed * 104_729) % self.vocab) as u32).collect()
    }

    /// A greedy request, and when each of its tokens came.
    fn submit(&self, prompt: Vec<u32>, max_new_tokens: usize) -> Result<(RequestHandle, Arrivals), MeasureError> {
        let (arrived, arrivals) = mpsc::channel();
        let request = GenerateRequest::greedy(prompt, max_new_tokens);
        // The receiver may be gone.
        let sink = move |event: TokenEvent| match event {
            TokenEvent::Token { .. } => drop(arrived.send(Ok(Instant::now()))),
            TokenEvent::Failed(cause) => drop(arrived.send(Err(cause.to_string()))),
            TokenEvent::Prefilled(_) | TokenEvent::Retracted | TokenEvent::Finished(_) => {}
        };
        let handle = self.engine.submit(request, Box::new(sink));
        Ok((handle.map_err(|error| MeasureError::Engine(error.to_string()))?, arrivals))
    }
}

type Arrivals = mpsc::Receiver<Result<Instant, String>>;

fn token(arrivals: &Arrivals) -> Result<Instant, MeasureError> {
    match arrivals.recv_timeout(PATIENCE) {
        Ok(arrival) => arrival.map_err(MeasureError::Engine),
        Err(_) => Err(MeasureError::Engine("no token came".into())),
    }
}
