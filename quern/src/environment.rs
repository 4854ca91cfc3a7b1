//! SGLang's environment variables.

use std::env;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_environment_variables_of_sglang_are_named_once() {
        let names = ["SGLANG_USE_AITER", "PATH", LONGER_CONTEXT, "SGLANG_A"].map(str::to_owned);
        let note = note(names.into_iter()).unwrap();
        assert_eq!(note, "Environment variables that change nothing here: SGLANG_A, SGLANG_USE_AITER.");
    }
}
