//! [`DataFile`]: a published data set, found on this machine or fetched once.

use std::{env, fs, io::Read, path::PathBuf, time::Duration};

use crate::{
    endpoint::chain,
    error::BenchError,
    output,
    tokens::{hub_cache, snapshot_with},
};

/// A server that sends nothing for so long is given up; there may be no network at all.
const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// A published data set.
#[derive(Clone, Copy, Debug)]
pub struct DataFile {
    /// What people call it.
    pub title: &'static str,
    /// Its file's name.
    pub name: &'static str,
    /// Where it is published.
    source: DataSource,
    /// Where SGLang's clients keep it.
    elsewhere: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum DataSource {
    /// A data set on the Hugging Face hub.
    Hub(&'static str),
    /// An address.
    Web(&'static str),
}

/// Conversations of people with ChatGPT.
pub const SHAREGPT: DataFile = DataFile {
    title: "ShareGPT",
    name: "ShareGPT_V3_unfiltered_cleaned_split.json",
    source: DataSource::Hub("anon8231489123/ShareGPT_Vicuna_unfiltered"),
    elsewhere: None,
};

/// The test set of GSM8K.
pub const GSM8K: DataFile = DataFile {
    title: "GSM8K",
    name: "gsm8k_test.jsonl",
    source: DataSource::Web(
        "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
    ),
    elsewhere: Some("/tmp/test.jsonl"),
};

/// HumanEval.
pub const HUMAN_EVAL: DataFile = DataFile {
    title: "HumanEval",
    name: "HumanEval.jsonl.gz",
    source: DataSource::Web("https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz"),
    elsewhere: None,
};

impl DataFile {
    /// The file on this machine, if it is there already.
    pub fn local(&self) -> Option<PathBuf> {
        let kept = cache().map(|cache| cache.join(self.name)).filter(|file| file.is_file());
        let hub = || match self.source {
            DataSource::Hub(id) => {
                let repo = hub_cache()?.join(format!("datasets--{}", id.replace('/', "--")));
                Some(snapshot_with(&repo, self.name)?.join(self.name))
            }
            DataSource::Web(_) => None,
        };
        kept.or_else(hub).or_else(|| self.elsewhere.map(PathBuf::from).filter(|file| file.is_file()))
    }

    /// The file on this machine, fetched if it is not there yet.
    ///
    /// # Errors
    /// If it cannot be fetched; says where it may be put by hand.
    pub async fn fetched(&self) -> Result<PathBuf, BenchError> {
        if let Some(file) = self.local() {
            return Ok(file);
        }
        let place = cache().ok_or_else(|| BenchError::Arguments("neither HOME nor XDG_CACHE_HOME is set".into()))?;
        let file = place.join(self.name);
        let url = match self.source {
            DataSource::Hub(id) => {
                let site = env::var("HF_ENDPOINT").ok().filter(|site| !site.is_empty());
                let site = site.unwrap_or_else(|| "https://huggingface.co".into());
                format!("{}/datasets/{id}/resolve/main/{}", site.trim_end_matches('/'), self.name)
            }
            DataSource::Web(url) => url.to_owned(),
        };
        let by_hand = |problem: String| {
            BenchError::Arguments(format!(
                "{} cannot be fetched from {url}: {problem}; put the file at {}",
                self.title,
                file.display()
            ))
        };
        if env::var("HF_HUB_OFFLINE").is_ok_and(|value| matches!(&*value, "1" | "true" | "True" | "TRUE")) {
            return Err(by_hand("HF_HUB_OFFLINE is set".into()));
        }
        output::note(format_args!("Downloading {} to {}", self.title, file.display()));
        fs::create_dir_all(&place).map_err(BenchError::file(&place))?;
        let incomplete = place.join(format!("{}.incomplete", self.name));
        let http = reqwest::Client::builder().connect_timeout(LONGEST_SILENCE).read_timeout(LONGEST_SILENCE).build();
        let http = http.map_err(|error| by_hand(chain(&error)))?;
        let mut response = http
            .get(&url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| by_hand(chain(&error)))?;
        let mut out = fs::File::create(&incomplete).map_err(BenchError::file(&incomplete))?;
        while let Some(piece) = response.chunk().await.map_err(|error| by_hand(chain(&error)))? {
            std::io::Write::write_all(&mut out, &piece).map_err(BenchError::file(&incomplete))?;
        }
        fs::rename(&incomplete, &file).map_err(BenchError::file(&file))?;
        Ok(file)
    }
}

/// The text of a file, unpacked if it is packed with gzip.
///
/// # Errors
/// If the file cannot be read, or is no UTF-8.
pub fn read_text(file: &std::path::Path) -> Result<String, BenchError> {
    let bytes = fs::read(file).map_err(BenchError::file(file))?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).map_err(BenchError::file(file))?;
        return Ok(text);
    }
    String::from_utf8(bytes).map_err(BenchError::content(file))
}

fn cache() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(caches.join("quern").join("datasets"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A data set among the reference fixtures; none, and the test says that it is skipped, where that is absent.
    pub(crate) fn fixtures(name: &str) -> Option<PathBuf> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
        let fixtures = env::var_os("QUERN_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
        let file = fixtures.join("data").join(name);
        if file.is_file() {
            return Some(file);
        }
        crate::skip::skip(
            &format!("{} is absent", file.display()),
            "set QUERN_SHARED to the folder of reference fixtures",
        );
        None
    }

    #[test]
    fn packed_files_are_unpacked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.gz");
        let file = fs::File::create(&path).expect("created");
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut packer, "Grüße".as_bytes()).expect("written");
        packer.finish().expect("finished");
        assert_eq!(read_text(&path).expect("read"), "Grüße");
    }
}
