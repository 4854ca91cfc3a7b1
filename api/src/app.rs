//! The HTTP application: its routes and the layers around them.

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use tower_http::cors::CorsLayer;

use crate::{access_log, auth, routes, state::AppState};

/// All routes and the layers around them.
pub fn router(state: Arc<AppState>) -> Router {
    layered(routes::all(!state.config.no_ui), state)
}

/// Those of probes alone, which have a thread of their own.
pub fn probe_router(state: Arc<AppState>) -> Router {
    layered(routes::health::routes(), state)
}

/// The layers, the outermost last.
fn layered(routes: Router<Arc<AppState>>, state: Arc<AppState>) -> Router {
    routes
        .with_state(Arc::clone(&state))
        .layer(Extension(state.bodies.clone()))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(CorsLayer::permissive())
        .layer(middleware::from_fn_with_state(state, access_log::record))
}
