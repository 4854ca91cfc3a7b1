//! [`Recorder`]: from the payloads of a stream and the times they came at to the figures of one request.
//!
//! It has no clock: times are given to it, in seconds since the run began.

use crate::backend::{Chunk, Piece, Protocol};

/// A chunk that brought tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds since the run began.
    pub at_s: f64,
    /// Tokens it brought.
    pub tokens: usize,
}

/// What became of one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Seconds from the run's beginning to the sending of the request.
    pub start_s: f64,
    /// Seconds from its sending to the last line of its answer.
    pub latency_s: f64,
    /// Chunks that brought text, in order.
    pub arrivals: Vec<Arrival>,
    /// Tokens generated: the server's count, or the length asked for where the server does not count.
    pub output_len: usize,
    /// Whether the server counted.
    pub counted: bool,
    /// Tokens of the prompt, as the server counts them.
    pub prompt_tokens: Option<usize>,
    /// Those of them that came from the cache.
    pub cached_tokens: Option<usize>,
    /// The answer.
    pub text: String,
    /// Why the request failed, if it did.
    pub error: Option<String>,
}

impl Recording {
    /// Whether the answer came to its regular end.
    pub fn succeeded(&self) -> bool {
        self.error.is_none()
    }

    /// Seconds to the first text; 0 where none came, as in SGLang's client.
    pub fn ttft_s(&self) -> f64 {
        self.arrivals.first().map_or(0.0, |first| first.at_s - self.start_s)
    }

    /// Seconds from one token to the next: the gap before a chunk, shared among the tokens it brought.
    pub fn itls_s(&self) -> impl Iterator<Item = f64> + '_ {
        self.arrivals.windows(2).flat_map(|pair| {
            let gap = pair[1].at_s - pair[0].at_s;
            std::iter::repeat_n(gap / pair[1].tokens as f64, pair[1].tokens)
        })
    }

    /// Mean seconds a token after the first; none for an answer of one token.
    pub fn tpot_s(&self) -> Option<f64> {
        (self.output_len > 1).then(|| (self.latency_s - self.ttft_s()) / (self.output_len - 1) as f64)
    }

    /// When the last line came.
    pub fn end_s(&self) -> f64 {
        self.start_s + self.latency_s
    }

    /// A request that failed before or without an answer.
    pub fn failed(start_s: f64, error: String) -> Self {
        Self { start_s, error: Some(error), ..Self::default() }
    }
}

/// Makes a [`Recording`] out of a stream.
pub struct Recorder {
    protocol: Protocol,
    recording: Recording,
    tokens_so_far: usize,
    /// All text so far as a JSON string, where chunks repeat it.
    whole: String,
    ended: bool,
    /// Tokens that [`Recorder::take_unreported`] has not told yet.
    unreported: usize,
}

impl Recorder {
    /// For a request for `output_len` tokens, sent `start_s` seconds into the run.
    pub fn new(protocol: Protocol, start_s: f64, output_len: usize) -> Self {
        let recording = Recording { start_s, output_len, ..Recording::default() };
        Self { protocol, recording, tokens_so_far: 0, whole: String::new(), ended: false, unreported: 0 }
    }

    /// A payload that came at `at_s`.
    ///
    /// # Errors
    /// What is wrong with it, or what the server says went wrong. The stream is then over.
    pub fn payload(&mut self, at_s: f64, payload: &[u8]) -> Result<(), String> {
        self.recording.latency_s = at_s - self.recording.start_s;
        let chunk = Chunk::parse(self.protocol, payload).map_err(|error| {
            let start = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
            format!("a chunk that is not understood ({error}): {start}")
        })?;
        if let Some(error) = chunk.error {
            return Err(error);
        }
        self.ended |= chunk.ends;
        self.recording.prompt_tokens = chunk.prompt_tokens.or(self.recording.prompt_tokens);
        self.recording.cached_tokens = chunk.cached_tokens.or(self.recording.cached_tokens);
        match chunk.piece {
            Some(Piece::Whole(raw)) => {
                self.whole.clear();
                self.whole.push_str(raw);
                let tokens = chunk.completion_tokens.unwrap_or(self.tokens_so_far + 1);
                self.recording.output_len = tokens;
                self.recording.counted = chunk.completion_tokens.is_some();
                // A chunk without a new token moves no clock.
                if self.recording.arrivals.is_empty() || tokens > self.tokens_so_far {
                    self.arrive(at_s, tokens - self.tokens_so_far);
                    self.tokens_so_far = tokens;
                }
            }
            Some(Piece::More(text)) => {
                self.recording.text.push_str(&text);
                self.arrive(at_s, 1);
            }
            None => {}
        }
        if let Some(tokens) = chunk.completion_tokens.filter(|_| self.protocol != Protocol::Generate) {
            self.recording.output_len = tokens;
            self.recording.counted = true;
        }
        Ok(())
    }

