//! [`Hub`]: models from the Hugging Face hub, kept in the cache that its own tools use.
//!
//! Written on `reqwest` and not on the `hf-hub` crate, whose 1.0 starts broken downloads from the
//! beginning, loses the hash of large files behind the hub's redirects, and brings the hundred-odd crates of
//! another transfer protocol that cannot be turned off. The hub serves every file over plain HTTP with
//! ranges, which is all that is needed here.

mod cache;
mod error;
mod headers;
mod inventory;
mod options;
mod ranges;
mod reference;
mod transfer;
mod weights;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, ETAG, HeaderMap, LOCATION},
    redirect,
};
use serde::Deserialize;
use tokio::sync::Semaphore;

pub use error::HubError;
pub use headers::AnnouncedGguf;
pub use inventory::{Inventory, StoredKind, StoredModel};
pub use options::HubOptions;
pub use reference::{HubRef, Pick};
pub use weights::WeightChoice;

use self::{
    cache::{RepoCache, is_hex},
    error::root_cause,
};
use crate::progress::ByteProgress;

/// Files fetched at once; one connection rarely fills a fast line.
const PARALLEL_FILES: usize = 4;
/// Ranges of large files that are on their way or in memory at once.
const PARALLEL_RANGES: usize = 8;
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
    ranges: Arc<Semaphore>,
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
struct RepoSnapshot<'a> {
    repo: &'a RepoId,
    commit: &'a str,
    cache: &'a RepoCache,
}

/// A repository whose small files are here.
pub struct Opened {
    repo: RepoId,
    commit: String,
    dir: PathBuf,
    /// All files of the repository; none if the hub was not asked.
    names: Option<Vec<String>>,
}

impl Opened {
    /// The folder of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A model in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Safetensors files in the folder.
    Directory(PathBuf),
    /// The first file in llama.cpp's format.
    Gguf(PathBuf),
}

