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
        if is_hex(revision, 40) {
            return Ok(());
        }
        let file = self.root.join("refs").join(revision);
        self.make_parent(&file)?;
        fs::write(&file, commit).map_err(|cause| HubError::Cache { path: file, cause })
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
        let made = match point(&link, etag, &self.blob(etag)) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&link).and_then(|()| point(&link, etag, &self.blob(etag)))
            }
            made => made,
        };
        made.map_err(|cause| HubError::Cache { path: link, cause })
    }

    pub(super) fn make_parent(&self, path: &Path) -> Result<(), HubError> {
        let parent = path.parent().expect("every path here has a parent");
        fs::create_dir_all(parent).map_err(|cause| HubError::Cache { path: parent.to_owned(), cause })
    }
}

#[cfg(unix)]
fn point(link: &Path, etag: &str, _blob: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), link)
}

#[cfg(not(unix))]
fn point(link: &Path, _etag: &str, blob: &Path) -> io::Result<()> {
    fs::hard_link(blob, link)
}

/// Whether `text` is `digits` hexadecimal digits, so that it is safe as a file name.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}
