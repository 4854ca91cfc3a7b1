//! [`ChatGeneration`]: outputs in the making as text and calls of tools, for every API.

use quern_engine::{Aborter, TokenLogprobs};
use quern_text::tool::{ToolEvent, ToolParser};
use uuid::Uuid;

use crate::{
    generate::{Generations, Output, TOKEN_BYTES, TextDelta},
    logprobs::scores_bytes,
    outcome::{Matched, Outcome},
    state::AppState,
};

/// Outputs in the making. Dropping it aborts what has not ended.
pub struct ChatGeneration {
    generations: Generations,
    /// Looks for calls, one for each output; none where no tools were declared or no parser is chosen.
    parsers: Vec<Option<ToolParser>>,
    /// Complete calls of each output.
    num_calls: Vec<usize>,
}

/// What is new of an output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputDelta {
    /// Which output.
    pub index: usize,
    /// Text and calls.
    pub events: Vec<ToolEvent>,
    /// The tokens since the last delta. Their text may be held back for a later one.
    pub tokens: Vec<u32>,
    /// Their scores, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Present on the last one.
    pub outcome: Option<Outcome>,
}

impl ChatGeneration {
    /// Look for calls in the texts of `generations` by a parser for each output.
    pub fn new(generations: Generations, parsers: Vec<Option<ToolParser>>) -> Self {
        Self { num_calls: vec![0; parsers.len()], generations, parsers }
    }

    /// Outputs that are text and nothing else.
    pub fn of_text(generations: Generations) -> Self {
        let parsers = generations.outputs().iter().map(|_| None).collect();
        Self::new(generations, parsers)
    }

    /// The next delta; `None` when all outputs have ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<OutputDelta> {
        let (index, delta) = self.generations.next().await?;
        Some(self.parse(index, delta))
    }

    fn parse(&mut self, index: usize, delta: TextDelta) -> OutputDelta {
        let TextDelta { text, tokens, logprobs, outcome } = delta;
        let events = match &mut self.parsers[index] {
            None if text.is_empty() => Vec::new(),
            None => vec![ToolEvent::Content(text)],
            Some(parser) => {
                let mut events = parser.push(&text);
                if let Some(outcome) = &outcome {
                    // Only the model itself ends a call; whatever else ends the text cuts it.
                    events.extend(parser.finish(!matches!(outcome, Outcome::Stop(Matched::Token(_)))));
                }
                events
            }
        };
        self.num_calls[index] += events.iter().filter(|event| matches!(event, ToolEvent::CallEnd { .. })).count();
        let outcome = outcome.map(|outcome| match outcome {
            Outcome::Stop(matched) if self.num_calls[index] > 0 => Outcome::ToolCalls(matched),
            other => other,
        });
        OutputDelta { index, events, tokens, logprobs, outcome }
    }

    /// Whether every output has ended.
    pub fn has_ended(&self) -> bool {
        self.outputs().iter().all(|output| output.outcome.is_some())
    }

    /// Ways to abort what has not ended, from elsewhere.
    pub fn aborters(&self) -> Vec<Aborter> {
        self.generations.aborters()
    }

    /// What has become of each output: tokens, cached tokens.
    pub fn outputs(&self) -> &[Output] {
        self.generations.outputs()
    }

    /// About how many bytes have been said so far; see [`Generations::answer_bytes`].
    pub fn answer_bytes(&self) -> usize {
        self.generations.answer_bytes()
    }

    /// Whether the answer streams.
    pub fn streams(&self) -> bool {
        self.generations.streams()
    }

    /// What the routes share.
    pub fn state(&self) -> &AppState {
        self.generations.state()
    }
}

impl OutputDelta {
    /// Whether there is nothing new.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.tokens.is_empty() && self.logprobs.is_empty() && self.outcome.is_none()
    }

    /// About how many bytes an answer says of it.
    pub fn bytes(&self) -> usize {
        self.tokens.len() * TOKEN_BYTES + scores_bytes(&self.logprobs)
    }

    /// Its text, without calls.
    pub fn text(&self) -> String {
        let text = |event: &ToolEvent| match event {
            ToolEvent::Content(text) => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }

    /// Add the next delta of the same output.
    pub fn append(&mut self, next: Self) {
        self.index = next.index;
        for event in next.events {
            match (self.events.last_mut(), event) {
                (Some(ToolEvent::Content(text)), ToolEvent::Content(more)) => text.push_str(&more),
                (_, event) => self.events.push(event),
            }
        }
        self.tokens.extend(next.tokens);
        self.logprobs.extend(next.logprobs);
        self.outcome = next.outcome;
    }
}

/// An id for a call: `call_` and 24 hexadecimal digits, as clients expect.
pub fn call_id() -> String {
    format!("call_{}", &Uuid::new_v4().simple().to_string()[..24])
}
