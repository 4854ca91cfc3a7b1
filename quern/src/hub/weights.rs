//! Which of a repository's files are the weights that are fetched.

use serde_json::{Map, Value};

use super::{Fetched, Hub, HubError, Opened, Pick, RepoCache, RepoId, RepoSnapshot, cache::mark_used};
use crate::{
    defaults::MEM_FRACTION,
    gguf_files::{GgufChoice, files},
    machine::Machine,
    memory::gib,
};

/// Names of files that an error lists.
const LISTED: usize = 12;

/// The weights of a repository: chosen, and here already or to be fetched.
#[derive(Clone, Debug)]
pub struct WeightChoice {
    /// The quantisation, of files in llama.cpp's format.
    gguf: Option<GgufChoice>,
    /// The first one first.
    files: Vec<String>,
    is_here: bool,
}

impl WeightChoice {
    /// Whether they are in llama.cpp's format.
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    /// Whether nothing of them need be fetched.
    pub fn is_here(&self) -> bool {
        self.is_here
    }

    /// Their files, the first one first.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }
}

impl Hub {
    /// The weights of `opened`: its safetensors files, or the GGUF model that `pick` names or, of a repository that has
    /// nothing else, one of four bits that fits into memory.
    ///
    /// # Errors
    /// If there are no such weights.
    pub async fn choose(&self, opened: &Opened, pick: Option<&Pick>) -> Result<WeightChoice, HubError> {
        let Some(names) = &opened.names else { return cached(opened, pick) };
        let cache = RepoCache::new(&self.options.cache_dir, &opened.repo);
        let snapshot = RepoSnapshot { repo: &opened.repo, commit: &opened.commit, cache: &cache };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (gguf, files) = if pick.is_none() && names.iter().any(|name| is_weights(name)) {
            (None, shards(&snapshot, &names)?)
        } else {
            let choices = GgufChoice::among(names.iter().copied());
            let choice = match pick {
                Some(pick) => picked(&opened.repo, &choices, pick)?,
                None => self.usual(&snapshot, &choices, &names).await?,
            };
            (Some(choice.clone()), choice.files.clone())
        };
        let is_here = files.iter().all(|name| opened.dir.join(name).exists());
        Ok(WeightChoice { gguf, files, is_here })
    }

    /// Fetch what is not in the cache of the weights that were chosen.
    ///
    /// # Errors
    /// If they cannot be fetched.
    pub async fn fetch_chosen(&self, opened: &Opened, choice: &WeightChoice) -> Result<Fetched, HubError> {
        if opened.names.is_some() {
            let cache = RepoCache::new(&self.options.cache_dir, &opened.repo);
            let snapshot = RepoSnapshot { repo: &opened.repo, commit: &opened.commit, cache: &cache };
            self.fetch_all(&snapshot, choice.files.iter().map(String::as_str)).await?;
        }
        mark_used(&opened.dir, choice.files.iter().map(String::as_str));
        Ok(match choice.gguf {
            Some(_) => Fetched::Gguf(opened.dir.join(&choice.files[0])),
            None => Fetched::Directory(opened.dir.clone()),
        })
    }

    /// Choose weights and fetch them.
    ///
    /// # Errors
    /// If there are no such weights, or they cannot be fetched.
    pub async fn fetch_weights(&self, opened: &Opened, pick: Option<&Pick>) -> Result<Fetched, HubError> {
        let choice = self.choose(opened, pick).await?;
        self.fetch_chosen(opened, &choice).await
    }

    /// The model that is taken where none is named, with a line that says so.
    async fn usual<'c>(
        &self,
        snapshot: &RepoSnapshot<'_>,
        choices: &'c [GgufChoice],
        names: &[&str],
    ) -> Result<&'c GgufChoice, HubError> {
        let repo = snapshot.repo.to_string();
        let sorted = GgufChoice::by_preference(choices);
        let Some(first) = sorted.first() else {
            let found: Vec<&str> = names.iter().copied().take(LISTED).collect();
            return Err(HubError::NoWeights { repo, found: found.join(", ") });
        };
        let room = Machine::probe().available_bytes.map(|bytes| (bytes as f64 * MEM_FRACTION) as u64);
        let mut taken = (*first, None);
        for choice in &sorted {
            let heads = self.heads(snapshot, choice.files.clone()).await?;
            let size: u64 = heads.iter().map(|head| head.size).sum();
            if room.is_none_or(|room| choice.held_bytes(size) <= room) {
                taken = (choice, Some(size));
                break;
            }
        }
        if let (choice, size) = taken
            && choices.len() > 1
        {
            let others = choices.iter().filter(|other| *other != choice).map(|other| other.quantisation.as_str());
            tracing::info!(
                "{repo}: {} is taken{}; others by {repo}:QUANTISATION: {}.",
                choice.quantisation,
                size.map_or_else(String::new, |size| format!(" ({})", gib(size))),
                others.collect::<Vec<_>>().join(", ")
            );
        }
        Ok(taken.0)
    }
}

/// What is in the cache of a repository that the hub was not asked about.
fn cached(opened: &Opened, pick: Option<&Pick>) -> Result<WeightChoice, HubError> {
    let names = files(&opened.dir);
    let choices = GgufChoice::among(names.iter().map(String::as_str));
    let safetensors: Vec<String> = names.iter().filter(|name| is_weights(name)).cloned().collect();
    let gguf = match pick {
        Some(pick) => Some(picked(&opened.repo, &choices, pick)?),
        None => GgufChoice::by_preference(&choices).first().copied().filter(|_| safetensors.is_empty()),
    };
    let files = gguf.map_or(safetensors, |choice| choice.files.clone());
    Ok(WeightChoice { gguf: gguf.cloned(), files, is_here: true })
}

pub(super) fn picked<'c>(repo: &RepoId, choices: &'c [GgufChoice], pick: &Pick) -> Result<&'c GgufChoice, HubError> {
    let (found, wanted) = match pick {
        Pick::Quantisation(name) => (GgufChoice::named(choices, name), name),
        Pick::File(name) => (choices.iter().find(|choice| choice.files.contains(name)), name),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = choices.iter().map(|choice| choice.quantisation.as_str()).collect();
        let known = if known.is_empty() { "no GGUF file".into() } else { known.join(", ") };
        HubError::NoSuchPick { repo: repo.to_string(), wanted: wanted.clone(), known }
    })
}

/// Whether `name` is a file of weights in safetensors.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.')
}

/// The weight files: those the index names, or else every safetensors file.
fn shards(snapshot: &RepoSnapshot<'_>, names: &[&str]) -> Result<Vec<String>, HubError> {
    let RepoSnapshot { repo, commit, cache } = *snapshot;
    const INDEX: &str = "model.safetensors.index.json";
    if !names.contains(&INDEX) {
        return Ok(names.iter().filter(|name| is_weights(name)).map(|name| (*name).to_owned()).collect());
    }
    let path = cache.snapshot(commit).join(INDEX);
    let malformed = |cause: String| HubError::Malformed { repo: repo.to_string(), what: INDEX.into(), cause };
    let bytes = std::fs::read(&path).map_err(|cause| HubError::Cache { path: path.clone(), cause })?;
    let index: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|cause| malformed(cause.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| malformed("no weight_map".into()))?;
    let mut shards: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    shards.sort_unstable();
    shards.dedup();
    match shards.iter().find(|shard| !is_weights(shard) || !names.contains(&shard.as_str())) {
        Some(file) => {
            let (repo, revision) = (repo.to_string(), commit.to_owned());
            Err(HubError::NoSuchFile { repo, file: file.clone(), revision })
        }
        None => Ok(shards),
    }
}
