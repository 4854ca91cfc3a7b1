//! [`Typed`]: a command line that nothing is wrong with, whatever the model is.

use std::env;

use quern_backend::{KvFormat, Precision};
use quern_model::weights::QuantRecipe;

use crate::{
    cli::{
        RefusedFlag, ServeArgs,
        serve::{Quantization, ToolCalls},
    },
    config::{LoadFormat, SchedulePolicy},
};

/// Environment variables of SGLang that are honoured. Any other `SGLANG_*` gets a line in the log.
pub const LONGER_CONTEXT: &str = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN";

/// What was typed, every name in it one of what is built. What is `None` is for the model or the machine to decide.
#[derive(Clone, Debug)]
pub struct Typed<'a> {
    /// As it was typed.
    pub args: &'a ServeArgs,
    /// Lines for the log.
    pub notes: Vec<String>,
    /// `--dtype`.
    pub dtype: Option<Precision>,
    /// `--kv-cache-dtype`.
    pub kv_cache_dtype: Option<KvFormat>,
    /// `--schedule-policy`.
    pub schedule_policy: SchedulePolicy,
    /// `--tool-call-parser`.
    pub tool_calls: ToolCalls,
    /// `--extra-metric-labels`.
    pub metric_labels: Vec<(String, String)>,
    load_format: Option<LoadFormat>,
    quantization: Option<Quantization>,
}

impl<'a> Typed<'a> {
    /// Refuse what can be refused before a model is looked for: flags of SGLang that are not built, and values that are
    /// wrong for every model.
    pub fn new(args: &'a ServeArgs) -> Result<Self, RefusedFlag> {
        let mut notes = args.compat.judge()?;
        notes.extend(environment_note(env::vars_os().filter_map(|(name, _)| name.into_string().ok())));
        numbers(args)?;
        texts(args)?;
        let quantization = args.quantization.map(|choice| {
            choice.built("quantization", "fp8 checkpoints, q8_0, q4_0, q4_k_m and q4_best are supported")
        });
        let parsers = "auto, none, qwen3_coder, qwen, qwen25 and hermes are supported";
        let kv_formats = "auto, bfloat16, fp8_e4m3, fp8_e5m2 and q8_0 are supported";
        let load_formats = "auto, safetensors, gguf and dummy are supported";
        Ok(Self {
            args,
            notes,
            schedule_policy: args.schedule_policy.built("schedule-policy", "fcfs and lpm are supported")?,
            tool_calls: match args.tool_call_parser {
                None => ToolCalls::Auto,
                Some(choice) => choice.built("tool-call-parser", parsers)?,
            },
            metric_labels: metric_labels(args)?,
            quantization: quantization.transpose()?,
            dtype: args.dtype.built("dtype", "auto, bfloat16 and float32 are supported")?,
            kv_cache_dtype: args.kv_cache_dtype.built("kv-cache-dtype", kv_formats)?,
            load_format: args.load_format.built("load-format", load_formats)?,
        })
    }

    /// Whether no weights are to be read.
    pub fn is_dummy(&self) -> bool {
        self.load_format == Some(LoadFormat::Dummy)
    }

    /// Where weights come from; `is_gguf`: the model is in llama.cpp's format.
    pub fn load_format(&self, is_gguf: bool) -> Result<LoadFormat, RefusedFlag> {
        match (self.load_format, is_gguf) {
            (Some(LoadFormat::Dummy), _) => Ok(LoadFormat::Dummy),
            (None | Some(LoadFormat::Gguf), true) => Ok(LoadFormat::Gguf),
            (None | Some(LoadFormat::Safetensors), false) => Ok(LoadFormat::Safetensors),
            (Some(LoadFormat::Gguf), false) => Err(refuse("load-format", "gguf", "--model is no .gguf file")),
            (Some(LoadFormat::Safetensors), true) => {
                Err(refuse("load-format", "safetensors", "--model is a GGUF file"))
            }
        }
    }

    /// Whether the weights are wanted as fp8.
    pub fn wants_fp8(&self) -> bool {
        self.quantization == Some(Quantization::Fp8)
    }

    /// What to quantise the weights to as they are loaded; `None` leaves them as they are stored.
    pub fn quantization(&self, checkpoint_is_fp8: bool) -> Result<Option<QuantRecipe>, RefusedFlag> {
        match self.quantization {
            None => Ok(None),
            Some(Quantization::Recipe(recipe)) => Ok(Some(recipe)),
            Some(Quantization::Fp8) if checkpoint_is_fp8 => Ok(None),
            Some(Quantization::Fp8) => Err(refuse(
                "quantization",
                "fp8",
                "the checkpoint is not fp8; q8_0, q4_0, q4_k_m and q4_best are made on load",
            )),
        }
    }
}

