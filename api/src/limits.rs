//! [`Limits`]: how many tokens a prompt and its output may have, and how many outputs a request.
//!
//! Every field of a request is within its own limit; what is bounded here are their products: prompts times
//! `n`, and each of those times what an output carries.

use crate::{config::ApiConfig, protocol::ApiError};

/// SGLang keeps five tokens between the longest prompt and the longest sequence, one more from each of
/// context and pool; clients know the resulting numbers from `/server_info`.
const MARGIN: usize = 5;

/// Most outputs of a request: its prompts times `n`. Each is a sequence of its own, and others queue behind
/// them.
pub const MAX_OUTPUTS: usize = 1024;

/// Most prompt tokens of a request, each prompt counted once for each of its outputs: 64 MiB of ids.
pub const MAX_PROMPT_TOKENS: usize = 16 << 20;

/// Most states that a character of all outputs together may cost ([`Stops::num_states`](quern_text::Stops)):
/// milliseconds.
pub const MAX_STOP_STATES: usize = 1 << 20;

/// Refuse more outputs than a request may have. `field` is what the endpoint calls its prompts.
///
/// # Errors
/// If they are more than that.
pub fn check_outputs(field: &str, prompts: usize, outputs: usize) -> Result<(), ApiError> {
    if outputs <= MAX_OUTPUTS {
        return Ok(());
    }
    let message = format!(
        "{field} and n: {prompts} prompts have {outputs} outputs together; at most {MAX_OUTPUTS} are allowed in one \
         request."
    );
    Err(ApiError::invalid(message).about("n"))
}

/// Refuse more prompt tokens than a request may have, `tokens` being the sum over its outputs.
///
/// # Errors
/// If they are more than that.
pub fn check_prompt_tokens(field: &str, tokens: usize) -> Result<(), ApiError> {
    if tokens <= MAX_PROMPT_TOKENS {
        return Ok(());
    }
    let message = format!(
        "{field} and n: the prompts of all outputs have {tokens} tokens or more together; at most \
         {MAX_PROMPT_TOKENS} are allowed in one request."
    );
    Err(ApiError::invalid(message).about(field))
}

/// Refuse stop patterns that cost too much for so many outputs; `states` is the sum over all of them.
///
/// # Errors
/// If they cost more than that.
pub fn check_stop_states(outputs: usize, states: usize) -> Result<(), ApiError> {
    if states <= MAX_STOP_STATES {
        return Ok(());
    }
    let message = format!(
        "stop_regex and n: the patterns have {states} states when compiled, counted for each of {outputs} outputs; at \
         most {MAX_STOP_STATES} are allowed in one request."
    );
    Err(ApiError::invalid(message).about("stop_regex"))
}

/// The bounds of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    context: usize,
    context_is_explicit: bool,
    pool: usize,
    truncate: bool,
}

impl Limits {
    /// From what was decided; `pool`: tokens of the KV pool.
    pub fn new(config: &ApiConfig, pool: usize) -> Self {
        Self {
            context: config.context_length,
            context_is_explicit: config.context_length_is_explicit,
            pool,
            truncate: config.allow_auto_truncate,
        }
    }

    /// Prompts have fewer tokens than this.
    pub fn max_req_input_len(&self) -> usize {
        (self.context.min(self.pool) - 1).saturating_sub(MARGIN).max(1)
    }

    /// Admit a prompt whose output may have exactly `max_new_tokens`; what does not fit is refused, or
    /// cut with `--allow-auto-truncate`. `None` asks for as many as there is room for. Returns the output's
    /// bound.
    ///
    /// # Errors
    /// If prompt and output do not fit the context and may not be cut.
    pub fn admit(&self, prompt: &mut Vec<u32>, max_new_tokens: Option<usize>) -> Result<usize, ApiError> {
        let Some(max_new_tokens) = max_new_tokens else { return self.admit_chat(prompt, None) };
        self.admit_prompt(prompt)?;
        let (input, context, pool) = (prompt.len(), self.context, self.pool);
        let total = input.saturating_add(max_new_tokens);
        if total <= context.min(pool) {
            return Ok(max_new_tokens);
        }
        if self.truncate {
            return Ok(context.min(pool) - input);
        }
        Err(ApiError::too_long(if total > context {
            format!(
                "Requested token count exceeds the model's maximum context length of {context} tokens. You requested a \
                 total of {total} tokens: {input} tokens from the input messages and {max_new_tokens} tokens for the \
                 completion. Please reduce the number of tokens in the input messages or the completion to fit within \
                 the limit."
            )
        } else {
            format!(
                "Requested token count exceeds the KV pool of {pool} tokens: {input} tokens from the input and \
                 {max_new_tokens} tokens for the completion. A larger --max-total-tokens or --mem-fraction-static \
                 makes room."
            )
        }))
    }

    /// Admit a conversation whose output may have `wanted` tokens, or as many as there is room for. Agents
    /// ask for tens of thousands whatever the context; what is more than the room is cut to it, except
    /// where it exceeds a context that the operator has typed.
    ///
    /// # Errors
    /// If the conversation does not fit, or asks for more than a context that was typed.
    pub fn admit_chat(&self, prompt: &mut Vec<u32>, wanted: Option<usize>) -> Result<usize, ApiError> {
        if let Some(wanted) = wanted.filter(|&wanted| self.context_is_explicit && wanted > self.context) {
            let context = self.context;
            let message = format!(
                "max_completion_tokens is too large: {wanted}. This model supports at most {context} completion \
                 tokens (--context-length)."
            );
            return Err(ApiError::invalid(message).about("max_completion_tokens"));
        }
        self.admit_prompt(prompt)?;
        let room = self.context.min(self.pool) - prompt.len();
        Ok(wanted.unwrap_or(room - 1).min(room))
    }

