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
    ("gpu", &["backend"]),
    ("model", &["backend"]),
    ("ranks", &["backend"]),
    ("engine", &["backend", "model"]),
    ("text", &[]),
    ("bench", &[]),
    ("api", &["engine", "text"]),
    ("quern", &["backend", "cpu", "gpu", "model", "ranks", "engine", "text", "api", "bench"]),
];

/// Third-party crates and who may use them (I2): the wire in `api`, the command line in the program, and both in its
/// black-box client `bench`.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("tokio", &["api", "quern", "bench"]),
    ("axum", &["api"]),
    ("hyper", &["api"]),
    ("hyper-util", &["api"]),
    ("tower", &["api"]),
    ("tower-http", &["api"]),
    ("reqwest", &["quern", "bench"]),
    ("clap", &["quern", "bench"]),
    ("clap_complete", &["quern"]),
    ("clap_mangen", &["quern"]),
];

/// Modules of `api` in which the wire is known; the program names none of them.
const WIRE: &[&str] = &["protocol", "routes"];

/// The files and folders in which `unsafe` may be written besides the `cpu` crate (I3).
const UNSAFE_OUTSIDE_CPU: &[&str] = &[
    "model/src/weights/mapping.rs",
    "model/src/weights/cut_file.rs",
    "gpu/src/driver/",
    "ranks/src/mpi/",
    "gpu/tests/support/failures.rs",
];

/// Type names that two files define, and why: one name for one thing over all crates, so this list may only shrink.
const TWINS: &[(&str, &str)] = &[
    ("Backend", "the contract of a device; what `bench` measures, which sees no crate of ours"),
    ("BlockDelta", "wire types on either side"),
    ("Buffer", "a backend's own"),
    ("Delta", "wire types on either side"),
    ("Experts", "a backend's own, and the layer around them"),
    ("FunctionDelta", "wire types on either side"),
    ("KvCache", "a backend's own"),
    ("Prompt", "wire types on either side"),
    ("Quantization", "Quern's flag; SGLang's flag, which `configure` writes"),
    ("Routing", "a backend's own"),
    ("Step", "a backend's own"),
    ("ToolCall", "what a parser finds; what the wire says"),
    ("ToolCallDelta", "wire types on either side"),
    ("Usage", "wire types on either side"),
    ("Weight", "a backend's own"),
];

/// ARCHITECTURE.md is read in seven minutes.
const ARCHITECTURE_LINES: usize = 180;

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

/// A line's comment, if it has one.
fn comment(line: &str) -> &str {
    let mut in_string = false;
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek().is_some_and(|(_, next)| *next == '/') => return &line[at..],
            _ => {}
        }
    }
    ""
}

/// Lines that say of themselves that something is missing, with their numbers: macros in the code, words in comments.
fn undone(text: &str) -> Vec<(usize, &str)> {
    let is_undone = |line: &str| {
        ["todo!", "unimplemented!", "dbg!"].iter().any(|mark| code(line).contains(mark))
            || words(comment(line)).any(|word| ["TODO", "FIXME", "XXX"].contains(&word))
    };
    text.lines().enumerate().filter(|(_, line)| is_undone(line)).map(|(at, line)| (at + 1, line.trim())).collect()
}

/// The first sentence of a file's `//!` documentation, its links as plain code.
fn first_sentence(text: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let end = paragraph.match_indices(". ").map(|(at, _)| at + 1).find(|&at| {
        let next = paragraph[at..].trim_start().chars().next();
        !paragraph[..at].ends_with("e.g.") && next.is_some_and(|c| c.is_uppercase() || c == '`' || c == '[')
    });
    let mut sentence = paragraph[..end.unwrap_or(paragraph.len())].to_owned();
    while let Some(at) = sentence.find("`](") {
        let close = sentence[at..].find(')').map(|length| at + length)?;
        sentence.replace_range(at + 1..=close, "");
    }
    sentence = sentence.replace("[`", "`").replace("`]", "`").replace('|', "\\|");
    (!sentence.is_empty()).then_some(sentence)
}

/// What stands before the unit tests of a file, without comments and strings.
fn code_of(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    lines.map(code).collect::<Vec<_>>().join("\n")
}

