//! [`Sampling`]: a request's sampling, every value within its limits.
//!
//! Limits and defaults are SGLang's (0.5.23, `sampling_params.py`); where a limit is ours, its constant
//! says why.

use quern_engine::SamplingParams;
use quern_text::{GrammarSpec, StopError, Stops};
use serde::Serialize;

use crate::{
    constraint,
    model_card::Recommended,
    protocol::{
        ApiError,
        sampling::SamplingFields,
        scalar::{Int, Texts},
    },
};

/// Most outputs of one prompt: each is a sequence of its own.
pub const MAX_CHOICES: usize = 128;

/// Longest stop string: it is compared with the end of the text at every token.
pub const MAX_STOP_BYTES: usize = 1024;

/// Most biased tokens (OpenAI allows 300).
pub const MAX_LOGIT_BIASES: usize = 1024;

/// Most stop tokens.
pub const MAX_STOP_TOKENS: usize = 1024;

/// Largest bias, either way. Even the sum of [`MAX_LOGIT_BIASES`] of them is finite as an f32.
pub const MAX_LOGIT_BIAS: f64 = 1e30;

/// Least repetition penalty: logits are divided by it and stay finite as f32.
pub const MIN_REPETITION_PENALTY: f64 = 1e-30;

/// How to choose tokens and where to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// For each row of logits.
    pub params: SamplingParams,
    /// The request's own seed.
    pub seed: Option<u64>,
    /// Most tokens to generate; `None`: the endpoint's default.
    pub max_new_tokens: Option<usize>,
    /// As many tokens as there is room for: the request said -1, as for llama.cpp and LM Studio.
    pub fills_room: bool,
    /// Fewest.
    pub min_new_tokens: usize,
    /// Texts that end the output.
    pub stop: Vec<String>,
    /// Patterns that do.
    pub stop_regex: Vec<String>,
    /// Tokens that do, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Do not end at stop tokens.
    pub ignore_eos: bool,
    /// Leave what ended the output in its text.
    pub no_stop_trim: bool,
    /// Leave control tokens out of the text.
    pub skip_special_tokens: bool,
    /// Outputs of each prompt.
    pub n: usize,
    /// Send a stream's text every so many tokens, if the request says so.
    pub stream_interval: Option<usize>,
    /// What the output must obey.
    pub constraint: Option<GrammarSpec>,
}

/// Values for what a request leaves open, by llama.cpp's names where they are told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Defaults {
    temperature: f64,
    top_p: f64,
    top_k: i64,
    min_p: f64,
    #[serde(rename = "repeat_penalty")]
    repetition_penalty: f64,
}

