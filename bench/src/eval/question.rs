//! [`Evaluation`]: questions, and how answers to them are judged.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Questions, and how answers to them are judged.
pub trait Evaluation: Send + Sync {
    /// Its name, also in the name of its results' file.
    fn name(&self) -> &str;

    /// All that results depend on besides the questions.
    fn settings(&self) -> Value;

    /// What is asked.
    fn questions(&self) -> &[Question];

    /// Judge the answers to one question. Called where blocking is allowed.
    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict;
}

/// One question.
#[derive(Clone, Debug)]
pub struct Question {
    /// Tells it from the others.
    pub id: String,
    /// The path to ask.
    pub path: &'static str,
    /// The body to send.
    pub body: Value,
    /// How often it is asked.
    pub samples: usize,
    /// What the answer is compared with.
    pub wanted: Value,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// The tools it calls, in OpenAI's form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub finish_reason: String,
}

impl Answer {
    /// Out of what `/generate`, a completion or a chat completion answers.
    pub fn read(answer: &Value) -> Option<Self> {
        let count = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0) as usize;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
        if let Some(meta) = answer.get("meta_info") {
            return Some(Self {
                text: answer.get("text")?.as_str()?.to_owned(),
                tool_calls: Vec::new(),
                completion_tokens: count(meta.get("completion_tokens")),
                finish_reason: text(meta.get("finish_reason").and_then(|reason| reason.get("type"))),
            });
        }
        let choice = answer.get("choices")?.get(0)?;
        let completion_tokens = count(answer.get("usage").and_then(|usage| usage.get("completion_tokens")));
        let finish_reason = text(choice.get("finish_reason"));
        if let Some(plain) = choice.get("text") {
            let text = plain.as_str()?.to_owned();
            return Some(Self { text, tool_calls: Vec::new(), completion_tokens, finish_reason });
        }
        let message = choice.get("message")?;
        let tool_calls = message.get("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default();
        Some(Self { text: text(message.get("content")), tool_calls, completion_tokens, finish_reason })
    }
}

/// How good the answers to one question are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// From 0 to 1.
    pub score: f64,
    /// Whether anything was found in the answer that could be right or wrong.
    pub valid: bool,
    /// What was found there.
    pub found: Value,
    /// Answers that are right, of all; what pass@k is computed from.
    pub right: usize,
}

impl Verdict {
    /// Of a single answer.
    pub fn single(is_right: bool, found: Option<Value>) -> Self {
        Self {
            score: f64::from(u8::from(is_right)),
            valid: found.is_some(),
            found: found.unwrap_or(Value::Null),
            right: usize::from(is_right),
        }
    }
}

/// A question with its answers and what they are worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The question's.
    pub id: String,
    /// What was sent.
    pub body: Value,
    /// What the answers are compared with.
    pub wanted: Value,
    /// The answers.
    pub answers: Vec<Answer>,
    /// What they are worth.
    pub verdict: Verdict,
    /// Seconds that the answers took.
    pub seconds: f64,
    /// Seconds from the beginning of the session to the last answer.
    pub at_s: f64,
    /// How often the evaluation had been broken off before.
    pub session: usize,
}

/// Body of a chat completion without a stream.
pub(super) fn chat_body(model: &str, prompt: &str, sampling: &ChatSampling) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": prompt}]});
    let fields = body.as_object_mut().expect("an object");
    fields.extend(sampling.fields());
    body
}

/// How run_eval samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChatSampling {
    pub(super) temperature: f64,
    pub(super) top_p: f64,
    pub(super) max_tokens: usize,
}

impl ChatSampling {
    pub(super) fn fields(&self) -> Map<String, Value> {
        let fields = json!({"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens});
        fields.as_object().cloned().expect("an object")
    }
}

/// How long to wait before the `trial`th try after the first.
pub(super) fn back_off(trial: u32) -> Duration {
    Duration::from_secs(1 << trial.min(5))
}