/// The names that stand behind `root::` in the code of a file: those of `root::{a, b::c}` are `a` and `b`.
fn modules_named(text: &str, root: &str) -> BTreeSet<String> {
    let code = code_of(text);
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        let Some(rest) = code[at + root.len()..].trim_start().strip_prefix("::") else { continue };
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = rest.trim_start();
        let Some(list) = rest.strip_prefix('{') else {
            names.extend(words(rest).next().map(str::to_owned));
            continue;
        };
        let mut depth = 0;
        let mut wanted = true;
        let mut name = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => wanted = true,
                c if wanted && (c.is_alphanumeric() || c == '_') => {
                    name.push(c);
                    continue;
                }
                _ => {}
            }
            if !name.is_empty() {
                names.insert(std::mem::take(&mut name));
                wanted = c == ',' && depth == 0;
            }
        }
        names.extend(Some(name).filter(|name| !name.is_empty()));
    }
    names
}

/// Which modules of a folder use which others of it: at the top of a crate, whose folder is `src`, or of one module.
/// What the folder's own module (re-)exports counts as its module's.
fn module_graph(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (source, is_crate) = (format!("{folder}/"), folder.ends_with("/src"));
    let texts = files(&source, &["rs"]);
    let module_of = |path: &str| {
        let inside = path.strip_prefix(&source).expect("walked from there");
        inside.split('/').next().expect("split yields one part").trim_end_matches(".rs").to_owned()
    };
    let modules: BTreeSet<String> = texts.iter().map(|(path, _)| module_of(path)).collect();
    let mut home = BTreeMap::new();
    let own = ["lib.rs", "mod.rs"].map(|name| root().join(&source).join(name));
    let own =
        own.into_iter().chain([root().join(format!("{folder}.rs"))]).find_map(|path| fs::read_to_string(path).ok());
    // All of it: a module for tests alone may stand among the others.
    let own = own.unwrap_or_default().lines().map(code).collect::<Vec<_>>().join("\n");
    for line in own.split("use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        let (module, names) = line.split_once("::").unwrap_or((line, ""));
        home.extend(words(names).filter(|name| !name.is_empty()).map(|name| (name.to_owned(), module.to_owned())));
    }
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in &texts {
        let from = module_of(path);
        if ["lib", "main", "mod"].contains(&from.as_str()) {
            continue;
        }
        let mut named = if is_crate { modules_named(text, "crate") } else { BTreeSet::new() };
        match path.strip_prefix(&source).expect("walked from there").matches('/').count() {
            0 => named.extend(modules_named(text, "super")),
            1 if !path.ends_with("/mod.rs") => named.extend(modules_named(text, "super::super")),
            1 => named.extend(modules_named(text, "super")),
            _ => {}
        }
        let to = named.into_iter().map(|name| home.get(&name).cloned().unwrap_or(name));
        graph.entry(from.clone()).or_default().extend(to.filter(|to| modules.contains(to) && *to != from));
    }
    graph
}

/// Nodes that reach themselves, in order, if there are any.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk<'a>(
        node: &'a str,
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(at) = way.iter().position(|other| *other == node) {
            return Some(way[at..].iter().map(|name| (*name).to_owned()).collect());
        }
        if !done.insert(node) {
            return None;
        }
        way.push(node);
        let found = graph.get(node).into_iter().flatten().find_map(|next| walk(next, graph, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| walk(node, graph, &mut Vec::new(), &mut done))
}

/// Names of the types that a file defines, before its unit tests; associated types and those within a function are
/// not among them.
fn types_defined(text: &str) -> impl Iterator<Item = String> {
    let code = code_of(text);
    let name = |line: &str| {
        let mut words = line.split([' ', '<', '(', '{', ';', ':', '=']).filter(|word| !word.is_empty());
        let first = words
            .find(|word| !word.starts_with("pub") && *word != "crate)" && *word != "super)" && *word != "unsafe")?;
        let defines = ["struct", "enum", "trait", "union", "type"].contains(&first);
        words.next().filter(|_| defines).map(str::to_owned)
    };
    code.lines().filter(|line| !line.starts_with(' ')).filter_map(name).collect::<Vec<_>>().into_iter()
}

/// Whether the documentation above line `at` has a section of this name.
fn has_section(lines: &[&str], at: usize, section: &str) -> bool {
    let above = lines[..at].iter().rev().map(|line| line.trim_start());
    let mut docs = above.take_while(|line| ["///", "#[", "$(#["].iter().any(|mark| line.starts_with(mark)));
    docs.any(|line| line == section)
}

