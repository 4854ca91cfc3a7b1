//! Log-probabilities in the forms of the three endpoints.

use quern_engine::{LogprobRequest, TokenLogprobs};
use quern_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::protocol::{
    ApiError,
    chat::{ChatLogprob, ChatLogprobs, TokenScore},
    completions::CompletionLogprobs,
    scalar::Int,
};
use crate::score_limits::TEXT_SCORE_BYTES;

/// Most of the likeliest tokens on OpenAI's endpoints, OpenAI's own limit.
pub const MAX_TOP_LOGPROBS: i64 = 20;

/// The same on `/generate`, and the most tokens asked for by id: answers grow with it at every token.
pub const MAX_NATIVE_TOP_LOGPROBS: i64 = 1024;

/// `logprobs: true` and `top_logprobs` of a conversation.
///
/// # Errors
/// If `top` is out of its range, or given without `logprobs`.
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
///
/// # Errors
/// If the number is out of its range.
pub fn completion_request(logprobs: Option<Int>, echo: bool) -> Result<Option<LogprobRequest>, ApiError> {
    let Some(Int(top)) = logprobs else { return Ok(None) };
    check_top("logprobs", top, MAX_TOP_LOGPROBS)?;
    Ok(Some(LogprobRequest { prompt_from: echo.then_some(0), top: top as usize, ids: Vec::new() }))
}

/// Refuse a number of likeliest tokens outside `0..=limit`.
///
/// # Errors
/// If it is outside.
pub fn check_top(field: &str, top: i64, limit: i64) -> Result<(), ApiError> {
    if (0..=limit).contains(&top) {
        return Ok(());
    }
    Err(ApiError::invalid(format!("{field} must be in [0, {limit}], got {top}.")).about(field))
}

/// About how many bytes an answer has of `scores`, which have as many tokens each as the first.
pub fn scores_bytes(scores: &[TokenLogprobs]) -> usize {
    scores.first().map_or(0, |first| scores.len() * (1 + first.top.len() + first.requested.len()) * TEXT_SCORE_BYTES)
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

/// A completion's form, of an echoed prompt (its first token has no score) and of an output. `offset`, in
/// characters, is where the next token begins in the whole text; it moves on by the tokens written.
pub fn completion(
    tokenizer: &Tokenizer,
    echoed: Option<(u32, &[TokenLogprobs])>,
    output: &[TokenLogprobs],
    offset: &mut usize,
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
        let mut top: Map<String, Value> = token.top.iter().map(|&(id, lp)| (text(id), Value::from(lp))).collect();
        // As OpenAI does: the chosen token too, so that there may be one more than were asked for.
        top.entry(text(token.id)).or_insert(Value::from(token.logprob));
        out.top_logprobs.push(Some(top));
    }
    for token in &out.tokens {
        out.text_offset.push(*offset);
        *offset += token.chars().count();
    }
    out
}

/// The scores of places as `/generate` writes them, kept as JSON: SGLang's streams repeat all of them in
/// every frame, so each is written once and copied.
#[derive(Debug, Default)]
pub struct NativeScores {
    tokens: Entries,
    top: Entries,
    requested: Entries,
    /// How many places.
    pub count: usize,
}

impl NativeScores {
    /// A prompt's first token, which has no score. `tokenizer` spells tokens, if that is asked for.
    pub fn push_first(&mut self, tokenizer: Option<&Tokenizer>, id: u32) {
        self.count += 1;
        self.tokens.push(&triple(tokenizer, id, None));
        self.top.push(&());
        self.requested.push(&());
    }

    /// The next place.
    pub fn push(&mut self, tokenizer: Option<&Tokenizer>, score: &TokenLogprobs) {
        let triples = |list: &[(u32, f32)]| -> Vec<Triple> {
            list.iter().map(|&(id, logprob)| triple(tokenizer, id, Some(logprob))).collect()
        };
        self.count += 1;
        self.tokens.push(&triple(tokenizer, score.id, Some(score.logprob)));
        self.top.push(&triples(&score.top));
        self.requested.push(&triples(&score.requested));
    }

    /// Bytes of all that is kept.
    pub fn bytes(&self) -> usize {
        [&self.tokens, &self.top, &self.requested].into_iter().map(|entries| entries.0.len()).sum()
    }

    /// Forget all places.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// `,"NAME":[…]` for each list that `wanted` asks for, of a prompt and of an output.
    pub fn write(input: &Self, output: &Self, wanted: &LogprobRequest, out: &mut Vec<u8>) {
        let mut list = |name: &str, entries: &Entries| {
            out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
            out.extend_from_slice(&entries.0);
            out.push(b']');
        };
        list("input_token_logprobs", &input.tokens);
        list("output_token_logprobs", &output.tokens);
        if wanted.top > 0 {
            list("input_top_logprobs", &input.top);
            list("output_top_logprobs", &output.top);
        }
        if !wanted.ids.is_empty() {
            list("input_token_ids_logprobs", &input.requested);
            list("output_token_ids_logprobs", &output.requested);
        }
        out.extend_from_slice(format!(",\"output_token_logprobs_length\":{}", output.count).as_bytes());
    }
}

/// The entries of a JSON list, without its brackets.
#[derive(Debug, Default)]
struct Entries(Vec<u8>);

impl Entries {
    fn push(&mut self, entry: &impl Serialize) {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut self.0, entry).expect("wire types are plain data");
    }
}

/// `[logprob, id, text]`.
type Triple = (Option<f32>, u32, Option<String>);

fn triple(tokenizer: Option<&Tokenizer>, id: u32, logprob: Option<f32>) -> Triple {
    (logprob, id, tokenizer.map(|tokenizer| tokenizer.decode(&[id], false)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_are_written_in_sglangs_form() {
        let score =
            |id| TokenLogprobs { id, logprob: -0.5, top: vec![(7, -0.25), (8, -1.5)], requested: vec![(9, -2.0)] };
        let (mut input, mut output) = (NativeScores::default(), NativeScores::default());
        input.push_first(None, 1);
        input.push(None, &score(2));
        output.push(None, &score(3));
        output.push(None, &score(4));
        let written = |wanted: &LogprobRequest| {
            let mut out = b"{\"id\":0".to_vec();
            NativeScores::write(&input, &output, wanted, &mut out);
            out.push(b'}');
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let top = json!([[-0.25, 7, null], [-1.5, 8, null]]);
        let tokens = json!({
            "id": 0,
            "input_token_logprobs": [[null, 1, null], [-0.5, 2, null]],
            "output_token_logprobs": [[-0.5, 3, null], [-0.5, 4, null]],
            "output_token_logprobs_length": 2,
        });
        assert_eq!(written(&LogprobRequest::default()), tokens);
        let all = written(&LogprobRequest { prompt_from: None, top: 2, ids: vec![9] });
        assert_eq!(all["input_top_logprobs"], json!([null, top]));
        assert_eq!(all["output_top_logprobs"], json!([top, top]));
        assert_eq!(all["output_token_ids_logprobs"], json!([[[-2.0, 9, null]], [[-2.0, 9, null]]]));
        output.clear();
        assert_eq!(output.count, 0);
    }
}
