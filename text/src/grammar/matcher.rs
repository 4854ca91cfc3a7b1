//! [`Grammar`]: the state of one constrained output.

use llguidance::{Matcher, api::StopReason};

use super::spec::GrammarError;

/// One output on its way through a compiled grammar. Outputs share nothing but the vocabulary.
pub struct Grammar {
    matcher: Matcher,
    /// Rows of logits.
    rows: usize,
}

impl Grammar {
    pub(super) fn new(matcher: Matcher, rows: usize) -> Self {
        Self { matcher, rows }
    }

    /// The tokens that may come next: token `t` is bit `t % 32` of word `t / 32`. An end-of-sequence token
    /// is among them where the output may end.
    pub fn mask(&mut self) -> Result<Vec<u32>, GrammarError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|cause| step_error(&cause))?;
        // llguidance keeps a bit more than there are tokens.
        let mut words = mask.as_slice()[..self.rows.div_ceil(32)].to_vec();
        if let Some(last) = words.last_mut().filter(|_| !self.rows.is_multiple_of(32)) {
            *last &= (1 << (self.rows % 32)) - 1;
        }
        Ok(words)
    }

    /// Take a token that the mask allowed. Returns whether the output is complete and nothing can follow.
    pub fn accept(&mut self, token: u32) -> Result<bool, GrammarError> {
        self.matcher.consume_token(token).map_err(|cause| step_error(&cause))?;
        match self.matcher.stop_reason() {
            StopReason::NotStopped => Ok(false),
            reason if reason.is_ok() => Ok(true),
            reason => Err(GrammarError::Step(reason.to_string())),
        }
    }

    /// Whether the output may end here.
    pub fn is_accepting(&mut self) -> Result<bool, GrammarError> {
        self.matcher.is_accepting().map_err(|cause| step_error(&cause))
    }
}

impl Clone for Grammar {
    /// An output that goes on alone: copies of an llguidance matcher would share a lexer, wait for each
    /// other and fail with each other.
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), rows: self.rows }
    }
}

fn step_error(cause: &dyn std::fmt::Display) -> GrammarError {
    GrammarError::Step(brief(cause))
}

/// The first line of a message, and where an expression is wrong the line that says why. What follows is
/// the automaton's state, which is nobody's business, as are places in a source that the client never saw.
pub(super) fn brief(cause: &dyn std::fmt::Display) -> String {
    const MAX_CHARS: usize = 300;
    let whole = cause.to_string();
    if whole.starts_with("NoExtension") {
        return "no text matches it".into();
    }
    let first = whole.lines().next().unwrap_or_default();
    let place = first.strip_prefix("at ").and_then(|rest| rest.split_once("): "));
    let first = place.filter(|(place, _)| place.len() < 20).map_or(first, |(_, rest)| rest);
    let mut brief: String = first.chars().take(MAX_CHARS).collect();
    if first.ends_with("regex parse error:") {
        let why = whole.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it is not supported");
        brief.extend(" ".chars().chain(why.chars().take(MAX_CHARS / 2)));
    }
    brief
}
