//! `quern pull`, `quern list` and `quern rm`: what was typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::hub::HubRef;

/// The subcommands over the cache of models.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelsJob {
    /// Fetch models from the Hugging Face hub into its cache, which other tools share
    #[command(after_help = PULL_EXAMPLES)]
    Pull(PullArgs),
    /// List the models in the Hugging Face cache: what each is, its size, and when it was last used
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Remove models from the Hugging Face cache
    #[command(after_help = REMOVE_EXAMPLES)]
    Rm(RemoveArgs),
}

const PULL_EXAMPLES: &str = "\
Examples:
  quern pull Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8
  quern pull unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF
      Of several GGUF models Q4_K_M, or the nearest one that fits this machine's memory.
  quern pull unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q8_0

What broke off goes on where it stopped. The folder or file is printed; `quern serve` with the same
name finds it there. HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_ENDPOINT are as in Hugging Face's tools.";

const REMOVE_EXAMPLES: &str = "\
Examples:
  quern rm Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8
      All of the repository, whatever its revisions.
  quern rm unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q8_0
      One of its GGUF models; the others stay.";

/// What was typed after `quern pull`.
#[derive(Args, Clone, Debug)]
pub struct PullArgs {
    /// Ids on the hub: OWNER/NAME, of GGUF files also OWNER/NAME:Q4_K_M or OWNER/NAME/FILE.gguf
    #[arg(value_name = "ID", required = true, value_parser = id)]
    pub models: Vec<HubRef>,

    /// Branch, tag or commit on the hub [default: main]
    #[arg(long)]
    pub revision: Option<String>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cache: CacheArgs,
}

/// What was typed after `quern list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// A JSON array instead of a table
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cache: CacheArgs,
}

/// What was typed after `quern rm`.
#[derive(Args, Clone, Debug)]
pub struct RemoveArgs {
    /// Models as `quern list` names them
    #[arg(value_name = "ID", required = true, value_parser = id)]
    pub models: Vec<HubRef>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cache: CacheArgs,
}

/// Which cache is meant.
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    /// Where downloads are kept [default: the hub's cache, see HF_HOME and HF_HUB_CACHE]
    #[arg(long, value_name = "DIR")]
    pub download_dir: Option<PathBuf>,
}

fn id(text: &str) -> Result<HubRef, String> {
    HubRef::parse(text).ok_or_else(|| {
        "no id on the hub: OWNER/NAME, OWNER/NAME:Q4_K_M or OWNER/NAME/FILE.gguf, of letters, digits, `-`, `_`, `.`"
            .into()
    })
}
