//! [`Envelope`]: the form that an API's errors have, by the path of a request.

use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{
    error::{ApiError, NativeError},
    messages::MessagesError,
    ollama::OllamaError,
    responses::ResponsesError,
};

/// Whose errors these are. Endpoints know their own; this is for what answers before or beside them: keys,
/// unknown paths, wrong methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// OpenAI's, with SGLang's and FastAPI's fields beside.
    OpenAi,
    /// OpenAI's, of `/v1/responses`.
    Responses,
    /// Anthropic's.
    Messages,
    /// Ollama's.
    Ollama,
    /// SGLang's, of `/generate`.
    Native,
}

impl Envelope {
    /// The envelope of a path.
    pub fn of_path(path: &str) -> Self {
        let is_under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match path {
            _ if is_under("/v1/messages") => Self::Messages,
            _ if is_under("/v1/responses") => Self::Responses,
            _ if is_under("/api") => Self::Ollama,
            "/generate" => Self::Native,
            _ => Self::OpenAi,
        }
    }

    /// An error in this form.
    pub fn wrap(self, error: ApiError) -> Response {
        match self {
            Self::OpenAi => error.into_response(),
            Self::Responses => ResponsesError(error).into_response(),
            Self::Messages => MessagesError::from(error).into_response(),
            Self::Ollama => OllamaError(error).into_response(),
            Self::Native => NativeError(error).into_response(),
        }
    }

    /// The same of a path or a method that is not served. Readers of FastAPI's errors find its `detail`.
    pub fn wrap_not_found(self, error: ApiError) -> Response {
        match self {
            Self::OpenAi => {
                let mut body = error.openai_body();
                body["detail"] = json!(error.status.canonical_reason().unwrap_or_default());
                error.response(body)
            }
            other => other.wrap(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_api() {
        for (path, wanted) in [
            ("/v1/chat/completions", Envelope::OpenAi),
            ("/v1/messages", Envelope::Messages),
            ("/v1/messages/batches", Envelope::Messages),
            ("/v1/messagesx", Envelope::OpenAi),
            ("/v1/responses/resp_1/cancel", Envelope::Responses),
            ("/api/chat", Envelope::Ollama),
            ("/apichat", Envelope::OpenAi),
            ("/generate", Envelope::Native),
        ] {
            assert_eq!(Envelope::of_path(path), wanted, "{path}");
        }
    }
}
