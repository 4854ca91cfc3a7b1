//! The HTTP application: its routes and the layers around them.

use std::sync::Arc;

use axum::{Extension, Router, middleware};

use crate::{
    access_log, auth,
    origin_guard::{self, CrossOrigin},
    routes,
    state::AppState,
};

/// All routes and the layers around them.
pub fn router(state: Arc<AppState>, cross_origin: &Arc<CrossOrigin>) -> Router {
    layered(routes::all(!state.config.no_ui), state, cross_origin)
}

/// Those of probes alone, which have a thread of their own.
pub fn probe_router(state: Arc<AppState>, cross_origin: &Arc<CrossOrigin>) -> Router {
    layered(routes::health::routes(), state, cross_origin)
}

/// The layers, the outermost last.
fn layered(routes: Router<Arc<AppState>>, state: Arc<AppState>, cross_origin: &Arc<CrossOrigin>) -> Router {
    routes
        .with_state(Arc::clone(&state))
        .layer(Extension(state.bodies.clone()))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(origin_guard::cors(cross_origin))
        .layer(middleware::from_fn_with_state(Arc::clone(cross_origin), origin_guard::guard))
        .layer(middleware::from_fn_with_state(state, access_log::record))
}
