//! [`CrashDumps`]: `--crash-dump-folder`, the engine's internal errors as files that a replay can be made from.
//!
//! A record has what decides tokens, except for the tokens themselves: model, configuration, sampling parameters,
//! seeds and the lengths of the batch. It has no prompt, no output, and of `logit_bias` only how many tokens it names.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quern_engine::{FailureObserver, FailureReport, SequenceReport};
use serde_json::{Value, json};

/// Records that are kept; the oldest go first. With 256 sequences one has 150 KB.
const MAX_RECORDS: usize = 64;

/// Records that wait to be written. More are dropped: a disk that hangs keeps nothing else.
const MAX_WAITING: usize = 8;

/// Time for the last records before the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// A folder of records, and the thread that writes them.
pub struct CrashDumps {
    reports: SyncSender<FailureReport>,
    waiting: Arc<UnwrittenCount>,
}

/// How many records are not written yet.
#[derive(Default)]
struct UnwrittenCount {
    count: Mutex<usize>,
    none: Condvar,
}

impl CrashDumps {
    /// Keep records in `folder`, which is made if need be. `identity` tells the model and the configuration.
    ///
    /// # Errors
    /// If the folder cannot be made or written to, or the system refuses a thread.
    pub fn start(folder: &Path, identity: Value) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        // What cannot be written should be known before it is needed.
        let probe = folder.join(format!(".crash-{}.tmp", process::id()));
        fs::File::create(&probe)?;
        fs::remove_file(&probe)?;
        let (reports, inbox) = mpsc::sync_channel::<FailureReport>(MAX_WAITING);
        let waiting = Arc::new(UnwrittenCount::default());
        let (folder, written) = (folder.to_owned(), Arc::clone(&waiting));
        let write = move || {
            for report in inbox {
                match write(&folder, &identity, &report) {
                    Ok(path) => tracing::info!("--crash-dump-folder: wrote {}", path.display()),
                    Err(error) => tracing::warn!("--crash-dump-folder {}: {error}", folder.display()),
                }
                written.done();
            }
        };
        thread::Builder::new().name("crash-dump".into()).spawn(write)?;
        Ok(Self { reports, waiting })
    }

    /// What the engine reports to. Never blocks.
    pub fn observer(&self) -> FailureObserver {
        let (reports, waiting) = (self.reports.clone(), Arc::clone(&self.waiting));
        Box::new(move |report| {
            waiting.add();
            if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = reports.try_send(report) {
                tracing::warn!("--crash-dump-folder: a record is dropped, {MAX_WAITING} wait to be written");
                waiting.done();
            }
        })
    }

    /// Wait for the records so far to be written, within a bound.
    pub fn flush(&self) {
        let count = self.waiting.lock();
        let _ = self.waiting.none.wait_timeout_while(count, FLUSH_TIMEOUT, |count| *count > 0);
    }
}

impl UnwrittenCount {
    fn add(&self) {
        *self.lock() += 1;
    }

    fn done(&self) {
        let mut count = self.lock();
        *count -= 1;
        if *count == 0 {
            self.none.notify_all();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Write one record, whole or not at all, and remove the oldest beyond [`MAX_RECORDS`].
fn write(folder: &Path, identity: &Value, report: &FailureReport) -> io::Result<PathBuf> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": time.as_secs_f64(),
        "kind": report.kind.name(),
        "error": report.cause,
        "step": report.step,
        "step_mix": {
            "new_sequences": report.mix.new_sequences,
            "prefill_tokens": report.mix.prefill_tokens,
            "cached_tokens": report.mix.cached_tokens,
            "decodes": report.mix.decodes,
        },
        "batch": report.batch.iter().map(|span| json!({"q_len": span.q_len, "kv_len": span.kv_len})).collect::<Vec<_>>(),
        "sequences": report.sequences.iter().map(sequence).collect::<Vec<_>>(),
        "server": identity,
    });
    let name = format!("crash-{:013}-{:010}.json", time.as_millis(), report.step);
    let unfinished = folder.join(format!(".crash-{}.tmp", process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(format!("{record:#}\n").as_bytes())?;
    let path = folder.join(name);
    fs::rename(&unfinished, &path)?;
    prune(folder)?;
    Ok(path)
}

fn sequence(sequence: &SequenceReport) -> Value {
    let sampling = &sequence.sampling;
    json!({
        "id": sequence.id,
        "seed": sequence.seed,
        "prompt_tokens": sequence.prompt_tokens,
        "output_tokens": sequence.output_tokens,
        "computed_tokens": sequence.computed_tokens,
        "cached_tokens": sequence.cached_tokens,
        "max_new_tokens": sequence.max_new_tokens,
        "min_new_tokens": sequence.min_new_tokens,
        "ignore_eos": sequence.ignore_eos,
        "logprobs": sequence.has_logprobs,
        "grammar": sequence.has_grammar,
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "repetition_penalty": sampling.repetition_penalty,
            "logit_bias_tokens": sampling.logit_bias.len(),
        },
    })
}

/// Records are named by their time: the first names are the oldest.
fn prune(folder: &Path) -> io::Result<()> {
    let names = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut records: Vec<_> = names.filter(|name| name.starts_with("crash-") && name.ends_with(".json")).collect();
    records.sort_unstable();
    let excess = records.len().saturating_sub(MAX_RECORDS);
    records[..excess].iter().try_for_each(|name| fs::remove_file(folder.join(name)))
}

#[cfg(test)]
mod tests {
    use quern_engine::{
        SamplingParams,
        failure::{FailureKind, SpanShape},
    };

    use super::*;

    fn report(step: u64) -> FailureReport {
        let sequence = SequenceReport {
            id: "r1".into(),
            seed: 17,
            sampling: Arc::new(SamplingParams { logit_bias: vec![(4711, 1.0)], ..SamplingParams::default() }),
            prompt_tokens: 40,
            output_tokens: 2,
            computed_tokens: 41,
            cached_tokens: 32,
            max_new_tokens: 9,
            min_new_tokens: 0,
            ignore_eos: false,
            has_logprobs: false,
            has_grammar: true,
        };
        FailureReport {
            kind: FailureKind::Step,
            step,
            cause: "broken".into(),
            mix: Default::default(),
            batch: vec![SpanShape { q_len: 1, kv_len: 42 }],
            sequences: vec![sequence],
        }
    }

    #[test]
    fn a_record_has_what_a_replay_needs_and_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made/on/demand");
        let dumps = CrashDumps::start(&folder, json!({"model_path": "m"})).unwrap();
        dumps.observer()(report(3));
        dumps.flush();
        let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let text = fs::read_to_string(&files[0]).unwrap();
        assert!(!text.contains("4711"), "{text}");
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&record["kind"], &record["step"], &record["error"]), (&json!("step"), &json!(3), &json!("broken")));
        assert_eq!(record["batch"], json!([{"q_len": 1, "kv_len": 42}]));
        let sequence = &record["sequences"][0];
        assert_eq!((&sequence["seed"], &sequence["sampling"]["logit_bias_tokens"]), (&json!(17), &json!(1)));
        assert_eq!(record["server"]["model_path"], "m");
    }

    #[test]
    fn the_folder_is_bounded_and_other_files_in_it_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.json"), "mine").unwrap();
        for step in 0..MAX_RECORDS as u64 + 5 {
            write(folder.path(), &Value::Null, &report(step)).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names.len(), MAX_RECORDS + 1, "{names:?}");
        assert!(names[0].ends_with("-0000000005.json"), "the oldest are gone: {names:?}");
    }
}
