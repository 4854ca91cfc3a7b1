//! [`ModelFlags`] and [`ModelSettings`]: which model, and what is made of its numbers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use quern_backend::{DType, KvFormat, Precision};
use quern_model::{ModelConfig, weights::QuantRecipe};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    names::{Auto, Names},
    refused::RefusedFlag,
    shown,
    values::{json_object, parse_count},
};
use crate::{environment::LONGER_CONTEXT, shipped};

/// SGLang keeps six tokens of every context to itself; two more leave room for one of prompt and one
/// of output.
const MIN_CONTEXT: u64 = 8;

/// What was typed about the model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// A directory, a .gguf file, or an id on the Hugging Face hub: OWNER/NAME, of GGUF files also OWNER/NAME:Q4_K_M or
    /// OWNER/NAME/FILE.gguf (llama.cpp's -hf and -m are known too) [default: the small model inside this program]
    #[arg(long, visible_alias = "model", alias = "hf-repo", value_name = "DIR|FILE|ID")]
    pub model_path: Option<String>,

    /// The tokenizer's directory or hub id [default: the model]
    #[arg(long, value_name = "DIR|ID")]
    pub tokenizer_path: Option<String>,

    /// Branch, tag or commit on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,

    /// Where downloads are kept [default: the hub's cache, see HF_HOME and HF_HUB_CACHE]
    #[arg(long, value_name = "DIR")]
    pub download_dir: Option<PathBuf>,

    /// Where weights come from; `dummy` makes random ones and reads only the configuration
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser =
          Names::or_auto(LoadFormat::value_variants().iter().map(|format| (format.name(), *format)))
              .refusing(UNSUPPORTED_LOAD_FORMATS))]
    pub load_format: Auto<LoadFormat>,

    /// JSON object merged over the model's config.json
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object)]
    pub json_model_override_args: Map<String, Value>,

    /// Most tokens of prompt and output together, e.g. 8192, 8k, 32Ki [default: the model's]
    #[arg(long, value_name = "TOKENS", value_parser = parse_count)]
    pub context_length: Option<u64>,

    /// What matrix products are computed in; `auto` follows the checkpoint: bfloat16 (f32 sums) for bf16 and
    /// fp8 weights, float32 for f32 and f16 ones
    #[arg(long, default_value = "auto", value_parser =
          Names::or_auto([Precision::Bf16, Precision::F32].map(|precision| (precision.to_string(), precision)))
              .or([("float", Some(Precision::F32))]).refusing(&["half", "float16"]))]
    pub dtype: Auto<Precision>,

    /// How the weights are held: fp8 is what an fp8 checkpoint has anyway; q8_0, q4_0 and q4_k_m are made from
    /// any checkpoint as it is loaded, by llama.cpp's mixtures, and so is q4_best, which is q4_k_m with more bits
    /// for attention and the embedding [default: as the checkpoint has them]
    #[arg(long, value_name = "METHOD", value_parser = Names::new(quantizations()).refusing(UNSUPPORTED_QUANTIZATIONS))]
    pub quantization: Option<Quantization>,

    /// How keys and values are stored: `auto` follows --dtype; the 8-bit ones hold almost twice the tokens
    /// in the same memory, q8_0 (a scale for each 32) closest to bfloat16, fp8 as SGLang without scales
    #[arg(long, default_value = "auto", value_parser = Names::or_auto(kv_formats())
          .or([("bf16", Some(KvFormat::BF16))]).refusing(&["mxfp8", "nvfp4", "fp4_mx_block16", "fp4_e2m1"]))]
    pub kv_cache_dtype: Auto<KvFormat>,
}

/// Which chat template is used: what was typed is what is decided.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "Requests")]
pub struct TemplateOptions {
    /// Template file (.jinja) used instead of the checkpoint's
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,

    /// Which of several templates of the tokenizer's configuration to use
    #[arg(long, value_name = "NAME")]
    pub hf_chat_template_name: Option<String>,
}

/// Which model it is, and what is made of its numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSettings {
    /// The model as asked for: a directory, a hub id, or the name of the shipped model.
    pub model_path: String,
    /// Where its files lie; `None`: inside the binary.
    pub model_dir: Option<PathBuf>,
    /// The directory or hub id of the tokenizer, as asked for.
    pub tokenizer_path: String,
    /// Where the tokenizer's files lie; `None`: inside the binary.
    pub tokenizer_dir: Option<PathBuf>,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// Where weights come from.
    pub load_format: LoadFormat,
    /// Merged over `config.json`.
    pub json_model_override_args: Map<String, Value>,
    /// What matrix products round their inputs to.
    #[serde(serialize_with = "shown")]
    pub dtype: Precision,
    /// How keys and values are stored.
    #[serde(serialize_with = "shown")]
    pub kv_cache_dtype: KvFormat,
    /// Which chat template is used.
    #[serde(flatten)]
    pub template: TemplateOptions,
}

