//! `quern pull`, `quern list` and `quern rm`: the models of the hub's cache.

use std::{
    env, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quern_bench::{BenchError, output};
use quern_model::LoadError;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::{
    cli::models::{CacheArgs, ListArgs, ModelsJob, PullArgs, RemoveArgs},
    config::LogLevel,
    hub::{HubError, HubOptions, Inventory, StoredKind, StoredModel, Wanted},
    logging,
    memory::gib,
    model_files::{ModelFiles, Source, Unfetched},
};

/// Why a model was not fetched, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// The hub or its cache.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model cannot be served, whatever its weights are.
    #[error("{id}: {cause}")]
    Unserved {
        /// As typed.
        id: String,
        /// What its configuration says.
        cause: LoadError,
    },
    /// A thread or the runtime cannot be started.
    #[error("the system refuses to start a thread: {0}")]
    Thread(io::Error),
    /// The result cannot be printed.
    #[error(transparent)]
    Output(#[from] BenchError),
}

/// Do what was typed.
///
/// # Errors
/// At the first model that it cannot be done for.
pub fn run(job: &ModelsJob) -> Result<(), ModelsError> {
    match job {
        ModelsJob::Pull(args) => {
            logging::init(LogLevel::Info, LogLevel::Info).map_err(ModelsError::Thread)?;
            Runtime::new().map_err(ModelsError::Thread)?.block_on(pull(args))
        }
        ModelsJob::List(args) => list(args),
        ModelsJob::Rm(args) => remove(args),
    }
}

fn options(args: &CacheArgs) -> HubOptions {
    HubOptions::from_env(args.download_dir.as_deref(), |name| env::var(name).ok())
}

async fn pull(args: &PullArgs) -> Result<(), ModelsError> {
    let source = Source {
        path: None,
        revision: args.revision.as_deref(),
        download_dir: args.cache.download_dir.as_deref(),
        wanted: Wanted::Everything,
    };
    for wanted in &args.models {
        let judge = |unfetched: Unfetched| match unfetched.checkpoint(&Map::new()) {
            Ok(_) => Ok(()),
            Err(cause) => Err(ModelsError::Unserved { id: wanted.to_string(), cause }),
        };
        let files = ModelFiles::fetch_judged(wanted, &source, judge).await?;
        output::line(files.place())?;
    }
    Ok(())
}

fn list(args: &ListArgs) -> Result<(), ModelsError> {
    let cache_dir = options(&args.cache).cache_dir;
    let models = Inventory::open(&cache_dir)?.models();
    if args.json {
        output::line(format_args!("{:#}", Value::from_iter(models.iter().map(as_json))))?;
        return Ok(());
    }
    let now = SystemTime::now();
    let width = models.iter().map(|model| model.name().len()).max().unwrap_or(0).max("MODEL".len());
    if !models.is_empty() {
        output::line(format_args!("{:width$}  {:20}  {:>9}  LAST USED", "MODEL", "FORMAT", "SIZE"))?;
    }
    for model in &models {
        let used =
            model.last_used.map_or_else(|| "unknown".into(), |used| ago(now.duration_since(used).unwrap_or_default()));
        let (name, format, size) = (model.name(), format(&model.kind), gib(model.bytes));
        output::line(format_args!("{name:width$}  {format:20}  {size:>9}  {used}"))?;
    }
    let total = gib(models.iter().map(|model| model.bytes).sum());
    output::note(format_args!("{} in {} ({total})", count(models.len(), "model"), cache_dir.display()));
    Ok(())
}

fn as_json(model: &StoredModel) -> Value {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
    json!({"model": model.name(), "format": format(&model.kind), "size_bytes": model.bytes,
        "last_used": model.last_used.and_then(seconds), "path": model.path})
}

fn remove(args: &RemoveArgs) -> Result<(), ModelsError> {
    let cache_dir = options(&args.cache).cache_dir;
    for wanted in &args.models {
        let freed = Inventory::open(&cache_dir)?.remove(&wanted.repo, wanted.pick.as_ref())?;
        output::line(format_args!("Removed {wanted} ({})", gib(freed)))?;
    }
    Ok(())
}

fn format(kind: &StoredKind) -> String {
    match kind {
        StoredKind::Safetensors(None) => "safetensors".into(),
        StoredKind::Safetensors(Some(numbers)) => format!("safetensors {numbers}"),
        StoredKind::Gguf(_) => "GGUF".into(),
        StoredKind::NoWeights => "no weights".into(),
        StoredKind::Unfinished => "unfinished download".into(),
    }
}

/// `3 hours ago`.
fn ago(time: Duration) -> String {
    const UNITS: [(u64, &str); 5] =
        [(365 * 86_400, "year"), (30 * 86_400, "month"), (86_400, "day"), (3_600, "hour"), (60, "minute")];
    let seconds = time.as_secs();
    match UNITS.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) => format!("{} ago", count((seconds / length) as usize, unit)),
        None => "just now".into(),
    }
}

/// `1 day`, `2 days`.
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        for (seconds, text) in [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (7_300, "2 hours ago"),
            (86_400, "1 day ago"),
            (45 * 86_400, "1 month ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
    }
}
