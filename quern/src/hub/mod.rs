//! [`Hub`]: models from the Hugging Face hub, kept in the cache that its own tools use.
//!
//! Written on `reqwest` and not on the `hf-hub` crate, whose 1.0 starts broken downloads from the
//! beginning, loses the hash of large files behind the hub's redirects, and brings the hundred-odd crates of
//! another transfer protocol that cannot be turned off. The hub serves every file over plain HTTP with
//! ranges, which is all that is needed here.

mod cache;
mod error;

use std::{
    fmt,
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE},
    redirect,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncSeekExt, AsyncWriteExt},
};

pub use error::HubError;

use self::{
    cache::{RepoCache, is_hex},
    error::root_cause,
};
use crate::progress::ByteProgress;

/// Files fetched at once; one connection rarely fills a fast line.
const PARALLEL_FILES: usize = 4;
/// Failures in a row, with not a byte between them, after which a file is given up.
const MAX_FAILURES: u32 = 5;
/// A connection that sends nothing for this long is broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects within the hub; the one to its content network ends the chain.
const MAX_REDIRECTS: usize = 10;

/// `OWNER/NAME`, or `NAME` for the hub's oldest models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// Parse an id; letters, digits, `-`, `_` and `.`, at most one `/`.
    pub fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let valid = match text.split_once('/') {
            Some((owner, name)) => part(owner) && part(name),
            None => part(text),
        };
        (valid && text.len() <= 200).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the hub and its cache are.
#[derive(Clone)]
pub struct HubOptions {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// Sent as a bearer token, to the hub only.
    pub token: Option<String>,
    /// The cache.
    pub cache_dir: PathBuf,
    /// Use the cache and nothing else.
    pub offline: bool,
    /// Wait this long after a failure, and twice as long after each further one.
    pub retry_delay: Duration,
}

impl HubOptions {
    /// What the environment says, read through `variable`: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_CACHE`,
    /// `HUGGINGFACE_HUB_CACHE` and `HF_HUB_OFFLINE`, as Hugging Face documents them. `download_dir` goes
    /// before the cache's variables.
    pub fn from_env(download_dir: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_set = |name: &str| variable(name).is_some_and(|v| is_true(&v));
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let caches = caches.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
            caches.unwrap_or_else(std::env::temp_dir).join("huggingface")
        });
        let cache_dir = download_dir.map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
            cache.map_or_else(|| home.join("hub"), PathBuf::from)
        });
        let token = variable("HF_TOKEN").or_else(|| {
            let file = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            std::fs::read_to_string(file).ok()
        });
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: token.filter(|_| !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            cache_dir,
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            retry_delay: Duration::from_secs(1),
        }
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// Which of a model's files are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Configuration, tokenizer and weights.
    Everything,
    /// All but the weights.
    NoWeights,
}

/// A way to the hub.
pub struct Hub {
    options: HubOptions,
    endpoint: Url,
    http: Client,
}

/// The hub's description of a model at a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What is known of a file before it is fetched.
struct FileHead {
    name: String,
    etag: String,
    size: u64,
}

/// A model at a commit, with what every step needs to know of it.
struct Snapshot<'a> {
    repo: &'a RepoId,
    commit: &'a str,
    cache: &'a RepoCache,
}

