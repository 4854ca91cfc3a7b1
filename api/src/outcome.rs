//! [`Outcome`]: how an output ended, and each API's name for it.

use serde_json::Value;

use crate::protocol::ApiError;

/// How an output ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The model ended it, or a stop string did.
    Stop(Matched),
    /// The same, after complete calls of tools.
    ToolCalls(Matched),
    /// As long as it was allowed to get. A call that it was cut in is not among the complete ones.
    Length,
    /// It was aborted, by `/abort_request` or by a server that is going down.
    Abort(String),
    /// It failed.
    Failed(ApiError),
}

/// What stopped an output.
#[derive(Clone, Debug, PartialEq)]
pub enum Matched {
    /// A stop token.
    Token(u32),
    /// A stop string or pattern.
    Text(String),
}

/// An API's names of these ends.
#[derive(Clone, Copy, Debug)]
pub struct FinishWords {
    /// A stop token.
    pub stop_token: &'static str,
    /// A stop string.
    pub stop_text: &'static str,
    /// The model has called tools.
    pub tool_calls: &'static str,
    /// The longest output allowed.
    pub length: &'static str,
    /// An abort, where it is an end like the others. Where it has no name it is an error.
    pub abort: Option<&'static str>,
}

impl Outcome {
    /// The name of this end; empty where it is an [`error`](Self::error).
    pub fn reason(&self, words: &FinishWords) -> &'static str {
        match self {
            Self::Stop(Matched::Token(_)) => words.stop_token,
            Self::Stop(Matched::Text(_)) => words.stop_text,
            Self::ToolCalls(_) => words.tool_calls,
            Self::Length => words.length,
            Self::Abort(_) => words.abort.unwrap_or_default(),
            Self::Failed(_) => "",
        }
    }

    /// The error the client gets instead of a name: of a failure, and of an abort in an API that has no name for it.
    /// The request may be sent again, so it is 503.
    pub fn error(&self, words: &FinishWords) -> Option<ApiError> {
        match self {
            Self::Failed(error) => Some(error.clone()),
            Self::Abort(message) if words.abort.is_none() => Some(ApiError::unavailable(message)),
            _ => None,
        }
    }

    /// The id of the token, or the text, that stopped the output; otherwise null.
    pub fn matched(&self) -> Value {
        match self {
            Self::Stop(Matched::Token(id)) | Self::ToolCalls(Matched::Token(id)) => (*id).into(),
            Self::Stop(Matched::Text(text)) | Self::ToolCalls(Matched::Text(text)) => text.as_str().into(),
            Self::Length | Self::Abort(_) | Self::Failed(_) => Value::Null,
        }
    }
}
