//! [`Inventory`]: the models that the cache holds, what each takes of the disk, and how one is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use quern_model::{json_file::MAX_CONFIG_BYTES, regular_file};
use serde_json::{Map, Value};

use super::{HubError, Pick, RepoId, cache::RepoCache, weights};
use crate::gguf_files::{GgufChoice, files};

/// The cache's models.
pub struct Inventory {
    cache_dir: PathBuf,
    repos: Vec<RepoId>,
}

/// One model of a repository: its safetensors files, or one of its GGUF models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredModel {
    /// Its repository.
    pub repo: RepoId,
    /// What it is.
    pub kind: StoredKind,
    /// Bytes of its files, each counted once however many revisions have it.
    pub bytes: u64,
    /// When one of them was last read or written, as far as the file system tells.
    pub last_used: Option<SystemTime>,
    /// The folder or first file of the newest revision that has it.
    pub path: PathBuf,
}

/// What a model of a repository is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredKind {
    /// Safetensors files, with what config.json says of their numbers: `bfloat16`, `fp8`.
    Safetensors(Option<String>),
    /// One of the GGUF models: its quantisation.
    Gguf(String),
    /// Configuration and tokenizer alone.
    NoWeights,
    /// Downloads that broke off and go on when they are asked for again.
    Unfinished,
}

impl StoredModel {
    /// As it is named on a command line.
    pub fn name(&self) -> String {
        match &self.kind {
            StoredKind::Gguf(quantisation) => format!("{}:{quantisation}", self.repo),
            _ => self.repo.to_string(),
        }
    }
}

impl Inventory {
    /// Look into `cache_dir`. One that is not there holds nothing.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(cache_dir: &Path) -> Result<Self, HubError> {
        let names = match fs::read_dir(cache_dir) {
            Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => return Err(HubError::Cache { path: cache_dir.to_owned(), cause }),
        };
        let mut repos: Vec<RepoId> = names
            .iter()
            .filter_map(|name| RepoId::parse(&name.strip_prefix("models--")?.replacen("--", "/", 1)))
            .filter(|repo| RepoCache::new(cache_dir, repo).root().is_dir())
            .collect();
        repos.sort_by_key(ToString::to_string);
        Ok(Self { cache_dir: cache_dir.to_owned(), repos })
    }

    /// Every model, by name.
    pub fn models(&self) -> Vec<StoredModel> {
        self.repos.iter().flat_map(|repo| self.models_of(repo)).collect()
    }

    fn models_of(&self, repo: &RepoId) -> Vec<StoredModel> {
        let cache = RepoCache::new(&self.cache_dir, repo);
        let mut kinds: BTreeMap<StoredKind, (PathBuf, BTreeSet<PathBuf>)> = BTreeMap::new();
        for dir in cache.snapshots() {
            for (kind, names) in kinds_of(&dir) {
                let path = match kind {
                    StoredKind::Gguf(_) => dir.join(&names[0]),
                    _ => dir.clone(),
                };
                let (_, blobs) = kinds.entry(kind).or_insert_with(|| (path, BTreeSet::new()));
                blobs.extend(names.iter().filter_map(|name| fs::canonicalize(dir.join(name)).ok()));
            }
        }
        let with_weights = kinds.keys().any(|kind| *kind != StoredKind::NoWeights);
        kinds.retain(|kind, _| !with_weights || *kind != StoredKind::NoWeights);
        let unfinished = cache.unfinished();
        if !unfinished.is_empty() {
            kinds.insert(StoredKind::Unfinished, (cache.root().to_owned(), unfinished.into_iter().collect()));
        }
        kinds
            .into_iter()
            .map(|(kind, (path, blobs))| {
                let found = || blobs.iter().filter_map(|blob| fs::metadata(blob).ok());
                let used = |file: fs::Metadata| file.accessed().ok().max(file.modified().ok());
                let (bytes, last_used) = (found().map(|file| file.len()).sum(), found().filter_map(used).max());
                StoredModel { repo: repo.clone(), kind, bytes, last_used, path }
            })
            .collect()
    }

    /// Remove `repo`, or the GGUF model of it that `pick` names; the bytes that are free now.
    ///
    /// A server that has the files open keeps them until it ends.
    ///
    /// # Errors
    /// If it is not there, is being downloaded, or cannot be removed.
    pub fn remove(&self, repo: &RepoId, pick: Option<&Pick>) -> Result<u64, HubError> {
        if !self.repos.contains(repo) {
            return Err(HubError::NotStored { repo: repo.to_string(), cache: self.cache_dir.clone() });
        }
        let cache = RepoCache::new(&self.cache_dir, repo);
        let _locks = lock_all(repo, &cache)?;
        match pick {
            None => remove_all(&cache),
            Some(pick) => remove_one(repo, &cache, pick),
        }
    }
}

