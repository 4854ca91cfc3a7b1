//! `--config FILE`: flags in a YAML file, placed before the typed ones so that the typed ones win.

use std::{ffi::OsString, path::Path};

use serde_json::{Map, Value};

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// More than one `--config`.
    #[error("--config was given {0} times; one file is read")]
    Repeated(usize),
    /// Not YAML by name.
    #[error("--config {0}: the name must end in .yaml or .yml")]
    Suffix(String),
    /// Not readable.
    #[error("--config {path}: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// Not YAML, or its root is no mapping.
    #[error("--config {path}: not a mapping of flags to values: {cause}")]
    Malformed {
        /// The file.
        path: String,
        /// Why, with the place.
        cause: String,
    },
    /// A prefix of `--config`, which would be parsed but not read.
    #[error("write --config {0} in full; it is read before the other flags are")]
    Shortened(String),
    /// `config:` inside the file.
    #[error("--config {0}: a configuration file cannot name another one")]
    Nested(String),
}

/// The command line with the flags of its `--config` file placed before the typed ones.
///
/// `arguments`: everything after the subcommand. `is_switch` says whether a flag (without dashes)
/// takes no value: `true` then stands for its presence and `false` for its absence.
///
/// # Errors
/// If the file cannot be read, is no YAML of flags, or names another one.
pub fn expand(arguments: Vec<OsString>, is_switch: impl Fn(&str) -> bool) -> Result<Vec<OsString>, ConfigFileError> {
    let mut files = Vec::new();
    let mut typed = Vec::new();
    let mut iter = arguments.into_iter();
    while let Some(argument) = iter.next() {
        match argument.to_str() {
            Some("--config") => match iter.next() {
                Some(file) => files.push(file),
                // The parser says what is missing.
                None => typed.push(argument),
            },
            Some(text) if text.starts_with("--config=") => files.push(text["--config=".len()..].into()),
            _ => typed.push(argument),
        }
    }
    match files.as_slice() {
        [] => Ok(typed),
        [file] => {
            let mut all = read(Path::new(file), is_switch)?;
            all.extend(typed);
            Ok(all)
        }
        more => Err(ConfigFileError::Repeated(more.len())),
    }
}

fn read(file: &Path, is_switch: impl Fn(&str) -> bool) -> Result<Vec<OsString>, ConfigFileError> {
    let path = file.display().to_string();
    if !file.extension().is_some_and(|suffix| suffix == "yaml" || suffix == "yml") {
        return Err(ConfigFileError::Suffix(path));
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(cause) => return Err(ConfigFileError::Unreadable { path, cause }),
    };
    let root: Map<String, Value> = match serde_saphyr::from_str(&text) {
        Ok(root) => root,
        Err(cause) => return Err(ConfigFileError::Malformed { path, cause: first_line(&cause.to_string()) }),
    };
    let mut flags = Vec::new();
    for (key, value) in root {
        let name = key.replace('_', "-");
        if name == "config" {
            return Err(ConfigFileError::Nested(path));
        }
        let flag = OsString::from(format!("--{name}"));
        match value {
            Value::Null => {}
            Value::Bool(present) if is_switch(&name) => flags.extend(present.then_some(flag)),
            Value::Array(values) => {
                flags.push(flag);
                flags.extend(values.iter().map(|value| plain(value).into()));
            }
            // One word, so that a value that begins with a dash is not taken for a flag.
            value => flags.push(format!("--{name}={}", plain(&value)).into()),
        }
    }
    Ok(flags)
}

/// A value as it would be typed: strings without quotes, everything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(yaml: &str, typed: &[&str]) -> Result<Vec<String>, ConfigFileError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut arguments: Vec<OsString> = vec!["--config".into(), file.into()];
        arguments.extend(typed.iter().map(OsString::from));
        let all = expand(arguments, |name| name == "enable-metrics" || name == "disable-radix-cache")?;
        Ok(all.into_iter().map(|a| a.into_string().unwrap()).collect())
    }

    #[test]
    fn keys_become_flags_before_the_typed_ones() {
        let yaml = "model_path: some/model\ncontext-length: 8k\nmem_fraction_static: 0.5\n\
                    enable-metrics: true\ndisable_radix_cache: false\nrevision: null\n\
                    chunked_prefill_size: -1\ndefault_chat_template_kwargs: {a: [1, true]}\n\
                    bucket_time_to_first_token: [0.1, 2]\n";
        let expected = [
            "--model-path=some/model",
            "--context-length=8k",
            "--mem-fraction-static=0.5",
            "--enable-metrics",
            "--chunked-prefill-size=-1",
            r#"--default-chat-template-kwargs={"a":[1,true]}"#,
            "--bucket-time-to-first-token",
            "0.1",
            "2",
            "--port",
            "1",
        ];
        assert_eq!(expanded(yaml, &["--port", "1"]).unwrap(), expected);
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_the_file() {
        for yaml in ["- a\n- b\n", "a: [", "just text", "a: 1\na: 2\n"] {
            let error = expanded(yaml, &[]).unwrap_err().to_string();
            assert!(error.contains("server.yaml"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert!(matches!(expanded("config: other.yaml", &[]), Err(ConfigFileError::Nested(_))));
    }

    #[test]
    fn one_yaml_file_is_read() {
        let twice = ["--config", "a.yaml", "--config=b.yaml"].map(OsString::from).to_vec();
        assert!(matches!(expand(twice, |_| false), Err(ConfigFileError::Repeated(2))));
        let json = ["--config=a.json"].map(OsString::from).to_vec();
        assert!(matches!(expand(json, |_| false), Err(ConfigFileError::Suffix(_))));
        let absent = ["--config", "/nonexistent/a.yaml"].map(OsString::from).to_vec();
        assert!(matches!(expand(absent, |_| false), Err(ConfigFileError::Unreadable { .. })));
    }
}
