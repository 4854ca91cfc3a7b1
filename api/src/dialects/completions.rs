//! [`Completions`]: the answers of `/v1/completions`.

use axum::{
    Json,
    response::{IntoResponse, Response},
};

use super::OpenAiHead;
use crate::{
    chat_generation::{ChatGeneration, OutputDelta},
    logprobs::{self, scores_bytes},
    outcome::FinishWords,
    protocol::{
        ApiError,
        completions::{Completion, CompletionChoice, CompletionLogprobs},
        usage::{Usage, metadata},
    },
    respond::Dialect,
    stream::Frames,
};

/// An answer of completions. Output `i` is sample `i % n` of prompt `i / n`.
pub struct Completions {
    head: OpenAiHead,
    /// The first token of each prompt; it has no score.
    first_tokens: Vec<u32>,
    /// The text of each prompt, if it is to be echoed.
    echoes: Vec<String>,
    wants_logprobs: bool,
    n: usize,
    /// Where the next token of each output begins in its text, in characters.
    offsets: Vec<usize>,
    /// Whether a stream has said anything of each output.
    begun: Vec<bool>,
    /// What each output has said, where the answer does not stream.
    outputs: Vec<OutputDelta>,
}

impl Completions {
    /// The answer that `generation` becomes: of prompts with these first tokens, each with as many outputs.
    pub fn new(
        head: OpenAiHead,
        first_tokens: Vec<u32>,
        echoes: Vec<String>,
        wants_logprobs: bool,
        generation: &ChatGeneration,
    ) -> Self {
        let outputs = generation.outputs().len();
        Self {
            head,
            n: outputs / first_tokens.len(),
            first_tokens,
            echoes,
            wants_logprobs,
            offsets: vec![0; outputs],
            begun: vec![false; outputs],
            outputs: vec![OutputDelta::default(); outputs],
        }
    }

    fn part(&self) -> Completion<'_> {
        let OpenAiHead { id, created, model, .. } = &self.head;
        Completion {
            id,
            object: "text_completion",
            created: *created,
            model,
            choices: Vec::new(),
            usage: None,
            metadata: None,
        }
    }

    fn choice(&mut self, generation: &ChatGeneration, delta: &OutputDelta, is_first: bool) -> CompletionChoice {
        let echo = self.echoes.get(delta.index / self.n).filter(|_| is_first).cloned();
        let logprobs = self.logprobs(generation, delta, echo.is_some());
        CompletionChoice {
            index: delta.index,
            text: echo.unwrap_or_default() + &delta.text(),
            logprobs,
            finish_reason: delta.outcome.as_ref().map(|outcome| outcome.reason(&Self::WORDS)),
            matched_stop: delta.outcome.as_ref().map(|outcome| outcome.matched()).unwrap_or_default(),
        }
    }

    fn logprobs(&mut self, generation: &ChatGeneration, delta: &OutputDelta, echo: bool) -> Option<CompletionLogprobs> {
        if !self.wants_logprobs {
            return None;
        }
        let prompt = &generation.outputs()[delta.index].prompt.logprobs;
        let echoed = echo.then(|| (self.first_tokens[delta.index / self.n], prompt.as_slice()));
        let any = echoed.is_some() || !delta.logprobs.is_empty();
        let offset = &mut self.offsets[delta.index];
        any.then(|| logprobs::completion(&generation.state().tokenizer, echoed, &delta.logprobs, offset))
    }

    /// Each prompt counts once, however many outputs it has.
    fn usage(&self, generation: &ChatGeneration) -> Usage {
        let outputs = generation.outputs();
        let prompts = || outputs.iter().step_by(self.n);
        Usage::new(
            prompts().map(|output| output.prompt_tokens).sum(),
            outputs.iter().map(|output| output.completion_tokens()).sum(),
            prompts().map(|output| output.prompt.cached_tokens).sum(),
        )
    }
}

impl Dialect for Completions {
    const WORDS: FinishWords = FinishWords {
        stop_token: "stop",
        stop_text: "stop",
        tool_calls: "stop",
        length: "length",
        abort: Some("abort"),
    };

    fn delta_bytes(&self, generation: &ChatGeneration, delta: &OutputDelta) -> usize {
        let echo = self.echoes.get(delta.index / self.n).filter(|_| !self.begun[delta.index]);
        let prompt =
            echo.map_or(0, |text| text.len() + scores_bytes(&generation.outputs()[delta.index].prompt.logprobs));
        prompt + delta.bytes()
    }

    fn delta(&mut self, generation: &ChatGeneration, delta: OutputDelta, frames: &mut Frames) {
        let index = delta.index;
        if !generation.streams() {
            return self.outputs[index].append(delta);
        }
        let choice = self.choice(generation, &delta, !self.begun[index]);
        self.begun[index] = true;
        if !choice.text.is_empty() || choice.logprobs.is_some() || choice.finish_reason.is_some() {
            let usage = self.head.continuous_usage.then(|| self.usage(generation));
            frames.data(&Completion { choices: vec![choice], usage, ..self.part() });
        }
    }

    fn idle(&mut self, _: &ChatGeneration, frames: &mut Frames) {
        frames.data(&Completion { choices: vec![CompletionChoice::default()], ..self.part() });
    }

    fn close(&mut self, generation: &ChatGeneration, frames: &mut Frames) {
        if self.head.include_usage {
            frames.data(&Completion { usage: Some(self.usage(generation)), ..self.part() });
        }
        frames.done();
    }

    fn fail(&mut self, _: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        frames.data(&error.openai_frame());
        frames.done();
    }

    fn whole(mut self, generation: &ChatGeneration) -> Response {
        let outputs = std::mem::take(&mut self.outputs);
        let choices = outputs.iter().map(|output| self.choice(generation, output, true)).collect();
        let usage = Some(self.usage(generation));
        let metadata = Some(metadata(&generation.state().config.weight_version));
        Json(Completion { choices, usage, metadata, ..self.part() }).into_response()
    }
}
