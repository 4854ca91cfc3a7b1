//! Forms in which clients write this server's paths: a base address without `/v1`, with it twice, with
//! slashes too many.

use std::task::{Context, Poll};

use axum::http::{Request, Uri, uri::PathAndQuery};
use tower::{Layer, Service};

/// What stands under `/v1` and is meant where `/v1` is missing, as llama.cpp's server takes it.
const UNDER_V1: &[&str] = &["/chat/completions", "/completions", "/responses", "/messages", "/models", "/embeddings"];

/// Gives every request the path that it means. It stands before everything that goes by paths: keys, logs and
/// routes see one form only.
#[derive(Clone, Copy, Debug, Default)]
pub struct UrlFormsLayer;

impl<S> Layer<S> for UrlFormsLayer {
    type Service = UrlForms<S>;

    fn layer(&self, inner: S) -> UrlForms<S> {
        UrlForms { inner }
    }
}

/// See [`UrlFormsLayer`].
#[derive(Clone, Debug)]
pub struct UrlForms<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for UrlForms<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(uri) = canonical(request.uri()) {
            *request.uri_mut() = uri;
        }
        self.inner.call(request)
    }
}

/// The address that is meant, where it is another one.
fn canonical(uri: &Uri) -> Option<Uri> {
    let path = canonical_path(uri.path()).filter(|path| path != uri.path())?;
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

fn canonical_path(path: &str) -> Option<String> {
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
            let meant = canonical(&uri).map_or_else(|| form.to_owned(), |uri| uri.to_string());
            assert_eq!(meant, wanted, "{form}");
        }
        assert_eq!(canonical(&"*".parse().unwrap()), None);
    }
}
