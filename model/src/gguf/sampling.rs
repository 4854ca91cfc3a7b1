//! Recommended sampling under llama.cpp's keys: read and written.
//!
//! Its other keys (`xtc_*`, `mirostat*`, `penalty_last_n`, the order of samplers) recommend what this program does
//! not do, and are left alone as the other fields of generation_config.json are.

use super::{GgufFile, GgufValue};
use crate::{GenerationConfig, weights::TensorProblem};

/// Our fields and llama.cpp's keys.
const KEYS: [(&str, &str); 5] = [
    ("temperature", "general.sampling.temp"),
    ("top_p", "general.sampling.top_p"),
    ("top_k", "general.sampling.top_k"),
    ("min_p", "general.sampling.min_p"),
    ("repetition_penalty", "general.sampling.penalty_repeat"),
];

/// What `file` recommends.
pub(crate) fn read(file: &GgufFile) -> Result<GenerationConfig, TensorProblem> {
    GenerationConfig::of_numbers(|field, range| {
        let (_, key) = KEYS.iter().find(|(ours, _)| *ours == field).expect("every field has a key");
        // llama.cpp takes what is below 0 for 0.
        let value = file.number(key)?.map(|value| value.max(0.0));
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        match value {
            Some(value) if !range.contains(&value) => Err(file.wrong(key, expected(), value)),
            value => Ok(value),
        }
    })
}

/// The keys that say `generation`.
pub(crate) fn written(generation: &GenerationConfig) -> Vec<(&'static str, GgufValue)> {
    let float = |value: f32| GgufValue::Float(value.into());
    let values = [
        generation.temperature.map(float),
        generation.top_p.map(float),
        // Signed there.
        generation.top_k.map(|top_k| GgufValue::Signed(top_k.min(i32::MAX as u32).into())),
        generation.min_p.map(float),
        generation.repetition_penalty.map(float),
    ];
    KEYS.iter().zip(values).filter_map(|((_, key), value)| Some((*key, value?))).collect()
}
