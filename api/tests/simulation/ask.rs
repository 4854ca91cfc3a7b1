//! [`Ask`]: what a client wants of the server, in the words of one of its APIs.

use quern_engine::{RowTask, SamplingParams, fake::FakeModel};
use serde_json::{Value, json};

use crate::{rng::Rng, support::with};

/// Tokens of the model's vocabulary.
pub(crate) const VOCAB: u32 = 269;

/// Tokens that end an output.
const ENDS: [u32; 2] = [256, 258];

/// Beginnings that prompts share. Each begins with a letter of its own.
const FAMILIES: usize = 6;

/// Longest beginning of a family, in tokens, which are bytes.
const FAMILY_BYTES: usize = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Api {
    Generate,
    Completions,
    Chat,
    Messages,
    Responses,
    Ollama,
}

impl Api {
    const ALL: [Self; 6] =
        [Self::Generate, Self::Completions, Self::Chat, Self::Messages, Self::Responses, Self::Ollama];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Generate => "/generate",
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
            Self::Ollama => "/api/chat",
        }
    }
}

/// A text, in ASCII, that shares its beginning with others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prompt {
    pub(crate) family: usize,
    /// Bytes of the family's beginning.
    pub(crate) shared: usize,
    own: String,
}

impl Prompt {
    fn new(rng: &mut Rng) -> Self {
        let own = (0..rng.between(1, 12)).map(|_| char::from(b'0' + rng.below(10) as u8)).collect();
        Self { family: rng.below(FAMILIES), shared: rng.below(FAMILY_BYTES + 1), own }
    }

    pub(crate) fn text(&self) -> String {
        let letter = char::from(b'A' + self.family as u8);
        let beginning = (0..self.shared).map(|i| if i == 0 { letter } else { char::from(b'a' + (i % 23) as u8) });
        beginning.chain(self.own.chars()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.shared + self.own.len()
    }
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) api: Api,
    pub(crate) prompt: Prompt,
    pub(crate) max_new: usize,
    pub(crate) streams: bool,
    pub(crate) n: usize,
    seed: u64,
    is_greedy: bool,
    ignores_eos: bool,
    stop: Option<char>,
    has_scores: bool,
    constraint: Option<&'static str>,
}

impl Ask {
    /// One for at most `longest` tokens.
    pub(crate) fn new(rng: &mut Rng, longest: usize) -> Self {
        let api = *rng.pick(&Api::ALL);
        Self {
            api,
            prompt: Prompt::new(rng),
            max_new: if rng.percent(80.0) {
                rng.between(1, longest.min(24))
            } else {
                rng.between(longest / 4, longest)
            },
            streams: rng.percent(60.0),
            n: if matches!(api, Api::Generate | Api::Completions | Api::Chat) && rng.percent(10.0) { 2 } else { 1 },
            seed: rng.next() >> 12,
            is_greedy: rng.percent(50.0),
            ignores_eos: rng.percent(70.0),
            stop: rng.percent(15.0).then(|| char::from(b'a' + rng.below(26) as u8)),
            has_scores: api == Api::Generate && rng.percent(10.0),
            constraint: (matches!(api, Api::Generate | Api::Chat) && rng.percent(4.0))
                .then(|| *rng.pick(&["[ab]{3,40}", "(x|yz)+"])),
        }
    }

    pub(crate) fn has_constraint(&self) -> bool {
        self.constraint.is_some()
    }

    pub(crate) fn lift_constraint(&mut self) {
        self.constraint = None;
    }

    pub(crate) fn body(&self, rid: Option<&str>) -> Value {
        let Self { max_new, streams, .. } = self;
        let text = self.prompt.text();
        let messages = json!([{"role": "user", "content": text}]);
        let temperature = if self.is_greedy { 0.0 } else { 1.0 };
        let stop: Vec<String> = self.stop.iter().map(char::to_string).collect();
        let openai = json!({"model": "m", "stream": streams, "max_tokens": max_new, "seed": self.seed, "n": self.n,
            "temperature": temperature, "ignore_eos": self.ignores_eos, "stop": stop, "repetition_penalty": 1.0,
            "rid": rid, "regex": self.constraint});
        match self.api {
            Api::Generate => json!({"text": text, "stream": streams, "rid": rid, "return_logprob": self.has_scores,
                "sampling_params": {"max_new_tokens": max_new, "temperature": temperature, "sampling_seed": self.seed,
                    "n": self.n, "ignore_eos": self.ignores_eos, "stop": stop, "repetition_penalty": 1.0,
                    "regex": self.constraint}}),
            Api::Completions => with(&openai, json!({"prompt": text})),
            Api::Chat => with(&openai, json!({"messages": messages})),
            Api::Messages => json!({"model": "m", "messages": messages, "max_tokens": max_new, "stream": streams,
                "temperature": 0.0, "stop_sequences": stop}),
            Api::Responses => json!({"model": "m", "input": text, "max_output_tokens": max_new, "stream": streams,
                "temperature": 0.0, "store": true}),
            Api::Ollama => json!({"model": "m", "messages": messages, "stream": streams,
                "options": {"num_predict": max_new, "temperature": temperature, "seed": self.seed, "stop": stop}}),
        }
    }

    /// What decides the outputs: two requests with the same have the same, whoever sends them, streamed or not.
    pub(crate) fn key(&self) -> String {
        let mut body = self.body(None);
        for field in ["stream", "rid", "store", "return_logprob"] {
            body.as_object_mut().expect("an object").remove(field);
        }
        format!("{} {body}", self.api.path())
    }

    /// The tokens that the model says to this alone, where they can be told without the server's help: those of the
    /// first output, and whether one of them ends it.
    pub(crate) fn expected(&self) -> Option<(Vec<u32>, bool)> {
        if self.api != Api::Generate || self.constraint.is_some() || self.stop.is_some() {
            return None;
        }
        let mut tokens: Vec<u32> = self.prompt.text().bytes().map(u32::from).collect();
        let begin = tokens.len();
        let temperature = if self.is_greedy { 0.0 } else { 1.0 };
        for step in 0..self.max_new {
            let task = RowTask::Sample {
                params: SamplingParams { temperature, ..SamplingParams::default() }.into(),
                seed: self.seed,
                step: step as u64,
                counts: None,
                banned: Vec::new().into(),
                mask: None,
            };
            let token = FakeModel::next_token(VOCAB, tokens.iter().copied(), &task);
            tokens.push(token);
            if !self.ignores_eos && ENDS.contains(&token) {
                return Some((tokens.split_off(begin), true));
            }
        }
        Some((tokens.split_off(begin), false))
    }
}
