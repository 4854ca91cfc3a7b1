//! The HTTP API over an engine: wire types, routes, conversations, streams, the page.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod api_keys;
pub mod app;
mod auth;
pub mod blocking;
pub mod caller;
pub mod chat_generation;
pub mod chat_request;
pub mod clock;
pub mod config;
pub mod connection;
pub mod constraint;
pub mod cross_origin;
pub mod dialects;
pub mod fim;
pub mod follower;
pub mod generate;
pub mod grammars;
pub mod health_check;
pub mod latency;
pub mod limits;
pub mod listen;
pub mod live_ids;
mod live_recorder;
pub mod live_view;
pub mod log_queue;
pub mod logprobs;
pub mod metrics;
pub mod model_card;
pub mod offload;
pub mod origin_guard;
pub mod outcome;
pub mod page;
pub mod pieces;
pub mod prompt;
pub mod protocol;
pub mod recent_log;
pub mod request_id;
pub mod request_path;
pub mod respond;
pub mod response_store;
pub mod routes;
pub mod sampling;
pub mod score_limits;
pub mod state;
pub mod stopwatch;
pub mod stream;

pub use config::ApiConfig;
pub use model_card::ModelCard;
pub use state::{AppState, Service};
