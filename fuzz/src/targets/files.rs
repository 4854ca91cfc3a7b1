//! Files and names that an operator, a repository or an earlier start hands us.

use std::{cell::OnceCell, fs, path::Path};

use quern::{cli::config_file, gguf_files::GgufChoice, hub::HubRef};
use quern_cpu::PackedWeightCache;
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Runs `read` on a file that holds `bytes`, alone in its folder.
pub(super) fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a folder for files")).path();
        let path = folder.join(name);
        fs::write(&path, bytes).expect("room for a small file");
        read(&path)
    })
}

/// No YAML makes the reader of `--config` panic, and none gives it a flag without dashes.
pub(super) fn config_file(bytes: &[u8]) {
    let read = |path: &Path| config_file::expand(vec!["--config".into(), path.into()], |name| name == "enable-metrics");
    if let Ok(flags) = with_file("server.yaml", bytes, read) {
        assert!(flags.first().is_none_or(|flag| flag.to_string_lossy().starts_with("--")), "{flags:?}");
    }
}

/// A file of API keys has keys, or is refused.
pub(super) fn key_file(bytes: &[u8]) {
    if let Ok(keys) = with_file("keys", bytes, quern_api::api_keys::read) {
        assert!(!keys.is_empty());
        assert!(keys.iter().all(|key| !key.expose().trim().is_empty() && !key.expose().contains('\n')));
    }
}

/// A file of repacked weights is whole, or is written anew: never mapped past its end, never trusted with another model's.
pub(super) fn kept_panels(bytes: &[u8]) {
    let open = |path: &Path| {
        // An error of the file is one of the start's; what was begun beside it is not this input's.
        let opened = PackedWeightCache::open(path, "model");
        let other = PackedWeightCache::open(path, "another model");
        drop(opened);
        assert!(!other.is_ok_and(|cache| cache.is_some_and(|cache| cache.is_whole() && bytes.len() < 4096)));
    };
    with_file("kept.panels", bytes, open);
}

/// Names of models and of the files of their repositories, a line each: what is taken for a name is safe to be a path.
pub(super) fn model_names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in text.lines() {
        if let Some(reference) = HubRef::parse(line) {
            let shown = reference.to_string();
            assert!(!shown.split(['/', ':']).any(|part| part == ".." || part == "."), "{shown:?}");
            assert_eq!(HubRef::parse(&shown).map(|again| again.to_string()), Some(shown));
        }
    }
    let choices = GgufChoice::among(text.lines());
    assert_eq!(GgufChoice::by_preference(&choices).len(), choices.len());
    for choice in &choices {
        assert!(GgufChoice::named(&choices, &choice.quantisation).is_some());
    }
}
