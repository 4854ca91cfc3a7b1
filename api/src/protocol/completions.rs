//! Wire types of `/v1/completions`.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};

use super::{
    chat::StreamOptions,
    scalar::{Int, Texts, shown},
    usage::Usage,
};

/// What a completion request says beside its sampling. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct CompletionFields {
    pub prompt: Option<Prompts>,
    pub model: Option<String>,
    pub suffix: Option<String>,
    pub echo: Option<bool>,
    pub logprobs: Option<Int>,
    pub best_of: Option<Int>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub rid: Option<Texts>,
    pub cache_salt: Option<String>,
    pub extra_key: Option<String>,
}

/// A prompt as text or as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Tokens, not checked yet.
    Ids(Vec<i64>),
}

/// One prompt or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    /// The prompts.
    pub list: Vec<Prompt>,
    /// Whether they came as a list; the answer is one then, even of a single prompt.
    pub is_batch: bool,
}

impl Prompts {
    /// `"text"`, `["text", …]`, `[1, 2, …]` or `[[1, 2, …], …]`.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let wrong = |value: &Value| {
            format!("a string, a list of strings, token ids, or lists of them are wanted, not {}", shown(value))
        };
        let ids = |items: &[Value]| items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>();
        match value {
            Value::String(text) => Ok(Self { list: vec![Prompt::Text(text)], is_batch: false }),
            Value::Array(items) if items.first().is_some_and(Value::is_number) => {
                let ids = ids(&items).ok_or_else(|| wrong(&Value::Array(items)))?;
                Ok(Self { list: vec![Prompt::Ids(ids)], is_batch: false })
            }
            Value::Array(items) => {
                let one = |item: Value| match item {
                    Value::String(text) => Ok(Prompt::Text(text)),
                    Value::Array(inner) => ids(&inner).map(Prompt::Ids).ok_or_else(|| wrong(&Value::Array(inner))),
                    other => Err(wrong(&other)),
                };
                Ok(Self { list: items.into_iter().map(one).collect::<Result<_, _>>()?, is_batch: true })
            }
            other => Err(wrong(&other)),
        }
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// An answer, whole or one piece of a stream.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct Completion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<CompletionChoice>,
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// One output, or what is new of it.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'static str>,
    pub matched_stop: Value,
}

/// Scores, one entry a token in each list.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct CompletionLogprobs {
    /// Where each token begins in the text, in characters: the sum of the tokens before it.
    pub text_offset: Vec<usize>,
    pub token_logprobs: Vec<Option<f32>>,
    pub tokens: Vec<String>,
    /// Likeliest tokens by their text; null where there is no score.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prompts_come_in_four_shapes() {
        let parse = |value: Value| serde_json::from_value::<Prompts>(value).map_err(|e| e.to_string());
        let text = |t: &str| Prompt::Text(t.into());
        assert_eq!(parse(json!("a")), Ok(Prompts { list: vec![text("a")], is_batch: false }));
        assert_eq!(parse(json!(["a", "b"])), Ok(Prompts { list: vec![text("a"), text("b")], is_batch: true }));
        assert_eq!(parse(json!([1, 2])), Ok(Prompts { list: vec![Prompt::Ids(vec![1, 2])], is_batch: false }));
        let two = vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])];
        assert_eq!(parse(json!([[1], [2, 3]])), Ok(Prompts { list: two, is_batch: true }));
        assert_eq!(parse(json!([])), Ok(Prompts { list: vec![], is_batch: true }));
        for wrong in [json!(1), json!([1, "a"]), json!([[1, "a"]]), json!([1.5]), json!({"a": 1})] {
            assert!(parse(wrong.clone()).unwrap_err().contains("wanted"), "{wrong}");
        }
    }
}
