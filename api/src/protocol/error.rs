//! [`ApiError`]: the error a client gets when its request cannot be answered.
//!
//! SGLang and OpenAI disagree about the form: SGLang's fields are flat in the body, OpenAI's inside
//! `error`. Clients of both kinds exist, so the body has both: a flat reader and a nested one each find
//! what they know.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::blocking::BlockingError;

/// Seconds after which a client that was turned away may try again.
const RETRY_AFTER: &str = "1";

/// A refusal or a failure. The message names the thing, its value and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// SGLang's `type`.
    pub kind: String,
    /// For people.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// OpenAI's machine-readable `code`; the status stands in where there is none.
    pub code: Option<&'static str>,
    /// Of a prompt that is too long: its tokens, and the most it may have.
    pub overlong: Option<(usize, usize)>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        Self { status, kind: kind.to_owned(), message: message.into(), param: None, code: None, overlong: None }
    }

    /// The body is not what the endpoint reads.
    pub fn schema(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", message)
    }

    /// A value outside its limits.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message)
    }

    /// A conversation that does not become a prompt.
    pub fn render(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// A field asks for what is not supported.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), code: Some("unsupported_parameter"), ..Self::invalid(message) }
    }

    /// The prompt, or prompt and output together, do not fit. The code is the one that agents recognise
    /// and answer by compacting their history.
    pub fn too_long(message: impl Into<String>) -> Self {
        Self { code: Some("context_length_exceeded"), ..Self::invalid(message) }
    }

    /// The same, where the prompt alone does not fit.
    pub fn overlong(tokens: usize, maximum: usize, message: impl Into<String>) -> Self {
        Self { overlong: Some((tokens, maximum)), ..Self::too_long(message) }
    }

    /// The status says it all; `type` is its number, as SGLang has it.
    pub fn status(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, status.as_str(), message)
    }

    /// Not now: the client may try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::status(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Our own failure.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal server error: {message}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    /// The same, about a named field.
    pub fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The same, of an endpoint that calls the field `from` by the name `to`.
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        if self.param.as_deref() == Some(from) {
            self.param = Some(to.to_owned());
            self.message = self.message.replacen(from, to, 1);
        }
        self
    }

    /// The body on OpenAI's endpoints.
    pub fn openai_body(&self) -> Value {
        let Self { status, kind, message, param, .. } = self;
        let code = self.code.map_or_else(|| Value::from(status.as_u16()), Value::from);
        json!({
            "object": "error",
            "message": message,
            "type": kind,
            "param": param,
            "code": status.as_u16(),
            "error": { "message": message, "type": kind, "param": param, "code": code },
        })
    }

    /// What a stream that has begun says instead.
    pub fn openai_frame(&self) -> Value {
        let Self { status, kind, message, param, .. } = self;
        let error =
            json!({ "object": "error", "message": message, "type": kind, "param": param, "code": status.as_u16() });
        json!({ "error": error })
    }

    /// The same on `/generate`.
    pub fn native_frame(&self) -> Value {
        let kind = if self.status.is_client_error() { "invalid_request_error" } else { "server_error" };
        let retryable = self.status == StatusCode::SERVICE_UNAVAILABLE;
        json!({ "error": {
            "message": self.message, "type": kind, "code": self.status.as_u16(), "retryable": retryable,
        } })
    }

    /// An answer with the error's status and an endpoint's own body.
    pub fn response(&self, body: Value) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&self.status) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.response(self.openai_body())
    }
}

/// An [`ApiError`] on `/generate`, whose envelope is its own: `{"error": {"message": …}}`.
#[derive(Clone, Debug)]
pub struct NativeError(pub ApiError);

impl From<ApiError> for NativeError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for NativeError {
    fn into_response(self) -> Response {
        self.0.response(json!({ "error": { "message": self.0.message } }))
    }
}

/// What FastAPI says where no endpoint speaks.
pub fn detail(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "detail": words }))).into_response()
}

impl From<BlockingError> for ApiError {
    fn from(cause: BlockingError) -> Self {
        match cause {
            BlockingError::NoThread => Self::unavailable(cause.to_string()),
            BlockingError::Panicked => Self::internal(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_client_find_their_fields() {
        let body = ApiError::too_long("too long").about("messages").openai_body();
        assert_eq!(body["message"], "too long");
        assert_eq!(body["code"], 400);
        assert_eq!(body["error"]["message"], "too long");
        assert_eq!(body["error"]["code"], "context_length_exceeded");
        assert_eq!(body["error"]["param"], "messages");
        assert_eq!(ApiError::unavailable("full").openai_body()["type"], "503");
    }

    #[test]
    fn who_is_turned_away_hears_when_to_come_back() {
        let response = ApiError::unavailable("full").into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(!ApiError::invalid("no").into_response().headers().contains_key("retry-after"));
    }
}
