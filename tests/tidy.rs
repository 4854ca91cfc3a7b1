//! The house keeps its promises: what ARCHITECTURE.md draws is what the manifests and files say.
//!
//! Reads sources as text, needs nothing but the checkout. Each test names the invariant it guards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The arrows of the drawing: a crate and those of ours it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("backend", &[]),
    ("cpu", &["backend"]),
    ("model", &["backend"]),
    ("engine", &["backend", "model"]),
    ("text", &[]),
    ("bench", &[]),
    ("quern", &["backend", "cpu", "model", "engine", "text", "bench"]),
];

/// Third-party crates that only `server` and its black-box client `bench` may use (I2: HTTP, tokio and wire
/// types live in one room).
const SERVER_ONLY: &[&str] = &["tokio", "axum", "hyper", "tower", "tower-http", "reqwest", "hf-hub", "clap"];

/// The files in which `unsafe` may be written besides the `cpu` crate (I3).
const UNSAFE_OUTSIDE_CPU: &[&str] = &["model/src/weights/mapping.rs"];

/// Past this many lines a file must be listed in `LARGE` with the reason it is one noun.
const FILE_LINES: usize = 700;

/// Files that are long and still one noun, with a ceiling that may only fall.
const LARGE: &[(&str, usize, &str)] = &[];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the program's crate lies in the workspace").to_path_buf()
}

/// Every file below `dir` with one of `extensions`, as (path relative to the root, text).
fn files(dir: &str, extensions: &[&str]) -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.map(|e| e.expect("a readable folder").path()) {
            let name = entry.file_name().expect("entries have names").to_string_lossy().into_owned();
            if entry.is_dir() {
                if name != "target" && !name.starts_with('.') && name != "node_modules" {
                    walk(&entry, out);
                }
            } else {
                out.push(entry);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    walk(&root.join(dir), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)))
        .map(|p| {
            let relative = p.strip_prefix(&root).expect("walked from the root").to_string_lossy().replace('\\', "/");
            let text = fs::read_to_string(&p).unwrap_or_else(|e| panic!("{relative}: {e}"));
            (relative, text)
        })
        .collect()
}

/// Names in one section of a manifest.
fn dependencies(krate: &str, section: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("a manifest");
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().expect("split yields one part");
            names.insert(name.to_string());
        }
    }
    names
}

/// A line of code without its comment and strings; good enough to look for keywords.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            c if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[test]
fn i1_dependencies_follow_the_drawing() {
    let members: BTreeSet<String> = {
        let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace manifest");
        let list = manifest.lines().find(|l| l.starts_with("members")).expect("members");
        list.split('"').skip(1).step_by(2).map(str::to_string).collect()
    };
    let drawn: BTreeSet<String> = ARROWS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(members, drawn, "workspace members and the crates of the drawing");
    for (krate, allowed) in ARROWS {
        for dependency in dependencies(krate, "dependencies") {
            if let Some(ours) = dependency.strip_prefix("quern-") {
                assert!(
                    allowed.contains(&ours),
                    "`{krate}` may not depend on `{ours}`: no such arrow in ARCHITECTURE.md"
                );
            }
        }
    }
}

#[test]
fn i2_only_the_server_and_its_client_know_http_and_tokio() {
    for (krate, _) in ARROWS.iter().filter(|(name, _)| !["quern", "bench"].contains(name)) {
        for dependency in dependencies(krate, "dependencies") {
            assert!(
                !SERVER_ONLY.contains(&dependency.as_str()),
                "`{krate}` depends on `{dependency}`; only `quern` and `bench` may"
            );
        }
    }
}

#[test]
fn i3_unsafe_stays_in_its_rooms() {
    for (krate, _) in ARROWS {
        for (path, text) in files(krate, &["rs"]) {
            if krate == &"cpu" || UNSAFE_OUTSIDE_CPU.contains(&path.as_str()) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let found = words(&code(line)).any(|word| word == "unsafe");
                assert!(!found, "{path}:{}: `unsafe` outside `cpu` and {UNSAFE_OUTSIDE_CPU:?}", number + 1);
            }
        }
    }
    for krate in ["backend", "engine", "text", "bench", "quern"] {
        let lib = fs::read_to_string(root().join(krate).join("src/lib.rs")).expect("a lib.rs");
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{krate}/src/lib.rs must forbid unsafe code");
    }
    let model = fs::read_to_string(root().join("model/src/lib.rs")).expect("a lib.rs");
    assert!(model.contains("#![deny(unsafe_code)]"), "model/src/lib.rs must deny unsafe code");
}

