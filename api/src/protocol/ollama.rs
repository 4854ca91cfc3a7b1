//! Wire types of `/api/…`, Ollama's.

use axum::response::{IntoResponse, Response};
use quern_text::conversation::part;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    error::ApiError,
    sampling::SamplingFields,
    scalar::{Int, Texts},
};

/// What `/api/chat` and `/api/generate` read. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaFields {
    pub model: Option<String>,
    pub messages: Option<Vec<Value>>,
    pub tools: Option<Vec<Value>>,
    pub prompt: Option<String>,
    pub suffix: Option<String>,
    pub system: Option<String>,
    pub raw: Option<bool>,
    pub images: Option<Vec<Value>>,
    pub format: Option<Value>,
    pub options: Option<OllamaOptions>,
    pub think: Option<Value>,
    pub stream: Option<bool>,
    pub keep_alive: Option<Value>,
}

/// How to choose tokens and where to stop.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaOptions {
    pub num_predict: Option<Int>,
    pub temperature: Option<f64>,
    pub top_k: Option<Int>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub seed: Option<Int>,
    pub stop: Option<Texts>,
    pub repeat_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub typical_p: Option<f64>,
    pub mirostat: Option<Int>,
}

impl OllamaFields {
    /// Whether `keep_alive` is no time at all: `0`, `"0"`, `"0s"` …
    pub fn unloads(&self) -> bool {
        match &self.keep_alive {
            Some(Value::Number(seconds)) => seconds.as_f64() == Some(0.0),
            Some(Value::String(text)) => {
                let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
                digits.parse::<f64>().is_ok_and(|time| time == 0.0)
            }
            _ => false,
        }
    }

    /// `options` in our words.
    ///
    /// # Errors
    /// If an option is malformed, or asks for what is not supported.
    pub fn sampling(&self) -> Result<SamplingFields, ApiError> {
        let options = self.options.clone().unwrap_or_default();
        let unsupported = |name: &str| {
            let message = format!("options.{name}: this way of sampling is not supported.");
            Err(ApiError::unsupported(&format!("options.{name}"), message))
        };
        if options.typical_p.is_some_and(|p| p != 1.0) {
            return unsupported("typical_p");
        }
        if options.mirostat.is_some_and(|kind| kind.0 != 0) {
            return unsupported("mirostat");
        }
        Ok(SamplingFields {
            // Negative numbers mean "as many as there is room for".
            max_new_tokens: options.num_predict.filter(|n| n.0 >= 0),
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            min_p: options.min_p,
            seed: options.seed.filter(|seed| seed.0 >= 0),
            stop: options.stop,
            repetition_penalty: options.repeat_penalty,
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
            ..SamplingFields::default()
        })
    }

    /// `format` in chat's words.
    ///
    /// # Errors
    /// If it is neither `json` nor a schema.
    pub fn chat_response_format(&self) -> Result<Option<Value>, ApiError> {
        match &self.format {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text == "json" => Ok(Some(json!({ "type": "json_object" }))),
            Some(schema @ Value::Object(_)) => {
                Ok(Some(json!({ "type": "json_schema", "json_schema": { "name": "format", "schema": schema } })))
            }
            Some(_) => Err(ApiError::schema("format: \"json\" or a JSON schema is wanted.").about("format")),
        }
    }
}

/// Messages whose pictures are lines of text. Only those of a new message are refused: a history comes back
/// with every later turn.
///
/// # Errors
/// If a new message has pictures.
pub fn without_pictures(messages: &mut [Value]) -> Result<(), ApiError> {
    let last = messages.len().saturating_sub(1);
    for (index, message) in messages.iter_mut().enumerate() {
        let Some(fields) = message.as_object_mut() else { continue };
        let Some(Value::Array(pictures)) = fields.remove("images") else { continue };
        if pictures.is_empty() {
            continue;
        }
        if index == last && fields.get("role").is_some_and(|role| role == "user") {
            let message = format!("messages[{index}].images: not supported: the model reads text.");
            return Err(ApiError::unsupported("messages", message));
        }
        let said = part::history_text(fields.get("content").unwrap_or(&Value::Null));
        let lines = std::iter::repeat_n(part::omitted("image"), pictures.len());
        let texts: Vec<_> = std::iter::once(said).filter(|text| !text.is_empty()).chain(lines).collect();
        fields.insert("content".into(), texts.join("\n").into());
    }
    Ok(())
}

/// A piece of an answer, or all of it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaPiece<'a> {
    pub model: &'a str,
    pub created_at: String,
    #[serde(flatten)]
    pub said: OllamaSaid,
    pub done: bool,
    #[serde(flatten)]
    pub end: Option<OllamaEnd>,
}

/// What it says: on `/api/chat` a message, on `/api/generate` text.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "Ollama's names")]
pub enum OllamaSaid {
    Message(OllamaMessage),
    Response(String),
}

/// A message.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaMessage {
    pub role: &'static str,
    pub content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<OllamaCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaCall {
    pub id: String,
    pub function: OllamaFunction,
}

/// What is called.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaFunction {
    pub index: usize,
    pub name: String,
    pub arguments: Map<String, Value>,
}

/// What the last piece says beside. Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "Ollama's names")]
pub struct OllamaEnd {
    pub done_reason: &'static str,
    pub total_duration: u64,
    pub load_duration: u64,
    pub prompt_eval_count: usize,
    pub prompt_eval_duration: u64,
    pub eval_count: usize,
    pub eval_duration: u64,
}

/// A time as RFC 3339 has it, in UTC.
pub fn rfc3339(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Years begin in March here, so that the leap day is the last one (Hinnant, "chrono-compatible low-level
    // date algorithms", `civil_from_days`).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// An [`ApiError`] in Ollama's envelope.
#[derive(Clone, Debug)]
pub struct OllamaError(pub ApiError);

impl OllamaError {
    /// `{error: "…"}`.
    pub fn body(&self) -> Value {
        json!({ "error": self.0.message })
    }
}

impl From<ApiError> for OllamaError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for OllamaError {
    fn into_response(self) -> Response {
        self.0.response(self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_487_719, "2026-11-24T02:35:19Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }
}
