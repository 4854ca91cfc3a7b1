//! Wire types of `/v1/score`.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;

use super::{
    completions::{Prompt, Prompts},
    scalar::Int,
    usage::Usage,
};

/// What a request says. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "SGLang's names")]
pub struct ScoreFields {
    pub query: Option<ScoreText>,
    pub items: Option<Prompts>,
    pub label_token_ids: Option<Vec<Int>>,
    pub apply_softmax: Option<bool>,
    pub temperature: Option<f64>,
    pub item_first: Option<bool>,
    pub model: Option<String>,
}

/// What all items share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreText(pub Prompt);

impl<'de> Deserialize<'de> for ScoreText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value == Value::Array(Vec::new()) {
            return Ok(Self(Prompt::Ids(Vec::new())));
        }
        let mut prompts = Prompts::from_value(value).map_err(D::Error::custom)?;
        match prompts.list.pop() {
            Some(prompt) if !prompts.is_batch => Ok(Self(prompt)),
            _ => Err(D::Error::custom("a string or token ids are wanted, not a list of them")),
        }
    }
}

/// An answer: for each item, a score for each label.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "SGLang's names")]
pub struct Scores<'a> {
    pub scores: Vec<Vec<f64>>,
    pub model: &'a str,
    pub usage: Usage,
    pub object: &'static str,
}
