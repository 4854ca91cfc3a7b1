//! `generated-shared-prefix`: groups of questions after one long prompt each.

use chrono::Local;

use super::{Dataset, DatasetArgs, Generators, lengths::random_lengths};
use crate::{
    error::BenchError,
    random::PythonRandom,
    request::{Prompt, Request, Session},
    tokens::Tokens,
};

/// The number of requests is that of groups times prompts; `--num-prompts` has no say, as in SGLang's client.
///
/// Lengths and order are SGLang's. Its texts cannot be: it draws from its tokenizer's vocabulary in the order
/// of a hash table, which differs from process to process. Here the vocabulary is in the order of ids.
pub(super) async fn load(
    args: &DatasetArgs,
    tokens: &Tokens,
    generators: &mut Generators,
) -> Result<Dataset, BenchError> {
    let (groups, prompts, turns) = (args.gsp_num_groups, args.gsp_prompts_per_group, args.gsp_num_turns);
    let numpy = &mut generators.numpy;
    let ratio = args.gsp_range_ratio;
    let system_lens = random_lengths(args.gsp_system_prompt_len, ratio, groups, numpy);
    let question_lens = random_lengths(args.gsp_question_len, ratio, groups * prompts * turns, numpy);
    let output_lens = random_lengths(args.gsp_output_len, ratio, groups * prompts, numpy);

    let vocabulary = tokens.vocabulary().await? as usize;
    let systems = texts(&system_lens, vocabulary, tokens, &mut generators.python).await?;
    let questions = texts(&question_lens, vocabulary, tokens, &mut generators.python).await?;

    let run = Local::now().format("%Y%m%d%H%M%S");
    let mut sessions = Vec::with_capacity(groups * prompts);
    for (session, output_len) in output_lens.into_iter().enumerate() {
        let group = session / prompts;
        let mut requests = Vec::with_capacity(turns);
        for (turn, question) in questions[session * turns..][..turns].iter().enumerate() {
            let text = if turn == 0 { format!("{}\n\n{question}", systems[group]) } else { question.clone() };
            // Later turns come after answers whose tokens are not known yet.
            let prompt_len = if turns == 1 { Some(tokens.encode(&text).await?.len()) } else { None };
            let mut request = Request::new(Prompt::Text(text), prompt_len, output_len);
            request.routing_key = args.gsp_send_routing_key.then(|| format!("{run}_{group}"));
            requests.push(request);
        }
        sessions.push(Session { turns: requests, continues: turns > 1 });
    }
    if !args.gsp_ordered {
        generators.python.shuffle(&mut sessions);
    }
    Ok(Dataset { sessions, differs: None })
}

async fn texts(
    lengths: &[usize],
    vocabulary: usize,
    tokens: &Tokens,
    python: &mut PythonRandom,
) -> Result<Vec<String>, BenchError> {
    let ids = |&length| python.choices(vocabulary, length).into_iter().map(|id| id as u32).collect();
    let lists: Vec<Vec<u32>> = lengths.iter().map(ids).collect();
    tokens.decode(&lists).await
}
