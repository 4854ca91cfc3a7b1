//! `quern bench serving`: a load of requests, measured as SGLang's `bench_serving` measures it.

mod args;
mod unsupported;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub use args::ServingArgs;
pub use unsupported::UnsupportedArgs;

use crate::{
    backend::BodyOptions,
    client::{Client, Clock},
    cpu_time::CpuTime,
    dataset::Generators,
    endpoint::Endpoint,
    error::BenchError,
    goodput::Goodput,
    layout::{Heading, Layout, block},
    load::{self, Pace},
    measurement::Measurement,
    metrics::{LoadMetrics, RequestOutcome},
    output,
    progress::Progress,
    report,
    run_file::{RunRecord, RunSettings, default_path},
    stall::Stall,
    tokens::Tokens,
};

/// Stalls beyond these are counted, not described.
const DESCRIBED_STALLS: usize = 5;
/// Failures beyond these kinds are counted, not quoted.
const QUOTED_ERRORS: usize = 5;

/// Measure what `args` say and print it.
///
/// The exit status is a failure if any request failed.
///
/// # Errors
/// If the server cannot be asked at all.
pub async fn run(args: &ServingArgs) -> Result<ExitCode, BenchError> {
    args.unsupported.check()?;
    args.dataset.check(args.backend)?;
    let levels = levels(args)?;
    allow_many_connections();
    let run = Run::prepare(args).await?;
    let mut measurements = Vec::new();
    for (level, (num_prompts, max_concurrency)) in levels.iter().copied().enumerate() {
        let flush = args.flush_cache || level > 0;
        measurements.push(run.measure(num_prompts, max_concurrency, flush).await?);
    }
    if let Some(path) = &args.report {
        let mut others = Vec::new();
        for file in &args.compare {
            others.extend(RunRecord::read_all(file)?);
        }
        report::write(path, &measurements, &others)?;
        output::note(format_args!("Report: {}", path.display()));
    }
    let failed: usize = measurements.iter().map(|measurement| measurement.metrics.failed).sum();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prompts and limit of each measurement.
fn levels(args: &ServingArgs) -> Result<Vec<(usize, Option<usize>)>, BenchError> {
    let limits: Vec<Option<usize>> = match args.max_concurrency.as_slice() {
        [] => vec![None],
        limits => limits.iter().map(|&limit| Some(limit)).collect(),
    };
    let prompts = match args.num_prompts.as_slice() {
        [one] => vec![*one; limits.len()],
        several if several.len() == limits.len() => several.to_vec(),
        several => {
            return Err(BenchError::Arguments(format!(
                "--num-prompts has {} values and --max-concurrency {}; give one, or as many",
                several.len(),
                limits.len()
            )));
        }
    };
    if prompts.contains(&0) || limits.contains(&Some(0)) {
        return Err(BenchError::Arguments("--num-prompts and --max-concurrency are at least 1".into()));
    }
    if args.request_rate.is_nan() || args.request_rate <= 0.0 {
        return Err(BenchError::Arguments(format!("--request-rate {}: more than 0, or inf", args.request_rate)));
    }
    Ok(prompts.into_iter().zip(limits).collect())
}

/// What all measurements of a run share.
struct Run<'a> {
    args: &'a ServingArgs,
    client: Arc<Client>,
    tokens: Tokens,
    seed: u32,
    /// Whether it has been said that the dataset is not what its name promises.
    told_difference: AtomicBool,
}

impl<'a> Run<'a> {
    async fn prepare(args: &'a ServingArgs) -> Result<Self, BenchError> {
        let endpoint = Endpoint::new(&base_url(args), &args.header)?;
        let listed = wait_until_ready(&endpoint, Duration::from_secs(args.ready_check_timeout_sec)).await?;
        let model = match args.model.clone().or(listed) {
            Some(model) => model,
            None => first_model(&endpoint.get("/v1/models").await?)
                .ok_or_else(|| BenchError::Arguments("the server lists no model; name one with --model".into()))?,
        };
        let llama_cpp = args.backend.is_llama_cpp();
        let (tokens, place) = Tokens::find(args.tokenizer.as_deref(), &model, &endpoint, llama_cpp).await?;
        output::note(format_args!("Tokenizer: {place}"));
        let options = BodyOptions {
            model: args.served_model_name.clone().unwrap_or(model),
            stream: !args.disable_stream,
            ignore_eos: !args.disable_ignore_eos,
            temperature: args.temperature,
            top_p: args.top_p,
            return_logprob: args.return_logprob,
            extra: args.extra_request_body.clone(),
        };
        let told = args.print_requests.then(AtomicUsize::default);
        let client = Arc::new(Client { endpoint, backend: args.backend, options, told });
        Ok(Self {
            args,
            client,
            tokens,
            seed: args.seed.unwrap_or_else(|| args.layout.seed()),
            told_difference: AtomicBool::new(false),
        })
    }

