//! Pointers of git-lfs, which lie in a clone where files should be.

/// What every pointer begins with.
const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What was found, for messages.
pub(crate) const FOUND: &str = "a pointer of git-lfs, which stands for a file that was not fetched";

/// What mends it.
pub(crate) const REMEDY: &str =
    "Run `git lfs install` and `git lfs pull` in the clone, or give --model the id instead of the clone.";

/// Whether `bytes` are a pointer rather than a file.
pub(crate) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGINNING)
}
