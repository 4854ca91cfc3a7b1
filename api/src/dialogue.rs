//! [`Dialogue`]: a conversation's answer as text and calls of tools, for every door that conversations
//! come through. Doors differ in what they read and in how they write it down; what is said is said here.

use std::sync::Arc;

use quern_engine::{Aborter, LogprobRequest, TokenLogprobs};
use quern_text::tool::{ParsedMessage, ToolEvent, ToolParser, ToolSchemas};
use uuid::Uuid;

use crate::{
    constraint::ToolUse,
    generate::{Finish, Generations, Job, Matched, Output, Piece},
    limits::{check_prompt_tokens, open_length},
    prompt::{Conversation, tokenise},
    protocol::{ApiError, completions::Prompt},
    sampling::Sampling,
    state::AppState,
};

/// What a door has read.
pub struct DialogueRequest {
    /// Its id.
    pub id: String,
    /// What is to be answered.
    pub prompt: Asked,
    /// The tools that the model is told of, whose calls are looked for, and what those must look like.
    pub tool_use: ToolUse,
    /// How to choose tokens and where to stop.
    pub sampling: Sampling,
    /// Which log-probabilities to report.
    pub logprobs: Option<LogprobRequest>,
    /// Prefixes are shared only within it.
    pub namespace: Option<Arc<str>>,
    /// Whether the answer streams.
    pub streams: bool,
}

/// What is to be answered.
pub enum Asked {
    /// Messages, by the model's template; its tools are those of the request's `tool_use`.
    Conversation(Conversation),
    /// A prompt that somebody else has rendered.
    Ids(Vec<i64>),
}

/// An answer in the making, of one output or several.
pub struct Dialogue {
    generations: Generations,
    /// Looks for calls, one for each output; none where no tools were declared or no parser is chosen.
    parsers: Vec<Option<ToolParser>>,
    /// Complete calls of each output.
    num_calls: Vec<usize>,
    sampling: Arc<Sampling>,
}

/// What an output says next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// Text and calls.
    pub said: Vec<ToolEvent>,
    /// Scores of the tokens since the last turn, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Present on the last one.
    pub end: Option<End>,
}

/// All that an output said.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Text and complete calls.
    pub message: ParsedMessage,
    /// Scores of its tokens, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// How it ended.
    pub end: End,
}

/// How an output ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The model ended it, or a stop string did.
    Stop(Matched),
    /// The model ended it, having called tools.
    ToolCalls(Matched),
    /// As long as it was allowed to get. A call that it was cut in is not among the complete ones.
    Length,
    /// Somebody aborted it, or the server is going down.
    Abort(String),
    /// It failed.
    Failed(ApiError),
}

impl Dialogue {
    /// Render, tokenise, admit and submit. What every conversation must obey is seen to here, so that no
    /// door forgets any of it.
    pub async fn begin(state: &Arc<AppState>, request: DialogueRequest) -> Result<Self, ApiError> {
        let DialogueRequest { id, prompt, tool_use, mut sampling, logprobs, namespace, streams } = request;
        sampling.constraint = tool_use.constraint(sampling.constraint, state.config.tool_call_parser)?;
        let tools = tool_use.tools;
        let parser = state.config.tool_call_parser.filter(|_| !tools.is_empty());
        if parser.is_some() {
            // The tags of a call may be control tokens, and the parser must see them.
            sampling.skip_special_tokens = false;
        }
        let schemas = Arc::new(ToolSchemas::new(&tools));
        let mut prompt = match prompt {
            Asked::Conversation(conversation) => Conversation { tools, ..conversation }.tokenise(state).await?,
            Asked::Ids(ids) => tokenise(state, vec![Prompt::Ids(ids)]).await?.swap_remove(0),
        };
        let mut max_new_tokens = state.limits.admit_chat(&mut prompt, sampling.max_new_tokens)?;
        if sampling.max_new_tokens.is_none() {
            max_new_tokens = max_new_tokens.min(open_length(sampling.n, logprobs.as_ref()));
        }
        check_prompt_tokens("messages", prompt.len() * sampling.n)?;
        let sampling = Arc::new(sampling);
        let jobs = (0..sampling.n).map(|sample_index| Job {
            id: if sampling.n == 1 { id.clone() } else { format!("{id}_{sample_index}") },
            prompt: prompt.clone(),
            sampling: Arc::clone(&sampling),
            max_new_tokens,
            logprobs: logprobs.clone(),
            namespace: namespace.clone(),
            sample_index,
        });
        let parsers = (0..sampling.n).map(|_| parser.map(|p| ToolParser::new(p.format(), Arc::clone(&schemas))));
        Ok(Self {
            parsers: parsers.collect(),
            num_calls: vec![0; sampling.n],
            generations: Generations::submit(state, jobs.collect(), streams).await?,
            sampling,
        })
    }

    /// The next turn and the index of its output; `None` when all have ended. Loses nothing when it is
    /// dropped before it is ready.
    pub async fn next(&mut self) -> Option<(usize, Turn)> {
        let (index, piece) = self.generations.next().await?;
        Some((index, self.turn(index, piece)))
    }

    /// Wait for the ends.
    pub async fn whole(&mut self) -> Result<Vec<Whole>, ApiError> {
        let pieces = self.generations.whole().await?;
        let whole = |(index, piece)| {
            let turn = self.turn(index, piece);
            let end = turn.end.expect("a whole piece has its end");
            Whole { message: ParsedMessage::from_events(turn.said), logprobs: turn.logprobs, end }
        };
        Ok(pieces.into_iter().enumerate().map(whole).collect())
    }

    fn turn(&mut self, index: usize, piece: Piece) -> Turn {
        let Piece { text, logprobs, finish, .. } = piece;
        let said = match &mut self.parsers[index] {
            None if text.is_empty() => Vec::new(),
            None => vec![ToolEvent::Content(text)],
            Some(parser) => {
                let mut said = parser.push(&text);
                if let Some(finish) = &finish {
                    // Only the model itself ends a call; whatever else ends the text cuts it.
                    said.extend(parser.finish(!matches!(finish, Finish::Stop(Matched::Token(_)))));
                }
                said
            }
        };
        self.num_calls[index] += said.iter().filter(|event| matches!(event, ToolEvent::CallEnd { .. })).count();
        let called = self.num_calls[index] > 0;
        let end = finish.map(|finish| match finish {
            Finish::Stop(matched) if called => End::ToolCalls(matched),
            Finish::Stop(matched) => End::Stop(matched),
            Finish::Length => End::Length,
            Finish::Abort(words) => End::Abort(words),
            Finish::Failed(error) => End::Failed(error),
        });
        Turn { said, logprobs, end }
    }

    /// Ways to abort what has not ended, from elsewhere.
    pub fn aborters(&self) -> Vec<Aborter> {
        self.generations.aborters()
    }

    /// How its tokens are chosen, every default filled in.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// What has become of each output: tokens, cached tokens.
    pub fn outputs(&self) -> &[Output] {
        self.generations.outputs()
    }
}

/// An id for a call: `call_` and 24 hexadecimal digits, as clients expect.
pub fn call_id() -> String {
    format!("call_{}", &Uuid::new_v4().simple().to_string()[..24])
}
