//! [`HubOptions`]: where the hub and its cache are, as the environment says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::environment;

/// Where the hub and its cache are.
#[derive(Clone)]
pub struct HubOptions {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// Sent as a bearer token, to the hub only.
    pub token: Option<String>,
    /// The cache.
    pub cache_dir: PathBuf,
    /// Use the cache and nothing else.
    pub offline: bool,
    /// A file of which more than this is missing is fetched over several connections, so many bytes at a time.
    pub range_bytes: u64,
    /// Wait this long after a failure, and twice as long after each further one.
    pub retry_delay: Duration,
}

impl HubOptions {
    /// What the environment says, read through `variable`: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_CACHE`,
    /// `HUGGINGFACE_HUB_CACHE` and `HF_HUB_OFFLINE`, as Hugging Face documents them. `download_dir` goes
    /// before the cache's variables.
    pub fn from_env(download_dir: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let is_set = |name: &str| variable(name).is_some_and(|v| is_true(&v));
        let home = variable("HF_HOME")
            .map(PathBuf::from)
            .unwrap_or_else(|| environment::caches(variable).unwrap_or_else(std::env::temp_dir).join("huggingface"));
        let cache_dir = download_dir.map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
            cache.map_or_else(|| home.join("hub"), PathBuf::from)
        });
        let token = variable("HF_TOKEN").or_else(|| {
            let file = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            std::fs::read_to_string(file).ok()
        });
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: token.filter(|_| !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            cache_dir,
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            range_bytes: 16 << 20,
            retry_delay: Duration::from_secs(1),
        }
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)], download_dir: Option<&str>) -> HubOptions {
        HubOptions::from_env(download_dir.map(Path::new), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_the_most_special_variable_says() {
        let cache = |variables: &[_], dir| options(variables, dir).cache_dir.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")], None), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], None), "/x/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], None), "/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")], None), "/old");
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")], None), "/c");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c")], Some("/d")), "/d");
    }

    #[test]
    fn the_token_is_the_variables_or_the_files() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "stored\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home)], None).token.as_deref(), Some("stored"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", " typed\n")], None).token.as_deref(), Some("typed"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN_PATH", "/nonexistent")], None).token, None);
        assert_eq!(options(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None).token, None);
    }

    #[test]
    fn offline_is_a_truth_value() {
        for (value, offline) in [("1", true), ("true", true), ("ON", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)], None).offline, offline, "{value}");
        }
    }
}
