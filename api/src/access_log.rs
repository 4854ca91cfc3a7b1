//! The access log, in uvicorn's form: one line per answered request.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use crate::state::AppState;

/// The target of its events: one per answered request.
pub const ACCESS: &str = "access";

/// Count and log a request when its answer begins.
pub async fn record(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let (method, version) = (request.method().clone(), request.version());
    let target = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let active = Active::new(&state);
    let endpoint = request.extensions().get::<MatchedPath>().map_or("(unknown)", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    active.answered(method.as_str(), &endpoint, response.status().as_u16());
    let status = response.status();
    let client = client.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let reason = status.canonical_reason().unwrap_or("");
    tracing::info!(target: ACCESS, "INFO:     {client} - \"{method} {target} {version:?}\" {} {reason}", status.as_u16());
    response
}

/// A request that has not been answered. A client that leaves before is counted as 499, nginx's number
/// for it.
struct Active<'a> {
    state: &'a AppState,
    answered: bool,
}

impl<'a> Active<'a> {
    fn new(state: &'a AppState) -> Self {
        state.metrics.http_began();
        Self { state, answered: false }
    }

    fn answered(mut self, method: &str, endpoint: &str, status: u16) {
        self.answered = true;
        self.state.metrics.http_ended(method, endpoint, status);
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.state.metrics.http_ended("-", "(left)", 499);
        }
    }
}
