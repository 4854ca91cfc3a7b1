//! `--weight-cache`: repacked weights kept between starts.

use std::{fs, io, path::Path, time::UNIX_EPOCH};

use quern_cpu::{CpuBackend, PanelFile};
use quern_model::Checkpoint;
use sha2::{Digest, Sha256};

use crate::{memory::gib, start_error::StartError};

/// Characters of the digest in a file's name.
const DIGITS: usize = 16;

/// `backend`, which takes `checkpoint`'s repacked weights from `dir` or keeps them there.
///
/// # Errors
/// If there is nothing to keep, or `dir` cannot be read and written.
pub fn attach(dir: &Path, checkpoint: &Checkpoint, backend: CpuBackend) -> Result<CpuBackend, StartError> {
    let refused = |cause: String| StartError::WeightCache { dir: dir.display().to_string(), cause };
    let [first, ..] = checkpoint.gguf_files() else {
        return Err(refused(
            "it keeps weights of GGUF files, and other weights are used as they lie; leave it out".into(),
        ));
    };
    if checkpoint.recipe().is_some() {
        return Err(refused("it keeps weights as files have them; quantise once with `quern convert`".into()));
    }
    let identity = identity(checkpoint).map_err(|error| refused(error.to_string()))?;
    let stem = first.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy());
    let path = dir.join(format!("{stem}-{}.panels", &identity[..DIGITS]));
    fs::create_dir_all(dir).map_err(|error| refused(error.to_string()))?;
    let shown = path.display().to_string();
    let Some(file) = PanelFile::open(&path, &identity).map_err(|error| refused(error.to_string()))? else {
        tracing::warn!("{shown} is just being written by another process; this one repacks for itself.");
        return Ok(backend);
    };
    if file.is_whole() {
        tracing::info!("Weights are mapped from {shown}, as repacked by an earlier start.");
    } else {
        tracing::info!("Repacked weights are kept in {shown} for the next start ({}).", gib(checkpoint.weight_bytes()));
    }
    let kept = move |result: io::Result<u64>| match result {
        Ok(bytes) => tracing::info!("{shown} is whole: {}.", gib(bytes)),
        Err(error) => tracing::warn!("{shown} could not be kept, the next start repacks again: {error}"),
    };
    Ok(backend.with_panels(file, Box::new(kept)))
}

/// A digest that changes when a file of the model does (its name, length or time of modification), or what is made of
/// them: the network and this program.
fn identity(checkpoint: &Checkpoint) -> io::Result<String> {
    let mut digest = Sha256::new();
    digest.update(format!("{} {:?}\n", env!("CARGO_PKG_VERSION"), checkpoint.config()));
    for path in checkpoint.gguf_files() {
        let about = fs::metadata(path)?;
        let modified = about.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digest.update(format!("{name}\n{} {modified}\n", about.len()));
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