/// Where the files of a model and of its tokenizer are; `None`: inside the binary.
#[derive(Clone, Debug, Default)]
pub struct ModelPaths {
    /// The model's.
    pub model: Option<PathBuf>,
    /// The tokenizer's.
    pub tokenizer: Option<PathBuf>,
}

/// What the network's configuration decides, before its weights are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// What matrix products round their inputs to.
    pub dtype: Precision,
    /// How keys and values are stored.
    pub kv_cache_dtype: KvFormat,
    /// Most tokens of a sequence.
    pub context_length: usize,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LoadFormat {
    /// The model's safetensors files.
    Safetensors,
    /// A file in llama.cpp's format, which has the configuration and the tokenizer too.
    Gguf,
    /// Random numbers.
    Dummy,
}

impl LoadFormat {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Dummy => "dummy",
        }
    }
}

/// What `--quantization` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// A checkpoint that is fp8 already.
    Fp8,
    /// Weights encoded as they are loaded.
    Recipe(QuantRecipe),
}

impl ModelFlags {
    /// The model as asked for.
    pub fn path(&self) -> String {
        self.model_path.clone().unwrap_or_else(|| shipped::NAME.into())
    }

    /// Whether no weights are to be read.
    pub fn is_dummy(&self) -> bool {
        self.load_format == Some(LoadFormat::Dummy)
    }

    /// Whether weights are wanted that are fp8 already.
    pub fn wants_fp8(&self) -> bool {
        self.quantization == Some(Quantization::Fp8)
    }

    /// Where weights come from; `is_gguf`: the model is in llama.cpp's format.
    ///
    /// # Errors
    /// If another format was asked for than the model is in.
    pub fn load_format(&self, is_gguf: bool) -> Result<LoadFormat, RefusedFlag> {
        let refused = |format, reason: &str| Err(RefusedFlag::new("load-format", format, reason));
        match (self.load_format, is_gguf) {
            (Some(LoadFormat::Dummy), _) => Ok(LoadFormat::Dummy),
            (None | Some(LoadFormat::Gguf), true) => Ok(LoadFormat::Gguf),
            (None | Some(LoadFormat::Safetensors), false) => Ok(LoadFormat::Safetensors),
            (Some(LoadFormat::Gguf), false) => refused("gguf", "--model is no .gguf file"),
            (Some(LoadFormat::Safetensors), true) => refused("safetensors", "--model is a GGUF file"),
        }
    }

    /// What to quantise the weights to as they are loaded; `None` leaves them as they are stored.
    ///
    /// # Errors
    /// If fp8 was asked for and the checkpoint is not.
    pub fn recipe(&self, checkpoint_is_fp8: bool) -> Result<Option<QuantRecipe>, RefusedFlag> {
        match self.quantization {
            None => Ok(None),
            Some(Quantization::Recipe(recipe)) => Ok(Some(recipe)),
            Some(Quantization::Fp8) if checkpoint_is_fp8 => Ok(None),
            Some(Quantization::Fp8) => Err(RefusedFlag::new(
                "quantization",
                "fp8",
                "the checkpoint is not fp8; q8_0, q4_0, q4_k_m and q4_best are made on load",
            )),
        }
    }

    /// What `network` decides; `notes` gets lines about what may surprise.
    ///
    /// `allow_longer_context`: a context longer than the model's may be served.
    ///
    /// # Errors
    /// If what was asked for cannot be had of this network.
    pub fn numbers(
        &self,
        network: &ModelConfig,
        allow_longer_context: bool,
        notes: &mut Vec<String>,
    ) -> Result<Numbers, RefusedFlag> {
        // Of a quantised checkpoint only a few matrices are in the type that it announces.
        let stored = if network.quantization.is_some() { DType::BF16 } else { network.dtype };
        let dtype = self.precision(stored)?;
        let kv_cache_dtype = self.kv_cache_dtype.unwrap_or(match dtype {
            Precision::F32 => KvFormat::F32,
            Precision::Bf16 => KvFormat::BF16,
        });
        let context_length = self.context(network.max_position_embeddings as u64, allow_longer_context, notes)?;
        Ok(Numbers { dtype, kv_cache_dtype, context_length })
    }

