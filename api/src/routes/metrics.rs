//! `/metrics`, with `--enable-metrics`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{protocol::ApiError, state::AppState};

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    if !state.config.enable_metrics {
        let message = "Metrics are off; start the server with --enable-metrics.";
        return ApiError::status(axum::http::StatusCode::NOT_FOUND, message).into_response();
    }
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, state.metrics.text(&state.engine)).into_response()
}
