//! Who may ask what: `--api-key` and `--admin-api-key`.
//!
//! Keys are compared in constant time, and by their digests, so that not even their lengths show.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    config::Secret,
    page,
    protocol::{ApiError, envelope::Envelope},
    state::AppState,
};

/// Paths that need no key: probes of orchestrators and scrapers have none. Exact names; SGLang goes by
/// their beginnings, which lets anything in that begins alike.
const OPEN: &[&str] = &["/health", "/health_generate", "/health/progress", "/ready", "/live", "/metrics"];

/// Paths that change the server for everybody.
pub const ADMIN: &[&str] = &[
    "/flush_cache",
    "/abort_request",
    "/pause_generation",
    "/continue_generation",
    "/start_profile",
    "/stop_profile",
    "/set_internal_state",
    "/configure_logging",
    "/slow_down",
    "/freeze_gc",
    "/set_trace_level",
];

/// Let a request through if its key opens its path.
pub async fn require_key(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let config = &state.config;
    let (path, method) = (request.uri().path(), request.method());
    let is_admin = ADMIN.contains(&path);
    let key =
        if is_admin { config.admin_api_key.as_ref().or(config.api_key.as_ref()) } else { config.api_key.as_ref() };
    let is_page = !config.no_ui && page::is_open(method, path, request.headers());
    let open = *method == Method::OPTIONS || OPEN.contains(&path) || is_page;
    match key {
        Some(key) if !open && !is_opened_by(key, request.headers()) => refused(path),
        _ => next.run(request).await,
    }
}

fn is_opened_by(key: &Secret, headers: &HeaderMap) -> bool {
    let value = |name| headers.get(name).map(|value| value.as_bytes());
    let bearer = value(header::AUTHORIZATION).and_then(|given| {
        let (scheme, token) = given.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
    });
    // Anthropic's clients send theirs in a header of its own; where they were told both a key and a token
    // they send both, and either may be the one that is meant for this server.
    let given = bearer.into_iter().chain(headers.get("x-api-key").map(|value| value.as_bytes()));
    let wanted = Sha256::digest(key.expose());
    given.map(Sha256::digest).any(|given| given.ct_eq(&wanted).into())
}

fn refused(path: &str) -> Response {
    let message = "Unauthorized: a key is wanted, as `Authorization: Bearer KEY` or `x-api-key: KEY`.";
    let error = ApiError { code: Some("invalid_api_key"), ..ApiError::status(StatusCode::UNAUTHORIZED, message) };
    let mut response = Envelope::of_path(path).wrap(error);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}