    /// Refuse a text of `bytes` bytes that has at least `fewest` tokens, if so many do not fit: it need not be
    /// tokenised to know that.
    ///
    /// # Errors
    /// If so many do not fit the context.
    pub fn check_fewest(&self, fewest: usize, bytes: usize) -> Result<(), ApiError> {
        let (context, limit) = (self.context, self.max_req_input_len());
        if fewest < limit || self.truncate {
            return Ok(());
        }
        let message = format!(
            "The input ({bytes} bytes, at least {fewest} tokens) is longer than the maximum allowed length ({limit} \
             tokens). This model's maximum context length is {context} tokens."
        );
        Err(ApiError::overlong(fewest, limit - 1, message))
    }

    fn admit_prompt(&self, prompt: &mut Vec<u32>) -> Result<(), ApiError> {
        let (tokens, context, limit) = (prompt.len(), self.context, self.max_req_input_len());
        if tokens < limit {
            return Ok(());
        }
        if self.truncate {
            tracing::warn!("A prompt of {tokens} tokens is cut to {} (--allow-auto-truncate).", limit - 1);
            prompt.truncate(limit - 1);
            return Ok(());
        }
        let message = if tokens >= context {
            format!("The input ({tokens} tokens) is longer than the model's context length ({context} tokens).")
        } else {
            format!(
                "Input length ({tokens} tokens) exceeds the maximum allowed length ({limit} tokens). This model's \
                 maximum context length is {context} tokens. Use a shorter input or enable --allow-auto-truncate."
            )
        };
        Err(ApiError::overlong(tokens, limit - 1, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(context: usize, pool: usize) -> Limits {
        Limits { context, context_is_explicit: false, pool, truncate: false }
    }

    #[test]
    fn a_prompt_and_its_output_share_the_context() {
        let limits = limits(100, 1000);
        assert_eq!(limits.max_req_input_len(), 94);
        assert_eq!(limits.admit(&mut vec![0; 93], Some(7)), Ok(7));
        assert_eq!(limits.admit(&mut vec![0; 10], Some(0)), Ok(0));
        assert_eq!(limits.admit(&mut vec![0; 10], None), Ok(89));
        let error = limits.admit(&mut vec![0; 93], Some(8)).unwrap_err();
        assert!(error.message.contains("100 tokens") && error.message.contains("101 tokens"), "{error}");
        assert_eq!(error.code, Some("context_length_exceeded"));
        assert!(limits.admit(&mut vec![0; 94], Some(1)).unwrap_err().message.contains("(94 tokens)"));
        let error = limits.admit(&mut vec![0; 100], Some(1)).unwrap_err();
        assert!(error.message.contains("The input (100 tokens) is longer"), "{error}");
        assert!(limits.admit(&mut vec![0; 93], Some(usize::MAX)).is_err());
    }

    /// LiteLLM and agents know by the words that a shorter conversation would do.
    #[test]
    fn every_refusal_of_a_long_prompt_is_told_in_words_that_clients_know() {
        let limits = limits(100, 1000);
        let refusals = [
            limits.admit(&mut vec![0; 94], Some(1)).unwrap_err(),
            limits.admit(&mut vec![0; 100], Some(1)).unwrap_err(),
            limits.check_fewest(94, 5000).unwrap_err(),
            limits.check_fewest(5000, 300_000).unwrap_err(),
        ];
        for refusal in refusals {
            let known = ["is longer than the model's context length", "This model's maximum context length is"];
            assert!(known.iter().any(|words| refusal.message.contains(words)), "{refusal}");
        }
    }

    #[test]
    fn a_pool_smaller_than_the_context_bounds_too() {
        let limits = limits(1000, 100);
        assert!(limits.admit(&mut vec![0; 50], Some(51)).unwrap_err().message.contains("KV pool of 100 tokens"));
        assert_eq!(limits.admit_chat(&mut vec![0; 50], None), Ok(49));
    }

    #[test]
    fn what_agents_ask_beyond_the_room_is_cut_to_it() {
        let limits = limits(100, 1000);
        assert_eq!(limits.admit_chat(&mut vec![0; 90], Some(32_000)), Ok(10));
        assert_eq!(limits.admit_chat(&mut vec![0; 90], None), Ok(9));
        let typed = Limits { context_is_explicit: true, ..limits };
        assert!(typed.admit_chat(&mut vec![0; 9], Some(101)).unwrap_err().message.contains("is too large: 101"));
        assert_eq!(typed.admit_chat(&mut vec![0; 9], Some(100)), Ok(91));
    }

    #[test]
    fn truncation_is_asked_for_and_keeps_the_beginning() {
        let limits = Limits { truncate: true, ..limits(100, 1000) };
        let mut prompt: Vec<u32> = (0..200).collect();
        assert_eq!(limits.admit(&mut prompt, Some(50)), Ok(7));
        assert_eq!((prompt.len(), prompt[92]), (93, 92));
    }
}
