//! [`RepoCache`]: one model's files on disk, laid out as Hugging Face's own tools do and shared with them.
//!
//! ```text
//! models--OWNER--NAME/
//!   blobs/ETAG                 the bytes; ETAG.incomplete while they arrive
//!   refs/main                  the commit a branch or tag stood for when it was last looked up
//!   snapshots/COMMIT/FILE      a link to ../../blobs/ETAG
//! .locks/models--OWNER--NAME/ETAG.lock
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{HubError, RepoId};

/// One model's files on disk.
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, repo: &RepoId) -> Self {
        let name = format!("models--{}", repo.to_string().replace('/', "--"));
        Self { locks: cache_dir.join(".locks").join(&name), root: cache_dir.join(name) }
    }

    /// The commit of `revision` when it was last looked up, or `revision` itself if it is one.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_hex(revision, 40) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?.trim().to_owned();
        is_hex(&commit, 40).then_some(commit)
    }

    /// Remember what `revision` stands for.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        // A cache that others filled may be on a disk that cannot be written.
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let file = self.root.join("refs").join(revision);
        let written = fs::create_dir_all(file.parent().unwrap_or(&self.root)).and_then(|()| fs::write(&file, commit));
        match written {
            // The files are all there, or what is missing cannot be written either and is refused by its name.
            Err(cause) if cause.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!("{}: {cause}; offline, an older commit will be found.", file.display());
                Ok(())
            }
            written => written.map_err(|cause| HubError::Cache { path: file, cause }),
        }
    }

    /// The folder of all this.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the locks.
    pub(super) fn locks(&self) -> &Path {
        &self.locks
    }

    /// The files by which programs wait for one another.
    pub(super) fn lock_files(&self) -> Vec<PathBuf> {
        entries(&self.locks)
    }

    /// The directories of all commits, the one first that was fetched last.
    pub(super) fn snapshots(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<_> = entries(&self.root.join("snapshots")).into_iter().filter(|path| path.is_dir()).collect();
        dirs.sort_by_key(|dir| std::cmp::Reverse(fs::metadata(dir).and_then(|dir| dir.modified()).ok()));
        dirs
    }

    /// All files' bytes, whole or not.
    pub(super) fn blobs(&self) -> Vec<PathBuf> {
        entries(&self.root.join("blobs"))
    }

    /// Those that are not whole.
    pub(super) fn unfinished(&self) -> Vec<PathBuf> {
        self.blobs().into_iter().filter(|blob| blob.extension().is_some_and(|suffix| suffix == "incomplete")).collect()
    }

    /// The directory of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Wait until no other process fetches this blob. The lock is returned when the file is dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<fs::File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        self.make_parent(&path)?;
        let locked = fs::File::create(&path).and_then(|file| file.lock().map(|()| file));
        locked.map_err(|cause| HubError::Cache { path, cause })
    }

    /// Let `file` of `commit` be the blob `etag`.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let link = self.snapshot(commit).join(file);
        self.make_parent(&link)?;
        // Back out of the file's folders, the commit's and `snapshots`.
        let target = Path::new(&"../".repeat(file.matches('/').count() + 2)).join("blobs").join(etag);
        let made = match point(&link, &target, &self.blob(etag)) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&link).and_then(|()| point(&link, &target, &self.blob(etag)))
            }
            made => made,
        };
        made.map_err(|cause| HubError::Cache { path: link, cause })
    }

    pub(super) fn make_dir(&self, dir: &Path) -> Result<(), HubError> {
        fs::create_dir_all(dir).map_err(|cause| HubError::Cache { path: dir.to_owned(), cause })
    }

    pub(super) fn make_parent(&self, path: &Path) -> Result<(), HubError> {
        let parent = path.parent().expect("every path here has a parent");
        fs::create_dir_all(parent).map_err(|cause| HubError::Cache { path: parent.to_owned(), cause })
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Let the files `names` of `dir` be last read now, whatever the file system notes by itself.
pub(super) fn mark_used<'n>(dir: &Path, names: impl IntoIterator<Item = &'n str>) {
    let now = fs::FileTimes::new().set_accessed(SystemTime::now());
    for name in names {
        // The cache may be another user's, or on a disk that cannot be written.
        let _ = fs::File::open(dir.join(name)).and_then(|file| file.set_times(now));
    }
}

#[cfg(unix)]
fn point(link: &Path, target: &Path, _blob: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn point(link: &Path, _target: &Path, blob: &Path) -> io::Result<()> {
    fs::hard_link(blob, link)
}

/// Bytes that may still be written where `dir` is or will be; `None` if the system does not say.
#[cfg(unix)]
pub(super) fn free_bytes(dir: &Path) -> Option<u64> {
    let existing = dir.ancestors().find(|dir| dir.exists())?;
    let found = rustix::fs::statvfs(existing).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// See above.
#[cfg(not(unix))]
pub(super) fn free_bytes(_dir: &Path) -> Option<u64> {
    None
}

/// Whether `text` is `digits` hexadecimal digits, so that it is safe as a file name.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}
