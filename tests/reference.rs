//! [`folder`]: the reference fixtures, which lie beside the checkout where they are present.

use std::path::{Path, PathBuf};

/// A folder of theirs; `None`, and the test says that it is skipped, where it is absent. `QUERN_SHARED` names another place.
pub(crate) fn folder(place: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("QUERN_SHARED").map_or(beside, PathBuf::from).join(place);
    if folder.is_dir() {
        return Some(folder);
    }
    let why = format!("no fixtures at {}", folder.display());
    super::skip::skip(&why, "set QUERN_SHARED to the folder of reference fixtures");
    None
}
