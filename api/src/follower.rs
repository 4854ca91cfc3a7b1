//! The HTTP side of a process that follows another one: probes, and a word for everybody else.

use std::future::Future;

use axum::{
    Router,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

/// Answer probes until `end`: 200 as long as `is_well` says so, then 503. Everything else is told that node 0 serves it.
///
/// # Errors
/// If connections cannot be accepted any more.
pub async fn serve(
    listener: TcpListener,
    node: usize,
    is_well: watch::Receiver<bool>,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let health = move || {
        let well = *is_well.borrow();
        async move {
            match well {
                true => StatusCode::OK.into_response(),
                false => (StatusCode::SERVICE_UNAVAILABLE, "Node 0 is lost; the process ends.\n").into_response(),
            }
        }
    };
    let mut router = Router::new().route("/live", get(|| async { StatusCode::OK }));
    for path in ["/health", "/health_generate", "/ready", "/ping"] {
        router = router.route(path, get(health.clone()));
    }
    let router = router.fallback(move |uri: Uri| async move { elsewhere(node, &uri) });
    axum::serve(listener, router).with_graceful_shutdown(end).await
}

/// Requests belong to node 0.
fn elsewhere(node: usize, uri: &Uri) -> Response {
    let message =
        format!("{}: this is node {node} of several; node 0 serves requests, this one answers /health", uri.path());
    (StatusCode::NOT_FOUND, axum::Json(json!({"error": {"message": message, "type": "NotFoundError", "code": 404}})))
        .into_response()
}
