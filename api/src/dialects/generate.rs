//! [`Native`]: the answers of `/generate`, SGLang's own endpoint.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use quern_engine::{LogprobRequest, TokenLogprobs};
use quern_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    chat_generation::{ChatGeneration, OutputDelta},
    generate::{Output, TOKEN_BYTES},
    logprobs::{NativeScores, scores_bytes},
    outcome::{FinishWords, Outcome},
    protocol::ApiError,
    respond::Dialect,
    state::AppState,
    stream::Frames,
};

/// The scores of one output, as far as they are known.
pub struct OutputScores {
    wanted: LogprobRequest,
    first_token: u32,
    /// Of the prompt, once it is computed.
    input: Option<NativeScores>,
    output: NativeScores,
}

impl OutputScores {
    /// None yet, of an output whose prompt begins with `first_token`.
    pub fn of(logprobs: Option<&LogprobRequest>, first_token: u32) -> Option<Self> {
        let output = NativeScores::default();
        logprobs.map(|wanted| Self { wanted: wanted.clone(), first_token, input: None, output })
    }

    fn write(&mut self, tokenizer: Option<&Tokenizer>, prompt: &[TokenLogprobs], out: &mut Vec<u8>) {
        let input = self.input.get_or_insert_with(|| {
            let mut input = NativeScores::default();
            if self.wanted.prompt_from == Some(0) {
                input.push_first(tokenizer, self.first_token);
            }
            prompt.iter().for_each(|score| input.push(tokenizer, score));
            input
        });
        NativeScores::write(input, &self.output, &self.wanted, out);
    }
}

/// An answer of `/generate`.
pub struct Native {
    /// Of each output, if asked for.
    scores: Vec<Option<OutputScores>>,
    with_text: bool,
    is_list: bool,
    /// What each output has said: all of it, or in a stream with `--incremental-streaming-output` what is new.
    outputs: Vec<OutputDelta>,
}

impl Native {
    /// An answer whose outputs have these scores, spelled `with_text`; a list of outputs or one.
    pub fn new(scores: Vec<Option<OutputScores>>, with_text: bool, is_list: bool) -> Self {
        Self { outputs: vec![OutputDelta::default(); scores.len()], scores, with_text, is_list }
    }

    /// What an output has said so far; `logprobs` are those since it was last written.
    fn write(&mut self, generation: &ChatGeneration, index: usize, logprobs: &[TokenLogprobs], out: &mut Vec<u8>) {
        let (said, output, state) = (&self.outputs[index], &generation.outputs()[index], generation.state());
        let tokenizer = self.with_text.then_some(&*state.tokenizer);
        write_json(out, "{\"text\":", &said.text());
        write_json(out, ",\"output_ids\":", &said.tokens);
        write_json(out, ",\"meta_info\":", &meta_info(output, said.outcome.as_ref(), state));
        if let Some(known) = &mut self.scores[index] {
            // Between the braces of `meta_info`.
            out.pop();
            logprobs.iter().for_each(|score| known.output.push(tokenizer, score));
            known.write(tokenizer, &output.prompt.logprobs, out);
            out.push(b'}');
        }
        if self.is_list && generation.streams() {
            write_json(out, ",\"index\":", &index);
        }
        out.push(b'}');
    }
}

impl Dialect for Native {
    const WORDS: FinishWords = FinishWords {
        stop_token: "stop",
        stop_text: "stop",
        tool_calls: "stop",
        length: "length",
        abort: Some("abort"),
    };

    /// A frame repeats those before it.
    fn delta_bytes(&self, generation: &ChatGeneration, delta: &OutputDelta) -> usize {
        let output = &generation.outputs()[delta.index];
        let said = self.outputs[delta.index].tokens.len() * TOKEN_BYTES;
        let scores = self.scores[delta.index].as_ref().map_or(0, |known| match &known.input {
            None => known.output.bytes() + scores_bytes(&output.prompt.logprobs),
            Some(input) => known.output.bytes() + input.bytes(),
        });
        said + scores + delta.bytes()
    }

    fn delta(&mut self, generation: &ChatGeneration, mut delta: OutputDelta, frames: &mut Frames) {
        let index = delta.index;
        if !generation.streams() {
            return self.outputs[index].append(delta);
        }
        if generation.state().config.incremental_streaming_output {
            self.outputs[index] = OutputDelta::default();
            self.scores[index].iter_mut().for_each(|scores| scores.output.clear());
        }
        let logprobs = std::mem::take(&mut delta.logprobs);
        self.outputs[index].append(delta);
        let mut json = Vec::new();
        self.write(generation, index, &logprobs, &mut json);
        frames.json(&json);
    }

    fn idle(&mut self, _: &ChatGeneration, frames: &mut Frames) {
        frames.comment();
    }

    fn close(&mut self, _: &ChatGeneration, frames: &mut Frames) {
        frames.done();
    }

    fn fail(&mut self, _: &ChatGeneration, error: ApiError, frames: &mut Frames) {
        frames.data(&error.native_frame());
        frames.done();
    }

    fn whole(mut self, generation: &ChatGeneration) -> Response {
        let mut body = Vec::new();
        for index in 0..self.outputs.len() {
            body.push(if index == 0 { b'[' } else { b',' });
            let logprobs = std::mem::take(&mut self.outputs[index].logprobs);
            self.write(generation, index, &logprobs, &mut body);
        }
        let body = if self.is_list { [&body[..], b"]"].concat() } else { body.split_off(1) };
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

fn meta_info(output: &Output, outcome: Option<&Outcome>, state: &AppState) -> Map<String, Value> {
    let mut info = Map::from_iter([
        ("id".into(), json!(output.id)),
        ("finish_reason".into(), outcome.map(|outcome| finish_reason(output, outcome)).unwrap_or_default()),
        ("prompt_tokens".into(), json!(output.prompt_tokens)),
        ("weight_version".into(), json!(state.config.weight_version)),
        ("num_retractions".into(), json!(output.num_retractions)),
        ("reasoning_tokens".into(), json!(0)),
        ("completion_tokens".into(), json!(output.completion_tokens())),
        ("cached_tokens".into(), json!(output.prompt.cached_tokens)),
        ("response_sent_to_client_ts".into(), json!(state.clock.since_1970().as_secs_f64())),
    ]);
    if outcome.is_some() {
        info.insert("e2e_latency".into(), json!(output.seconds));
    }
    info
}

fn finish_reason(output: &Output, outcome: &Outcome) -> Value {
    let kind = outcome.reason(&Native::WORDS);
    match outcome {
        Outcome::Length => json!({ "type": kind, "length": output.completion_tokens() }),
        Outcome::Abort(message) => {
            json!({ "type": kind, "message": message, "status_code": null, "err_type": null })
        }
        stop => json!({ "type": kind, "matched": stop.matched() }),
    }
}

fn write_json(out: &mut Vec<u8>, key: &str, value: &impl Serialize) {
    out.extend_from_slice(key.as_bytes());
    serde_json::to_writer(out, value).expect("wire types are plain data");
}
