//! [`ScoreReport`]: how an answer reports log-probabilities, and how many bytes of them a request may have.
//!
//! Fields that ask for scores are within limits of their own; their product with the places of a prompt and an output,
//! with the outputs, and with the frames of a stream that repeat what was sent before is bounded here.

use quern_engine::LogprobRequest;

use crate::protocol::ApiError;

/// Most bytes of log-probabilities in the answer of a request, as JSON. As many are held until it is sent.
pub const MAX_SCORE_BYTES: usize = 256 << 20;

/// Most such bytes in a stream whose frames repeat those before them; they are held a frame at a time.
pub const MAX_REPEATED_BYTES: usize = 1 << 30;

/// About what one takes: `[-0.12345678,151643,null],`.
const SCORE_BYTES: usize = 32;

/// The same with a token's text, and its bytes where OpenAI has them: `{"token":" the","bytes":[32,…],"logprob":-0.12345678},`.
pub const TEXT_SCORE_BYTES: usize = 64;

/// How an output's log-probabilities are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreReport {
    /// With the text of each token, not its id alone.
    pub with_text: bool,
    /// In frames that come every so many tokens, each with all scores so far.
    pub repeated_every: Option<usize>,
}

impl ScoreReport {
    /// Bytes that the scores of `outputs` outputs may take in an answer in one piece, and in all frames of one that
    /// repeats them.
    fn bytes(
        self,
        outputs: usize,
        prompt_tokens: usize,
        max_new_tokens: usize,
        logprobs: &LogprobRequest,
    ) -> ScoreBytes {
        let score_bytes = if self.with_text { TEXT_SCORE_BYTES } else { SCORE_BYTES };
        let place_bytes = outputs.saturating_mul(score_bytes * (1 + logprobs.top + logprobs.ids.len()));
        let prompt = logprobs.prompt_from.map_or(0, |from| prompt_tokens.saturating_sub(from));
        let whole = prompt.saturating_add(max_new_tokens);
        let repeated = self.repeated_every.map_or(0, |interval| {
            // One frame at the first token, one every `interval`, one at the end.
            let frames = max_new_tokens.div_ceil(interval.max(1)).saturating_add(1);
            let of_output = interval.saturating_mul(frames.saturating_mul(frames - 1) / 2).saturating_add(1);
            frames.saturating_mul(prompt).saturating_add(of_output)
        });
        let bytes = |places: usize| places.saturating_mul(place_bytes);
        ScoreBytes { whole: bytes(whole), repeated: bytes(repeated) }
    }

    /// What an output of these lengths may add to its answer.
    pub fn of_output(
        self,
        prompt_tokens: usize,
        max_new_tokens: usize,
        logprobs: Option<&LogprobRequest>,
    ) -> ScoreBytes {
        logprobs.map_or(ScoreBytes::default(), |logprobs| self.bytes(1, prompt_tokens, max_new_tokens, logprobs))
    }

    /// Most tokens of an output whose length the request leaves open, so that the scores of so many `outputs` like it
    /// stay within their bounds; at least 1.
    pub fn open_length(self, outputs: usize, prompt_tokens: usize, logprobs: Option<&LogprobRequest>) -> usize {
        let Some(logprobs) = logprobs else { return usize::MAX };
        let fits = |length: usize| self.bytes(outputs, prompt_tokens, length, logprobs).check(outputs).is_ok();
        // The longest that fits: bytes grow with the length.
        let (mut fitting, mut beyond) = (1, MAX_SCORE_BYTES);
        while fitting + 1 < beyond {
            let middle = fitting + (beyond - fitting) / 2;
            *(if fits(middle) { &mut fitting } else { &mut beyond }) = middle;
        }
        fitting
    }
}

/// Bytes of log-probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreBytes {
    /// Of an answer in one piece.
    whole: usize,
    /// Of all frames of a stream that repeat them.
    repeated: usize,
}

impl ScoreBytes {
    /// Those of several outputs together.
    pub fn sum(outputs: impl Iterator<Item = Self>) -> Self {
        outputs.fold(Self::default(), |sum, more| Self {
            whole: sum.whole.saturating_add(more.whole),
            repeated: sum.repeated.saturating_add(more.repeated),
        })
    }

    /// Those of an answer in one piece.
    pub fn whole(self) -> usize {
        self.whole
    }

    /// Refuse more than a request of `outputs` outputs may have.
    ///
    /// # Errors
    /// If they are more than that.
    pub fn check(self, outputs: usize) -> Result<(), ApiError> {
        let Self { whole, repeated } = self;
        if whole > MAX_SCORE_BYTES {
            let message = format!(
                "top_logprobs (top_logprobs_num, token_ids_logprob, logprobs), max_tokens (max_new_tokens) and n: the \
                 log-probabilities of {outputs} outputs may have {whole} bytes together; at most {MAX_SCORE_BYTES} are \
                 allowed in one request."
            );
            return Err(ApiError::invalid(message).about("top_logprobs"));
        }
        if repeated > MAX_REPEATED_BYTES {
            let message = format!(
                "stream, return_logprob, top_logprobs_num, token_ids_logprob, max_new_tokens and n: every frame repeats \
                 the log-probabilities before it, which makes {repeated} bytes for {outputs} outputs; at most \
                 {MAX_REPEATED_BYTES} are sent in one stream. A larger stream_interval, stream: false or the server's \
                 --incremental-streaming-output need fewer."
            );
            return Err(ApiError::invalid(message).about("stream"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprobs(prompt_from: Option<usize>, top: usize) -> LogprobRequest {
        LogprobRequest { prompt_from, top, ids: Vec::new() }
    }

    /// Places in all frames of a cumulative stream, counted one frame after the other as they are sent.
    fn places(prompt: usize, tokens: usize, interval: usize) -> usize {
        let is_frame = |&token: &usize| token == 1 || token == tokens || token % interval == 0;
        (1..=tokens).filter(is_frame).map(|token| prompt + token).sum()
    }

    #[test]
    fn frames_that_repeat_are_counted_as_they_are_sent() {
        for (prompt, tokens, interval) in [(0, 1, 1), (0, 100, 1), (7, 100, 1), (7, 100, 8), (50, 96, 32), (3, 5, 100)]
        {
            let report = ScoreReport { with_text: false, repeated_every: Some(interval) };
            let ScoreBytes { whole, repeated } = report.of_output(prompt + 2, tokens, Some(&logprobs(Some(2), 4)));
            assert_eq!(whole, (prompt + tokens) * 5 * SCORE_BYTES);
            let (sent, most) = (places(prompt, tokens, interval), repeated / (5 * SCORE_BYTES));
            // Never less, and at most a frame more.
            assert!(sent <= most && most <= sent + prompt + tokens + interval, "{sent} and {most}");
        }
        assert_eq!(ScoreReport::default().of_output(9, 9, None), ScoreBytes::default());
    }

    #[test]
    fn a_length_that_is_left_open_fits() {
        let forms = [(false, None), (true, None), (false, Some(1)), (true, Some(16))];
        for (with_text, repeated_every) in forms {
            let report = ScoreReport { with_text, repeated_every };
            for (outputs, prompt, top) in [(1, 0, 0), (64, 0, 20), (3, 10_000, 5)] {
                let wanted = logprobs(Some(0), top);
                let length = report.open_length(outputs, prompt, Some(&wanted));
                let check = |length| report.bytes(outputs, prompt, length, &wanted).check(outputs);
                assert!(check(length).is_ok() && check(length + 1).is_err(), "{report:?}: {length}");
            }
        }
        assert_eq!(ScoreReport::default().open_length(64, 5, None), usize::MAX);
    }
}
