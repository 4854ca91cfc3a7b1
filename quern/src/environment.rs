//! Environment variables: SGLang's, and those that say where caches are.

use std::{env, path::PathBuf};

/// The one that is honoured. Any other `SGLANG_*` gets a line in the log.
pub const LONGER_CONTEXT: &str = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN";

/// Whether a context longer than the model's may be served.
pub fn longer_context_is_allowed() -> bool {
    env::var(LONGER_CONTEXT).is_ok_and(|value| ["1", "true", "TRUE", "True", "yes"].contains(&value.as_str()))
}

/// A line for the log about those that are set and change nothing.
pub fn ignored() -> Option<String> {
    note(env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

fn note(names: impl Iterator<Item = String>) -> Option<String> {
    let mut ignored: Vec<_> = names.filter(|name| name.starts_with("SGLANG_") && name != LONGER_CONTEXT).collect();
    ignored.sort_unstable();
    (!ignored.is_empty()).then(|| format!("Environment variables that change nothing here: {}.", ignored.join(", ")))
}

/// Where programs keep their caches, as `variable` says: `XDG_CACHE_HOME`, or `.cache` in `HOME`. An empty one is not set.
pub fn caches<V: Into<PathBuf>>(variable: impl Fn(&str) -> Option<V>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(Into::into).filter(|path: &PathBuf| !path.as_os_str().is_empty());
    folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_environment_variables_of_sglang_are_named_once() {
        let names = ["SGLANG_USE_AITER", "PATH", LONGER_CONTEXT, "SGLANG_A"].map(str::to_owned);
        let note = note(names.into_iter()).unwrap();
        assert_eq!(note, "Environment variables that change nothing here: SGLANG_A, SGLANG_USE_AITER.");
    }

    #[test]
    fn caches_are_where_the_most_special_variable_says() {
        let of = |variables: &[(&str, &str)]| {
            caches(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x".into()));
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.cache".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "")]), Some("/h/.cache".into()));
        assert_eq!(of(&[("HOME", "")]), None);
        assert_eq!(of(&[]), None);
    }
}
