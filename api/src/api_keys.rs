//! [`ApiKeys`]: the keys of ordinary endpoints, typed and in a file that can be read again while the server runs.
//!
//! Keys are compared in constant time, and by their digests, so that not even their lengths show.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    caller::Caller,
    config::{ApiConfig, Secret},
};

/// Most bytes of a file of keys: some ten thousand of them.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys that open ordinary endpoints.
#[derive(Debug)]
pub struct ApiKeys {
    typed: Vec<Secret>,
    file: Option<PathBuf>,
    known: RwLock<Arc<[KnownKey]>>,
}

/// A key's digest, and whom it stands for.
#[derive(Clone, Debug)]
struct KnownKey {
    digest: [u8; 32],
    caller: Caller,
}

/// Why a file of keys is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It holds no key, or something else.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl ApiKeys {
    /// The keys that `config` names. Where its file cannot be read, nobody gets in by it until it can.
    pub fn new(config: &ApiConfig) -> Self {
        let this = Self {
            typed: config.api_key.clone(),
            file: config.api_key_file.clone(),
            known: RwLock::new(known(&config.api_key)),
        };
        if let Err(error) = this.reload() {
            tracing::error!("--api-key-file {error}");
        }
        this
    }

    /// Read the file again; says how many keys there are now.
    ///
    /// # Errors
    /// If it cannot be read or has no key. The keys stay what they were.
    pub fn reload(&self) -> Result<usize, KeyFileError> {
        let mut keys = self.typed.clone();
        if let Some(file) = &self.file {
            keys.extend(read(file)?);
        }
        let known = known(&keys);
        let count = known.len();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(count)
    }

    /// Whether a key is asked for at all.
    pub fn are_required(&self) -> bool {
        !self.typed.is_empty() || self.file.is_some()
    }

    /// The file that they are in, beside those typed.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whom the only key stands for, if there is just one.
    pub fn only_caller(&self) -> Option<Caller> {
        match &**self.known.read().unwrap_or_else(PoisonError::into_inner) {
            [only] => Some(only.caller.clone()),
            _ => None,
        }
    }

    /// Whom the key `given` stands for. Every known key is compared with, whichever it is.
    pub fn caller(&self, given: &[u8]) -> Option<Caller> {
        let digest = Sha256::digest(given);
        let known = Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        known.iter().fold(None, |found, key| match bool::from(key.digest.ct_eq(&digest)) {
            true => Some(key.caller.clone()),
            false => found,
        })
    }
}

fn known(keys: &[Secret]) -> Arc<[KnownKey]> {
    let mut known: Vec<KnownKey> = Vec::with_capacity(keys.len());
    for key in keys {
        let digest: [u8; 32] = Sha256::digest(key.expose()).into();
        if !known.iter().any(|other| other.digest == digest) {
            known.push(KnownKey { digest, caller: Caller::of_key(&digest) });
        }
    }
    known.into()
}

/// The keys of a file, one a line, as llama-server reads them; empty lines are passed over.
///
/// # Errors
/// If it cannot be read, is no text, or has no key.
pub fn read(path: &Path) -> Result<Vec<Secret>, KeyFileError> {
    let unreadable = |cause| KeyFileError::Unreadable { path: path.to_owned(), cause };
    let malformed = |problem: String| KeyFileError::Malformed { path: path.to_owned(), problem };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(malformed("a file is wanted".into()));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(malformed(format!("it has {} bytes; at most {MAX_FILE_BYTES} are read", metadata.len())));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let keys: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect();
    if keys.is_empty() {
        return Err(malformed("it has no key; one a line is wanted".into()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[&str], file: Option<PathBuf>) -> ApiKeys {
        let api_key = typed.iter().copied().map(Secret::new).collect();
        ApiKeys::new(&ApiConfig { api_key, api_key_file: file, ..ApiConfig::default() })
    }

    #[test]
    fn each_key_is_its_own_caller() {
        let keys = keys(&["red", "blue", "red"], None);
        let [red, blue] = ["red", "blue"].map(|key| keys.caller(key.as_bytes()).expect("known"));
        assert_ne!(red, blue);
        assert_eq!(keys.caller(b"red"), Some(red));
        for wrong in ["", "re", "redd", "RED", "red,blue"] {
            assert_eq!(keys.caller(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(keys.reload().unwrap(), 2);
        assert_eq!(keys.only_caller(), None);
        let red = self::keys(&["red", "red"], None);
        assert_eq!((red.only_caller(), self::keys(&[], None).only_caller()), (red.caller(b"red"), None));
    }

    #[test]
    fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
        let folder = std::env::temp_dir().join(format!("quern-keys-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let file = folder.join("keys");
        fs::write(&file, "\none\r\n  two words \n\n").unwrap();
        let keys = keys(&["typed"], Some(file.clone()));
        let knows = |key: &str| keys.caller(key.as_bytes()).is_some();
        assert!(knows("one") && knows("two words") && knows("typed") && !knows(""));
        fs::write(&file, "three\n").unwrap();
        assert!(!knows("three"));
        assert_eq!(keys.reload().unwrap(), 2);
        assert!(knows("three") && knows("typed") && !knows("one"));
        for broken in ["", "\n \n"] {
            fs::write(&file, broken).unwrap();
            assert!(keys.reload().unwrap_err().to_string().ends_with("one a line is wanted"));
            assert!(knows("three"));
        }
        fs::remove_dir_all(&folder).unwrap();
        assert!(keys.reload().is_err() && knows("three"));
        let never = self::keys(&[], Some(file));
        assert!(never.are_required() && never.caller(b"").is_none(), "a file that is not there lets nobody in");
    }
}
