//! [`Endpoint`]: a server, its address and what every request to it carries.

use std::{env, error::Error, time::Duration};

use reqwest::{
    Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use crate::error::BenchError;

/// As long as SGLang's client waits for one answer.
const LONGEST_ANSWER: Duration = Duration::from_secs(6 * 60 * 60);
const LONGEST_CONNECT: Duration = Duration::from_secs(30);
/// Of an error's body, what is worth printing.
const ERROR_BYTES: usize = 2000;

/// A server, its address and what every request to it carries.
#[derive(Clone, Debug)]
pub struct Endpoint {
    base: String,
    headers: HeaderMap,
    http: reqwest::Client,
}

impl Endpoint {
    /// The server at `base`, such as `http://127.0.0.1:30000`; `http://` may be left out.
    ///
    /// `typed_headers` are `NAME=VALUE`. The environment may hold `OPENAI_API_KEY`, sent as a bearer token, or
    /// `API_KEY`, sent as it is. Each request opens its own connection, as a new user would.
    ///
    /// # Errors
    /// If a header is none.
    pub fn new(base: &str, typed_headers: &[String]) -> Result<Self, BenchError> {
        let base = base.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let mut headers = HeaderMap::new();
        let key = |name| env::var(name).ok().filter(|key| !key.is_empty());
        let key = key("OPENAI_API_KEY").map(|key| format!("Bearer {key}")).or_else(|| key("API_KEY"));
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(&key)
                .map_err(|_| BenchError::Arguments("the API key in the environment cannot be sent".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value.clone());
        }
        for typed in typed_headers {
            let refuse = || BenchError::Arguments(format!("--header {typed}: write NAME=VALUE"));
            let (name, value) = typed.split_once('=').ok_or_else(refuse)?;
            let name = HeaderName::try_from(name).map_err(|_| refuse())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| refuse())?);
        }
        let http = reqwest::Client::builder()
            .http1_only()
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .connect_timeout(LONGEST_CONNECT)
            .timeout(LONGEST_ANSWER)
            .no_proxy()
            .build()
            .map_err(|error| BenchError::Arguments(chain(&error)))?;
        Ok(Self { base, headers, http })
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The address of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Send `body` and return when the head of the answer is there, whatever its status.
    ///
    /// # Errors
    /// If no answer came.
    pub async fn send(&self, path: &str, body: Vec<u8>, extra: HeaderMap) -> Result<Response, reqwest::Error> {
        let mut headers = self.headers.clone();
        headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(extra);
        self.http.post(self.url(path)).headers(headers).body(body).send().await
    }

    /// `GET path`, an answer of JSON.
    ///
    /// # Errors
    /// If none came, or none of success, or none of JSON.
    pub async fn get(&self, path: &str) -> Result<Value, BenchError> {
        let sent = self.http.get(self.url(path)).headers(self.headers.clone()).send().await;
        self.json(path, sent).await
    }

    /// `POST path`, an answer of JSON.
    ///
    /// # Errors
    /// If none came, or none of success, or none of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, BenchError> {
        let sent = self.send(path, body.to_string().into_bytes(), HeaderMap::new()).await;
        self.json(path, sent).await
    }

    /// `POST path` without a body, any answer of success.
    ///
    /// # Errors
    /// If none came, or none of success.
    pub async fn poke(&self, path: &str) -> Result<(), BenchError> {
        let sent = self.http.post(self.url(path)).headers(self.headers.clone()).send().await;
        let response = sent.map_err(|error| self.unreachable(path, &error))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.refused(path, response).await)
    }

    async fn json(&self, path: &str, sent: Result<Response, reqwest::Error>) -> Result<Value, BenchError> {
        let response = sent.map_err(|error| self.unreachable(path, &error))?;
        if !response.status().is_success() {
            return Err(self.refused(path, response).await);
        }
        let text = response.text().await.map_err(|error| self.unreachable(path, &error))?;
        serde_json::from_str(&text).map_err(|error| self.odd(path, format!("no JSON ({error}): {}", beginning(&text))))
    }

    /// An answer to `path` that is not what its interface says.
    pub(crate) fn odd(&self, path: &str, problem: impl Into<String>) -> BenchError {
        BenchError::Answer { url: self.url(path), problem: problem.into() }
    }

    fn unreachable(&self, path: &str, error: &reqwest::Error) -> BenchError {
        BenchError::Unreachable { url: self.url(path), cause: chain(error) }
    }

    async fn refused(&self, path: &str, response: Response) -> BenchError {
        let status = response.status().to_string();
        let body = response.text().await.unwrap_or_default();
        BenchError::Refused { url: self.url(path), status, body: beginning(&body).to_owned() }
    }
}

/// A refusal as one line: `reason: body`, as SGLang's client words it.
pub(crate) async fn refusal(response: Response) -> String {
    let status: StatusCode = response.status();
    let reason = status.canonical_reason().map_or_else(|| status.as_u16().to_string(), str::to_owned);
    let body = response.text().await.unwrap_or_default();
    format!("{reason}: {}", beginning(&body))
}

/// An error with its causes: the outermost alone says "error sending request".
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_BYTES)]
}