    /// A line of the run's story: on standard output, unless that is for JSON.
    fn tell(&self, line: &str) -> Result<(), BenchError> {
        if self.args.json {
            output::note(line);
            return Ok(());
        }
        output::line(line)
    }

    async fn measure(
        &self,
        num_prompts: usize,
        max_concurrency: Option<usize>,
        flush: bool,
    ) -> Result<Measurement, BenchError> {
        let args = self.args;
        let mut generators = Generators::new(self.seed);
        let mut dataset = args.dataset.load(num_prompts, &self.tokens, &mut generators).await?;
        for session in &mut dataset.sessions {
            for turn in session.turns.iter_mut().filter(|turn| turn.prompt_len.is_none()) {
                // Only the server can count these.
                turn.extra.insert("stream_options".into(), json!({"include_usage": true}));
            }
        }
        if let Some(differs) = &dataset.differs
            && !self.told_difference.swap(true, Ordering::Relaxed)
        {
            output::note(format_args!("WARNING: {differs}"));
        }
        self.tell(&format!("#Input tokens: {}", dataset.input_tokens()))?;
        self.tell(&format!("#Output tokens: {}", dataset.output_tokens()))?;

        let warmups = args.warmup_requests;
        self.tell(&format!("Starting warmup with {warmups} sequences..."))?;
        load::warm_up(&self.client, &dataset.sessions[0], warmups).await?;
        self.tell(&format!("Warmup completed with {warmups} sequences. Starting main benchmark run..."))?;
        if flush {
            let path = format!("/flush_cache?timeout={}", args.flush_cache_timeout);
            if let Err(error) = self.client.endpoint.poke(&path).await {
                output::note(format_args!("WARNING: the server's cache is not empty: {error}"));
            }
        }
        sleep(Duration::from_secs(1)).await;

        let pace = Pace { rate: args.request_rate, max_concurrency };
        let progress = Arc::new(Progress::new(dataset.sessions.len(), !args.disable_tqdm));
        let cpu = CpuTime::now();
        let clock = Clock::start();
        let numpy = &mut generators.numpy;
        let mut outcomes = load::run(&self.client, dataset.sessions, pace, numpy, clock, &progress).await;
        let cpu_s = CpuTime::now().since(&cpu);
        drop(progress);
        // As in SGLang's client, this question belongs to the measured time.
        let accept_length = if args.backend.is_sglang() { accept_length(&self.server_info().await) } else { None };
        let duration_s = clock.now_s();

        self.retokenize(&mut outcomes).await;
        let mut metrics = LoadMetrics::of(&outcomes, duration_s);
        metrics.accept_length = accept_length;
        let goodput = (!args.goodput.is_empty()).then(|| Goodput::of(&args.goodput, &outcomes, duration_s));
        let backend = args.backend.name();
        let heading = Heading { backend: &backend, request_rate: args.request_rate, max_concurrency };
        let mut printed = self.tell(&block(args.layout, &heading, &metrics, goodput.as_ref(), args.cache_report));

        let settings = RunSettings {
            tag: args.tag.as_deref(),
            backend: &backend,
            model: &self.client.options.model,
            dataset: &args.dataset,
            differs: dataset.differs.as_deref(),
            num_prompts,
            request_rate: args.request_rate,
            max_concurrency,
            seed: self.seed,
        };
        let stalls = Stall::find(&outcomes);
        let mut record = RunRecord::new(&settings, &metrics, self.server_info().await);
        record.add_stalls(&stalls);
        if let Some(cpu_s) = cpu_s.filter(|_| metrics.total_output > 0) {
            record.0.insert("client_cpu_us_per_token".into(), json!(1e6 * cpu_s / metrics.total_output as f64));
            record.0.insert("client_cpu_s".into(), json!(cpu_s));
        }
        if let Some(goodput) = &goodput {
            record.add_goodput(goodput);
        }
        if args.cache_report {
            record.add_cache(&metrics);
        }
        if args.json {
            printed = printed.and(output::line(serde_json::to_string(&record.0).expect("an object of JSON")));
        }
        let path = args.output_file.clone().unwrap_or_else(|| default_path(&backend, &args.dataset, num_prompts));
        let mut detailed = record.clone();
        if args.output_details {
            detailed.add_details(&outcomes);
        }
        // What was measured is kept even where it cannot be printed.
        detailed.append(&path)?;
        printed?;
        remark(&outcomes, &metrics, &stalls, cpu_s, args);
        Ok(Measurement { max_concurrency, outcomes, metrics, stalls, record })
    }