/// Refuse numbers that are wrong for every model.
fn numbers(args: &ServeArgs) -> Result<(), RefusedFlag> {
    let at_least_one = [
        ("page-size", args.page_size),
        ("stream-interval", args.stream_interval),
        ("decode-log-interval", args.decode_log_interval),
        ("max-connections", args.max_connections),
        ("max-connections-per-address", args.max_connections_per_address.unwrap_or(1)),
        ("cpu-threads", args.cpu_threads.unwrap_or(1)),
        ("max-running-requests", args.max_running_requests.unwrap_or(1)),
        ("max-prefill-tokens", usize::try_from(args.max_prefill_tokens).unwrap_or(usize::MAX)),
        ("max-request-bytes", usize::try_from(args.max_request_bytes).unwrap_or(usize::MAX)),
    ];
    if let Some((flag, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
        return Err(refuse(flag, 0, "at least 1 is wanted"));
    }
    if let Some(threads) = args.cpu_threads.filter(|&threads| threads > 1024) {
        return Err(refuse("cpu-threads", threads, "at most 1024 are started"));
    }
    if let Some(share) = args.mem_fraction_static.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
        return Err(refuse("mem-fraction-static", share, "a share above 0 and at most 1 is wanted"));
    }
    let factor = args.schedule_conservativeness;
    if !(factor >= 0.0 && factor.is_finite()) {
        return Err(refuse("schedule-conservativeness", factor, "a number of at least 0 is wanted"));
    }
    for (flag, buckets) in [
        ("bucket-time-to-first-token", &args.bucket_time_to_first_token),
        ("bucket-inter-token-latency", &args.bucket_inter_token_latency),
        ("bucket-e2e-request-latency", &args.bucket_e2e_request_latency),
    ] {
        let Some(bounds) = buckets else { continue };
        let ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || !bounds.iter().all(|bound| bound.is_finite() && *bound > 0.0) {
            return Err(refuse(flag, format!("{bounds:?}"), "ascending numbers above 0 are wanted"));
        }
    }
    Ok(())
}

/// Refuse files that are not there, and texts of a wrong form.
fn texts(args: &ServeArgs) -> Result<(), RefusedFlag> {
    if let Some(file) = args.chat_template.as_deref() {
        if file.extension().is_some_and(|suffix| suffix == "json") {
            return Err(refuse("chat-template", file.display(), "templates are Jinja files (.jinja)"));
        }
        if !file.is_file() {
            return Err(refuse(
                "chat-template",
                file.display(),
                "there is no such file (built-in templates are not built)",
            ));
        }
    }
    if !args.fastapi_root_path.is_empty() && !args.fastapi_root_path.starts_with('/') {
        return Err(refuse("fastapi-root-path", &args.fastapi_root_path, "a path that begins with / is wanted"));
    }
    for (flag, key) in [("api-key", &args.api_key), ("admin-api-key", &args.admin_api_key)] {
        if key.as_deref() == Some("") {
            return Err(refuse(flag, "\"\"", "an empty key would let everybody in; leave the flag out for that"));
        }
    }
    Ok(())
}

/// Whether a context longer than the model's may be served.
pub fn longer_context_is_allowed() -> bool {
    env::var(LONGER_CONTEXT).is_ok_and(|value| ["1", "true", "TRUE", "True", "yes"].contains(&value.as_str()))
}

fn environment_note(names: impl Iterator<Item = String>) -> Option<String> {
    let mut ignored: Vec<_> = names.filter(|name| name.starts_with("SGLANG_") && name != LONGER_CONTEXT).collect();
    ignored.sort_unstable();
    (!ignored.is_empty()).then(|| format!("Environment variables that change nothing here: {}.", ignored.join(", ")))
}

/// The refusal of `--flag value`.
pub fn refuse(flag: &'static str, value: impl ToString, reason: impl Into<String>) -> RefusedFlag {
    RefusedFlag { flag, value: value.to_string(), reason: reason.into() }
}

fn metric_labels(args: &ServeArgs) -> Result<Vec<(String, String)>, RefusedFlag> {
    let is_label = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let labels = args.extra_metric_labels.iter().map(|(name, value)| match value.as_str() {
        Some(value) if is_label(name) => Ok((name.clone(), value.to_owned())),
        Some(_) => Err(refuse("extra-metric-labels", name, "a label's name is letters, digits and underscores")),
        None => Err(refuse("extra-metric-labels", format!("{{\"{name}\": {value}}}"), "a label's value is a string")),
    });
    labels.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_environment_variables_of_sglang_are_named_once() {
        let names = ["SGLANG_USE_AITER", "PATH", LONGER_CONTEXT, "SGLANG_A"].map(str::to_owned);
        let note = environment_note(names.into_iter()).unwrap();
        assert_eq!(note, "Environment variables that change nothing here: SGLANG_A, SGLANG_USE_AITER.");
    }
}