    fn arrive(&mut self, at_s: f64, tokens: usize) {
        self.unreported += tokens;
        self.recording.arrivals.push(Arrival { at_s, tokens });
    }

    /// Tokens that have come since the last call.
    pub fn take_unreported(&mut self) -> usize {
        std::mem::take(&mut self.unreported)
    }

    /// The stream is over, at its end or with an error.
    pub fn finish(mut self, outcome: Result<(), String>) -> Recording {
        if !self.whole.is_empty() {
            self.recording.text = serde_json::from_str(&self.whole).unwrap_or_default();
        }
        self.recording.error = match outcome {
            Ok(()) if !self.ended => Some("the stream ended before the answer did".into()),
            Ok(()) => None,
            Err(error) => Some(error),
        };
        self.recording
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate(text: &str, tokens: usize) -> Vec<u8> {
        format!(r#"{{"text":"{text}","meta_info":{{"completion_tokens":{tokens},"finish_reason":null}}}}"#).into_bytes()
    }

    #[test]
    fn a_gap_is_shared_among_the_tokens_of_its_chunk() {
        let mut recorder = Recorder::new(Protocol::Generate, 10.0, 7);
        recorder.payload(10.5, &generate("a", 1)).expect("right");
        recorder.payload(10.625, &generate("ab", 2)).expect("right");
        recorder.payload(10.75, &generate("ab", 2)).expect("no new token");
        recorder.payload(11.0, &generate("abcde", 5)).expect("right");
        recorder.payload(11.25, b"[DONE]").expect("right");
        let recording = recorder.finish(Ok(()));
        assert!(recording.succeeded());
        assert_eq!(recording.ttft_s(), 0.5);
        assert_eq!(recording.itls_s().collect::<Vec<_>>(), [0.125, 0.125, 0.125, 0.125]);
        assert_eq!(recording.latency_s, 1.25);
        assert_eq!((recording.output_len, recording.text.as_str()), (5, "abcde"));
        assert_eq!(recording.tpot_s(), Some(0.75 / 4.0));
    }

    #[test]
    fn openai_chunks_count_one_each_and_usage_counts_the_answer() {
        let mut recorder = Recorder::new(Protocol::Completions, 0.0, 64);
        for (at, text) in [(1.0, "x"), (1.5, ""), (2.0, "y"), (2.25, "z")] {
            let chunk = format!(r#"{{"choices":[{{"text":"{text}"}}]}}"#);
            recorder.payload(at, chunk.as_bytes()).expect("right");
        }
        recorder.payload(3.0, br#"{"choices":[],"usage":{"completion_tokens":9}}"#).expect("right");
        recorder.payload(3.5, b"[DONE]").expect("right");
        let recording = recorder.finish(Ok(()));
        assert_eq!(recording.itls_s().collect::<Vec<_>>(), [1.0, 0.25]);
        assert_eq!((recording.output_len, recording.counted), (9, true));
        assert_eq!((recording.ttft_s(), recording.latency_s), (1.0, 3.5));
    }

    #[test]
    fn without_usage_the_length_asked_for_counts() {
        let mut recorder = Recorder::new(Protocol::Chat, 0.0, 64);
        recorder.payload(1.0, br#"{"choices":[{"delta":{"content":"x"},"finish_reason":"length"}]}"#).expect("right");
        let recording = recorder.finish(Ok(()));
        assert_eq!((recording.output_len, recording.counted), (64, false));
        assert!(recording.succeeded());
    }

    #[test]
    fn a_stream_that_stops_short_has_failed() {
        let mut recorder = Recorder::new(Protocol::Generate, 0.0, 4);
        recorder.payload(1.0, &generate("a", 1)).expect("right");
        let recording = recorder.finish(Ok(()));
        assert_eq!(recording.error.as_deref(), Some("the stream ended before the answer did"));
        let recorder = Recorder::new(Protocol::Chat, 0.0, 4);
        assert_eq!(recorder.finish(Err("reset".into())).error.as_deref(), Some("reset"));
    }

    #[test]
    fn rubbish_is_quoted() {
        let mut recorder = Recorder::new(Protocol::Chat, 0.0, 4);
        let error = recorder.payload(1.0, b"{<html>").expect_err("not JSON");
        assert!(error.contains("{<html>"), "{error}");
    }
}
