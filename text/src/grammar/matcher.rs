//! [`GrammarMatcher`]: the state of one constrained output.

use llguidance::{Matcher, api::StopReason, toktrie::TokEnv};

use super::{
    loop_guard::{LoopGuard, LoopRemedy},
    spec::ConstraintError,
};

/// What ends a call with the text value it is in, or the value alone where other parameters must follow.
const CALL_ENDS: [&str; 2] = ["\n</parameter>\n</function>\n</tool_call>", "\n</parameter>\n<parameter="];

/// What ends a part of JSON.
const JSON_ENDS: [&str; 3] = ["\"", "]", "}"];

/// What follows no end of JSON. Where it may, the end would be text, or the beginning of a string.
const AFTER_NO_END: [&str; 3] = ["x", "0", "\""];

/// One output on its way through a compiled grammar. Outputs share nothing but the vocabulary.
pub struct GrammarMatcher {
    matcher: Matcher,
    /// What tokens spell.
    vocabulary: TokEnv,
    /// Rows of logits.
    rows: usize,
    /// Calls of tools are among what it allows.
    has_calls: bool,
    guard: LoopGuard,
    /// The last mask is narrower because of a loop.
    is_broken: bool,
    /// An end that has been begun, as far as it is still to come.
    closing: &'static str,
}

impl GrammarMatcher {
    pub(super) fn new(matcher: Matcher, vocabulary: TokEnv, rows: usize, has_calls: bool, max_repeats: usize) -> Self {
        let guard = LoopGuard::new(max_repeats);
        Self { matcher, vocabulary, rows, has_calls, guard, is_broken: false, closing: "" }
    }

    /// The tokens that may come next: token `t` is bit `t % 32` of word `t / 32`. An end-of-sequence token
    /// is among them where the output may end. Where it may not, those that would go on with a loop are
    /// left out, unless there are no others.
    ///
    /// # Errors
    /// If the automaton exceeds its limits.
    pub fn mask(&mut self) -> Result<Vec<u32>, ConstraintError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|cause| step_error(&cause))?;
        // llguidance keeps a bit more than there are tokens.
        let mut words = mask.as_slice()[..self.rows.div_ceil(32)].to_vec();
        if let Some(last) = words.last_mut().filter(|_| !self.rows.is_multiple_of(32)) {
            *last &= (1 << (self.rows % 32)) - 1;
        }
        // Where the output may end the model is free to end it, and to repeat itself.
        let may_end = self.vocabulary.tok_trie().eos_tokens().iter().any(|eos| has(&words, *eos));
        self.is_broken = false;
        if !may_end {
            self.guard_against_loops(&mut words)?;
        }
        Ok(words)
    }

    /// Narrow a mask, but never to nothing.
    fn guard_against_loops(&mut self, words: &mut [u32]) -> Result<(), ConstraintError> {
        let loops = self.guard.continuations();
        self.is_broken = !loops.is_empty();
        if self.closing.is_empty() && self.guard.remedy(self.is_broken) == Some(LoopRemedy::Close) {
            self.closing = self.end_here()?.unwrap_or_default();
        }
        let trie = self.vocabulary.tok_trie();
        let closing = self.closing.as_bytes();
        // No token that goes beyond the end: `", "` closes a string and opens the next one, for ever.
        let closes = |token: u32| {
            let bytes = trie.token(token);
            !bytes.is_empty() && closing.starts_with(bytes)
        };
        if closing.is_empty() || !narrow(words, closes) {
            self.closing = "";
            self.is_broken = loops.iter().any(|token| has(words, *token)) && narrow(words, |t| !loops.contains(&t));
        }
        Ok(())
    }

    /// What may come here and ends the innermost thing that is open.
    fn end_here(&mut self) -> Result<Option<&'static str>, ConstraintError> {
        if self.has_calls {
            for end in CALL_ENDS {
                if self.may_follow(end)? {
                    return Ok(Some(end));
                }
            }
        }
        for end in JSON_ENDS {
            if !self.may_follow(end)? {
                continue;
            }
            let mut is_text = false;
            for more in AFTER_NO_END {
                is_text |= self.may_follow(&format!("{end}{more}"))?;
            }
            if !is_text {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn may_follow(&mut self, text: &str) -> Result<bool, ConstraintError> {
        let tokens = self.vocabulary.tok_trie().greedy_tokenize(text.as_bytes());
        let taken = self.matcher.validate_tokens(&tokens).map_err(|cause| step_error(&cause))?;
        Ok(taken == tokens.len())
    }

    /// Take a token that the mask allowed. Returns whether the output is complete and nothing can follow.
    ///
    /// # Errors
    /// If the mask did not allow it, or the automaton exceeds its limits.
    pub fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        self.matcher.consume_token(token).map_err(|cause| step_error(&cause))?;
        if std::mem::take(&mut self.is_broken) {
            self.guard.broken();
        }
        let bytes = self.vocabulary.tok_trie().token(token);
        self.guard.observe(token, bytes.len());
        let spelled = std::str::from_utf8(bytes).ok();
        self.closing = spelled.and_then(|text| self.closing.strip_prefix(text)).unwrap_or_default();
        match self.matcher.stop_reason() {
            StopReason::NotStopped => Ok(false),
            reason if reason.is_ok() => Ok(true),
            reason => Err(ConstraintError::Step(reason.to_string())),
        }
    }

    /// Whether the output may end here.
    ///
    /// # Errors
    /// If the automaton exceeds its limits.
    pub fn is_accepting(&mut self) -> Result<bool, ConstraintError> {
        self.matcher.is_accepting().map_err(|cause| step_error(&cause))
    }
}

impl Clone for GrammarMatcher {
    /// An output that goes on alone: copies of an llguidance matcher would share a lexer, wait for each
    /// other and fail with each other.
    fn clone(&self) -> Self {
        let (matcher, vocabulary) = (self.matcher.deep_clone(), self.vocabulary.clone());
        Self { matcher, vocabulary, guard: self.guard.clone(), ..*self }
    }
}

/// Whether a mask has the bit of `token`.
fn has(words: &[u32], token: u32) -> bool {
    words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// Leave only the tokens that `keep` chooses; says whether there are any, else the mask stays as it is.
fn narrow(words: &mut [u32], keep: impl Fn(u32) -> bool) -> bool {
    let kept: Vec<u32> = words
        .iter()
        .zip(0..)
        .map(|(word, index)| {
            let bits = (0..32).filter(|bit| word >> bit & 1 == 1 && keep(32 * index + bit));
            bits.fold(0, |kept, bit| kept | 1 << bit)
        })
        .collect();
    let some = kept.iter().any(|word| *word != 0);
    if some {
        words.copy_from_slice(&kept);
    }
    some
}

fn step_error(cause: &dyn std::fmt::Display) -> ConstraintError {
    ConstraintError::Step(brief(cause))
}

/// The first line of a message, and where an expression is wrong the line that says why. What follows is
/// the automaton's state, which helps no client, as are places in a source that the client never saw.
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