impl Hub {
    /// A way to the hub that `options` describe.
    pub fn new(options: HubOptions) -> Result<Self, HubError> {
        let endpoint = Url::parse(&format!("{}/", options.endpoint.trim_end_matches('/'))).ok();
        let endpoint = endpoint.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let endpoint = endpoint.ok_or_else(|| HubError::Endpoint(options.endpoint.clone()))?;
        let http = Client::builder()
            .user_agent(concat!("quern/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(STALL_TIMEOUT)
            // Relative redirects are followed by hand: the answer before the content network's tells the hash.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|cause| HubError::Endpoint(format!("{}: {}", options.endpoint, root_cause(&cause))))?;
        Ok(Self { options, endpoint, http })
    }

    /// The directory of `repo` at `revision` (`main` unless said otherwise), fetched as far as it is not
    /// in the cache. Broken downloads go on where they stopped, in this run and in later ones.
    pub async fn snapshot(&self, repo: &RepoId, revision: Option<&str>, wanted: Wanted) -> Result<PathBuf, HubError> {
        let revision = revision.unwrap_or("main");
        if revision.is_empty() || revision.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(HubError::NoSuchRevision { repo: repo.to_string(), revision: revision.to_owned() });
        }
        let cache = RepoCache::new(&self.options.cache_dir, repo);
        let cached = || cache.commit(revision).map(|commit| cache.snapshot(&commit)).filter(|dir| dir.is_dir());
        if self.options.offline {
            return cached().ok_or_else(|| HubError::Offline {
                repo: repo.to_string(),
                revision: revision.to_owned(),
                cache: self.options.cache_dir.clone(),
            });
        }
        let listing = match (self.listing(repo, revision).await, cached()) {
            (Ok(listing), _) => listing,
            (Err(error @ HubError::Unreachable { .. }), Some(dir)) => {
                tracing::warn!("{error}. Using the copy in {}.", dir.display());
                return Ok(dir);
            }
            (Err(error), _) => return Err(error),
        };
        let snapshot = Snapshot { repo, commit: &listing.sha, cache: &cache };
        let names: Vec<&str> = listing.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        self.fetch_all(&snapshot, names.iter().copied().filter(|name| is_small_file(name))).await?;
        if wanted == Wanted::Everything {
            let shards = shards(&snapshot, &names)?;
            self.fetch_all(&snapshot, shards.iter().map(String::as_str)).await?;
        }
        cache.set_commit(revision, &listing.sha)?;
        Ok(cache.snapshot(&listing.sha))
    }

    async fn listing(&self, repo: &RepoId, revision: &str) -> Result<Listing, HubError> {
        let what = format!("revision {revision}");
        let url = self.url(&["api", "models"], repo, &["revision", revision]);
        let response = self.ask(Method::GET, url, repo, |request| request).await?;
        let response = self.check(response, repo, revision, None).await?;
        let malformed = |cause: String| HubError::Malformed { repo: repo.to_string(), what: what.clone(), cause };
        let body = response.bytes().await.map_err(|cause| malformed(root_cause(&cause)))?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|cause| malformed(cause.to_string()))?;
        if !is_hex(&listing.sha, 40) {
            return Err(malformed(format!("{:?} is no commit", listing.sha)));
        }
        Ok(listing)
    }

    /// Bring the files `names` into the cache.
    async fn fetch_all<'n>(
        &self,
        snapshot: &Snapshot<'_>,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<(), HubError> {
        let Snapshot { repo, commit, cache } = *snapshot;
        let missing: Vec<String> =
            names.filter(|name| !cache.snapshot(commit).join(name).exists()).map(str::to_owned).collect();
        let heads = stream::iter(missing).map(|name| self.head(snapshot, name)).buffered(2 * PARALLEL_FILES);
        let mut absent = Vec::new();
        for head in heads.try_collect::<Vec<_>>().await? {
            let blob = cache.blob(&head.etag);
            match std::fs::metadata(&blob) {
                Ok(found) if found.len() == head.size => cache.link(commit, &head.name, &head.etag)?,
                _ => absent.push(head),
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        let progress = ByteProgress::new(format!("Downloading {repo}"), absent.iter().map(|head| head.size).sum());
        let fetched = stream::iter(&absent).map(|head| self.fetch(snapshot, head, &progress));
        fetched.buffer_unordered(PARALLEL_FILES).try_collect::<()>().await
    }

    /// Size and hash of a file.
    async fn head(&self, snapshot: &Snapshot<'_>, name: String) -> Result<FileHead, HubError> {
        let Snapshot { repo, commit, .. } = *snapshot;
        let mut url = self.url(&[], repo, &["resolve", commit, &name]);
        for _ in 0..MAX_REDIRECTS {
            let response = self.ask(Method::HEAD, url.clone(), repo, |request| request).await?;
            let headers = response.headers();
            if response.status().is_redirection()
                && let Some(location) = text(headers, LOCATION.as_str())
                && Url::parse(location).is_err()
                && let Ok(next) = url.join(location)
                && next.host() == url.host()
            {
                url = next;
                continue;
            }
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
            let size = text(headers, "x-linked-size").or_else(|| text(headers, CONTENT_LENGTH.as_str()));
            let size = size.and_then(|size| size.parse().ok());
            if !response.status().is_redirection() {
                self.check(response, repo, commit, Some(&name)).await?;
            }
            let malformed = |cause: String| HubError::Malformed { repo: repo.to_string(), what: name.clone(), cause };
            let etag = etag.ok_or_else(|| malformed("it has no ETag".into()))?;
            if etag.is_empty() || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(malformed(format!("ETag {etag:?} is no hash")));
            }
            let size = size.ok_or_else(|| malformed("it has no Content-Length".into()))?;
            return Ok(FileHead { name, etag, size });
        }
        let cause = format!("more than {MAX_REDIRECTS} redirects");
        Err(HubError::Malformed { repo: repo.to_string(), what: name, cause })
    }