impl Hub {
    /// A way to the hub that `options` describe.
    ///
    /// # Errors
    /// If an option is malformed.
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
        Ok(Self { options, endpoint, http, ranges: Arc::new(Semaphore::new(PARALLEL_RANGES)) })
    }

    /// Fetch all of `repo` at `revision` (`main` unless said otherwise) but its weights, as far as it is not in the cache.
    ///
    /// # Errors
    /// If the hub refuses or cannot be reached, the disk is full, or the cache has not got it and may not fetch.
    pub async fn open(&self, repo: &RepoId, revision: Option<&str>) -> Result<Opened, HubError> {
        let revision = revision.unwrap_or("main");
        if revision.is_empty() || revision.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(HubError::NoSuchRevision { repo: repo.to_string(), revision: revision.to_owned() });
        }
        let cache = RepoCache::new(&self.options.cache_dir, repo);
        let cached = || cache.commit(revision).filter(|commit| cache.snapshot(commit).is_dir());
        let opened = |commit: String, names: Option<Vec<String>>| Opened {
            repo: repo.clone(),
            dir: cache.snapshot(&commit),
            commit,
            names,
        };
        if self.options.offline {
            let commit = cached().ok_or_else(|| HubError::Offline {
                repo: repo.to_string(),
                revision: revision.to_owned(),
                cache: self.options.cache_dir.clone(),
            })?;
            return Ok(opened(commit, None));
        }
        let listing = match (self.listing(repo, revision).await, cached()) {
            (Ok(listing), _) => listing,
            (Err(error @ HubError::Unreachable { .. }), Some(commit)) => {
                tracing::warn!("{error}. Using the copy in {}.", cache.snapshot(&commit).display());
                return Ok(opened(commit, None));
            }
            (Err(error), _) => return Err(error),
        };
        let snapshot = RepoSnapshot { repo, commit: &listing.sha, cache: &cache };
        let names: Vec<String> = listing.siblings.into_iter().map(|file| file.rfilename).collect();
        self.fetch_all(&snapshot, names.iter().map(String::as_str).filter(|name| is_small_file(name))).await?;
        let opened = opened(listing.sha, Some(names));
        if !opened.dir.is_dir() {
            cache.make_dir(&opened.dir)?;
        }
        cache.set_commit(revision, &opened.commit)?;
        Ok(opened)
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
        snapshot: &RepoSnapshot<'_>,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<(), HubError> {
        let RepoSnapshot { repo, commit, cache } = *snapshot;
        let missing: Vec<String> =
            names.filter(|name| !cache.snapshot(commit).join(name).exists()).map(str::to_owned).collect();
        let mut absent = Vec::new();
        for head in self.heads(snapshot, missing).await? {
            let blob = cache.blob(&head.etag);
            match std::fs::metadata(&blob) {
                Ok(found) if found.len() == head.size => cache.link(commit, &head.name, &head.etag)?,
                _ => absent.push(head),
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        self.ask_for_room(snapshot, &absent)?;
        let progress = ByteProgress::new(format!("Downloading {repo}"), absent.iter().map(|head| head.size).sum());
        let fetched = stream::iter(&absent).map(|head| self.fetch(snapshot, head, &progress));
        fetched.buffer_unordered(PARALLEL_FILES).try_collect::<()>().await
    }

    /// Sizes and hashes of files, in their order.
    async fn heads(&self, snapshot: &RepoSnapshot<'_>, names: Vec<String>) -> Result<Vec<FileHead>, HubError> {
        let heads = stream::iter(names).map(|name| self.head(snapshot, name)).buffered(2 * PARALLEL_FILES);
        heads.try_collect().await
    }

    /// Refuse before the first byte what the disk has no room for.
    fn ask_for_room(&self, snapshot: &RepoSnapshot<'_>, absent: &[FileHead]) -> Result<(), HubError> {
        let begun =
            |head: &FileHead| std::fs::metadata(snapshot.cache.incomplete(&head.etag)).map_or(0, |file| file.len());
        let needed: u64 = absent.iter().map(|head| head.size.saturating_sub(begun(head))).sum();
        let dir = &self.options.cache_dir;
        // A file system that does not say is asked by writing.
        let Some(free) = cache::free_bytes(dir) else { return Ok(()) };
        if needed <= free {
            return Ok(());
        }
        Err(HubError::DiskFull { repo: snapshot.repo.to_string(), dir: dir.clone(), missing_bytes: needed - free })
    }

    /// Size and hash of a file.
    async fn head(&self, snapshot: &RepoSnapshot<'_>, name: String) -> Result<FileHead, HubError> {
        let RepoSnapshot { repo, commit, .. } = *snapshot;
        let mut url = self.file_url(repo, commit, &name);
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

    /// The address of a file, perhaps in a folder.
    fn file_url(&self, repo: &RepoId, commit: &str, file: &str) -> Url {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(file.split('/')).collect();
        self.url(&[], repo, &parts)
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

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Configuration, tokenizer and templates: never code, never pickled weights, nothing of a subdirectory but templates.
fn is_small_file(name: &str) -> bool {
    if let Some(template) = name.strip_prefix("additional_chat_templates/") {
        return template.ends_with(".jinja") && !template.contains(['/', '\\']) && !template.starts_with('.');
    }
    let suffix = Path::new(name).extension().and_then(|suffix| suffix.to_str());
    let named = matches!(suffix, Some("json" | "jinja")) || matches!(name, "merges.txt" | "vocab.txt");
    named && !name.contains(['/', '\\']) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let template = "additional_chat_templates/tool_use.jinja";
        for name in ["config.json", "tokenizer.json", "chat_template.jinja", "merges.txt", template] {
            assert!(is_small_file(name), "{name}");
        }
        for name in ["model.bin", "model.pt", "modeling.py", "README.md", "sub/config.json", ".gitattributes", "..json"]
        {
            assert!(!is_small_file(name), "{name}");
        }
    }

    fn options(endpoint: &str) -> HubOptions {
        HubOptions::from_env(None, |name| (name == "HF_ENDPOINT").then(|| endpoint.to_owned()))
    }

    #[test]
    fn an_endpoint_is_a_web_address() {
        let hub = |endpoint: &str| Hub::new(options(endpoint));
        assert!(hub("http://127.0.0.1:1/prefix/").is_ok());
        for endpoint in ["huggingface.co", "ftp://x", "http://"] {
            assert!(matches!(hub(endpoint), Err(HubError::Endpoint(_))), "{endpoint}");
        }
    }
}