#[test]
fn intrinsics_live_in_cpu_arch() {
    for (path, text) in files("cpu", &["rs"]) {
        if !path.starts_with("cpu/src/arch/") {
            for (number, line) in text.lines().enumerate() {
                let found =
                    words(&code(line)).any(|w| w.starts_with("_mm") || w.starts_with("vld1") || w.starts_with("vfma"));
                assert!(!found, "{path}:{}: an intrinsic outside cpu/src/arch", number + 1);
            }
        }
    }
}

#[test]
fn the_code_map_names_every_module_and_every_named_file_exists() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let named: BTreeSet<&str> = architecture
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|s| {
            s.contains('/') && (s.ends_with(".rs") || s.contains("/src/") && s.ends_with('/')) && !s.contains(' ')
        })
        .collect();
    for path in &named {
        assert!(root().join(path).exists(), "ARCHITECTURE.md names `{path}`, which does not exist");
    }
    // A folder of one kind of thing (a file an endpoint, a file a wire format) may have one line.
    let folder = |path: &str| format!("{}/", path.rsplit_once('/').expect("a file lies in a folder").0);
    let mut missing = Vec::new();
    for (krate, _) in ARROWS {
        for (path, _) in files(&format!("{krate}/src"), &["rs"]) {
            let table_of_contents = path.ends_with("/lib.rs") || path.ends_with("/mod.rs");
            if !table_of_contents && !named.contains(path.as_str()) && !named.contains(folder(&path).as_str()) {
                missing.push(path);
            }
        }
    }
    assert!(missing.is_empty(), "the code map of ARCHITECTURE.md lacks {missing:#?}");
    assert!(
        architecture.lines().count() < 300,
        "ARCHITECTURE.md has {} lines; keep it under 300",
        architecture.lines().count()
    );
}

#[test]
fn files_named_in_the_readme_exist() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if !link.contains("://") && !link.starts_with('#') {
            assert!(root().join(link).exists(), "README.md links to `{link}`, which does not exist");
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    let mut found = Vec::new();
    for (krate, _) in ARROWS {
        for (path, text) in files(krate, &["rs"]) {
            for (number, line) in text.lines().enumerate() {
                let line = code(line);
                if ["todo!", "unimplemented!", "dbg!", "FIXME", "XXX"].iter().any(|mark| line.contains(mark)) {
                    found.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "left in the code: {found:#?}");
}

#[test]
fn files_stay_one_noun_long() {
    let large: BTreeMap<&str, usize> = LARGE.iter().map(|(path, lines, _)| (*path, *lines)).collect();
    let mut too_long = Vec::new();
    for (krate, _) in ARROWS {
        for (path, text) in files(&format!("{krate}/src"), &["rs"]) {
            let lines = text.lines().count();
            let ceiling = large.get(path.as_str()).copied().unwrap_or(FILE_LINES);
            if lines > ceiling {
                too_long.push(format!("{path}: {lines} lines, ceiling {ceiling}"));
            }
        }
    }
    assert!(too_long.is_empty(), "which second noun moved in? {too_long:#?}");
    for (path, _, _) in LARGE {
        assert!(root().join(path).is_file(), "{path} is listed as large and does not exist");
    }
}

#[test]
fn main_is_a_table_of_contents() {
    let main = fs::read_to_string(root().join("quern/src/main.rs")).expect("main.rs");
    assert!(main.lines().count() <= 100, "quern/src/main.rs has {} lines; at most 100", main.lines().count());
}

#[test]
fn no_path_of_a_builders_machine_is_left() {
    for (path, text) in files(".", &["rs", "md", "toml", "py", "sh", "jinja", "json"]) {
        if path.ends_with("tests/tidy.rs") || path.ends_with("tokenizer.json") {
            continue;
        }
        for mark in ["/work/", "/home/", "/root/"] {
            assert!(!text.contains(mark), "{path} names a folder of some machine ({mark}…)");
        }
    }
}