    /// Bring one file into the cache: resume, verify, put in place.
    async fn fetch(&self, snapshot: &Snapshot<'_>, head: &FileHead, progress: &ByteProgress) -> Result<(), HubError> {
        let Snapshot { repo, commit, cache } = *snapshot;
        let blob = cache.blob(&head.etag);
        cache.make_parent(&blob)?;
        let _lock = {
            let (root, repo, etag) = (self.options.cache_dir.clone(), repo.clone(), head.etag.clone());
            unblocked(move || RepoCache::new(&root, &repo).lock(&etag)).await?
        };
        if std::fs::metadata(&blob).is_ok_and(|found| found.len() == head.size) {
            // Another process was faster.
            progress.advance(head.size);
            return cache.link(commit, &head.name, &head.etag);
        }
        let path = cache.incomplete(&head.etag);
        let mut damaged = None;
        loop {
            self.receive(snapshot, head, &path, progress).await?;
            // Large files are named by their SHA-256, small ones by git's hash, which their size stands in for.
            if !is_hex(&head.etag, 64) {
                break;
            }
            let hashed = path.clone();
            let sum = unblocked(move || sha256(&hashed)).await;
            let found = sum.map_err(|cause| HubError::Cache { path: path.clone(), cause })?;
            if found.eq_ignore_ascii_case(&head.etag) {
                break;
            }
            std::fs::remove_file(&path).map_err(|cause| HubError::Cache { path: path.clone(), cause })?;
            if damaged.is_some() {
                let (repo, file, expected) = (repo.to_string(), head.name.clone(), head.etag.clone());
                return Err(HubError::Damaged { repo, file, found, expected });
            }
            tracing::warn!("{repo}: {} arrived damaged; fetching it again.", head.name);
            progress.retreat(head.size);
            damaged = Some(found);
        }
        std::fs::rename(&path, &blob).map_err(|cause| HubError::Cache { path: blob, cause })?;
        cache.link(commit, &head.name, &head.etag)
    }