impl Default for Defaults {
    /// OpenAI's, and those of `/generate` and `/v1/completions`.
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: -1, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Defaults {
    /// What the model's authors recommend, for conversations.
    pub fn of_model(recommended: &Recommended) -> Self {
        let plain = Self::default();
        let or = |value: Option<f32>, plain: f64| value.map_or(plain, decimal);
        Self {
            temperature: or(recommended.temperature, plain.temperature),
            top_p: or(recommended.top_p.filter(|&p| p > 0.0), plain.top_p),
            top_k: recommended.top_k.map_or(plain.top_k, i64::from),
            min_p: or(recommended.min_p, plain.min_p),
            repetition_penalty: or(recommended.repetition_penalty.filter(|&p| p > 0.0), plain.repetition_penalty),
        }
    }
}

/// The decimal number that was meant: 0.7 rather than 0.699999988.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

impl Sampling {
    /// Check `fields` against their limits. `vocab_size` bounds token ids.
    ///
    /// # Errors
    /// For the first field that is out of its range.
    pub fn new(fields: &SamplingFields, defaults: Defaults, vocab_size: usize) -> Result<Self, ApiError> {
        let number = |name: &str, value: Option<f64>, default: f64, wanted: &str, fits: &dyn Fn(f64) -> bool| {
            let value = value.unwrap_or(default);
            if value.is_finite() && fits(value) { Ok(value) } else { Err(out_of_range(name, value, wanted)) }
        };
        let temperature =
            number("temperature", fields.temperature, defaults.temperature, "a non-negative finite number", &|x| {
                x >= 0.0
            })?;
        // 0 keeps the likeliest token alone, as in OpenAI's range and for llama.cpp.
        let top_p = number("top_p", fields.top_p, defaults.top_p, "in [0, 1]", &|x| (0.0..=1.0).contains(&x))?;
        let min_p = number("min_p", fields.min_p, defaults.min_p, "in [0, 1]", &|x| (0.0..=1.0).contains(&x))?;
        let penalty = |name, value| number(name, value, 0.0, "in [-2, 2]", &|x| (-2.0..=2.0).contains(&x));
        let frequency_penalty = penalty("frequency_penalty", fields.frequency_penalty)?;
        let presence_penalty = penalty("presence_penalty", fields.presence_penalty)?;
        let repetition_penalty = number(
            "repetition_penalty",
            fields.repetition_penalty,
            defaults.repetition_penalty,
            "in [1e-30, 2]",
            &|x| (MIN_REPETITION_PENALTY..=2.0).contains(&x),
        )?;
        let top_k = match fields.top_k.map_or(defaults.top_k, |k| k.0) {
            -1 | 0 => None,
            k if k >= 1 => Some(u32::try_from(k).unwrap_or(u32::MAX)),
            k => return Err(out_of_range("top_k", k, "-1 or 0 (the whole vocabulary) or at least 1")),
        };
        let params = SamplingParams {
            temperature: temperature.min(f64::from(f32::MAX)) as f32,
            top_p: (top_p as f32).max(f32::MIN_POSITIVE),
            top_k,
            min_p: min_p as f32,
            frequency_penalty: frequency_penalty as f32,
            presence_penalty: presence_penalty as f32,
            repetition_penalty: repetition_penalty as f32,
            logit_bias: logit_bias(fields, vocab_size)?,
            ..SamplingParams::default()
        };

        let limits = [
            ("max_new_tokens", fields.max_new_tokens),
            ("max_completion_tokens", fields.max_completion_tokens),
            ("max_tokens", fields.max_tokens),
        ];
        let limit = limits.into_iter().find_map(|(name, limit)| Some((name, limit?)));
        let fills_room = matches!(limit, Some((_, Int(-1))));
        let limit = limit.filter(|_| !fills_room);
        let max_new_tokens = limit.map(|(name, limit)| match usize::try_from(limit.0) {
            Ok(limit) => Ok(limit),
            Err(_) => Err(out_of_range(name, limit.0, "at least 0, or -1 (as many as there is room for)")),
        });
        let max_new_tokens = max_new_tokens.transpose()?;
        let (name, min) = match fields.min_new_tokens {
            Some(min) => ("min_new_tokens", Some(min)),
            None => ("min_tokens", fields.min_tokens),
        };
        let min_new_tokens = min.map_or(Ok(0), |min| count(name, min))?;
        if let Some(max) = max_new_tokens.filter(|&max| min_new_tokens > max) {
            return Err(out_of_range(name, min_new_tokens, &format!("in [0, max_new_tokens({max})]")));
        }
        let n = fields.n.map_or(1, |n| n.0);
        if !(1..=MAX_CHOICES as i64).contains(&n) {
            return Err(out_of_range("n", n, &format!("in [1, {MAX_CHOICES}]")));
        }
        let stream_interval = match fields.stream_interval.map(|interval| interval.0) {
            Some(interval) if interval < 1 => return Err(out_of_range("stream_interval", interval, "at least 1")),
            interval => interval.map(|interval| interval as usize),
        };
        // An empty one is none: forms send it for "no stop".
        let stops = |given: &Option<Texts>| {
            let given = given.iter().flat_map(|Texts(list)| list).filter(|text| !text.is_empty());
            given.cloned().collect::<Vec<_>>()
        };
        let (stop, stop_regex) = (stops(&fields.stop), stops(&fields.stop_regex));
        if let Some(long) = stop.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
            let bytes = long.len();
            return Err(ApiError::invalid(format!(
                "stop: a stop string has {bytes} bytes; at most {MAX_STOP_BYTES} are allowed"
            ))
            .about("stop"));
        }
        // Compiled later, off this thread, once for all outputs.
        Stops::check(&stop, &stop_regex).map_err(|cause| stop_error(&cause))?;
        Ok(Self {
            params,
            seed: fields.sampling_seed.or(fields.seed).map(|seed| seed.0 as u64),
            max_new_tokens,
            fills_room,
            min_new_tokens,
            stop,
            stop_regex,
            stop_token_ids: stop_token_ids(fields, vocab_size)?,
            ignore_eos: fields.ignore_eos.unwrap_or(false),
            no_stop_trim: fields.no_stop_trim.unwrap_or(false),
            skip_special_tokens: fields.skip_special_tokens.unwrap_or(true),
            n: n as usize,
            stream_interval,
            constraint: constraint::of_fields(fields)?,
        })
    }
}

impl Sampling {
    /// The most tokens that were asked for, or the endpoint's `default`; `None`: as many as there is room for.
    pub fn wanted(&self, default: usize) -> Option<usize> {
        if self.fills_room { None } else { self.max_new_tokens.or(Some(default)) }
    }