    fn precision(&self, stored: DType) -> Result<Precision, RefusedFlag> {
        match (self.dtype, stored) {
            (None, DType::F32 | DType::F16) | (Some(Precision::F32), _) => Ok(Precision::F32),
            (None | Some(Precision::Bf16), DType::BF16 | DType::F8E4M3) => Ok(Precision::Bf16),
            (Some(Precision::Bf16), _) => Err(RefusedFlag::new(
                "dtype",
                "bfloat16",
                format!("the checkpoint holds {stored:?} weights and they are not rounded; float32 is supported"),
            )),
        }
    }

    fn context(&self, trained: u64, allow_longer: bool, notes: &mut Vec<String>) -> Result<usize, RefusedFlag> {
        let length = self.context_length.unwrap_or(trained);
        let refused = |reason: String| Err(RefusedFlag::new("context-length", length, reason));
        if length < MIN_CONTEXT {
            return refused(format!("at least {MIN_CONTEXT} tokens are wanted"));
        }
        if length > trained && !allow_longer {
            return refused(format!(
                "the model was made for {trained} tokens; beyond them its output degrades. Set {LONGER_CONTEXT}=1 to \
                 serve it anyway"
            ));
        }
        if length > trained {
            notes.push(format!("--context-length {length} exceeds the model's {trained}; output may degrade."));
        }
        // Positions are 32-bit.
        if length > u64::from(u32::MAX) {
            return refused(format!("at most {} tokens are supported", u32::MAX));
        }
        Ok(length as usize)
    }

    /// What is decided.
    pub fn settings(
        &self,
        numbers: Numbers,
        load_format: LoadFormat,
        places: ModelPaths,
        template: TemplateOptions,
    ) -> ModelSettings {
        let model_path = self.path();
        ModelSettings {
            tokenizer_path: self.tokenizer_path.clone().unwrap_or_else(|| model_path.clone()),
            model_path,
            model_dir: places.model,
            tokenizer_dir: places.tokenizer,
            revision: self.revision.clone(),
            load_format,
            json_model_override_args: self.json_model_override_args.clone(),
            dtype: numbers.dtype,
            kv_cache_dtype: numbers.kv_cache_dtype,
            template,
        }
    }
}

impl TemplateOptions {
    /// Refuse a file that is not there or no template.
    ///
    /// # Errors
    /// If it is one of these.
    pub fn check(&self) -> Result<(), RefusedFlag> {
        let Some(file) = self.chat_template.as_deref() else { return Ok(()) };
        let refused = |reason: &str| Err(RefusedFlag::new("chat-template", file.display(), reason));
        if file.extension().is_some_and(|suffix| suffix == "json") {
            return refused("templates are Jinja files (.jinja)");
        }
        if !file.is_file() {
            return refused("there is no such file (templates of other models' names are not supported)");
        }
        Ok(())
    }
}

/// What `--kv-cache-dtype` offers. The pool is in f32 where matrix products are.
fn kv_formats() -> impl Iterator<Item = (String, KvFormat)> {
    let offered = KvFormat::ALL.into_iter().filter(|format| *format != KvFormat::F32);
    offered.map(|format| (format.to_string(), format))
}

fn quantizations() -> impl Iterator<Item = (&'static str, Quantization)> {
    let recipes = QuantRecipe::NAMES.into_iter().map(|(name, recipe)| (name, Quantization::Recipe(recipe)));
    [("fp8", Quantization::Fp8)].into_iter().chain(recipes)
}

/// Names that SGLang accepts for `--load-format`.
const UNSUPPORTED_LOAD_FORMATS: &[&str] = &[
    "pt",
    "instanttensor",
    "npcache",
    "sharded_state",
    "presharded",
    "expert_pack",
    "bitsandbytes",
    "mistral",
    "layered",
    "flash_rl",
    "remote",
    "remote_instance",
    "fastsafetensors",
    "private",
    "runai_streamer",
];

/// Names that SGLang accepts for `--quantization`.
const UNSUPPORTED_QUANTIZATIONS: &[&str] = &[
    "mxfp8",
    "w8a8_fp8",
    "w8a8_int8",
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "moe_wna16",
    "bitsandbytes",
    "gguf",
    "modelopt",
    "modelopt_fp8",
    "modelopt_fp4",
    "nvfp4_online",
    "w4afp8",
    "mxfp4",
    "compressed-tensors",
    "quark",
    "auto-round",
    "petit_nvfp4",
    "unquant",
];