    /// Append to `path` until it has the file's size, over as many connections as it takes.
    async fn receive(
        &self,
        snapshot: &Snapshot<'_>,
        head: &FileHead,
        path: &Path,
        progress: &ByteProgress,
    ) -> Result<(), HubError> {
        let fail = |cause| HubError::Cache { path: path.to_owned(), cause };
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path).await;
        let mut file = opened.map_err(fail)?;
        let mut done = file.metadata().await.map_err(fail)?.len();
        if done > head.size {
            file.set_len(0).await.map_err(fail)?;
            done = 0;
        }
        progress.advance(done);
        let mut failures = 0;
        while done < head.size {
            let before = done;
            match self.append(snapshot, head, &mut file, &mut done, progress).await {
                Ok(()) => {}
                Err(Interruption::Fatal(error)) => return Err(error),
                Err(Interruption::Write(cause)) if cause.kind() == io::ErrorKind::StorageFull => {
                    return Err(HubError::DiskFull {
                        repo: snapshot.repo.to_string(),
                        dir: self.options.cache_dir.clone(),
                        missing_bytes: head.size - done,
                    });
                }
                Err(Interruption::Write(cause)) => return Err(fail(cause)),
                Err(Interruption::Connection(cause)) => {
                    failures = if done > before { 0 } else { failures + 1 };
                    if failures == MAX_FAILURES {
                        let (repo, file) = (snapshot.repo.to_string(), head.name.clone());
                        return Err(HubError::Broken { repo, file, done_bytes: done, total_bytes: head.size, cause });
                    }
                    tracing::debug!("{}: {} broke off at byte {done}: {cause}", snapshot.repo, head.name);
                    tokio::time::sleep(self.options.retry_delay * 2u32.pow(failures)).await;
                }
            }
        }
        file.sync_all().await.map_err(fail)
    }

    /// One connection's worth of the file, from byte `done` on.
    async fn append(
        &self,
        snapshot: &Snapshot<'_>,
        head: &FileHead,
        file: &mut File,
        done: &mut u64,
        progress: &ByteProgress,
    ) -> Result<(), Interruption> {
        let Snapshot { repo, commit, .. } = *snapshot;
        let url = self.url(&[], repo, &["resolve", commit, &head.name]);
        let from = *done;
        let mut response = self.get_file(url, repo, from).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let start = text(response.headers(), CONTENT_RANGE.as_str())
                    .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
                if start != Some(from) {
                    let cause = format!("bytes from {from} were asked for, {start:?} came");
                    return Err(Interruption::Connection(cause));
                }
            }
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => {
                // The server does not know ranges: from the beginning.
                progress.retreat(*done);
                *done = 0;
                file.set_len(0).await?;
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Interruption::Connection(format!("the answer was {status}")));
            }
            _ => {}
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Interruption::Connection("the range was refused".into()));
        }
        response = self.check(response, repo, commit, Some(&head.name)).await?;
        file.seek(SeekFrom::Start(*done)).await?;
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(cause) => {
                    file.flush().await?;
                    return Err(Interruption::Connection(root_cause(&cause)));
                }
            };
            let room = usize::try_from(head.size - *done).unwrap_or(usize::MAX);
            let chunk = &chunk[..chunk.len().min(room)];
            file.write_all(chunk).await?;
            *done += chunk.len() as u64;
            progress.advance(chunk.len() as u64);
            if *done == head.size {
                break;
            }
        }
        file.flush().await?;
        if *done < head.size {
            return Err(Interruption::Connection("it ended early".into()));
        }
        Ok(())
    }

    /// Ask for a file from byte `from` on, following redirects. The token stays with the hub.
    async fn get_file(&self, mut url: Url, repo: &RepoId, from: u64) -> Result<Response, Interruption> {
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.http.get(url.clone());
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.options.token.as_ref().filter(|_| self.is_own(&url)) {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|cause| Interruption::Connection(root_cause(&cause)))?;
            let location = text(response.headers(), LOCATION.as_str());
            match location.filter(|_| response.status().is_redirection()).map(|location| url.join(location)) {
                Some(Ok(next)) => url = next,
                _ => return Ok(response),
            }
        }
        let cause = format!("more than {MAX_REDIRECTS} redirects");
        Err(Interruption::Fatal(HubError::Malformed { repo: repo.to_string(), what: url.path().to_owned(), cause }))
    }

    /// Whether `url` is the hub's own, same port and scheme included.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// One request to the hub itself, tried again while the connection fails or the hub is overloaded.
    async fn ask(
        &self,
        method: Method,
        url: Url,
        repo: &RepoId,
        with: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, HubError> {
        let mut failures = 0;
        loop {
            let mut request = with(self.http.request(method.clone(), url.clone()));
            if let Some(token) = &self.options.token {
                request = request.bearer_auth(token);
            }
            failures += 1;
            match request.send().await {
                Ok(response) if !is_passing(response.status()) || failures == MAX_FAILURES => return Ok(response),
                // Refused connections and unknown names do not mend within seconds.
                Err(cause) if cause.is_connect() || failures == MAX_FAILURES => {
                    let (repo, endpoint) = (repo.to_string(), self.options.endpoint.clone());
                    return Err(HubError::Unreachable { repo, endpoint, cause: root_cause(&cause) });
                }
                _ => tokio::time::sleep(self.options.retry_delay * 2u32.pow(failures - 1)).await,
            }
        }
    }

    /// Turn a status that is no success into the error it stands for.
    async fn check(
        &self,
        response: Response,
        repo: &RepoId,
        revision: &str,
        file: Option<&str>,
    ) -> Result<Response, HubError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, repo) = (response.status(), repo.to_string());
        let code = text(response.headers(), "x-error-code").unwrap_or_default().to_owned();
        let (revision, endpoint) = (revision.to_owned(), self.options.endpoint.clone());
        Err(match (status.as_u16(), code.as_str(), file) {
            // The hub answers 401 for a gated model without a token, 403 with one.
            (401, ..) => HubError::Unauthorized { repo, had_token: self.options.token.is_some() },
            (403, ..) => HubError::Forbidden { repo, endpoint },
            (404, _, Some(file)) => HubError::NoSuchFile { repo, file: file.to_owned(), revision },
            (404, "RepoNotFound", _) => HubError::NoSuchModel { repo, endpoint },
            (404, "RevisionNotFound", _) => HubError::NoSuchRevision { repo, revision },
            (404, ..) if revision == "main" => HubError::NoSuchModel { repo, endpoint },
            (404, ..) => HubError::NoSuchRevision { repo, revision },
            _ => {
                let what = file.map_or_else(|| format!("revision {revision}"), str::to_owned);
                HubError::Status { repo, what, status }
            }
        })
    }

    /// `endpoint/BEFORE…/REPO/AFTER…`, each part of `after` one encoded segment unless it is a file's path.
    fn url(&self, before: &[&str], repo: &RepoId, after: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        {
            let mut segments = url.path_segments_mut().expect("http URLs have paths");
            segments.pop_if_empty().extend(before).extend(repo.0.split('/')).extend(after);
        }
        url
    }
}