    /// What the server says of itself; null if it does not.
    async fn server_info(&self) -> Value {
        let paths = match self.args.layout {
            Layout::V0_5_8 => ["/get_server_info", "/server_info"],
            Layout::V0_5_23 => ["/server_info", "/get_server_info"],
        };
        for path in paths {
            match self.client.endpoint.get(path).await {
                Ok(info) => return info,
                Err(BenchError::Refused { .. }) => {}
                Err(_) => break,
            }
        }
        Value::Null
    }

    /// Count the tokens of the answers' texts. Left at 0, with a warning, if neither the server nor a tokenizer counts them.
    async fn retokenize(&self, outcomes: &mut [RequestOutcome]) {
        let texts: Vec<&str> = outcomes.iter().map(|outcome| outcome.recording.text.as_str()).collect();
        match self.tokens.count(&texts).await {
            Ok(counts) => {
                for (outcome, count) in outcomes.iter_mut().zip(counts) {
                    outcome.retokenized = count;
                }
            }
            Err(error) => output::note(format_args!("WARNING: the answers' tokens are not counted again: {error}")),
        }
    }
}

/// What a reader of the figures should know besides.
fn remark(
    outcomes: &[RequestOutcome],
    metrics: &LoadMetrics,
    stalls: &[Stall],
    cpu_s: Option<f64>,
    args: &ServingArgs,
) {
    for stall in stalls.iter().take(DESCRIBED_STALLS) {
        output::note(format_args!("WARNING: stall: {}", stall.describe()));
    }
    if stalls.len() > DESCRIBED_STALLS {
        output::note(format_args!("WARNING: and {} shorter stalls", stalls.len() - DESCRIBED_STALLS));
    }
    let recordings = || outcomes.iter().map(|outcome| &outcome.recording);
    if recordings().any(|recording| recording.succeeded() && !recording.counted) && args.disable_ignore_eos {
        output::note(format_args!(
            "WARNING: the server does not count tokens; the lengths asked for are taken for those of the answers"
        ));
    }
    if metrics.failed > 0 {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for error in recordings().filter_map(|recording| recording.error.as_deref()) {
            match kinds.iter_mut().find(|(kind, _)| *kind == error) {
                Some((_, count)) => *count += 1,
                None => kinds.push((error, 1)),
            }
        }
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        output::note(format_args!("ERROR: {} of {} requests failed:", metrics.failed, outcomes.len()));
        for (kind, count) in kinds.iter().take(QUOTED_ERRORS) {
            output::note(format_args!("  {count} × {}", kind.trim()));
        }
    }
    if let Some(cpu_s) = cpu_s.filter(|_| metrics.total_output > 0) {
        let per_token = 1e6 * cpu_s / metrics.total_output as f64;
        let part = 100.0 * cpu_s / metrics.duration_s;
        output::note(format_args!("Client: {per_token:.1} µs of CPU a token, {part:.1} % of one core."));
    }
}

/// `http://HOST:PORT`, or what was typed.
fn base_url(args: &ServingArgs) -> String {
    let port = args.port.unwrap_or_else(|| args.backend.default_port());
    args.base_url.clone().unwrap_or_else(|| host_url(&args.host, port))
}

/// `http://HOST:PORT`; an IPv6 address gets its brackets, and a scheme that was typed stays.
pub(crate) fn host_url(host: &str, port: u16) -> String {
    let (scheme, host) = host.split_once("://").unwrap_or(("http", host));
    if host.contains(':') && !host.starts_with('[') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

/// Ask for the models until there is an answer. Returns the first model, if one is listed.
async fn wait_until_ready(endpoint: &Endpoint, patience: Duration) -> Result<Option<String>, BenchError> {
    if patience.is_zero() {
        return Ok(None);
    }
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match endpoint.get("/v1/models").await {
            Ok(models) => return Ok(first_model(&models)),
            // A server without such a list is up too.
            Err(BenchError::Refused { status, .. }) if status.starts_with("404") => return Ok(None),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) if !told => {
                output::note(format_args!(
                    "Waiting up to {}s for {} to become ready...",
                    patience.as_secs(),
                    endpoint.url("/v1/models")
                ));
                told = true;
            }
            Err(_) => {}
        }
        sleep(Duration::from_millis(500)).await;
    }
}

