//! The HTTP application: its routes and the layers around them.

use std::sync::Arc;

use axum::{Router, middleware};
use tower_http::cors::CorsLayer;

use crate::{access_log, auth, routes, state::AppState};

/// All routes and the layers around them, the outermost last.
pub fn router(state: Arc<AppState>) -> Router {
    let routes = routes::all(!state.config.no_ui).with_state(Arc::clone(&state));
    routes
        .layer(middleware::from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(CorsLayer::permissive())
        .layer(middleware::from_fn_with_state(state, access_log::record))
}