/// Why a connection's worth of a file ended early.
enum Interruption {
    /// Trying again may help.
    Connection(String),
    /// The disk's fault.
    Write(io::Error),
    /// Trying again does not help.
    Fatal(HubError),
}

impl From<io::Error> for Interruption {
    fn from(cause: io::Error) -> Self {
        Self::Write(cause)
    }
}

impl From<HubError> for Interruption {
    fn from(error: HubError) -> Self {
        Self::Fatal(error)
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Configuration, tokenizer and templates: never code, never pickled weights, nothing of a subdirectory.
fn is_small_file(name: &str) -> bool {
    let suffix = Path::new(name).extension().and_then(|suffix| suffix.to_str());
    let named = matches!(suffix, Some("json" | "jinja")) || matches!(name, "merges.txt" | "vocab.txt");
    named && !name.contains(['/', '\\']) && !name.starts_with('.')
}

/// The weight files: those the index names, or else every safetensors file.
fn shards(snapshot: &Snapshot<'_>, names: &[&str]) -> Result<Vec<String>, HubError> {
    let Snapshot { repo, commit, cache } = *snapshot;
    const INDEX: &str = "model.safetensors.index.json";
    let is_weights =
        |name: &str| name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.');
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

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Run what may block for long on a thread of its own.
async fn unblocked<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)], download_dir: Option<&str>) -> HubOptions {
        HubOptions::from_env(download_dir.map(Path::new), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_the_most_special_variable_says() {
        let cache = |variables: &[_], dir| options(variables, dir).cache_dir.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")], None), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], None), "/x/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], None), "/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")], None), "/old");
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")], None), "/c");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c")], Some("/d")), "/d");
    }

    #[test]
    fn the_token_is_the_variables_or_the_files() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "stored\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home)], None).token.as_deref(), Some("stored"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", " typed\n")], None).token.as_deref(), Some("typed"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN_PATH", "/nonexistent")], None).token, None);
        assert_eq!(options(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None).token, None);
    }

    #[test]
    fn offline_is_a_truth_value() {
        for (value, offline) in [("1", true), ("true", true), ("ON", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)], None).offline, offline, "{value}");
        }
    }

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["Qwen/Qwen3-Coder-30B-A3B-Instruct", "gpt2", "a_b/c.d"] {
            assert_eq!(RepoId::parse(id).map(|id| id.to_string()).as_deref(), Some(id));
        }
        for path in ["", "/", "/a/b", "./a", "../a", "a/b/c", "a/", "/a", "~/a", "a b", "a/..", "a/.b", "a\\b", "-a"] {
            assert_eq!(RepoId::parse(path), None, "{path}");
        }
    }

    #[test]
    fn code_and_pickles_are_never_wanted() {
        for name in ["config.json", "tokenizer.json", "chat_template.jinja", "merges.txt"] {
            assert!(is_small_file(name), "{name}");
        }
        for name in ["model.bin", "model.pt", "modeling.py", "README.md", "sub/config.json", ".gitattributes", "..json"]
        {
            assert!(!is_small_file(name), "{name}");
        }
    }

    #[test]
    fn an_endpoint_is_a_web_address() {
        let hub = |endpoint: &str| Hub::new(options(&[("HF_ENDPOINT", endpoint)], None));
        assert!(hub("http://127.0.0.1:1/prefix/").is_ok());
        for endpoint in ["huggingface.co", "ftp://x", "http://"] {
            assert!(matches!(hub(endpoint), Err(HubError::Endpoint(_))), "{endpoint}");
        }
    }
}
