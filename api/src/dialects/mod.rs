//! A [`Dialect`](crate::respond::Dialect) for each API: what its answers have of their own; what all share is in
//! [`respond`](crate::respond::respond).

pub mod chat;
pub mod completions;
pub mod freeform;
pub mod generate;
pub mod infill;
pub mod messages;
pub mod ollama;
pub mod response_items;
pub mod responses;

use crate::{protocol::chat::StreamOptions, state::AppState};

/// The name that an answer carries when the request names no model.
pub const NO_MODEL: &str = "default";

/// What every answer of OpenAI's two endpoints of completions carries.
#[derive(Clone, Debug)]
pub struct OpenAiHead {
    /// Its id.
    pub id: String,
    /// When it was begun, seconds since 1970.
    pub created: u64,
    /// The model as the request names it.
    pub model: String,
    /// End a stream with a chunk of usage.
    pub include_usage: bool,
    /// Put the usage so far into every chunk.
    pub continuous_usage: bool,
}

impl OpenAiHead {
    /// Of an answer that begins now.
    pub fn new(id: String, model: Option<String>, options: Option<StreamOptions>, state: &AppState) -> Self {
        let options = options.unwrap_or_default();
        Self {
            id,
            created: state.clock.unix_seconds(),
            model: model.unwrap_or_else(|| NO_MODEL.into()),
            include_usage: options.include_usage.unwrap_or(state.config.stream_response_default_include_usage),
            continuous_usage: options.continuous_usage_stats.unwrap_or(false),
        }
    }
}
