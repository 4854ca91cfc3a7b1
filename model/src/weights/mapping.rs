//! [`map`]: a file's bytes where the operating system put them. The only `unsafe` of this crate beside `cut_file`.

use std::{io, ops::Range, path::Path, sync::Arc};

use memmap2::Mmap;
use quern_backend::{ByteOwner, SharedBytes};

use crate::regular_file;

/// A mapping that lets go of pages whose bytes a backend has repacked, so that they are not held twice.
struct FileMapping(Mmap);

impl ByteOwner for FileMapping {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        // SAFETY: the pages of a read-only mapping of a file are the file's; whoever reads them again gets
        // the same bytes from it. Advice that is not taken costs memory, nothing else.
        #[allow(unsafe_code)]
        let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}

/// Map `path` for reading. An empty file maps to no bytes.
///
/// # Errors
/// If the file cannot be opened or mapped.
pub fn map(path: &Path) -> io::Result<SharedBytes> {
    let file = regular_file::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(SharedBytes::new(Arc::new(Vec::new())));
    }
    // SAFETY: the mapping is read-only and private to us; what remains is that another process may
    // truncate or rewrite the file while it is served. The README tells operators not to, as for every
    // engine that maps its weights; lengths are compared with the header before any tensor is touched, and a file
    // that is cut off ends the process (`cut_file`).
    #[allow(unsafe_code)]
    let mapping = unsafe { Mmap::map(&file) }?;
    Ok(SharedBytes::new(Arc::new(FileMapping(mapping))))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn released_bytes_can_be_read_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let mapped = map(file.path()).unwrap();
        let part = mapped.slice(5000..90_000).unwrap();
        assert_eq!(*part, bytes[5000..90_000]);
        part.release();
        assert_eq!(*part, bytes[5000..90_000]);
        assert_eq!(*mapped, bytes);
    }
}
