//! Log-probabilities in the forms of the three endpoints.

use quern_engine::{LogprobRequest, TokenLogprobs};
use quern_text::Tokenizer;
use serde_json::{Map, Value};

use crate::protocol::{
    ApiError,
    chat::{ChatLogprob, ChatLogprobs, TokenScore},
    completions::CompletionLogprobs,
    scalar::Int,
};

/// Most of the likeliest tokens on OpenAI's endpoints, OpenAI's own limit.
pub const MAX_TOP_LOGPROBS: i64 = 20;

/// The same on `/generate`, and the most tokens asked for by id: answers grow with it at every token.
pub const MAX_NATIVE_TOP_LOGPROBS: i64 = 1024;

/// `logprobs: true` and `top_logprobs` of a conversation.
pub fn chat_request(logprobs: bool, top: Option<Int>) -> Result<Option<LogprobRequest>, ApiError> {
    let top = top.map_or(0, |top| top.0);
    check_top("top_logprobs", top, MAX_TOP_LOGPROBS)?;
    if !logprobs && top > 0 {
        let message = format!("top_logprobs: {top} needs logprobs: true.");
        return Err(ApiError::invalid(message).about("top_logprobs"));
    }
    Ok(logprobs.then(|| LogprobRequest { top: top as usize, ..LogprobRequest::default() }))
}

/// `logprobs: N` of a completion; those of the prompt too when it is echoed.
pub fn completion_request(logprobs: Option<Int>, echo: bool) -> Result<Option<LogprobRequest>, ApiError> {
    let Some(Int(top)) = logprobs else { return Ok(None) };
    check_top("logprobs", top, MAX_TOP_LOGPROBS)?;
    Ok(Some(LogprobRequest { prompt_from: echo.then_some(0), top: top as usize, ids: Vec::new() }))
}

/// Refuse a number of likeliest tokens outside `0..=limit`.
pub fn check_top(field: &str, top: i64, limit: i64) -> Result<(), ApiError> {
    if (0..=limit).contains(&top) {
        return Ok(());
    }
    Err(ApiError::invalid(format!("{field} must be in [0, {limit}], got {top}.")).about(field))
}

/// A conversation's form.
pub fn chat(tokenizer: &Tokenizer, scores: &[TokenLogprobs]) -> ChatLogprobs {
    let score = |&(id, logprob): &(u32, f32)| TokenScore {
        token: tokenizer.decode(&[id], false),
        bytes: tokenizer.token_bytes(id).unwrap_or_default().to_vec(),
        logprob,
    };
    let entry = |token: &TokenLogprobs| ChatLogprob {
        chosen: score(&(token.id, token.logprob)),
        top_logprobs: token.top.iter().map(score).collect(),
    };
    ChatLogprobs { content: scores.iter().map(entry).collect() }
}

/// A completion's form, of an echoed prompt (its first token has no score) and of an output.
pub fn completion(
    tokenizer: &Tokenizer,
    echoed: Option<(u32, &[TokenLogprobs])>,
    output: &[TokenLogprobs],
) -> CompletionLogprobs {
    let mut out = CompletionLogprobs::default();
    let text = |id: u32| tokenizer.decode(&[id], false);
    if let Some((first, _)) = echoed {
        out.tokens.push(text(first));
        out.token_logprobs.push(None);
        out.top_logprobs.push(None);
    }
    for token in echoed.into_iter().flat_map(|(_, scores)| scores).chain(output) {
        out.tokens.push(text(token.id));
        out.token_logprobs.push(Some(token.logprob));
        let top: Map<String, Value> = token.top.iter().map(|&(id, lp)| (text(id), Value::from(lp))).collect();
        out.top_logprobs.push(Some(top));
    }
    out.text_offset = vec![-1; out.tokens.len()];
    out
}

/// `/generate`'s forms of a list of places.
pub struct Native<'a> {
    /// To spell tokens with, if asked to.
    pub tokenizer: Option<&'a Tokenizer>,
}

impl Native<'_> {
    /// `[logprob, id, text]`.
    fn triple(&self, id: u32, logprob: Option<f32>) -> Value {
        let text = self.tokenizer.map(|tokenizer| tokenizer.decode(&[id], false));
        Value::Array(vec![logprob.into(), id.into(), text.into()])
    }

    fn triples(&self, list: &[(u32, f32)]) -> Value {
        list.iter().map(|&(id, logprob)| self.triple(id, Some(logprob))).collect()
    }

    /// The tokens themselves; `first` is a prompt's first token, which has no score.
    pub fn tokens(&self, first: Option<u32>, scores: &[TokenLogprobs]) -> Value {
        let first = first.map(|id| self.triple(id, None));
        first.into_iter().chain(scores.iter().map(|token| self.triple(token.id, Some(token.logprob)))).collect()
    }

    /// The likeliest tokens at each place.
    pub fn top(&self, first: bool, scores: &[TokenLogprobs]) -> Value {
        let first = first.then_some(Value::Null);
        first.into_iter().chain(scores.iter().map(|token| self.triples(&token.top))).collect()
    }

    /// The tokens asked for at each place.
    pub fn requested(&self, first: bool, scores: &[TokenLogprobs]) -> Value {
        let first = first.then_some(Value::Null);
        first.into_iter().chain(scores.iter().map(|token| self.triples(&token.requested))).collect()
    }
}
