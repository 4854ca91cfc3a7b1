//! The headers of GGUF files, read before the files are fetched: they say what network it is, which encodings its
//! tensors have and how large they are.

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use quern_backend::SharedBytes;
use quern_model::{
    LoadError,
    gguf::{FilePiece, GgufFile, GgufModel},
    weights::{Remedy, TensorProblem},
};

use super::{
    FileHead, Hub, HubError, Opened, PARALLEL_FILES, RepoCache, RepoSnapshot, WeightChoice, ranges::RangeRead,
    transfer::Interruption,
};
use crate::progress::ByteProgress;

/// Bytes of a file's beginning that are read until the header is whole: files that follow a first one say little, first
/// ones hold the tokenizer, which is 6 to 10 MB.
const BEGINNINGS: [u64; 3] = [1 << 20, 16 << 20, 256 << 20];

/// What the headers of a model's files say of it, or why it cannot be served.
pub type AnnouncedGguf = Result<GgufModel, LoadError>;

impl Hub {
    /// The headers of the files of `choice`, in llama.cpp's format. `None` where they cannot be read by themselves: the
    /// server sends no parts of files, or what it sends is no such header, which is said of the file once it is here.
    ///
    /// # Errors
    /// If the hub refuses or cannot be reached.
    pub async fn announced_gguf(
        &self,
        opened: &Opened,
        choice: &WeightChoice,
    ) -> Result<Option<AnnouncedGguf>, HubError> {
        let cache = RepoCache::new(&self.options.cache_dir, &opened.repo);
        let snapshot = RepoSnapshot { repo: &opened.repo, commit: &opened.commit, cache: &cache };
        let heads = self.heads(&snapshot, choice.files().to_vec()).await?;
        let all_bytes: u64 = heads.iter().map(|head| head.size).sum();
        // The header of a file in pieces is in the first of them.
        let is_cut = FilePiece::of(&choice.files()[0]).is_some();
        let files = heads.iter().take(if is_cut { 1 } else { heads.len() });
        let headers = stream::iter(files).map(|head| {
            let size = if is_cut { all_bytes } else { head.size };
            self.header(&snapshot, head, size)
        });
        let headers = headers.buffered(PARALLEL_FILES);
        let headers: Vec<Header> = headers.try_collect().await?;
        let mut files = Vec::new();
        for header in headers {
            match header {
                Ok(Some(file)) => files.push(file),
                Ok(None) => return Ok(None),
                Err(problem) if problem.remedy == Remedy::FetchAgain => return Ok(None),
                Err(problem) => {
                    let dir = opened.repo.to_string();
                    return Ok(Some(Err(LoadError::Checkpoint { dir, problems: vec![problem] })));
                }
            }
        }
        Ok(Some(GgufModel::announced(&opened.repo.to_string(), files)))
    }

    /// The header of a file of `size` bytes, of which `head` is the first piece or all; `None` where it cannot be had.
    async fn header(&self, snapshot: &RepoSnapshot<'_>, head: &FileHead, size: u64) -> Result<Header, HubError> {
        let place = Mutex::new(None);
        let mut beginning = Vec::new();
        for most in BEGINNINGS {
            let range = beginning.len() as u64..most.min(head.size);
            let progress = ByteProgress::new(format!("Reading the header of {}", head.name), range.end - range.start);
            match self.range(snapshot, head, range, &place, &progress).await {
                Ok(more) => match more.and_then(RangeRead::whole) {
                    Some(more) => beginning.extend(more),
                    None => return Ok(Ok(None)),
                },
                Err(Interruption::Fatal(error)) => return Err(error),
                // What stands in the way of this stands in the way of the whole file, and is said there.
                Err(Interruption::Connection(_) | Interruption::Write(_)) => return Ok(Ok(None)),
            }
            let bytes = SharedBytes::new(Arc::new(beginning));
            match GgufFile::header(&head.name, &bytes, size) {
                Ok(None) if most < head.size => beginning = bytes.to_vec(),
                read => return Ok(read),
            }
        }
        Ok(Ok(None))
    }
}

/// A header, none, or what is wrong with it.
type Header = Result<Option<GgufFile>, TensorProblem>;
