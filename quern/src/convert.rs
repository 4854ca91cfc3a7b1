//! `quern convert`: a checkpoint becomes a GGUF file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::Path,
};

use quern_backend::QuantFormat;
use quern_model::{
    gguf::GgufValue,
    gguf_export::{ExportError, Unquantised, export, exported_bytes},
};
use quern_text::{ChatTemplate, Tokenizer, vocabulary::TokenLists};
use serde_json::Map;
use tokio::runtime::Runtime;

use crate::{
    cli::{ConvertArgs, convert::OutType},
    config::{LoadFormat, LogLevel},
    hub::Wanted,
    logging,
    memory::gib,
    model_files::{ModelFiles, Source, Unfetched},
    progress::ByteProgress,
    start_error::StartError,
};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The model cannot be read.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The file cannot be written.
    #[error("--outfile {file}: {cause}")]
    File {
        /// Its path.
        file: String,
        /// The operating system's words.
        cause: io::Error,
    },
    /// The checkpoint has no form in GGUF, or cannot be read.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Do what was typed, and say what was done.
///
/// # Errors
/// If the checkpoint cannot be read or the file cannot be written.
pub fn run(args: &ConvertArgs) -> Result<(), ConvertError> {
    logging::init(LogLevel::Info, LogLevel::Info).map_err(StartError::Thread)?;
    let runtime = Runtime::new().map_err(StartError::Thread)?;
    let done = runtime.block_on(convert(args))?;
    Ok(writeln!(io::stdout(), "{done}").map_err(StartError::Output)?)
}

/// Read, encode and write; what was done, for the user.
async fn convert(args: &ConvertArgs) -> Result<String, ConvertError> {
    let path = args.model.as_deref();
    let source = Source { path, revision: None, download_dir: None, wanted: Wanted::Everything };
    let judge = |unfetched: Unfetched| -> Result<(), StartError> {
        unfetched.checkpoint(&Map::new())?;
        Ok(())
    };
    let files = ModelFiles::locate_judged(&source, judge).await?;
    let tokenizer_files = files.with_tokenizer_at(args.tokenizer_path.as_deref(), &source);
    let tokenizer_files = tokenizer_files.await.map_err(StartError::from)?;
    let format = if files.is_gguf() { LoadFormat::Gguf } else { LoadFormat::Safetensors };
    let checkpoint = files.checkpoint(format, &Map::new()).map_err(StartError::from)?.quantised(args.outtype.recipe());
    for note in checkpoint.notes() {
        tracing::info!("{note}");
    }
    let unreadable = |cause| StartError::Tokenizer { place: tokenizer_files.place(), cause };
    let tokenizer = tokenizer_files.tokenizer().map_err(unreadable)?;
    let lists = TokenLists::of(&tokenizer, checkpoint.config().vocab_size).map_err(unreadable)?;
    let template = tokenizer_files.chat_template(&tokenizer, None, None);
    let template = template.map_err(|cause| StartError::Template { place: tokenizer_files.place(), cause })?;
    let plain = args.outtype.unquantised();
    if plain == Unquantised::AsStored && checkpoint.formats().contains(&QuantFormat::Fp8Block128) {
        tracing::info!("GGUF has no type for FP8: these matrices are rounded to bfloat16.");
    }
    let at = |cause| ConvertError::File { file: args.outfile.display().to_string(), cause };
    let file = OpenOptions::new().write(true).create_new(true).open(&args.outfile).map_err(at)?;
    let size = exported_bytes(&checkpoint, plain);
    let written = {
        let progress = ByteProgress::new("Writing", size);
        let metadata = tokenizer_metadata(&tokenizer, lists, template.as_ref(), args.outtype);
        export(&checkpoint, plain, metadata, BufWriter::with_capacity(1 << 20, file), &mut |n| progress.advance(n))
    };
    written.map_err(ConvertError::from).and_then(|file| close(file).map_err(at)).inspect_err(|_| {
        // Half a file is worse than none. That it cannot be removed is no news beside the error.
        let _ = fs::remove_file(&args.outfile);
    })?;
    Ok(format!(
        "Wrote {} ({}, {}).",
        args.outfile.display(),
        args.outtype,
        gib(size_of_file(&args.outfile).unwrap_or(size))
    ))
}

fn close(file: BufWriter<File>) -> io::Result<()> {
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.flush()?;
    file.sync_all()
}

fn size_of_file(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// The tokenizer under llama.cpp's keys.
fn tokenizer_metadata(
    tokenizer: &Tokenizer,
    TokenLists { tokens, merges }: TokenLists,
    template: Option<&ChatTemplate>,
    outtype: OutType,
) -> Vec<(String, GgufValue)> {
    let texts = |list: Vec<String>| GgufValue::Array(list.into_iter().map(GgufValue::Text).collect());
    let kinds = tokens.iter().map(|(_, kind)| GgufValue::Signed(*kind as i64)).collect();
    let id = |name: &str| {
        let token = tokenizer.config().named_tokens.iter().find(|(known, _)| *known == name);
        token.and_then(|(_, token)| tokenizer.token_id(token)).map(|id| GgufValue::Unsigned(id.into()))
    };
    let mut list = vec![
        ("general.description", GgufValue::Text(format!("written by quern convert as {outtype}"))),
        ("tokenizer.ggml.model", GgufValue::Text("gpt2".into())),
        ("tokenizer.ggml.pre", GgufValue::Text("qwen2".into())),
        ("tokenizer.ggml.tokens", texts(tokens.into_iter().map(|(token, _)| token).collect())),
        ("tokenizer.ggml.token_type", GgufValue::Array(kinds)),
        ("tokenizer.ggml.merges", texts(merges)),
        ("tokenizer.ggml.add_bos_token", GgufValue::Bool(false)),
    ];
    let ids = [
        ("tokenizer.ggml.bos_token_id", "bos_token"),
        ("tokenizer.ggml.eos_token_id", "eos_token"),
        ("tokenizer.ggml.padding_token_id", "pad_token"),
    ];
    list.extend(ids.into_iter().filter_map(|(key, name)| Some((key, id(name)?))));
    list.extend(template.map(|template| ("tokenizer.chat_template", GgufValue::Text(template.source().into()))));
    if let Some(source) = template.and_then(ChatTemplate::tool_use_source) {
        list.push(("tokenizer.chat_templates", texts(vec!["tool_use".to_owned()])));
        list.push(("tokenizer.chat_template.tool_use", GgufValue::Text(source.into())));
    }
    list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
