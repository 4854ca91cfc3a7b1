//! The HTTP application: its routes and the layers around them.

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use tower_http::cors::{AllowHeaders, AllowMethods, Any, CorsLayer};

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
        .layer(cors())
        .layer(middleware::from_fn_with_state(state, access_log::record))
}

/// Any page may ask. What a preflight asks for is named in its answer: `*` does not cover `Authorization`
/// (Fetch, "CORS protocol and credentials").
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
}
