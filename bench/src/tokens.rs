//! [`Tokens`]: counting and cutting text in a model's own tokens.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::{endpoint::Endpoint, error::BenchError};

/// Requests to a server's tokenizer that are under way at once.
const PARALLEL: usize = 8;
/// No vocabulary is larger.
const LARGEST_VOCABULARY: u32 = 1 << 22;

/// A model's tokenizer: read from a file, or asked of the server.
pub enum Tokens {
    /// From a `tokenizer.json`.
    Local(Box<Tokenizer>),
    /// Behind `/tokenize` and `/detokenize`.
    Server {
        /// The server.
        endpoint: Endpoint,
        /// The model's name.
        model: String,
        /// In llama.cpp's dialect.
        llama_cpp: bool,
    },
}

impl Tokens {
    /// From `path`: a `tokenizer.json`, or the directory of a model.
    ///
    /// # Errors
    /// If it cannot be read as a tokenizer.
    pub fn from_path(path: &Path) -> Result<Self, BenchError> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let bytes = fs::read(&file).map_err(BenchError::file(&file))?;
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(BenchError::content(&file))?;
        Ok(Self::Local(Box::new(tokenizer)))
    }

    /// The tokenizer that fits `model` best: the one named by `typed`; the one in `model`'s directory; the one
    /// that the server names, if it is on this machine; the one that Hugging Face's tools have kept; the
    /// server's own. Says in words which it was.
    ///
    /// # Errors
    /// If `typed` is none, or no tokenizer is found.
    pub async fn find(
        typed: Option<&str>,
        model: &str,
        endpoint: &Endpoint,
        llama_cpp: bool,
    ) -> Result<(Self, String), BenchError> {
        if let Some(name) = typed {
            let path = local_directory(name).ok_or_else(|| {
                BenchError::Arguments(format!(
                    "--tokenizer {name}: no such directory, and Hugging Face's cache has no tokenizer.json of it"
                ))
            })?;
            return Ok((Self::from_path(&path)?, path.display().to_string()));
        }
        let info = endpoint.get("/model_info").await.unwrap_or_default();
        let named = info.get("tokenizer_path").and_then(Value::as_str);
        for name in [Some(model), named].into_iter().flatten() {
            if let Some(path) = local_directory(name) {
                return Ok((Self::from_path(&path)?, path.display().to_string()));
            }
        }
        let server = Self::Server { endpoint: endpoint.clone(), model: model.to_owned(), llama_cpp };
        match server.encode("a").await {
            Ok(_) => Ok((server, format!("{} (/tokenize)", endpoint.base()))),
            Err(error) => Err(BenchError::Arguments(format!(
                "no tokenizer for `{model}`: it is no directory here, it is not in Hugging Face's cache, and the server \
                 does not tokenize ({error}); name one with --tokenizer DIR"
            ))),
        }
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn encode(&self, text: &str) -> Result<Vec<u32>, BenchError> {
        match self {
            Self::Local(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false);
                Ok(encoding.map_err(|error| BenchError::Arguments(error.to_string()))?.get_ids().to_vec())
            }
            Self::Server { endpoint, model, llama_cpp } => {
                let body = if *llama_cpp {
                    json!({"content": text, "add_special": false, "parse_special": true})
                } else {
                    json!({"model": model, "prompt": text, "add_special_tokens": false})
                };
                let answer = endpoint.post("/tokenize", &body).await?;
                let ids = answer.get("tokens").and_then(Value::as_array);
                let ids = ids.and_then(|ids| ids.iter().map(as_id).collect());
                ids.ok_or_else(|| endpoint.odd("/tokenize", "no `tokens`"))
            }
        }
    }

    /// How many tokens each of `texts` has.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn count(&self, texts: &[&str]) -> Result<Vec<usize>, BenchError> {
        let counts = stream::iter(texts).map(|text| async move {
            if text.is_empty() { Ok(0) } else { self.encode(text).await.map(|ids| ids.len()) }
        });
        counts.buffered(PARALLEL).try_collect().await
    }

    /// The texts of `lists` of ids, control tokens and all.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn decode(&self, lists: &[Vec<u32>]) -> Result<Vec<String>, BenchError> {
        stream::iter(lists).map(|ids| self.decode_one(ids)).buffered(PARALLEL).try_collect().await
    }

    async fn decode_one(&self, ids: &[u32]) -> Result<String, BenchError> {
        match self {
            Self::Local(tokenizer) => {
                tokenizer.decode(ids, false).map_err(|error| BenchError::Arguments(error.to_string()))
            }
            Self::Server { endpoint, model, llama_cpp } => {
                let (body, key) = if *llama_cpp {
                    (json!({"tokens": ids}), "content")
                } else {
                    (json!({"model": model, "tokens": ids, "skip_special_tokens": false}), "text")
                };
                let answer = endpoint.post("/detokenize", &body).await?;
                // vLLM calls it the prompt.
                let text = answer.get(key).or_else(|| answer.get("prompt")).and_then(Value::as_str);
                text.map(str::to_owned).ok_or_else(|| endpoint.odd("/detokenize", format!("no `{key}`")))
            }
        }
    }

    /// How many ids there are, control tokens left out where that is known.
    ///
    /// A server does not say, so the last id that it can turn into text is sought by halving.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn vocabulary(&self) -> Result<u32, BenchError> {
        if let Self::Local(tokenizer) = self {
            return Ok(u32::try_from(tokenizer.get_vocab_size(false)).expect("ids fit in 32 bits"));
        }
        let is_id = async |id: u32| self.decode_one(&[id]).await.is_ok_and(|text| !text.is_empty());
        // A hole of a few unused ids does not end a vocabulary.
        let reaches = async |id: u32| {
            for offset in [0, 1, 7] {
                if is_id(id + offset).await {
                    return true;
                }
            }
            false
        };
        let (mut low, mut high) = (0, LARGEST_VOCABULARY);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if reaches(middle).await {
                low = middle;
            } else {
                high = middle;
            }
        }
        if low == 0 {
            return Err(BenchError::Arguments(
                "the server does not detokenize; name a tokenizer with --tokenizer DIR".into(),
            ));
        }
        Ok(low)
    }
}

fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A directory (or file) with the tokenizer of `name`: a path, or an id that Hugging Face's tools have kept.
fn local_directory(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(name);
    if path.join("tokenizer.json").is_file() || (path.is_file() && name.ends_with(".json")) {
        return Some(path);
    }
    let repo = hub_cache()?.join(format!("models--{}", name.replace('/', "--")));
    snapshot_with(&repo, "tokenizer.json")
}

/// The snapshot of a repository in Hugging Face's cache that has `file`: what `main` is, or else any.
pub(crate) fn snapshot_with(repo: &Path, file: &str) -> Option<PathBuf> {
    let snapshots = repo.join("snapshots");
    let main = fs::read_to_string(repo.join("refs/main")).ok().map(|commit| snapshots.join(commit.trim()));
    let others = fs::read_dir(&snapshots).into_iter().flatten().flatten().map(|entry| entry.path());
    main.into_iter().chain(others).find(|snapshot| snapshot.join(file).is_file())
}

/// Where Hugging Face's tools keep what they fetched.
pub(crate) fn hub_cache() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).or_else(|| Some(hub_home()?.join("hub")))
}

fn hub_home() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}
