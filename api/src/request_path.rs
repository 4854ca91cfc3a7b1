//! [`RequestPathLayer`]: the path that a request means, whatever form a client or proxy gives it: behind a reverse
//! proxy's prefix (`--fastapi-root-path`), without `/v1`, with it twice, with slashes too many.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{Request, Uri, uri::PathAndQuery};
use tower::{Layer, Service};

/// What stands under `/v1` and is meant where `/v1` is missing, as llama.cpp's server takes it.
const UNDER_V1: &[&str] = &["/chat/completions", "/completions", "/responses", "/messages", "/models", "/embeddings"];

/// Gives every request the path that it means. It stands before everything that goes by paths: keys, logs and
/// routes see one form only.
#[derive(Clone, Debug)]
pub struct RequestPathLayer {
    prefix: Arc<str>,
}

impl RequestPathLayer {
    /// Take `prefix` off the paths that have it; others stay as they are, since some proxies strip it. The empty prefix
    /// is none.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }
}

impl<S> Layer<S> for RequestPathLayer {
    type Service = RequestPath<S>;

    fn layer(&self, inner: S) -> RequestPath<S> {
        RequestPath { prefix: Arc::clone(&self.prefix), inner }
    }
}

/// See [`RequestPathLayer`].
#[derive(Clone, Debug)]
pub struct RequestPath<S> {
    prefix: Arc<str>,
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for RequestPath<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(uri) = meant(&self.prefix, request.uri()) {
            *request.uri_mut() = uri;
        }
        self.inner.call(request)
    }
}

/// The address that is meant, where it is another one.
fn meant(prefix: &str, uri: &Uri) -> Option<Uri> {
    let path = without_prefix(prefix, uri.path());
    let path = canonical(path).unwrap_or_else(|| path.to_owned());
    if path == uri.path() {
        return None;
    }
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

/// `path` without `prefix`, if its first segments are those of `prefix`.
fn without_prefix<'a>(prefix: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(prefix).filter(|_| !prefix.is_empty()) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        Some(_) | None => path,
    }
}

/// The one form of `path`; `None` of what is no path, such as `*`.
fn canonical(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut path = segments.iter().map(|segment| format!("/{segment}")).collect::<String>();
    while let Some(rest) = path.strip_prefix("/v1").filter(|rest| rest.starts_with("/v1/") || *rest == "/v1") {
        path = rest.to_owned();
    }
    // A base address that names the endpoint already, to which the client adds its name.
    for endpoint in UNDER_V1 {
        if let Some(base) = path.strip_suffix(endpoint).filter(|base| base.ends_with(endpoint)) {
            path = base.to_owned();
        }
    }
    let is_bare =
        |endpoint: &&&str| path.strip_prefix(**endpoint).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if UNDER_V1.iter().find(is_bare).is_some() {
        path.insert_str(0, "/v1");
    }
    Some(if path.is_empty() { "/".to_owned() } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_one_path() {
        for (form, wanted) in [
            ("/", "/"),
            ("//", "/"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("//v1//chat/completions/", "/v1/chat/completions"),
            ("/chat/completions?x=1//2", "/v1/chat/completions?x=1//2"),
            ("/v1/v1/v1/models", "/v1/models"),
            ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
            ("/models/Qwen/Qwen3-Coder", "/v1/models/Qwen/Qwen3-Coder"),
            ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
            ("/responses/resp_1/", "/v1/responses/resp_1"),
            ("/completion", "/completion"),
            ("/modelsx", "/modelsx"),
            ("/api/chat/", "/api/chat"),
            ("/v1x/models", "/v1x/models"),
        ] {
            let uri: Uri = form.parse().unwrap();
            let found = meant("", &uri).map_or_else(|| form.to_owned(), |uri| uri.to_string());
            assert_eq!(found, wanted, "{form}");
        }
        assert_eq!(meant("", &"*".parse().unwrap()), None);
    }
    #[test]
    fn only_whole_segments_of_a_prefix_are_taken_off() {
        let strip = |prefix: &str, path: &str| meant(prefix, &path.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(strip("/llm", "/llm/v1/models?x=1").as_deref(), Some("/v1/models?x=1"));
        assert_eq!(strip("/llm", "/llm/models").as_deref(), Some("/v1/models"), "behind it, any form");
        assert_eq!(strip("/llm", "/llm").as_deref(), Some("/"));
        assert_eq!(strip("/llm", "/llm?x").as_deref(), Some("/?x"));
        assert_eq!(strip("/llm", "/llmish/v1"), None);
        assert_eq!(strip("/llm", "/v1/models"), None);
        assert_eq!(strip("", "/v1/models"), None);
    }
}
