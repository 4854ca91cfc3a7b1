//! [`open`] and [`read`]: files that have an end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Open `path` for reading. Never waits for a writer, as opening a FIFO does.
///
/// # Errors
/// If it cannot be opened, or is a FIFO, a device or a folder.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file, but a folder, FIFO or device")),
    }
}

/// The bytes of the file at `path`, if they are not more than `limit`.
///
/// # Errors
/// If it cannot be opened or read, or is larger.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= limit {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [&fifo, Path::new("/dev/zero"), dir.path()] {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{path:?}: {error}");
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        open(&file).unwrap();
        assert_eq!(read(&file, 1).unwrap(), b"x");
        assert!(read(&file, 0).is_err());
    }
}
