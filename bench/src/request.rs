//! [`Request`]: one thing to ask a server for, before it is put into any interface's words.

use serde_json::{Map, Value, json};

/// What the model is to continue or answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// A conversation.
    Messages(Vec<Value>),
}

/// One thing to ask a server for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the model is to continue or answer.
    pub prompt: Prompt,
    /// Tokens of the prompt as the dataset counts them; none where only the server can count them.
    pub prompt_len: Option<usize>,
    /// Tokens to generate.
    pub output_len: usize,
    /// Fields of this request's own, merged into the body (tools and the like).
    pub extra: Map<String, Value>,
    /// Sent as `X-SMG-Routing-Key`, so that a router sends equal keys to one worker.
    pub routing_key: Option<String>,
}

impl Request {
    /// A request for `output_len` tokens after `prompt`.
    pub fn new(prompt: Prompt, prompt_len: Option<usize>, output_len: usize) -> Self {
        Self { prompt, prompt_len, output_len, extra: Map::new(), routing_key: None }
    }
}

/// Requests that one user makes one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// In this order, each after the answer to the one before it.
    pub turns: Vec<Request>,
    /// Whether each turn's messages are only what is new, to be sent after all earlier ones and the model's
    /// answers to them.
    pub continues: bool,
}

impl From<Request> for Session {
    fn from(request: Request) -> Self {
        Self { turns: vec![request], continues: false }
    }
}

/// The conversation of a session so far.
#[derive(Default)]
pub struct History(Vec<Value>);

impl History {
    /// The whole conversation that `request` asks to continue.
    pub fn extended(&mut self, request: &Request) -> Request {
        let new = match &request.prompt {
            Prompt::Messages(messages) => messages.clone(),
            Prompt::Text(text) => vec![json!({"role": "user", "content": text})],
            Prompt::Ids(_) => unreachable!("datasets of conversations hold text"),
        };
        self.0.extend(new);
        Request { prompt: Prompt::Messages(self.0.clone()), ..request.clone() }
    }

    /// What the model answered.
    pub fn answered(&mut self, text: &str) {
        self.0.push(json!({"role": "assistant", "content": text}));
    }
}
