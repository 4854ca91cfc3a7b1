//! `--fastapi-root-path`: requests that a reverse proxy passes on with its own prefix before the path.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{Request, Uri, uri::PathAndQuery};
use tower::{Layer, Service};

/// Takes a prefix off the paths that have it; others pass as they are, since some proxies strip it.
#[derive(Clone, Debug)]
pub struct RootPathLayer(Arc<str>);

impl RootPathLayer {
    /// Take `prefix` off; the empty one is none.
    pub fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }
}

impl<S> Layer<S> for RootPathLayer {
    type Service = RootPath<S>;

    fn layer(&self, inner: S) -> RootPath<S> {
        RootPath { prefix: Arc::clone(&self.0), inner }
    }
}

/// See [`RootPathLayer`].
#[derive(Clone, Debug)]
pub struct RootPath<S> {
    prefix: Arc<str>,
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for RootPath<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(uri) = without(&self.prefix, request.uri()) {
            *request.uri_mut() = uri;
        }
        self.inner.call(request)
    }
}

fn without(prefix: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(prefix).filter(|_| !prefix.is_empty())?;
    let rest = match rest.chars().next() {
        None => "/".to_owned(),
        Some('?') => format!("/{rest}"),
        Some('/') => rest.to_owned(),
        Some(_) => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_are_taken_off() {
        let strip = |prefix: &str, path: &str| without(prefix, &path.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(strip("/llm", "/llm/v1/models?x=1").as_deref(), Some("/v1/models?x=1"));
        assert_eq!(strip("/llm", "/llm").as_deref(), Some("/"));
        assert_eq!(strip("/llm", "/llm?x").as_deref(), Some("/?x"));
        assert_eq!(strip("/llm", "/llmish/v1"), None);
        assert_eq!(strip("/llm", "/v1/models"), None);
        assert_eq!(strip("", "/v1/models"), None);
    }
}