    /// Its stops, compiled: once for all outputs.
    ///
    /// # Errors
    /// If a stop is too long, or a pattern does not compile.
    pub fn stops(&self) -> Result<Stops, ApiError> {
        Stops::new(&self.stop, &self.stop_regex).map_err(|cause| stop_error(&cause))
    }
}

fn out_of_range(name: &str, value: impl std::fmt::Display, wanted: &str) -> ApiError {
    ApiError::invalid(format!("{name} must be {wanted}, got {value}.")).about(name)
}

fn count(name: &str, value: Int) -> Result<usize, ApiError> {
    usize::try_from(value.0).map_err(|_| out_of_range(name, value.0, "at least 0"))
}

fn stop_error(cause: &StopError) -> ApiError {
    let field = match cause {
        StopError::TooMany { what: "stop strings", .. } | StopError::Empty => "stop",
        StopError::TooMany { .. }
        | StopError::PatternTooLong { .. }
        | StopError::TooLarge { .. }
        | StopError::Pattern { .. } => "stop_regex",
    };
    ApiError::invalid(format!("{field}: {cause}")).about(field)
}

fn logit_bias(fields: &SamplingFields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = &fields.logit_bias else { return Ok(Vec::new()) };
    if biases.len() > MAX_LOGIT_BIASES {
        let wanted = format!("at most {MAX_LOGIT_BIASES} tokens");
        return Err(ApiError::invalid(format!("logit_bias names {} tokens; {wanted} are allowed.", biases.len()))
            .about("logit_bias"));
    }
    let entry = |(id, bias): (&String, &f64)| {
        let id = id.parse().ok().filter(|&id: &u32| (id as usize) < vocab_size).ok_or_else(|| {
            let last = vocab_size.saturating_sub(1);
            ApiError::invalid(format!("logit_bias must have keys in [0, {last}], got {id}.")).about("logit_bias")
        })?;
        if !(-MAX_LOGIT_BIAS..=MAX_LOGIT_BIAS).contains(bias) {
            return Err(out_of_range("logit_bias", bias, &format!("in [-{MAX_LOGIT_BIAS:e}, {MAX_LOGIT_BIAS:e}]")));
        }
        Ok((id, *bias as f32))
    };
    biases.iter().map(entry).collect()
}

