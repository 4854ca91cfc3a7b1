//! The endpoints, one file each, or one for a few that belong together.

pub mod admin;
pub mod chat;
pub mod completions;
pub mod generate;
pub mod health;
pub mod infill;
pub mod info;
pub mod llama_cpp;
pub mod messages;
pub mod metrics;
pub mod models;
pub mod not_found;
pub mod ollama;
pub mod ollama_models;
pub mod page;
pub mod parse;
pub mod responses;
pub mod score;
pub mod tokenize;
pub mod unsupported;

use std::sync::Arc;

use axum::{Router, routing::get};

use crate::state::AppState;

/// Every endpoint, with those of the page if there is one.
pub fn all(page: bool) -> Router<Arc<AppState>> {
    let start = if page { page::routes() } else { Router::new().route("/", get(page::banner)) };
    start
        .merge(chat::routes())
        .merge(completions::routes())
        .merge(messages::routes())
        .merge(generate::routes())
        .merge(responses::routes())
        .merge(ollama::routes())
        .merge(ollama_models::routes())
        .merge(infill::routes())
        .merge(llama_cpp::routes())
        .merge(score::routes())
        .merge(parse::routes())
        .merge(models::routes())
        .merge(tokenize::routes())
        .merge(health::routes())
        .merge(info::routes())
        .merge(metrics::routes())
        .merge(admin::routes())
        .merge(unsupported::routes())
        .fallback(not_found::path)
        .method_not_allowed_fallback(not_found::method)
}
