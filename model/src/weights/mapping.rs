//! [`map`]: a file's bytes where the operating system put them. The only `unsafe` of this crate.

use std::{fs::File, io, path::Path, sync::Arc};

use memmap2::Mmap;
use quern_backend::SharedBytes;

/// Map `path` for reading. An empty file maps to no bytes.
pub fn map(path: &Path) -> io::Result<SharedBytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(SharedBytes::new(Arc::new(Vec::new())));
    }
    // SAFETY: the mapping is read-only and private to us; what remains is that another process may
    // truncate or rewrite the file while it is served. The README tells operators not to, as for every
    // engine that maps its weights; lengths are compared with the header before any tensor is touched.
    #[allow(unsafe_code)]
    let mapping = unsafe { Mmap::map(&file) }?;
    Ok(SharedBytes::new(Arc::new(mapping)))
}
