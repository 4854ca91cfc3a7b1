//! `--weight-cache`: repacked weights kept between starts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use quern_backend::Rank;
use quern_model::{Checkpoint, Split};
use sha2::{Digest, Sha256};

use crate::{memory::gib, start_error::StartError};

/// Characters of the digest in a file's name.
const DIGITS: usize = 16;

/// The file that keeps a checkpoint's repacked weights.
pub struct WeightFile {
    /// Where it is.
    pub path: PathBuf,
    /// What must be in it: changes when the weights do, or what is made of them.
    pub identity: String,
    /// About how large it is.
    pub weight_bytes: u64,
    dir: PathBuf,
    failures: Arc<AtomicU64>,
}

/// What a start found at a [`WeightFile`]'s place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The weights, as an earlier start repacked them.
    Whole,
    /// Nothing that fits: this start writes it.
    Nothing,
    /// These weights, and what is wrong with them: this start writes them anew.
    Damaged(&'a str),
    /// Another process, which is just writing it.
    Busy,
}

impl WeightFile {
    /// The file of a `part` of `checkpoint` in `dir`; `failures` counts what goes wrong with it.
    ///
    /// # Errors
    /// If there is nothing to keep, or the model's files cannot be looked at.
    pub fn locate(
        dir: &Path,
        checkpoint: &Checkpoint,
        part: &Split,
        failures: Arc<AtomicU64>,
    ) -> Result<Self, StartError> {
        let refused = |cause: String| refused(dir, cause);
        let [first, ..] = checkpoint.gguf_files() else {
            let has_blocks = checkpoint.formats().iter().any(|format| format.blocks().is_some());
            let others = match has_blocks && checkpoint.recipe().is_none() {
                true => "`quern convert --outtype auto` makes one of this model",
                false => "other weights are used from their files as they are; leave it out",
            };
            return Err(refused(format!("it keeps weights of GGUF files, and {others}")));
        };
        if checkpoint.recipe().is_some() {
            return Err(refused("it keeps weights as files have them; quantise once with `quern convert`".into()));
        }
        let identity = identity(checkpoint, part).map_err(|error| refused(error.to_string()))?;
        let stem = first.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy());
        let path = dir.join(format!("{stem}-{}.panels", &identity[..DIGITS]));
        Ok(Self { path, identity, dir: dir.to_owned(), weight_bytes: checkpoint.part_bytes(part)?, failures })
    }

    /// Make the folder it is in, if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_dir(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)
    }

    /// Tell the operator.
    pub fn announce(&self, found: Found<'_>) {
        let shown = self.path.display();
        if let Found::Damaged(damage) = found {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("{shown} is damaged: {damage}. Weights are repacked and the file is written anew.");
        }
        match found {
            Found::Whole => tracing::info!("Weights are mapped from {shown}, as repacked by an earlier start."),
            Found::Nothing | Found::Damaged(_) => {
                tracing::info!("Repacked weights are kept in {shown} for the next start ({}).", gib(self.weight_bytes));
            }
            Found::Busy => {
                tracing::warn!("{shown} is just being written by another process; this one repacks for itself.");
            }
        }
    }

    /// Do without the file, which cannot be had because of `error`, and tell the operator.
    ///
    /// # Errors
    /// If anything but the disk's room is wrong.
    pub fn do_without(&self, error: &io::Error) -> Result<(), StartError> {
        if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Err(refused(&self.dir, error));
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let (shown, bytes) = (self.path.display(), gib(self.weight_bytes));
        tracing::warn!(
            "--weight-cache is off: {shown} would take {bytes}, and {error}. This start repacks for itself."
        );
        Ok(())
    }

    /// Tell the operator how writing it ended: its bytes, or why it could not be kept.
    pub fn announce_saved(&self, result: io::Result<u64>) {
        let shown = self.path.display();
        match result {
            Ok(bytes) => tracing::info!("{shown} is whole: {}.", gib(bytes)),
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{shown} could not be kept, the next start repacks again: {error}");
            }
        }
    }
}

/// Repacked weights cannot be kept in `dir`.
fn refused(dir: &Path, cause: impl ToString) -> StartError {
    StartError::WeightCache { dir: dir.display().to_string(), cause: cause.to_string() }
}

/// A digest that changes when a file of the model does (its name, length or time of modification), or what is made of
/// them: the network, the part of it and this program.
fn identity(checkpoint: &Checkpoint, part: &Split) -> io::Result<String> {
    let mut digest = Sha256::new();
    digest.update(format!("{} {:?}\n", env!("CARGO_PKG_VERSION"), checkpoint.config()));
    if part.rank() != Rank::SOLO {
        digest.update(format!("{part:?}\n"));
    }
    for path in checkpoint.gguf_files() {
        let about = fs::metadata(path)?;
        let modified = about.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digest.update(format!("{name}\n{} {modified}\n", about.len()));
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
