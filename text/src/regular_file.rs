//! [`length`]: the bytes of a file that has an end.

use std::{io, path::Path};

/// The bytes of the file at `path`, before it is opened: opening a FIFO waits for its writer, and reading a device may
/// never end.
///
/// # Errors
/// If there is none, or it is a FIFO, a device or a folder.
pub(crate) fn length(path: &Path) -> io::Result<u64> {
    let about = std::fs::metadata(path)?;
    match about.is_file() {
        true => Ok(about.len()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file, but a folder, FIFO or device")),
    }
}
