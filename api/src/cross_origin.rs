//! [`CrossOriginConfig`]: which web pages may use the server, and under which names it may be asked for.

use std::net::IpAddr;

use axum::http::{HeaderName, Method};
use serde::{Serialize, Serializer};

/// Which web pages may use the server. Field names are those of the flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CrossOriginConfig {
    /// Origins of pages that may, beside the server's own.
    pub allowed_origins: Vec<OriginPattern>,
    /// Methods they may use; empty: all.
    pub allowed_methods: Vec<AllowedMethod>,
    /// Headers they may send; empty: all.
    pub allowed_headers: Vec<AllowedHeader>,
    /// Whether they may send cookies and other credentials that a browser adds by itself.
    pub allow_credentials: bool,
    /// Names of the server, beside addresses and `localhost`; `None`: any where it listens for other machines, and no
    /// further one where it does not.
    pub allowed_hosts: Option<Vec<HostPattern>>,
}

/// An origin, `https://app.example`, with at most one `*` in it for any characters; `*` alone is any origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OriginPattern(String);

impl OriginPattern {
    /// Read a pattern.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.split_once("://").map(|(_, rest)| rest);
        let is_origin = rest.is_some_and(|rest| !rest.contains(['/', '?', '#', '@']));
        if !(text == "*" || text == "null" || is_origin && text.matches('*').count() <= 1) {
            return Err(format!(
                "`{text}` is no origin: https://app.example, http://localhost:*, https://*.example or * is wanted"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    pub(crate) fn matches(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        match self.0.split_once('*') {
            None => self.0 == origin,
            Some((before, after)) => origin.strip_prefix(before).is_some_and(|rest| rest.ends_with(after)),
        }
    }
}

/// A host name without its port, or `*.example` for all below a domain, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HostPattern(String);

impl HostPattern {
    /// Read a pattern.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if !(text == "*" || is_name(name) || name.parse::<IpAddr>().is_ok()) {
            return Err(format!("`{text}` is no host name without a port: llm.example, *.example or * is wanted"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    pub(crate) fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(after) => host.ends_with(after),
            None => self.0 == host,
        }
    }
}

/// A method's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AllowedMethod(#[serde(serialize_with = "text")] pub(crate) Method);

impl AllowedMethod {
    /// Read a name.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
        method.map(Self).map_err(|_| format!("`{text}` is no HTTP method"))
    }
}

/// A header's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AllowedHeader(#[serde(serialize_with = "text")] pub(crate) HeaderName);

impl AllowedHeader {
    /// Read a name.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = HeaderName::from_bytes(text.as_bytes());
        name.map(Self).map_err(|_| format!("`{text}` is no header's name"))
    }
}

fn text<S: Serializer>(value: &impl AsRef<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_origin_and_no_host_is_refused() {
        for text in ["app.example", "https://app.example/", "https://*.*.example", "", "https://a@b"] {
            assert!(OriginPattern::parse(text).unwrap_err().contains("no origin"), "{text}");
        }
        for text in ["http://a", "a:1", "", "*.", "a b", "a,b"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
