//! Wire types of `/generate`.

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

use super::{
    completions::Prompts,
    scalar::{Int, Texts},
};

/// What a native request says. Several fields may be lists, one entry a prompt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "SGLang's names")]
pub struct NativeFields {
    pub text: Option<TextBatch>,
    pub input_ids: Option<Prompts>,
    pub sampling_params: Option<OneOrEach<Map<String, Value>>>,
    pub stream: Option<bool>,
    pub return_logprob: Option<OneOrEach<bool>>,
    pub logprob_start_len: Option<OneOrEach<Int>>,
    pub top_logprobs_num: Option<OneOrEach<Int>>,
    pub token_ids_logprob: Option<IdsOrEach>,
    pub return_text_in_logprobs: Option<bool>,
    pub rid: Option<TextBatch>,
    pub extra_key: Option<String>,
}

/// One text or a list of them, and which it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextBatch {
    /// The texts.
    pub list: Vec<String>,
    /// Whether they came as a list.
    pub is_batch: bool,
}

impl<'de> Deserialize<'de> for TextBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let is_batch = value.is_array();
        let Texts(list) = serde_json::from_value(value).map_err(D::Error::custom)?;
        Ok(Self { list, is_batch })
    }
}

/// One value for all prompts, or a list of one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OneOrEach<T> {
    /// For all.
    One(T),
    /// For each.
    Each(Vec<Option<T>>),
}

impl<T: Clone> OneOrEach<T> {
    /// The value for prompt `index`.
    pub fn of(&self, index: usize) -> Option<T> {
        match self {
            Self::One(value) => Some(value.clone()),
            Self::Each(values) => values.get(index).cloned().flatten(),
        }
    }

    /// How many there are, if they come as a list.
    pub fn each_len(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Each(values) => Some(values.len()),
        }
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for OneOrEach<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let parsed = match value {
            Value::Array(_) => serde_json::from_value(value).map(Self::Each),
            _ => serde_json::from_value(value).map(Self::One),
        };
        parsed.map_err(D::Error::custom)
    }
}

/// Token ids for all prompts, or a list of them for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdsOrEach {
    /// For all.
    One(Vec<i64>),
    /// For each.
    Each(Vec<Vec<i64>>),
}

impl<'de> Deserialize<'de> for IdsOrEach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let nested = value.as_array().is_some_and(|items| items.first().is_some_and(|item| !item.is_number()));
        let parsed = if nested {
            let each: Result<Vec<Option<Vec<i64>>>, _> = serde_json::from_value(value);
            each.map(|lists| Self::Each(lists.into_iter().map(Option::unwrap_or_default).collect()))
        } else {
            serde_json::from_value(value).map(Self::One)
        };
        parsed.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::Body;

    #[test]
    fn the_benchmarks_body_is_understood() {
        let body = json!({
            "text": "x", "sampling_params": {"temperature": 0.0, "max_new_tokens": 9, "ignore_eos": true},
            "stream": true, "lora_path": null, "return_logprob": false, "return_routed_experts": false,
            "logprob_start_len": -1,
        });
        let fields: NativeFields = Body::from_value(body).unwrap().read().unwrap();
        assert_eq!(fields.text, Some(TextBatch { list: vec!["x".into()], is_batch: false }));
        assert_eq!(fields.logprob_start_len, Some(OneOrEach::One(Int(-1))));
        assert_eq!(fields.sampling_params.unwrap().of(3).unwrap()["max_new_tokens"], 9);
    }

    #[test]
    fn lists_give_each_prompt_its_own() {
        let body = json!({
            "input_ids": [[1], [2]], "top_logprobs_num": [0, 3], "token_ids_logprob": [[1, 2], null],
            "return_logprob": [true, null],
        });
        let fields: NativeFields = Body::from_value(body).unwrap().read().unwrap();
        assert_eq!(fields.top_logprobs_num.unwrap().of(1), Some(Int(3)));
        assert_eq!(fields.return_logprob.unwrap().of(1), None);
        assert_eq!(fields.token_ids_logprob, Some(IdsOrEach::Each(vec![vec![1, 2], vec![]])));
    }
}
