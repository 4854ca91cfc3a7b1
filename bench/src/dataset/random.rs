//! `random` and `random-ids`: prompts of random lengths, out of texts or out of nothing.

use std::path::PathBuf;

use super::{Dataset, DatasetArgs, Generators, lengths::random_lengths, sharegpt};
use crate::{
    data_file::SHAREGPT,
    error::BenchError,
    request::{Prompt, Request, Session},
    tokens::Tokens,
};

/// Texts of ShareGPT, repeated or cut to random lengths.
///
/// Without ShareGPT's file and without a network, random tokens take the texts' place: lengths and totals stay
/// the same, the texts do not, and the dataset says so.
pub(super) async fn from_texts(
    args: &DatasetArgs,
    count: usize,
    tokens: &Tokens,
    generators: &mut Generators,
) -> Result<Dataset, BenchError> {
    let file = match &*args.dataset_path {
        typed if !typed.is_empty() => PathBuf::from(typed),
        _ => match SHAREGPT.fetched().await {
            Ok(file) => file,
            Err(error) => {
                let mut dataset = from_ids(args, count, tokens, generators).await?;
                dataset.differs = Some(format!(
                    "the prompts are random tokens, as of --dataset-name random-ids: same lengths and totals, but no \
                     natural text, so speculation, routing of experts and repeated text behave differently. {error}"
                ));
                return Ok(dataset);
            }
        },
    };
    let (inputs, outputs) = lengths(args, count, generators);
    let mut texts = sharegpt::first_turns(&file)?;
    generators.python.shuffle(&mut texts);
    let mut cut = Vec::with_capacity(count);
    for (text, _) in &texts {
        if cut.len() == count {
            break;
        }
        let ids = tokens.encode(text).await?;
        if !ids.is_empty() {
            let length = inputs[cut.len()];
            cut.push(ids.iter().copied().cycle().take(length).collect());
        }
    }
    sessions(args, cut, &inputs, &outputs, tokens).await
}

/// Random tokens at random lengths: from a random id upwards.
pub(super) async fn from_ids(
    args: &DatasetArgs,
    count: usize,
    tokens: &Tokens,
    generators: &mut Generators,
) -> Result<Dataset, BenchError> {
    let vocabulary = u64::from(tokens.vocabulary().await?);
    let (inputs, outputs) = lengths(args, count, generators);
    let offsets = generators.numpy.randint(0, vocabulary, count);
    let lists = inputs.iter().zip(&offsets).enumerate().map(|(i, (&length, offset))| {
        let first = offset + i as u64;
        (first..first + length as u64).map(|id| (id % vocabulary) as u32).collect()
    });
    sessions(args, lists.collect(), &inputs, &outputs, tokens).await
}

/// First all lengths of prompts, then all of answers.
fn lengths(args: &DatasetArgs, count: usize, generators: &mut Generators) -> (Vec<usize>, Vec<usize>) {
    let ratio = args.random_range_ratio;
    let inputs = random_lengths(args.random_input_len, ratio, count, &mut generators.numpy);
    let outputs = random_lengths(args.random_output_len, ratio, count, &mut generators.numpy);
    (inputs, outputs)
}

async fn sessions(
    args: &DatasetArgs,
    lists: Vec<Vec<u32>>,
    inputs: &[usize],
    outputs: &[usize],
    tokens: &Tokens,
) -> Result<Dataset, BenchError> {
    let prompts: Vec<Prompt> = if args.tokenize_prompt {
        lists.into_iter().map(Prompt::Ids).collect()
    } else {
        tokens.decode(&lists).await?.into_iter().map(Prompt::Text).collect()
    };
    let requests = prompts.into_iter().zip(inputs).zip(outputs);
    let sessions =
        requests.map(|((prompt, &input), &output)| Session::from(Request::new(prompt, Some(input), output))).collect();
    Ok(Dataset { sessions, differs: None })
}
