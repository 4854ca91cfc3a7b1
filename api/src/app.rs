//! The HTTP application: its routes and the layers around them.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::Request,
    middleware::{self, Next},
    response::Response,
};

use crate::{
    access_log, auth,
    offload::Offloadable,
    origin_guard::{self, CrossOrigin},
    pieces::in_pieces,
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
        .layer(middleware::from_fn(offloadable))
        .layer(Extension(state.memory.clone()))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), auth::require_key))
        .layer(origin_guard::cors(cross_origin))
        .layer(middleware::from_fn_with_state(Arc::clone(cross_origin), origin_guard::guard))
        .layer(middleware::from_fn_with_state(state, access_log::record))
}

/// Let a request leave the threads that serve sockets while it has much to do, and its answer be sent in pieces.
async fn offloadable(request: Request, next: Next) -> Response {
    in_pieces(Offloadable::new(next.run(request)).await)
}
