//! Who may ask what, by `--api-key`, `--api-key-file` and `--admin-api-key`, and who it is that asks.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    caller::Caller,
    config::Secret,
    page,
    protocol::{ApiError, envelope::Envelope},
    state::AppState,
};

/// Paths that need no key: probes of orchestrators and scrapers have none. Exact names; SGLang goes by
/// their beginnings, which lets anything in that begins alike.
const OPEN: &[&str] = &["/health", "/health_generate", "/health/progress", "/ready", "/live", "/metrics"];

/// Paths that change the server for everybody.
pub(crate) const ADMIN: &[&str] = &[
    "/flush_cache",
    "/abort_request",
    "/reload_api_keys",
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

/// The live view, of which the administrator sees more than others: it opens by either key.
const LIVE_VIEW: &str = "/dashboard/events";

/// Let a request through if its key opens its path, and say who has sent it: [`Caller`].
pub(crate) async fn require_key(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let config = &state.config;
    let (path, method, headers) = (request.uri().path(), request.method(), request.headers());
    let keys = &state.keys;
    let is_admin = |admin: &Secret| given(headers).any(|key| is_same(key, admin));
    let caller = match &config.admin_api_key {
        Some(admin) if ADMIN.contains(&path) => is_admin(admin).then(Caller::administrator),
        Some(admin) if path == LIVE_VIEW && is_admin(admin) => Some(Caller::administrator()),
        _ if keys.are_required() => given(headers).find_map(|key| keys.caller(key)),
        _ => Some(Caller::at_peer(request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip()))),
    };
    let is_page = !config.no_ui && page::is_open(method, path, headers);
    let open = *method == Method::OPTIONS || OPEN.contains(&path) || is_page;
    match caller {
        None if !open => refused(path),
        caller => {
            request.extensions_mut().insert(caller.unwrap_or_default());
            next.run(request).await
        }
    }
}

/// The keys that a request brings.
fn given(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|given| {
        let (scheme, token) = given.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
    });
    // Anthropic's clients send theirs in a header of its own; where they were told both a key and a token
    // they send both, and either may be the one that is meant for this server.
    bearer.into_iter().chain(headers.get("x-api-key").map(|value| value.as_bytes()))
}

/// In constant time, by digests, as [`ApiKeys`](crate::api_keys::ApiKeys) compares.
fn is_same(given: &[u8], key: &Secret) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(key.expose())).into()
}

fn refused(path: &str) -> Response {
    let message = "Unauthorized: a key is wanted, as `Authorization: Bearer KEY` or `x-api-key: KEY`.";
    let error = ApiError { code: Some("invalid_api_key"), ..ApiError::status(StatusCode::UNAUTHORIZED, message) };
    let mut response = Envelope::of_path(path).wrap(error);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}