/// Lines of public functions, and of a public trait's, that return a `Result` and have no section `# Errors`. Those of a
/// trait's implementation have the trait's.
fn without_errors(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    let (mut in_trait, mut implements) = (false, false);
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let head = |end: &[char]| {
            let head: String = lines[at..].iter().take(12).flat_map(|line| [line.trim(), " "]).collect();
            head.split(end).next().unwrap_or_default().to_owned()
        };
        if line.starts_with("impl") {
            implements = head(&['{']).contains(" for ");
        } else if line.starts_with("pub trait ") {
            in_trait = true;
        } else if *line == "}" {
            (in_trait, implements) = (false, false);
        }
        let code = line.trim_start();
        let is_public = code.starts_with("pub ") || in_trait;
        let defines =
            ["fn ", "async fn ", "pub fn ", "pub async fn ", "pub const fn "].iter().any(|w| code.starts_with(w));
        if !is_public || !defines || implements {
            continue;
        }
        let signature = head(&['{', ';']);
        let returns = signature.rsplit_once("->").map_or("", |(_, returns)| returns.trim());
        let returns = returns.split('<').next().unwrap_or_default();
        if returns.rsplit("::").next() == Some("Result") && !has_section(&lines, at, "/// # Errors") {
            found.push(at + 1);
        }
    }
    found
}

/// Lines of unsafe functions whose documentation has no `# Safety`. Those of a trait's implementation have the trait's.
fn without_safety(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut implementation = None;
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let begins_impl = ["impl", "unsafe impl"].iter().any(|word| line.trim_start().starts_with(word));
        if begins_impl {
            let head: String = lines[at..].iter().take(8).flat_map(|line| [line, " "]).collect();
            let head = head.split('{').next().unwrap_or_default();
            implementation = head.contains(" for ").then_some(indent(line));
        } else if implementation.is_some_and(|depth| line.trim() == "}" && indent(line) == depth) {
            implementation = None;
        }
        let code = code(line);
        let defines = code.contains("unsafe fn ") || code.contains("unsafe extern \"C\" fn ");
        if !defines || code.contains(": unsafe fn") || implementation.is_some_and(|depth| indent(line) > depth) {
            continue;
        }
        if !has_section(&lines, at, "/// # Safety") {
            found.push(at + 1);
        }
    }
    found
}

/// What a text names as code that is a path from the root, or the bare name of a Rust source.
fn paths_named(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |name: &&str| {
        let within = name.contains('/') && !name.starts_with('/');
        (within || name.ends_with(".rs")) && !name.contains([' ', '*', ':', '\n'])
    };
    text.split('`').skip(1).step_by(2).filter(is_path)
}

/// Where the links of a page lead within the repository, without their anchors.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|link| !link.contains("://"))
        .filter_map(|link| link.split('#').next())
        .filter(|path| !path.is_empty())
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
fn i2_the_wire_and_the_command_line_have_their_crates() {
    for (krate, _) in ARROWS {
        for dependency in dependencies(krate, "dependencies") {
            if let Some((_, allowed)) = ONLY_IN.iter().find(|(name, _)| *name == dependency) {
                assert!(allowed.contains(krate), "`{krate}` depends on `{dependency}`; only {allowed:?} may");
            }
        }
    }
    for (path, text) in files("quern/src", &["rs"]) {
        let named = modules_named(&text, "quern_api");
        let wire = WIRE.iter().find(|module| named.contains(**module));
        assert!(wire.is_none(), "{path} names `quern_api::{}`: the program sees no wire type", wire.unwrap_or(&""));
    }
}

#[test]
fn modules_of_a_folder_form_no_circle() {
    for (krate, _) in ARROWS {
        let source = format!("{krate}/src");
        let paths = files(&source, &["rs"]);
        let folders: BTreeSet<&str> = paths.iter().filter_map(|(path, _)| Some(path.rsplit_once('/')?.0)).collect();
        for folder in folders {
            assert_eq!(circle(&module_graph(folder)), None, "modules of `{folder}` use one another in a circle");
        }
    }
}

