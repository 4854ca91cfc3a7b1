//! The bytes of one file: resumed, verified, put in place.

use std::{
    io::{self, SeekFrom},
    path::Path,
};

use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_RANGE, LOCATION, RANGE},
};
use sha2::{Digest, Sha256};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncSeekExt, AsyncWriteExt},
};

use super::{
    FileHead, Hub, HubError, MAX_FAILURES, MAX_REDIRECTS, RepoId, RepoSnapshot,
    cache::{RepoCache, is_hex},
    error::root_cause,
    text,
};
use crate::progress::ByteProgress;

impl Hub {
    /// Bring one file into the cache: resume, verify, put in place.
    pub(super) async fn fetch(
        &self,
        snapshot: &RepoSnapshot<'_>,
        head: &FileHead,
        progress: &ByteProgress,
    ) -> Result<(), HubError> {
        let RepoSnapshot { repo, commit, cache } = *snapshot;
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
        snapshot: &RepoSnapshot<'_>,
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
        progress.resume(done);
        let (mut failures, mut knows_ranges) = (0, true);
        while done < head.size {
            let before = done;
            let outcome = if knows_ranges && head.size - done > self.options.range_bytes {
                let appended = self.append_ranges(snapshot, head, &mut file, &mut done, progress).await;
                appended.map(|known| knows_ranges = known)
            } else {
                self.append(snapshot, head, &mut file, &mut done, progress).await
            };
            match outcome {
                Ok(()) => {}
                Err(Interruption::Fatal(error)) => return Err(error),
                Err(Interruption::Write(cause)) if cause.kind() == io::ErrorKind::StorageFull => {
                    return Err(HubError::DiskFull {
                        repo: snapshot.repo.to_string(),
                        dir: self.options.cache_dir.clone(),
                        missing_bytes: progress.left(),
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
        snapshot: &RepoSnapshot<'_>,
        head: &FileHead,
        file: &mut File,
        done: &mut u64,
        progress: &ByteProgress,
    ) -> Result<(), Interruption> {
        let RepoSnapshot { repo, commit, .. } = *snapshot;
        let url = self.file_url(repo, commit, &head.name);
        let from = *done;
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let (mut response, _) = self.get_file(url, repo, range).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => check_start(&response, from)?,
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

    /// Ask for a file, or a range of it, following redirects; the answer and where it came from. The token stays with
    /// the hub.
    pub(super) async fn get_file(
        &self,
        mut url: Url,
        repo: &RepoId,
        range: Option<String>,
    ) -> Result<(Response, Url), Interruption> {
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.http.get(url.clone());
            if let Some(range) = &range {
                request = request.header(RANGE, range);
            }
            if let Some(token) = self.options.token.as_ref().filter(|_| self.is_own(&url)) {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.map_err(|cause| Interruption::Connection(root_cause(&cause)))?;
            let location = text(response.headers(), LOCATION.as_str());
            match location.filter(|_| response.status().is_redirection()).map(|location| url.join(location)) {
                Some(Ok(next)) => url = next,
                _ => return Ok((response, url)),
            }
        }
        let cause = format!("more than {MAX_REDIRECTS} redirects");
        Err(Interruption::Fatal(HubError::Malformed { repo: repo.to_string(), what: url.path().to_owned(), cause }))
    }
}

/// Why a connection's worth of a file ended early.
pub(super) enum Interruption {
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

/// Refuse a part of a file that does not begin at byte `from`.
pub(super) fn check_start(response: &Response, from: u64) -> Result<(), Interruption> {
    let start = text(response.headers(), CONTENT_RANGE.as_str())
        .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    if start == Some(from) {
        return Ok(());
    }
    let came = start.map_or_else(|| "an unknown place".to_owned(), |start| start.to_string());
    Err(Interruption::Connection(format!("bytes from {from} were asked for, those from {came} came")))
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
