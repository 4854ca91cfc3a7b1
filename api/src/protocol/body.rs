//! [`Body`]: a request's JSON object, read within bounds of size and time.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{StatusCode, header},
};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    error::ApiError,
    memory_pool::{HeldFor, HeldMemory, MemoryPool, tree_bytes},
    scalar::shown,
};
use crate::{config::ApiConfig, offload::to_pool_for, pieces::FreedOnPool};

/// A text that every frame of a stream repeats, and so is sent once a token.
const REPEATED: &str = "model";

/// Its most bytes.
pub const MAX_REPEATED_BYTES: usize = 1024;

/// Whether an endpoint insists on `application/json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// As on `/v1/…`.
    Json,
    /// As on `/generate`.
    Any,
}

/// A JSON object. Endpoints read it field group by field group ([`Body::read`]); fields that none of
/// them names are ignored, as clients expect.
#[derive(Debug, Default)]
pub struct Body {
    fields: Value,
    /// What it counts for among all bodies.
    _held: HeldMemory,
}

/// The bytes of a body, and where their memory is counted.
struct Received {
    bytes: FreedOnPool<Vec<u8>>,
    memory: MemoryPool,
    held: HeldMemory,
}

impl Body {
    /// Read a request's body: at most `max_request_bytes`, within `request_read_timeout`.
    ///
    /// # Errors
    /// If it is larger, comes later, has another content type, or is no JSON object.
    pub async fn receive(request: Request, config: &ApiConfig, wanted: ContentType) -> Result<Self, ApiError> {
        if wanted == ContentType::Json {
            require_json(&request)?;
        }
        let received = Self::receive_bytes(request, config).await?;
        if received.bytes.0.is_empty() {
            return Err(ApiError::schema("The body is empty; a JSON object is wanted."));
        }
        Self::parse(received)
    }

    /// The same for endpoints whose body may be left out.
    ///
    /// # Errors
    /// As for [`receive`](Self::receive).
    pub async fn receive_optional(request: Request, config: &ApiConfig) -> Result<Self, ApiError> {
        let received = Self::receive_bytes(request, config).await?;
        if received.bytes.0.iter().all(u8::is_ascii_whitespace) {
            return Self::from_value(Map::new().into());
        }
        Self::parse(received)
    }

    fn parse(received: Received) -> Result<Self, ApiError> {
        let Received { bytes, memory, mut held } = received;
        memory.hold(&mut held, tree_bytes(&bytes.0), HeldFor::Body)?;
        // A later key of the same name wins, as in Python.
        let parsed: Result<Value, serde_json::Error> = quern_text::json::parse(&bytes.0);
        let fields = parsed.map_err(|cause| ApiError::schema(format!("Invalid JSON: {cause}")))?;
        let body = Self { _held: held, ..Self::from_value(fields)? };
        let repeated = body.get(REPEATED).and_then(Value::as_str).map_or(0, str::len);
        if repeated > MAX_REPEATED_BYTES {
            let message = format!(
                "{REPEATED}: {repeated} bytes, which every frame of the answer would repeat; at most \
                 {MAX_REPEATED_BYTES} are allowed."
            );
            return Err(ApiError::invalid(message).about(REPEATED));
        }
        Ok(body)
    }