#[test]
fn a_type_name_means_one_thing() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (krate, _) in ARROWS {
        for (path, text) in files(&format!("{krate}/src"), &["rs"]) {
            for name in types_defined(&text) {
                places.entry(name).or_default().push(path.clone());
            }
        }
    }
    places.retain(|_, paths| paths.len() > 1);
    let listed: BTreeSet<&str> = TWINS.iter().map(|(name, _)| *name).collect();
    let fresh: BTreeMap<_, _> = places.iter().filter(|(name, _)| !listed.contains(name.as_str())).collect();
    assert!(fresh.is_empty(), "type names with two meanings; name one of them anew: {fresh:#?}");
    let stale: Vec<_> = listed.iter().filter(|name| !places.contains_key(**name)).collect();
    assert!(stale.is_empty(), "listed as twins, but defined once: {stale:?}; take them off the list");
}

#[test]
fn i3_unsafe_stays_in_its_rooms() {
    for (krate, _) in ARROWS {
        for (path, text) in files(krate, &["rs"]) {
            if krate == &"cpu" || UNSAFE_OUTSIDE_CPU.iter().any(|place| path.starts_with(place)) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let found = words(&code(line)).any(|word| word == "unsafe");
                assert!(!found, "{path}:{}: `unsafe` outside `cpu` and {UNSAFE_OUTSIDE_CPU:?}", number + 1);
            }
        }
    }
    for krate in ["backend", "engine", "text", "bench", "api", "quern"] {
        let lib = fs::read_to_string(root().join(krate).join("src/lib.rs")).expect("a lib.rs");
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{krate}/src/lib.rs must forbid unsafe code");
    }
    for krate in ["gpu", "model", "ranks"] {
        let lib = fs::read_to_string(root().join(krate).join("src/lib.rs")).expect("a lib.rs");
        assert!(lib.contains("#![deny(unsafe_code)]"), "{krate}/src/lib.rs must deny unsafe code");
    }
}

#[test]
fn public_functions_that_fail_say_when() {
    for (krate, _) in ARROWS {
        for (path, text) in files(&format!("{krate}/src"), &["rs"]) {
            assert_eq!(without_errors(&text), [], "{path}: public functions without a section `# Errors`");
        }
    }
}

#[test]
fn unsafe_functions_say_what_their_callers_must_ensure() {
    for krate in ["cpu", "gpu", "model", "ranks"] {
        for (path, text) in files(&format!("{krate}/src"), &["rs"]) {
            assert_eq!(without_safety(&text), [], "{path}: unsafe functions without a section `# Safety`");
        }
    }
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
fn every_file_that_the_architecture_names_exists() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let sources: BTreeSet<String> = ARROWS
        .iter()
        .flat_map(|(krate, _)| files(&format!("{krate}/src"), &["rs"]))
        .filter_map(|(path, _)| path.rsplit('/').next().map(str::to_owned))
        .collect();
    for path in paths_named(&architecture) {
        let exists = if path.contains('/') { root().join(path).exists() } else { sources.contains(path) };
        assert!(exists, "ARCHITECTURE.md names `{path}`, which does not exist");
    }
    let lines = architecture.lines().count();
    assert!(lines < ARCHITECTURE_LINES, "ARCHITECTURE.md has {lines} lines; keep it under {ARCHITECTURE_LINES}");
}

#[test]
fn the_code_map_says_what_the_files_say() {
    let mut map = String::from(
        "# Code map\n\nA line a file: the first sentence of its own documentation. `UPDATE_CODE_MAP=1 cargo test --test tidy` \
         writes this page anew;\n[ARCHITECTURE.md](../ARCHITECTURE.md) says what the crates are for.\n",
    );
    for (krate, _) in ARROWS {
        map += &format!("\n## {krate}\n\n| file | what it is |\n|---|---|\n");
        for (path, text) in files(&format!("{krate}/src"), &["rs"]) {
            let sentence =
                first_sentence(&text).unwrap_or_else(|| panic!("{path} does not begin by saying what it is (//!)"));
            map += &format!("| `{path}` | {sentence} |\n");
        }
    }
    let page = root().join("docs/code-map.md");
    if std::env::var_os("UPDATE_CODE_MAP").is_some() {
        fs::write(&page, &map).expect("docs/code-map.md can be written");
    }
    let written = fs::read_to_string(&page).unwrap_or_default();
    let (lacks, has): (Vec<_>, Vec<_>) = (
        map.lines().filter(|line| !written.lines().any(|other| other == *line)).collect(),
        written.lines().filter(|line| !map.lines().any(|other| other == *line)).collect(),
    );
    assert!(
        written == map,
        "docs/code-map.md is not what the files say; UPDATE_CODE_MAP=1 cargo test --test tidy writes it. It lacks {lacks:#?} \
         and has {has:#?}"
    );
}