/// The models of a snapshot, each with its files; of a snapshot without weights, its small files.
fn kinds_of(dir: &Path) -> Vec<(StoredKind, Vec<String>)> {
    let names = files(dir);
    let choices = GgufChoice::among(names.iter().map(String::as_str));
    let safetensors: Vec<String> = names.iter().filter(|name| weights::is_weights(name)).cloned().collect();
    let mut kinds: Vec<_> =
        choices.into_iter().map(|choice| (StoredKind::Gguf(choice.quantisation), choice.files)).collect();
    if !safetensors.is_empty() {
        kinds.push((StoredKind::Safetensors(numbers(dir)), safetensors));
    }
    if kinds.is_empty() {
        kinds.push((StoredKind::NoWeights, names));
    }
    kinds
}

/// What a snapshot's config.json says of its numbers.
fn numbers(dir: &Path) -> Option<String> {
    let config: Map<String, Value> =
        serde_json::from_slice(&regular_file::read(&dir.join("config.json"), MAX_CONFIG_BYTES).ok()?).ok()?;
    let method = config.get("quantization_config").and_then(|of| of.get("quant_method"));
    let stored = method.or_else(|| config.get("torch_dtype")).or_else(|| config.get("dtype"));
    stored?.as_str().map(str::to_owned)
}

/// Take the lock of every file that is or was fetched, so that no other process fetches one meanwhile.
fn lock_all(repo: &RepoId, cache: &RepoCache) -> Result<Vec<File>, HubError> {
    let mut locks = Vec::new();
    for path in cache.lock_files() {
        let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => locks.push(file),
            Err(TryLockError::WouldBlock) => return Err(HubError::Busy { repo: repo.to_string() }),
            // A file system without locks has no downloads that wait for one another either.
            Err(TryLockError::Error(_)) => {}
        }
    }
    Ok(locks)
}

fn remove_all(cache: &RepoCache) -> Result<u64, HubError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| HubError::Cache { path, cause }
    };
    // Some people let the folder of a large model be a link to another disk.
    let root = fs::canonicalize(cache.root()).map_err(failed(cache.root()))?;
    let freed = cache.blobs().iter().filter_map(|blob| fs::metadata(blob).ok()).map(|blob| blob.len()).sum();
    fs::remove_dir_all(&root).map_err(failed(&root))?;
    if fs::symlink_metadata(cache.root()).is_ok() {
        fs::remove_file(cache.root()).map_err(failed(cache.root()))?;
    }
    match fs::remove_dir_all(cache.locks()) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed(cache.locks())(cause)),
        _ => Ok(freed),
    }
}

/// Remove the links to a GGUF model's files, then what no other link leads to.
fn remove_one(repo: &RepoId, cache: &RepoCache, pick: &Pick) -> Result<u64, HubError> {
    let remove = |path: &Path| fs::remove_file(path).map_err(|cause| HubError::Cache { path: path.to_owned(), cause });
    let snapshots = cache.snapshots();
    let choices: Vec<(PathBuf, Vec<GgufChoice>)> =
        snapshots.iter().map(|dir| (dir.clone(), GgufChoice::among(files(dir).iter().map(String::as_str)))).collect();
    let mut gone: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut links = Vec::new();
    for (dir, choices) in &choices {
        let Ok(choice) = weights::picked(repo, choices, pick) else { continue };
        for name in &choice.files {
            let link = dir.join(name);
            if let (Ok(blob), Ok(file)) = (fs::canonicalize(&link), fs::metadata(&link)) {
                gone.insert(blob, file.len());
            }
            links.push(link);
        }
    }
    if links.is_empty() {
        let all: Vec<GgufChoice> = choices.into_iter().flat_map(|(_, choices)| choices).collect();
        weights::picked(repo, &all, pick)?;
    }
    for link in &links {
        remove(link)?;
        // The folder of a quantisation, once it is empty.
        if let Some(folder) = link.parent().filter(|folder| !snapshots.iter().any(|dir| dir == folder)) {
            let _ = fs::remove_dir(folder);
        }
    }
    let still_there =
        |dir: &PathBuf| files(dir).into_iter().filter_map(|name| fs::canonicalize(dir.join(name)).ok()).collect();
    let needed: BTreeSet<PathBuf> = snapshots.iter().flat_map(|dir| -> Vec<PathBuf> { still_there(dir) }).collect();
    gone.retain(|blob, _| !needed.contains(blob));
    for blob in gone.keys().filter(|blob| blob.exists()) {
        remove(blob)?;
    }
    let freed = gone.values().sum();
    let weights_left = snapshots.iter().flat_map(|dir| kinds_of(dir)).any(|(kind, _)| kind != StoredKind::NoWeights);
    // Configuration and tokenizer are of no use without any weights.
    if weights_left || !cache.unfinished().is_empty() { Ok(freed) } else { Ok(freed + remove_all(cache)?) }
}
