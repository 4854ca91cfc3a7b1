//! Unknown paths and methods: the error names the endpoint that is probably meant, in the form of its API.

use axum::{
    extract::OriginalUri,
    http::{Method, StatusCode},
    response::Response,
};

use crate::protocol::{ApiError, envelope::Envelope};

/// What clients mean, most of the time.
const MEANT: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/compact",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/score",
    "/api/chat",
    "/api/generate",
    "/api/tags",
    "/api/show",
    "/api/ps",
    "/api/version",
    "/generate",
    "/infill",
    "/completion",
    "/apply-template",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/props",
    "/slots",
    "/version",
    "/health",
    "/metrics",
    "/model_info",
    "/server_info",
    "/flush_cache",
    "/abort_request",
];

/// A slip of the pen.
const SLIP: usize = 2;

/// The most that a path may differ from the one that is meant.
const MAX_EDITS: usize = 4;

/// Longest path that is compared.
const MAX_COMPARED: usize = 80;

/// No endpoint has this path.
pub async fn path(OriginalUri(uri): OriginalUri) -> Response {
    let path = uri.path();
    let meant = meant(path).map_or_else(String::new, |meant| format!(" Did you mean {meant}?"));
    let message = format!("Nothing is served at {path}.{meant}");
    Envelope::of_path(path).wrap_not_found(ApiError::status(StatusCode::NOT_FOUND, message))
}

/// The endpoint answers other methods; axum adds which ones as the header `Allow`.
pub async fn method(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    let path = uri.path();
    let message = format!("{path} does not answer {method}; the header Allow says which methods it answers.");
    Envelope::of_path(path).wrap_not_found(ApiError::status(StatusCode::METHOD_NOT_ALLOWED, message))
}

/// The endpoint that is meant: a slip away, the one that `path` ends with, or a few edits away.
fn meant(path: &str) -> Option<&'static str> {
    let bare = |endpoint: &str| endpoint.strip_prefix("/v1").unwrap_or(endpoint).to_owned();
    if path.len() > MAX_COMPARED {
        return None;
    }
    let distances = MEANT.iter().map(|endpoint| (edits(path, endpoint).min(edits(path, &bare(endpoint))), *endpoint));
    let (distance, nearest) = distances.min()?;
    if distance <= SLIP {
        return Some(nearest);
    }
    let by_end = MEANT.iter().filter(|endpoint| path.ends_with(&bare(endpoint))).max_by_key(|endpoint| endpoint.len());
    by_end.copied().or_else(|| (distance <= MAX_EDITS.min(path.len() / 2)).then_some(nearest))
}

/// Insertions, deletions and replacements between two texts (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_path_is_meant() {
        for (path, wanted) in [
            ("/v1/chat/completion", Some("/v1/chat/completions")),
            ("/v1/chat", Some("/api/chat")),
            ("/openai/v1/chat/completions", Some("/v1/chat/completions")),
            ("/anthropic/messages", Some("/v1/messages")),
            ("/v1/api/chat", Some("/api/chat")),
            ("/api/tag", Some("/api/tags")),
            ("/healthz", Some("/health")),
            ("/v1/images/generations", None),
            ("/favicon.ico", None),
            ("/x", None),
        ] {
            assert_eq!(meant(path), wanted, "{path}");
        }
        assert_eq!(meant(&"/x".repeat(5000)), None);
    }
}
