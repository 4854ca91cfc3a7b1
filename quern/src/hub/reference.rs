//! [`HubRef`]: a model on the hub, as people write it.

use std::fmt;

use super::RepoId;

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRef {
    /// Its repository.
    pub repo: RepoId,
    /// Which of its GGUF files, if one is named.
    pub pick: Option<Pick>,
}

/// Which GGUF file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// By its quantisation: `Q4_K_M`.
    Quantisation(String),
    /// By its path in the repository.
    File(String),
}

/// What may stand before an id.
const PREFIXES: [&str; 6] = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/", "hf://", "hf:"];

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pick {
            None => write!(f, "{}", self.repo),
            Some(Pick::Quantisation(name)) => write!(f, "{}:{name}", self.repo),
            Some(Pick::File(name)) => write!(f, "{}/{name}", self.repo),
        }
    }
}

impl HubRef {
    /// Parse `OWNER/NAME`, `OWNER/NAME:QUANTISATION` or `OWNER/NAME/FILE.gguf`, behind the hub's address or not.
    pub fn parse(text: &str) -> Option<Self> {
        let id = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        if let Some((repo, quantisation)) = id.split_once(':') {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let named = !quantisation.is_empty() && quantisation.chars().all(plain);
            // Ollama's word for the usual one.
            let pick = (quantisation != "latest").then(|| Pick::Quantisation(quantisation.to_owned()));
            return RepoId::parse(repo).filter(|_| named).map(|repo| Self { repo, pick });
        }
        if let Some(repo) = RepoId::parse(id) {
            return Some(Self { repo, pick: None });
        }
        let mut parts = id.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next()?);
        // As the hub's pages link to a file.
        let file = ["resolve/main/", "blob/main/"].iter().find_map(|part| file.strip_prefix(part)).unwrap_or(file);
        let inside = file.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains('\\'));
        let repo = RepoId::parse(&format!("{owner}/{name}")).filter(|_| inside && crate::gguf_files::is_gguf(file))?;
        Some(Self { repo, pick: Some(Pick::File(file.to_owned())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_as_other_programs_name_them() {
        let quantisation = |name: &str| Some(Pick::Quantisation(name.into()));
        let file = |name: &str| Some(Pick::File(name.into()));
        for (text, pick) in [
            ("a/b", None),
            ("hf.co/a/b", None),
            ("https://huggingface.co/a/b", None),
            ("a/b:Q4_K_M", quantisation("Q4_K_M")),
            ("hf.co/a/b:UD-Q2_K_XL", quantisation("UD-Q2_K_XL")),
            ("hf.co/a/b:latest", None),
            ("a/b/c-Q4_0.gguf", file("c-Q4_0.gguf")),
            ("a/b/BF16/c-00001-of-00002.gguf", file("BF16/c-00001-of-00002.gguf")),
            ("https://huggingface.co/a/b/resolve/main/c.gguf", file("c.gguf")),
        ] {
            let found = HubRef::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.repo.to_string().as_str(), found.pick), ("a/b", pick), "{text}");
        }
        for text in ["a/b:", "a/b:c/d", "a/b/c", "a/b/../c.gguf", "a/b/.c.gguf", "/a/b:Q4_0", "qwen3-coder:30b x", ""] {
            assert_eq!(HubRef::parse(text), None, "{text}");
        }
    }
}
