//! `sharegpt` and `custom`: conversations of which the first turn is asked and the second gives the length.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Dataset, DatasetArgs, Generators};
use crate::{
    data_file::{SHAREGPT, read_text},
    error::BenchError,
    request::{Prompt, Request, Session},
    tokens::Tokens,
};

/// Ends a prompt of a model without a chat template; a suffix goes before it.
const ASSISTANT: &str = "Assistant:";

#[derive(Deserialize)]
struct ShareGptConversation {
    #[serde(alias = "conversation", default)]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    #[serde(alias = "content", default)]
    value: String,
}

impl ShareGptConversation {
    /// The first two turns, if there are two.
    fn pair(self) -> Option<(String, String)> {
        let mut turns = self.conversations.into_iter().map(|turn| turn.value);
        Some((turns.next()?, turns.next()?))
    }
}

/// The first two turns of each conversation that has two.
///
/// # Errors
/// If the file cannot be read or is no list of conversations.
pub(super) fn first_turns(file: &Path) -> Result<Vec<(String, String)>, BenchError> {
    let text = read_text(file)?;
    let conversations: Vec<ShareGptConversation> = serde_json::from_str(&text).map_err(BenchError::content(file))?;
    Ok(conversations.into_iter().filter_map(ShareGptConversation::pair).collect())
}

pub(super) async fn load(
    args: &DatasetArgs,
    count: usize,
    tokens: &Tokens,
    generators: &mut Generators,
) -> Result<Dataset, BenchError> {
    let file = if args.dataset_path.is_empty() {
        SHAREGPT.fetched().await.map_err(|error| {
            BenchError::Arguments(format!(
                "{error}, or give its place with --dataset-path. Without it, --dataset-name random-ids measures \
                 random lengths and needs no file"
            ))
        })?
    } else {
        PathBuf::from(&args.dataset_path)
    };
    choose(args, first_turns(&file)?, count, tokens, generators).await
}

pub(super) async fn load_custom(
    args: &DatasetArgs,
    count: usize,
    tokens: &Tokens,
    generators: &mut Generators,
) -> Result<Dataset, BenchError> {
    // Lines that are no JSON are passed over, as SGLang's client does.
    let text = read_text(Path::new(&args.dataset_path))?;
    let conversations = text.lines().filter_map(|line| serde_json::from_str::<ShareGptConversation>(line.trim()).ok());
    choose(args, conversations.filter_map(ShareGptConversation::pair).collect(), count, tokens, generators).await
}

async fn choose(
    args: &DatasetArgs,
    mut pairs: Vec<(String, String)>,
    count: usize,
    tokens: &Tokens,
    generators: &mut Generators,
) -> Result<Dataset, BenchError> {
    generators.python.shuffle(&mut pairs);
    let mut sessions = Vec::with_capacity(count);
    for (prompt, answer) in pairs {
        if sessions.len() == count {
            break;
        }
        let prompt = match &*args.prompt_suffix {
            "" => prompt,
            suffix => format!("{}{suffix}{ASSISTANT}", prompt.strip_suffix(ASSISTANT).unwrap_or(&prompt)),
        };
        let input = tokens.encode(&prompt).await?.len();
        let output = match args.sharegpt_output_len {
            Some(length) => length,
            None => tokens.encode(&answer).await?.len(),
        };
        let too_short = input < 2 || output < 2;
        let too_long = args.sharegpt_context_len.is_some_and(|longest| input + output > longest);
        if !too_short && !too_long {
            sessions.push(Session::from(Request::new(Prompt::Text(prompt), Some(input), output)));
        }
    }
    if sessions.is_empty() {
        return Err(BenchError::Arguments("the dataset holds no conversation of two turns that fits".into()));
    }
    Ok(Dataset { sessions, differs: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_conversation_are_read() {
        let text = r#"[{"id":"a","conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]},
            {"conversation":[{"role":"user","content":"R"},{"role":"assistant","content":"B"},{"content":"C"}]},
            {"conversations":[{"value":"alone"}]}, {"other":1}]"#;
        let conversations: Vec<ShareGptConversation> = serde_json::from_str(text).expect("the text is right");
        let pairs: Vec<_> = conversations.into_iter().filter_map(ShareGptConversation::pair).collect();
        assert_eq!(pairs, [("Q".into(), "A".into()), ("R".into(), "B".into())]);
    }
}
