//! `quern convert`: what was typed.

use std::path::PathBuf;

use clap::Args;

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
    /// mixtures of blocks, q4_best is q4_k_m with more bits for attention and the embedding
    #[arg(long, value_name = "TYPE", default_value = "q4_k_m",
        value_parser = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q4_best"])]
    pub outtype: String,
}