pub(crate) fn first_model(models: &Value) -> Option<String> {
    models.get("data")?.get(0)?.get("id")?.as_str().map(str::to_owned)
}

/// Draft tokens accepted a step.
fn accept_length(server_info: &Value) -> Option<f64> {
    let info = server_info.get("decode").and_then(|all| all.get(0)).unwrap_or(server_info);
    info.get("internal_states")?.get(0)?.get("avg_spec_accept_length")?.as_f64()
}

/// Each request has a connection of its own, and some systems allow 1024 open files at first.
pub(crate) fn allow_many_connections() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        const WANTED: u64 = 65535;
        let limits = getrlimit(Resource::Nofile);
        if limits.current.is_some_and(|current| current < WANTED) {
            let allowed = limits.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
            // Less than wanted is enough for most runs, and a request that cannot connect says so.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limits.maximum });
        }
    }
}

#[cfg(test)]
pub(crate) fn tests_args(words: &[&str]) -> ServingArgs {
    use clap::{Args as _, FromArgMatches};
    let command = ServingArgs::augment_args(clap::Command::new("serving"));
    let matches = command.get_matches_from(std::iter::once(&"serving").chain(words));
    ServingArgs::from_arg_matches(&matches).expect("the words are right")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    #[test]
    fn levels_are_pairs_of_prompts_and_limits() {
        let pairs = |words: &[&str]| levels(&tests_args(words)).map_err(|error| error.to_string());
        assert_eq!(pairs(&[]), Ok(vec![(1000, None)]));
        assert_eq!(pairs(&["--max-concurrency", "1,16"]), Ok(vec![(1000, Some(1)), (1000, Some(16))]));
        let both = ["--num-prompts", "10,80,320", "--max-concurrency", "1,16,64"];
        assert_eq!(pairs(&both), Ok(vec![(10, Some(1)), (80, Some(16)), (320, Some(64))]));
        assert!(pairs(&["--num-prompts", "10,80"]).is_err());
        assert!(pairs(&["--max-concurrency", "0"]).is_err());
        assert!(pairs(&["--request-rate", "0"]).is_err());
        let negative = pairs(&["--request-rate", "-1"]).expect_err("refused");
        assert_eq!(negative, "--request-rate -1: more than 0, or inf");
        assert_eq!(pairs(&["--request-rate", "inf"]), Ok(vec![(1000, None)]));
    }

    #[test]
    fn addresses_are_made_of_host_and_port() {
        assert_eq!(base_url(&tests_args(&[])), "http://127.0.0.1:30000");
        assert_eq!(base_url(&tests_args(&["--backend", "vllm", "--host", "::1"])), "http://[::1]:8000");
        assert_eq!(base_url(&tests_args(&["--base-url", "https://x"])), "https://x");
        assert_eq!(host_url("http://127.0.0.1", 1), "http://127.0.0.1:1");
    }

    #[test]
    fn speculation_is_read_from_where_sglang_keeps_it() {
        let info = json!({"internal_states": [{"avg_spec_accept_length": 2.5}]});
        assert_eq!(accept_length(&info), Some(2.5));
        assert_eq!(accept_length(&json!({"decode": [info]})), Some(2.5));
        assert_eq!(accept_length(&json!({"internal_states": []})), None);
        assert_eq!(accept_length(&Value::Null), None);
    }

    #[test]
    fn defaults_are_those_of_sglangs_client() {
        let args = tests_args(&[]);
        assert_eq!(args.backend, Backend::Sglang);
        assert_eq!((args.num_prompts.as_slice(), args.warmup_requests), ([1000].as_slice(), 1));
        assert_eq!((args.dataset.random_input_len, args.dataset.random_output_len), (1024, 1024));
        assert_eq!(args.dataset.name(), "sharegpt");
        assert_eq!(args.layout.seed(), 1);
        assert_eq!(Layout::V0_5_23.seed(), 42);
    }
}
