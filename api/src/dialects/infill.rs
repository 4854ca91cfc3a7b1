//! [`Infill`]: the answers of `/infill` and `/completion`, llama.cpp's.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use crate::{
    chat_generation::{ChatGeneration, OutputDelta},
    outcome::{FinishWords, Outcome},
    protocol::{
        ApiError,
        infill::{InfillEnd, InfillPiece, Timings},
    },
    respond::Dialect,
    stopwatch::{Laps, Stopwatch},
    stream::Frames,
};

/// An answer of llama.cpp's: text.
pub struct Infill {
    model: String,
    watch: Stopwatch,
    /// The longest time from its first word on, once it has a line.
    most: Option<Duration>,
    has_line: bool,
    /// What of the last piece is wanted.
    wanted: Vec<String>,
    /// What has been said, where the answer does not stream.
    content: String,
    outcome: Outcome,
}

impl Infill {
    /// An answer that says nothing yet, to a request that came when `watch` was started.
    pub fn new(model: String, watch: Stopwatch, most: Option<Duration>, wanted: Vec<String>) -> Self {
        Self { model, watch, most, has_line: false, wanted, content: String::new(), outcome: Outcome::Length }
    }

    /// The last piece: all of it, or what is wanted of it under the names that it is wanted by.
    fn last(&self, generation: &ChatGeneration, content: String) -> Value {
        let whole = serde_json::to_value(self.piece(generation, content, Some(self.end(generation))))
            .expect("wire types are plain data");
        if self.wanted.is_empty() {
            return whole;
        }
        let mut found = Map::new();
        for path in &self.wanted {
            // A path may be wanted many times, and its value may be long.
            if let (false, Some(value)) =
                (found.contains_key(path), path.split('/').try_fold(&whole, |value, key| value.get(key)))
            {
                found.insert(path.clone(), value.clone());
            }
        }
        found.into()
    }

    fn piece(&self, generation: &ChatGeneration, content: String, end: Option<InfillEnd>) -> InfillPiece<'_> {
        let output = &generation.outputs()[0];
        InfillPiece {
            content,
            stop: end.is_some(),
            id_slot: -1,
            model: &self.model,
            tokens_predicted: output.completion_tokens(),
            tokens_evaluated: output.prompt_tokens,
            end,
        }
    }

    fn end(&self, generation: &ChatGeneration) -> InfillEnd {
        let output = &generation.outputs()[0];
        let cache_n = output.prompt.cached_tokens;
        let Laps { prompt, answer } = self.watch.laps();
        let (prompt_n, predicted_n) = (output.prompt_tokens - cache_n, output.completion_tokens());
        let each = |ms: f64, n: usize| if n == 0 { (0.0, 0.0) } else { (ms / n as f64, n as f64 * 1e3 / ms.max(1e-3)) };
        let (prompt_ms, predicted_ms) = (prompt.as_secs_f64() * 1e3, answer.as_secs_f64() * 1e3);
        let (prompt_per_token_ms, prompt_per_second) = each(prompt_ms, prompt_n);
        let (predicted_per_token_ms, predicted_per_second) = each(predicted_ms, predicted_n);
        InfillEnd {
            stop_type: self.outcome.reason(&Self::WORDS),
            stopping_word: self.outcome.matched().as_str().unwrap_or_default().to_owned(),
            tokens_cached: cache_n,
            truncated: false,
            timings: Timings {
                cache_n,
                prompt_n,
                prompt_ms,
                prompt_per_token_ms,
                prompt_per_second,
                predicted_n,
                predicted_ms,
                predicted_per_token_ms,
                predicted_per_second,
            },
        }
    }
}

impl Dialect for Infill {
    const WORDS: FinishWords =
        FinishWords { stop_token: "eos", stop_text: "word", tool_calls: "eos", length: "limit", abort: None };

    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames) {
        self.watch.word();
        let content = delta.text();
        self.has_line |= content.contains('\n');
        if !generation.streams() {
            self.content += &content;
        } else if !content.is_empty() {
            frames.data(&self.piece(generation, content, None));
        }
        if let Some(outcome) = delta.outcome {
            self.outcome = outcome;
        }
    }

    fn idle(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        frames.data(&self.piece(generation, String::new(), None));
    }

    /// Whether its time is over. As in llama.cpp, the first line is written to its end.
    fn is_over(&self) -> bool {
        self.has_line && self.most.is_some_and(|most| self.watch.laps().answer > most)
    }

    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        frames.data(&self.last(generation, String::new()));
    }

    fn fail(&mut self, _: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        frames.data(&error.openai_frame());
    }

    fn whole(mut self, generation: &ChatGeneration) -> Response {
        let content = std::mem::take(&mut self.content);
        Json(self.last(generation, content)).into_response()
    }
}
