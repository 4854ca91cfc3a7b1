//! `generation_config.json`: the sampling defaults that the model's authors recommend.

use std::{ops::RangeInclusive, path::Path};

use serde_json::{Map, Value};

use crate::{
    config::{ConfigError, token_ids},
    json_file::read_object,
};

/// The fields that are used; absent ones are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Candidates kept.
    pub top_k: Option<u32>,
    /// Share of the likeliest token below which candidates are dropped.
    pub min_p: Option<f32>,
    /// Multiplicative penalty of repeated tokens.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Read `dir/generation_config.json`; an absent file is an empty one.
    ///
    /// # Errors
    /// If the file is no JSON object, or a field is wrong.
    pub fn open(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("generation_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::from_json(&read_object(&path)?)
    }

    /// Interpret the fields.
    ///
    /// # Errors
    /// If a field is wrong.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, ConfigError> {
        let number = |field: &str, range: RangeInclusive<f64>| match object.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) if range.contains(&x) => Ok(Some(x)),
                _ => Err(ConfigError::Generation {
                    field: field.into(),
                    found: value.to_string(),
                    expected: format!("a number from {} to {}", range.start(), range.end()),
                }),
            },
        };
        let eos_token_ids = token_ids(object.get("eos_token_id"), "eos_token_id").map_err(|error| match error {
            ConfigError::Field { field, found, expected } => ConfigError::Generation { field, found, expected },
            other => other,
        })?;
        Ok(Self { eos_token_ids, ..Self::of_numbers(number)? })
    }

    /// The sampling alone. `number` finds a field by its name and refuses what lies outside of its range.
    pub(crate) fn of_numbers<E>(
        number: impl Fn(&str, RangeInclusive<f64>) -> Result<Option<f64>, E>,
    ) -> Result<Self, E> {
        let float = |x: Option<f64>| x.map(|x| x as f32);
        Ok(Self {
            temperature: float(number("temperature", 0.0..=1e4)?),
            top_p: float(number("top_p", 0.0..=1.0)?),
            // Off is 0 for transformers, -1 for SGLang and vLLM.
            top_k: number("top_k", -1.0..=f64::from(u32::MAX))?.map(|k| k as u32).filter(|&k| k > 0),
            min_p: float(number("min_p", 0.0..=1.0)?),
            repetition_penalty: float(number("repetition_penalty", 0.0..=2.0)?),
            eos_token_ids: Vec::new(),
        })
    }
}
