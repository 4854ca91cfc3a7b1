//! [`HubError`]: why a model could not be fetched, and what to do about it.

use std::path::PathBuf;

use reqwest::StatusCode;

use crate::memory::gib;

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No path and not a hub id either.
    #[error(
        "--model {0}: there is no such directory or file, and it is no hub id (OWNER/NAME, OWNER/NAME:Q4_K_M or \
         OWNER/NAME/FILE.gguf, of letters, digits, `-`, `_`, `.`)"
    )]
    NotAnId(String),
    /// A file that is no model.
    #[error(
        "--model {0} is a file; a directory with config.json and safetensors files is wanted (give the folder that it \
         lies in), or a .gguf file"
    )]
    IsAFile(String),
    /// More than one model.
    #[error("{place} holds several models; name one of them: {choices}")]
    Several {
        /// The folder or repository.
        place: String,
        /// What may be named.
        choices: String,
    },
    /// A file of several without the first.
    #[error("{0} is missing; it is the first of the files that follow one another, and each of them is needed")]
    NoFirst(String),
    /// A repository without that quantisation or file.
    #[error("{repo} has no {wanted}; it has: {known}")]
    NoSuchPick {
        /// The model.
        repo: String,
        /// As asked.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// A repository without weights that can be served.
    #[error(
        "{repo} holds no weights that can be served (safetensors or GGUF); it has: {found}. Pickled weights are programs \
         and are never run here"
    )]
    NoWeights {
        /// The model.
        repo: String,
        /// Some of its files.
        found: String,
    },
    /// An endpoint that is no URL.
    #[error("HF_ENDPOINT {0} is not a URL that begins with http:// or https://")]
    Endpoint(String),
    /// 401.
    #[error(
        "{repo}: the hub answered 401; {}",
        if *had_token {
            "the token (HF_TOKEN, or the one `hf auth login` stored) is not valid"
        } else {
            "the model does not exist, or is private or gated: check its name, or set HF_TOKEN"
        }
    )]
    Unauthorized {
        /// The model.
        repo: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// 403.
    #[error("{repo}: the hub answered 403; accept the model's terms at {endpoint}/{repo} with the account of HF_TOKEN")]
    Forbidden {
        /// The model.
        repo: String,
        /// The hub.
        endpoint: String,
    },
    /// 404 for the model.
    #[error("{repo}: there is no such model at {endpoint} (nor a directory of that name here)")]
    NoSuchModel {
        /// The model.
        repo: String,
        /// The hub.
        endpoint: String,
    },
    /// 404 for the revision.
    #[error("{repo}: there is no branch, tag or commit {revision:?}; correct --revision")]
    NoSuchRevision {
        /// The model.
        repo: String,
        /// As asked.
        revision: String,
    },
    /// 404 for a file that was listed, or a needed file that is not.
    #[error("{repo}: the file {file} is missing at revision {revision}")]
    NoSuchFile {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The revision.
        revision: String,
    },
    /// Another status.
    #[error("{repo}: the hub answered {status} for {what}")]
    Status {
        /// The model.
        repo: String,
        /// What was asked for.
        what: String,
        /// The answer.
        status: StatusCode,
    },
    /// No answer.
    #[error("{repo}: {endpoint} cannot be reached ({cause}); check the network, or HF_ENDPOINT for a mirror")]
    Unreachable {
        /// The model.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// An answer that is not understood.
    #[error("{repo}: the hub's answer for {what} is not understood: {cause}")]
    Malformed {
        /// The model.
        repo: String,
        /// What was asked for.
        what: String,
        /// Why.
        cause: String,
    },
    /// The connection broke too often.
    #[error(
        "{repo}: {file} broke off at {} of {} and did not go on ({cause}); start again to resume there",
        gib(*done_bytes), gib(*total_bytes)
    )]
    Broken {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// Bytes that are here.
        done_bytes: u64,
        /// Bytes of the whole file.
        total_bytes: u64,
        /// The last failure.
        cause: String,
    },
    /// Content that differs from its hash.
    #[error("{repo}: {file} arrived damaged twice (SHA-256 is {found}, {expected} was announced); try again")]
    Damaged {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// As computed.
        found: String,
        /// As announced.
        expected: String,
    },
    /// `HF_HUB_OFFLINE` without the files.
    #[error("{repo}: HF_HUB_OFFLINE is set and revision {revision} is not in {}; unset it to download", cache.display())]
    Offline {
        /// The model.
        repo: String,
        /// The revision.
        revision: String,
        /// The cache.
        cache: PathBuf,
    },
    /// Not in the cache.
    #[error("{repo} is not in {}; quern list shows what is", cache.display())]
    NotStored {
        /// The model.
        repo: String,
        /// The cache.
        cache: PathBuf,
    },
    /// A download goes on.
    #[error("{repo} is being downloaded by another program; let it end, or end it, first")]
    Busy {
        /// The model.
        repo: String,
    },
    /// No room.
    #[error(
        "{repo}: the disk of {} has no room for what is to come; free {} more, or choose another place with \
         --download-dir",
        dir.display(), gib(*missing_bytes)
    )]
    DiskFull {
        /// The model.
        repo: String,
        /// Where.
        dir: PathBuf,
        /// What of all that is still to come has no room.
        missing_bytes: u64,
    },
    /// The cache cannot be read or written.
    #[error("{}: {cause}; choose another place with --download-dir or HF_HOME", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        cause: std::io::Error,
    },
}

/// The innermost cause, which says "connection refused" where the outer ones say "error sending request".
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