fn stop_token_ids(fields: &SamplingFields, vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    let ids = fields.stop_token_ids.as_deref().unwrap_or_default();
    if ids.len() > MAX_STOP_TOKENS {
        let wanted = format!("a list of at most {MAX_STOP_TOKENS} ids");
        return Err(out_of_range("stop_token_ids", format!("{} ids", ids.len()), &wanted));
    }
    let check = |id: &Int| {
        let fits = u32::try_from(id.0).ok().filter(|&id| (id as usize) < vocab_size);
        fits.ok_or_else(|| out_of_range("stop_token_ids", id.0, &format!("ids below {vocab_size}")))
    };
    ids.iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::Body;

    fn sampling(value: Value) -> Result<Sampling, ApiError> {
        Sampling::new(&Body::from_value(value)?.read()?, Defaults::default(), 100)
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let plain = sampling(json!({})).unwrap();
        assert_eq!(plain.params, SamplingParams::default());
        assert_eq!((plain.n, plain.max_new_tokens, plain.skip_special_tokens), (1, None, true));
        let nulls =
            json!({"temperature": null, "top_k": null, "stop": null, "n": null, "regex": null, "json_schema": null});
        assert_eq!(sampling(nulls).unwrap(), plain);
        // few_shot_gsm8k sends these.
        assert_eq!(sampling(json!({"stop_token_ids": [], "stop_regex": [], "top_k": -1})).unwrap(), plain);
    }

    #[test]
    fn the_models_recommendation_fills_only_gaps() {
        let recommended = Recommended {
            temperature: Some(0.7),
            top_p: Some(0.8),
            top_k: Some(20),
            repetition_penalty: Some(1.05),
            ..Recommended::default()
        };
        let defaults = Defaults::of_model(&recommended);
        let fields = SamplingFields { temperature: Some(0.0), ..SamplingFields::default() };
        let params = Sampling::new(&fields, defaults, 100).unwrap().params;
        assert_eq!(
            (params.temperature, params.top_p, params.top_k, params.repetition_penalty),
            (0.0, 0.8, Some(20), 1.05)
        );
        assert_eq!(Defaults::of_model(&Recommended::default()), Defaults::default());
    }

    #[test]
    fn values_at_their_limits_pass_and_values_beyond_name_field_and_value() {
        for (field, good, bad) in [
            ("temperature", vec![json!(0), json!(1e30)], vec![json!(-0.1)]),
            ("top_p", vec![json!(1), json!(1e-60), json!(0)], vec![json!(-0.01), json!(1.01)]),
            ("top_k", vec![json!(-1), json!(0), json!(1), json!(i64::MAX)], vec![json!(-2)]),
            ("min_p", vec![json!(0), json!(1)], vec![json!(-0.1), json!(1.1)]),
            ("frequency_penalty", vec![json!(-2), json!(2)], vec![json!(2.1), json!(-2.1)]),
            ("presence_penalty", vec![json!(-2), json!(2)], vec![json!(2.1)]),
            ("repetition_penalty", vec![json!(2), json!(1e-30)], vec![json!(0), json!(2.1), json!(1e-40)]),
            ("n", vec![json!(1), json!(128)], vec![json!(0), json!(129), json!(i64::MAX), json!(-1)]),
            ("max_new_tokens", vec![json!(0), json!(i64::MAX), json!(-1)], vec![json!(-2)]),
            ("min_new_tokens", vec![json!(0)], vec![json!(-1)]),
            ("stop_token_ids", vec![json!([0, 99])], vec![json!([100]), json!([-1])]),
            (
                "logit_bias",
                vec![json!({"99": -100}), json!({"1": 1e30})],
                vec![json!({"100": 1}), json!({"x": 1}), json!({"-1": 1}), json!({"1": 1e39}), json!({"1": -1e31})],
            ),
            (
                "stop",
                vec![json!("x"), json!(["a", "b"]), json!([]), json!(""), json!(["", "a"])],
                vec![json!(vec!["x"; 33]), json!("x".repeat(1025))],
            ),
            ("stop_regex", vec![json!("a+")], vec![json!("("), json!("a".repeat(257))]),
            ("stream_interval", vec![json!(1)], vec![json!(0)]),
        ] {
            for value in good {
                assert!(sampling(json!({ field: value })).is_ok(), "{field} = {value}");
            }
            for value in bad {
                let error = sampling(json!({ field: value })).expect_err(&format!("{field} = {value}"));
                assert_eq!(error.param.as_deref(), Some(field), "{error}");
                assert!(error.message.contains(field) && error.status == 400, "{error}");
            }
        }
        let params = sampling(json!({"temperature": 1e300, "top_p": 1e-300})).unwrap().params;
        assert!(params.temperature.is_finite() && params.top_p > 0.0);
    }

    #[test]
    fn what_other_servers_take_as_off_is_off() {
        let plain = sampling(json!({})).unwrap();
        for off in [json!({"top_k": 0}), json!({"stop": ""}), json!({"stop": [""], "stop_regex": ["", ""]})] {
            assert_eq!(sampling(off.clone()).unwrap(), plain, "{off}");
        }
        assert_eq!(sampling(json!({"stop": ["", "zzz"]})).unwrap().stop, ["zzz"]);
        for name in ["max_tokens", "max_completion_tokens", "max_new_tokens"] {
            let room = sampling(json!({ name: -1 })).unwrap();
            assert_eq!((room.max_new_tokens, room.wanted(16)), (None, None), "{name}");
        }
        assert_eq!(plain.wanted(16), Some(16));
        assert_eq!(sampling(json!({"max_tokens": 3})).unwrap().wanted(16), Some(3));
    }

    #[test]
    fn no_value_within_its_limits_is_infinite_as_an_f32() {
        let biases: serde_json::Map<String, Value> =
            (0..MAX_LOGIT_BIASES).map(|i| (format!("{:0width$}", 1, width = i + 1), json!(MAX_LOGIT_BIAS))).collect();
        let params =
            sampling(json!({"logit_bias": biases, "repetition_penalty": MIN_REPETITION_PENALTY})).unwrap().params;
        assert_eq!(params.logit_bias.len(), MAX_LOGIT_BIASES, "one token, spelled in many ways");
        let sum: f32 = params.logit_bias.iter().map(|(_, bias)| bias).sum();
        assert!(sum.is_finite() && (1e6 / params.repetition_penalty).is_finite() && params.repetition_penalty > 0.0);
    }

    #[test]
    fn a_minimum_above_the_maximum_is_refused() {
        assert!(sampling(json!({"min_tokens": 5, "max_tokens": 4})).is_err());
        assert!(sampling(json!({"min_tokens": 4, "max_tokens": 4})).is_ok());
        assert_eq!(sampling(json!({"max_tokens": 4, "max_completion_tokens": 9})).unwrap().max_new_tokens, Some(9));
    }

    #[test]
    fn constraints_are_never_dropped() {
        assert_eq!(sampling(json!({"regex": ""})).unwrap().constraint, None, "an empty string is unset");
        assert_eq!(sampling(json!({"regex": "a"})).unwrap().constraint, Some(GrammarSpec::Regex("a".into())));
        assert!(sampling(json!({"regex": "a", "ebnf": "b"})).unwrap_err().message.contains("Only one of"));
    }
}