#[test]
fn files_that_pages_link_to_exist() {
    let mut pages = files("docs", &["md"]);
    for page in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        pages.push((page.to_owned(), fs::read_to_string(root().join(page)).expect("a page at the root")));
    }
    for (page, text) in pages {
        let page_at = root().join(&page);
        let folder = page_at.parent().expect("a file lies in a folder");
        for link in links(&text) {
            assert!(folder.join(link).exists(), "{page} links to `{link}`, which does not exist");
        }
    }
}

#[test]
fn start_alone_names_a_backend() {
    for (path, text) in files("quern/src", &["rs"]) {
        for (number, line) in text.lines().enumerate() {
            let found = words(&code(line)).any(|word| ["quern_cpu", "quern_gpu"].contains(&word));
            let (line, chooses) = (number + 1, ["quern/src/start.rs", "quern/src/gpus.rs"].contains(&path.as_str()));
            assert!(!found || chooses, "{path}:{line}: a backend is named; ask `Device` instead");
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    let mut found = Vec::new();
    for (krate, _) in ARROWS {
        for (path, text) in files(krate, &["rs"]) {
            found.extend(undone(&text).into_iter().map(|(number, line)| format!("{path}:{number}: {line}")));
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

#[test]
fn the_rules_see_what_they_look_for() {
    let text =
        "let url = \"http://FIXME\"; // fine\n/// FIXME: wrong\nlet x = 1; // XXX later\n    todo!()\n// A TODO\n";
    assert_eq!(undone(text).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(undone("let name = \"todo!\"; // the word todo and XXXL\n"), []);

    let text = "use crate::{\n    a::B,\n    c::{D, e::F},\n    g,\n};\nfn f() -> crate::h::I { my_crate::x() } // crate::j\n\
                #[cfg(test)]\nmod tests { use crate::k; }\n";
    assert_eq!(modules_named(text, "crate").into_iter().collect::<Vec<_>>(), ["a", "c", "g", "h"]);
    assert_eq!(modules_named("use quern_api::{AppState, protocol::Body};", "quern_api").len(), 2);

    let text = "pub(crate) struct A<T>(T);\nenum B {\n    C,\n}\npub unsafe trait D: E {\n    type F;\n}\ntype G = u8; // struct H\n\
                fn type_of(i: I) {}\nimpl J { fn k() { struct L; } }\n#[cfg(test)]\nmod tests {\nstruct M;\n}\n";
    assert_eq!(types_defined(text).collect::<Vec<_>>(), ["A", "B", "D", "G"]);

    let text = "unsafe fn a() {}\n/// # Safety\n/// Always.\n#[inline]\nunsafe fn b() {}\nimpl C for D {\n    unsafe fn c() {}\n}\n\
                trait C {\n    /// Words.\n    unsafe fn c();\n}\ntype F = unsafe fn();\n";
    assert_eq!(without_safety(text), [1, 11]);

    let text = "pub fn a() -> Result<u8, E> {}\n/// Words.\n///\n/// # Errors\n/// Never.\n#[must_use]\npub fn b(\n    x: u8,\n\
                ) -> io::Result<()> {\n}\nfn c() -> Result<(), E> {}\npub fn d() -> Option<Result<(), E>> {}\nimpl F for G {\n    \
                fn e() -> Result<(), E> {}\n}\npub trait F {\n    fn e() -> Result<(), E>;\n}\n";
    assert_eq!(without_errors(text), [1, 17]);

    let text = "`a/b.rs`, `c.rs`, `/generate`, `d::e`, `f/*.rs`, `config.json`, `web/src`";
    assert_eq!(paths_named(text).collect::<Vec<_>>(), ["a/b.rs", "c.rs", "web/src"]);
    let text = "[a](b.md), [c](../d.md#e), [f](#g), [h](https://i.org/j)";
    assert_eq!(links(text).collect::<Vec<_>>(), ["b.md", "../d.md"]);

    let graph = |arrows: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in arrows {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")])), None);
    let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]));
    assert_eq!(found, Some(["b", "c", "d"].map(String::from).to_vec()));

    let text = "//! [`Thing`](crate::thing): what\n//! it is. [`Other`] things.\n//!\n//! More.\n";
    assert_eq!(first_sentence(text).as_deref(), Some("`Thing`: what it is."));
    assert_eq!(first_sentence("use std::fs;\n"), None);
}