    async fn receive_bytes(request: Request, config: &ApiConfig) -> Result<Received, ApiError> {
        let encoding = request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
        if let Some(encoding) = encoding.filter(|encoding| !encoding.is_empty() && *encoding != "identity") {
            let message = format!("Content-Encoding: {encoding} is not supported; send the body as it is.");
            return Err(ApiError::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        let limit = config.max_request_bytes;
        let too_large = |bytes: String| {
            let message = format!("The body has {bytes} bytes; at most {limit} are read (--max-request-bytes).");
            ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if let Some(bytes) = declared.and_then(|text| text.parse::<u64>().ok()).filter(|&n| n > limit as u64) {
            return Err(too_large(bytes.to_string()));
        }
        let seconds = config.request_read_timeout;
        let memory = request.extensions().get::<MemoryPool>().cloned();
        let memory = memory.unwrap_or_else(|| MemoryPool::new(config.max_request_memory));
        let whole = async {
            let (mut held, mut body) = (HeldMemory::default(), request.into_body());
            let mut received = FreedOnPool(Vec::new());
            let bytes = &mut received.0;
            while let Some(frame) = body.frame().await {
                let frame =
                    frame.map_err(|cause| ApiError::schema(format!("The body did not arrive whole: {cause}")))?;
                // Copied, so that a body of tiny chunks costs no more than one of large ones.
                let Ok(chunk) = frame.into_data() else { continue };
                if bytes.len() + chunk.len() > limit {
                    return Err(too_large(format!("more than {limit}")));
                }
                memory.hold(&mut held, bytes.len() + chunk.len(), HeldFor::Body)?;
                bytes.extend_from_slice(&chunk);
            }
            Ok(Received { bytes: received, memory, held })
        };
        let whole = tokio::time::timeout(Duration::from_secs_f64(seconds), whole).await.unwrap_or_else(|_| {
            let message = format!("The body did not arrive within {seconds} s (--request-read-timeout).");
            Err(ApiError::status(StatusCode::REQUEST_TIMEOUT, message))
        })?;
        // Whatever is made of a long body takes long, and so does freeing it: the request goes on elsewhere.
        to_pool_for(whole.bytes.0.len()).await;
        Ok(whole)
    }

    /// A body that is known already.
    ///
    /// # Errors
    /// If it is no object.
    pub fn from_value(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(_) => Ok(Self { fields: value, _held: HeldMemory::default() }),
            other => Err(ApiError::schema(format!("A JSON object is wanted, not {}.", shown(&other)))),
        }
    }

    /// A group of fields. The error names the field.
    ///
    /// # Errors
    /// If a field has another type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_path_to_error::deserialize(&self.fields).map_err(|error| {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            // A missing field is named by its message and has no path.
            if path == "." {
                ApiError::schema(message)
            } else {
                ApiError::schema(format!("{path}: {message}")).about(&path)
            }
        })
    }

    /// One field; `None` if it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Refuse fields that ask for what is not supported. A field that is absent, null, false, empty or one of
    /// `harmless` asks for nothing.
    ///
    /// # Errors
    /// For the first field that asks for something.
    pub fn refuse(&self, fields: &[(&'static str, &'static str)]) -> Result<(), ApiError> {
        let asks = |value: &Value| match value {
            Value::Bool(on) => *on,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        };
        let asked =
            fields.iter().find_map(|(field, reason)| Some((field, reason, self.get(field).filter(|v| asks(v))?)));
        match asked {
            None => Ok(()),
            Some((field, reason, value)) => {
                Err(ApiError::unsupported(field, format!("{field}: {} is not supported: {reason}.", shown(value))))
            }
        }
    }
}

fn require_json(request: &Request) -> Result<(), ApiError> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = given.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let given = if given.is_empty() { "no Content-Type" } else { given };
    let message = format!("Unsupported Media Type: Only 'application/json' is allowed (the request has {given}).");
    Err(ApiError::schema(message))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::protocol::scalar::Int;

    #[derive(Debug, Deserialize)]
    struct Fields {
        #[serde(default)]
        n: Option<Int>,
        #[serde(default)]
        temperature: Option<f64>,
        wanted: Vec<String>,
    }

    fn read(value: Value) -> Result<Fields, ApiError> {
        Body::from_value(value).and_then(|body| body.read())
    }

    #[test]
    fn errors_name_the_field_and_the_value() {
        let error = read(json!({"wanted": [], "temperature": "hot"})).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("temperature"));
        assert!(error.message.contains("temperature") && error.message.contains("hot"), "{error}");
        let error = read(json!({"wanted": [1]})).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("wanted[0]"));
        assert!(read(json!({})).unwrap_err().message.contains("wanted"));
        assert!(read(json!({"wanted": [], "n": 1.5})).unwrap_err().message.contains("n: a whole number"));
    }

    #[test]
    fn numbers_survive_and_nulls_are_absent() {
        let fields = read(json!({"wanted": ["a"], "n": 3.0, "temperature": 0.7, "unknown": {}})).unwrap();
        assert_eq!((fields.n, fields.temperature, fields.wanted), (Some(Int(3)), Some(0.7), vec!["a".to_owned()]));
        assert!(read(json!({"wanted": [], "n": null})).unwrap().n.is_none());
    }

    #[test]
    fn only_what_asks_for_something_is_refused() {
        let refused = |value: Value| {
            Body::from_value(json!({ "lora_path": value })).unwrap().refuse(&[("lora_path", "no adapters")]).is_err()
        };
        for harmless in [Value::Null, json!(false), json!(""), json!([]), json!({})] {
            assert!(!refused(harmless.clone()), "{harmless}");
        }
        assert!(refused(json!("adapter")) && refused(json!(1)));
    }
}
