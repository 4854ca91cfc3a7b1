//! [`find`]: the model that a path on this machine means.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use quern_model::{
    gguf::{FilePiece, general_type},
    regular_file,
};

use crate::{
    gguf_files::{GgufChoice, files, is_gguf, split},
    hub::{Fetched, HubError},
};

/// The model at `path`, which exists: a checkpoint's folder, a GGUF file of any name, any file of several, or a folder
/// that holds one such model, perhaps one folder deeper.
///
/// # Errors
/// If the path means no model or more than one; the message names the choices.
pub fn find(path: &Path) -> Result<Fetched, HubError> {
    if path.is_dir() { in_dir(path) } else { at_file(path) }
}

fn at_file(path: &Path) -> Result<Fetched, HubError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The reader finds the other pieces, and says which is missing.
    if FilePiece::of(&name).is_some() {
        return Ok(Fetched::Gguf(path.to_owned()));
    }
    // Ollama keeps models under the names of their hashes.
    if !begins_as_gguf(path) && !is_gguf(&name) {
        return Err(HubError::IsAFile(path.display().to_string()));
    }
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    match split(stem) {
        Some((model, number, count)) if number > 1 => {
            let first = path.with_file_name(format!("{model}-00001-of-{count:05}.gguf"));
            if first.exists() { Ok(Fetched::Gguf(first)) } else { Err(HubError::NoFirst(first.display().to_string())) }
        }
        _ => Ok(Fetched::Gguf(path.to_owned())),
    }
}

fn begins_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    regular_file::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

fn in_dir(dir: &Path) -> Result<Fetched, HubError> {
    if let Some(snapshot) = snapshot(dir) {
        return in_dir(&snapshot);
    }
    let names = files(dir);
    let has_config = names.iter().any(|name| name == "config.json");
    if has_config && names.iter().any(|name| !name.contains('/') && name.ends_with(".safetensors")) {
        return Ok(Fetched::Directory(dir.to_owned()));
    }
    // Repositories of GGUF files often keep the config.json of the model that they were made from.
    let mut choices = GgufChoice::among(names.iter().map(String::as_str));
    if choices.len() > 1 {
        choices.retain(|choice| general_type(&dir.join(&choice.files[0])).is_none_or(|kind| kind == "model"));
    }
    if choices.len() > 1 && choices.iter().any(|choice| !choice.files[0].contains('/')) {
        choices.retain(|choice| !choice.files[0].contains('/'));
    }
    match choices.as_slice() {
        [choice] => at_file(&dir.join(&choice.files[0])),
        // What is missing there is said where it is read.
        [] => Ok(Fetched::Directory(dir.to_owned())),
        several => {
            let names: Vec<&str> = several.iter().map(|choice| choice.files[0].as_str()).collect();
            Err(HubError::Several { place: dir.display().to_string(), choices: names.join(", ") })
        }
    }
}

/// The snapshot that a folder of the hub's cache (`models--OWNER--NAME`) means: the one that `main` stands for, or the
/// only one.
fn snapshot(dir: &Path) -> Option<PathBuf> {
    let snapshots = dir.join("snapshots");
    if dir.join("config.json").exists() || !snapshots.is_dir() {
        return None;
    }
    let main = fs::read_to_string(dir.join("refs/main")).ok().map(|commit| snapshots.join(commit.trim()));
    let mut all = fs::read_dir(&snapshots).into_iter().flatten().flatten().map(|entry| entry.path());
    main.filter(|path| path.is_dir()).or_else(|| {
        let only = all.next()?;
        all.next().is_none().then_some(only)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if name.contains("gguf") || name.contains("sha256") { "GGUF" } else { "abc1" }).unwrap();
        }
        dir
    }

    /// The GGUF file that is found in `names`, by its path in the folder.
    fn found(names: &[&str], at: &str) -> Result<String, String> {
        let dir = folder(names);
        let path = dir.path().canonicalize().unwrap();
        match find(&path.join(at)) {
            Ok(Fetched::Gguf(file)) => Ok(file.strip_prefix(&path).unwrap().display().to_string()),
            Ok(Fetched::Directory(dir)) => Ok(format!("{}/", dir.strip_prefix(&path).unwrap().display())),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_one_model_of_a_folder_is_meant() {
        for (names, at, file) in [
            (&["m-Q8_0.gguf", "m-imatrix.gguf"][..], "", "m-Q8_0.gguf"),
            (&["m.GGUF", "mmproj-F16.gguf", "README.md"], "", "m.GGUF"),
            (&["UD-Q8_K_XL/m-UD-Q8_K_XL.gguf", "config.json"], "", "UD-Q8_K_XL/m-UD-Q8_K_XL.gguf"),
            (&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "", "m-00001-of-00002.gguf"),
            (&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "m-00002-of-00002.gguf", "m-00001-of-00002.gguf"),
            (&["m.gguf.part1of2", "m.gguf.part2of2", "mmproj-F16.gguf"], "", "m.gguf.part1of2"),
            (&["m.gguf-split-b", "m.gguf-split-a"], "", "m.gguf-split-a"),
            (&["m.gguf.part1of2", "m.gguf.part2of2"], "m.gguf.part2of2", "m.gguf.part2of2"),
            (&["sha256-0123"], "sha256-0123", "sha256-0123"),
            (&["a:b/config.json", "a:b/model.safetensors"], "a:b", "a:b/"),
            (&["config.json", "model.safetensors", "m-Q4_0.gguf"], "", "/"),
            (&["config.json"], "", "/"),
            (&["snapshots/c0/config.json", "refs/main"], "", "snapshots/c0/"),
            (&["snapshots/abc1/m.gguf", "snapshots/c1/m.gguf", "refs/main"], "", "snapshots/abc1/m.gguf"),
        ] {
            assert_eq!(found(names, at).as_deref(), Ok(file), "{names:?} {at}");
        }
    }

    #[test]
    fn what_is_unclear_is_refused_with_the_choices() {
        for (names, at, parts) in [
            (&["m-Q8_0.gguf", "m-Q4_0.gguf"][..], "", &["m-Q4_0.gguf", "m-Q8_0.gguf"][..]),
            (&["a/m-Q8_0.gguf", "b/m-Q4_0.gguf"], "", &["a/m-Q8_0.gguf", "b/m-Q4_0.gguf"]),
            (&["m-00002-of-00002.gguf"], "m-00002-of-00002.gguf", &["m-00001-of-00002.gguf"]),
            (&["model.safetensors"], "model.safetensors", &["is a file", "folder"]),
        ] {
            let error = found(names, at).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{names:?} {at}: {error}");
        }
    }
}
