//! [`Files`]: which of a folder's files hold the weights.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use super::TensorProblem;
use crate::json_file::read_object_up_to;

/// The files of a checkpoint and, if it has an index, the file of each tensor.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) names: BTreeSet<String>,
    pub(super) index: HashMap<String, String>,
    /// Lines about files that are not read.
    pub(super) notes: Vec<String>,
}

/// Largest index that is read: it names each tensor once, as the headers do that it stands for.
const MAX_INDEX_BYTES: u64 = 100_000_000;

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// What mends a file that the system does not let us read.
pub(super) const READABLE: &str = "Make the file readable for the user that the server runs as.";

impl Files {
    /// The weight files of `dir`: those that its index names, or else `model.safetensors`, or else the one set of shards
    /// that lies there. What is wrong with the choice goes to `problems`.
    pub(super) fn list(dir: &Path, problems: &mut Vec<TensorProblem>) -> Self {
        let mut present = BTreeSet::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                present.extend(names.filter(|name| name.ends_with(".safetensors")));
            }
            Err(cause) => problems
                .push(TensorProblem::file(&dir.display().to_string(), "a readable folder", cause).mended_by(READABLE)),
        }
        let chosen = if dir.join(INDEX).exists() {
            Self::indexed(dir, &present, problems)
        } else {
            Self::unindexed(&present, problems)
        };
        let ignored: Vec<&str> = present.difference(&chosen.names).map(String::as_str).collect();
        let mut notes = Vec::new();
        if !ignored.is_empty() && !chosen.names.is_empty() {
            let by = if chosen.index.is_empty() { WHOLE } else { INDEX };
            notes.push(format!("Not read, since {by} does without: {}.", shortened(&ignored)));
        }
        Self { notes, ..chosen }
    }

    fn indexed(dir: &Path, present: &BTreeSet<String>, problems: &mut Vec<TensorProblem>) -> Self {
        let index = match read_index(&dir.join(INDEX)) {
            Ok(index) => index,
            Err(cause) => {
                problems.push(TensorProblem::file(INDEX, "a JSON object with a `weight_map`", cause).broken());
                return Self::default();
            }
        };
        let names: BTreeSet<String> = index.values().cloned().collect();
        for name in &names {
            if name.contains(['/', '\\', '\0']) || !name.ends_with(".safetensors") {
                let expected = "names of .safetensors files in the same folder";
                problems.push(TensorProblem::file(INDEX, expected, format!("{name:?}")));
            } else if !present.contains(name) {
                problems.push(TensorProblem::file(name, "a shard that the index names", "no such file").broken());
            }
        }
        Self { names: names.intersection(present).cloned().collect(), index, notes: Vec::new() }
    }

    fn unindexed(present: &BTreeSet<String>, problems: &mut Vec<TensorProblem>) -> Self {
        if present.contains(WHOLE) {
            return Self { names: BTreeSet::from([WHOLE.to_owned()]), ..Self::default() };
        }
        let names: BTreeSet<String> = present.iter().filter(|name| !name.starts_with("adapter_")).cloned().collect();
        if names.is_empty() && problems.is_empty() {
            let expected = "the weights (or an index and its shards)";
            problems.push(TensorProblem::file(WHOLE, expected, "no such file").broken());
        }
        let sets: BTreeSet<usize> = names.iter().filter_map(|name| shard(name)).map(|(_, count)| count).collect();
        if sets.len() > 1 {
            let found: Vec<&str> = names.iter().map(String::as_str).collect();
            let problem =
                TensorProblem::file(INDEX, "an index, since there are shards of several sets", shortened(&found));
            problems.push(problem.mended_by("Delete the shards of the set that is not wanted."));
        }
        if let (1, Some(&count)) = (sets.len(), sets.first()) {
            let there: BTreeSet<usize> =
                names.iter().filter_map(|name| shard(name)).map(|(number, _)| number).collect();
            for number in (1..=count.min(10_000)).filter(|number| !there.contains(number)) {
                let name = format!("model-{number:05}-of-{count:05}.safetensors");
                problems.push(TensorProblem::file(&name, format!("all {count} shards"), "no such file").broken());
            }
        }
        Self { names, ..Self::default() }
    }
}

/// The file of each tensor, by an index, or why it does not say.
fn read_index(path: &Path) -> Result<HashMap<String, String>, String> {
    let mut object = read_object_up_to(path, MAX_INDEX_BYTES).map_err(|cause| cause.to_string())?;
    let map = object.remove("weight_map").ok_or("none")?;
    serde_json::from_value(map).map_err(|cause| format!("`weight_map` of another kind: {cause}"))
}

/// Number and count of `…-00001-of-00004.safetensors`.
fn shard(name: &str) -> Option<(usize, usize)> {
    let (before, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (_, number) = before.rsplit_once('-')?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// At most six names, and how many more there are.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let more = names.len().saturating_sub(SHOWN);
    let list = names[..names.len() - more].join(", ");
    if more == 0 { list } else { format!("{list} and {more} more") }
}
