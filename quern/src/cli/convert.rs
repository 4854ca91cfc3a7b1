//! `quern convert`: what was typed.

use std::{fmt, path::PathBuf};

use clap::Args;
use quern_backend::DType;
use quern_model::{gguf_export::Unquantised, weights::QuantRecipe};

use crate::config::names::Names;

/// Write a checkpoint as one GGUF file, quantised or not.
#[derive(Clone, Debug, Args)]
pub struct ConvertArgs {
    /// A directory, a .gguf file or a hub id [default: the small model inside this program]
    #[arg(long = "model", visible_alias = "model-path", value_name = "MODEL")]
    pub model: Option<String>,

    /// Where the tokenizer is, if the model's own place has none: a directory, a .gguf file or a hub id
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub tokenizer_path: Option<String>,

    /// The file to write; must not exist
    #[arg(long, value_name = "FILE")]
    pub outfile: PathBuf,

    /// Encoding of the matrices: f32, f16 and bf16 keep each value by itself; q8_0, q4_0 and q4_k_m are llama.cpp's
    /// mixtures of blocks, q4_best is q4_k_m with more bits for attention and the embedding; auto leaves each matrix as
    /// it is stored (int4, int8, MXFP4, NVFP4 and MLX become the types that hold the same numbers; FP8 is rounded to bf16)
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "q4_k_m",
        value_parser = Names::new(OutType::names()).refusing(UNWRITTEN)
    )]
    pub outtype: OutType,
}

/// Names of llama.cpp's for encodings and mixtures that are read and not written.
const UNWRITTEN: &[&str] = &[
    "q4_1",
    "q5_0",
    "q5_1",
    "q2_k",
    "q2_k_s",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "q4_k_s",
    "q5_k_s",
    "q5_k_m",
    "q6_k",
    "iq1_s",
    "iq1_m",
    "iq2_xxs",
    "iq2_xs",
    "iq2_s",
    "iq2_m",
    "iq3_xxs",
    "iq3_xs",
    "iq3_s",
    "iq3_m",
    "iq4_nl",
    "iq4_xs",
    "tq1_0",
    "tq2_0",
    "mxfp4",
    "mxfp4_moe",
    "nvfp4",
];

/// Encoding of the matrices of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutType {
    /// What each matrix is already, where GGUF has a type for it.
    AsStored,
    /// Each value by itself.
    Plain(DType),
    /// Quantised by a mixture; what it leaves as it is, in bfloat16.
    Quantised(QuantRecipe),
}

impl OutType {
    /// All of them, by the names that users type.
    pub fn names() -> impl Iterator<Item = (&'static str, Self)> {
        let plain = [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16)];
        let quantised = QuantRecipe::NAMES.map(|(name, recipe)| (name, Self::Quantised(recipe)));
        let plain = plain.map(|(name, dtype)| (name, Self::Plain(dtype)));
        [("auto", Self::AsStored)].into_iter().chain(plain).chain(quantised)
    }

    /// How matrices are quantised, if they are.
    pub fn recipe(self) -> Option<QuantRecipe> {
        match self {
            Self::AsStored | Self::Plain(_) => None,
            Self::Quantised(recipe) => Some(recipe),
        }
    }

    /// How what is not quantised is stored.
    pub fn unquantised(self) -> Unquantised {
        match self {
            Self::AsStored => Unquantised::AsStored,
            Self::Plain(dtype) => Unquantised::Plain(dtype),
            Self::Quantised(_) => Unquantised::Plain(DType::BF16),
        }
    }
}

impl fmt::Display for OutType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::names().find(|(_, known)| known == self).map(|(name, _)| name);
        f.write_str(name.expect("each has a name"))
    }
}
