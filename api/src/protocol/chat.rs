//! Wire types of `/v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    scalar::{Int, Texts},
    usage::Usage,
};

/// What a chat request says beside its sampling. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChatFields {
    pub messages: Option<Vec<Value>>,
    pub model: Option<String>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<Int>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    pub continue_final_message: Option<bool>,
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub reasoning_effort: Option<String>,
    pub input_ids: Option<Vec<Int>>,
    pub rid: Option<Texts>,
    pub cache_salt: Option<String>,
    pub extra_key: Option<String>,
}

impl ChatFields {
    /// Take the tools that are offered, and `tool_choice` in the form that has a function's name inside: OpenAI
    /// has a flat form too, and one that allows some tools only.
    pub fn take_tools_and_choice(&mut self) -> (Vec<Value>, Option<Value>) {
        let mut tools = self.tools.take().unwrap_or_default();
        let Some(choice) = self.tool_choice.take().filter(|choice| !choice.is_null()) else { return (tools, None) };
        match choice.get("type").and_then(Value::as_str) {
            Some("function") if choice.get("function").is_none() && choice.get("name").is_some() => {
                let flat = json!({ "type": "function", "function": { "name": choice["name"] } });
                (tools, Some(flat))
            }
            Some("allowed_tools") => {
                let allowed = choice.get("allowed_tools").unwrap_or(&choice);
                let name = |tool: &Value| tool.pointer("/function/name").or_else(|| tool.get("name")).cloned();
                let names: Vec<_> = allowed["tools"].as_array().into_iter().flatten().filter_map(name).collect();
                tools.retain(|tool| name(tool).is_some_and(|name| names.contains(&name)));
                (tools, Some(allowed.get("mode").cloned().unwrap_or_else(|| "auto".into())))
            }
            _ => (tools, Some(choice)),
        }
    }
}

/// What a stream carries beside text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// End with a chunk of usage.
    pub include_usage: Option<bool>,
    /// Put the usage so far into every chunk.
    pub continuous_usage_stats: Option<bool>,
}

/// An answer in one piece.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChatCompletion<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
    pub metadata: Value,
}

/// One output of it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChatChoice {
    pub index: usize,
    pub message: ChatMessage,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
    pub matched_stop: Value,
}

/// What the assistant said.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChatMessage {
    pub role: &'static str,
    pub content: String,
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ToolCall {
    pub id: String,
    pub index: usize,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub function: Function,
}

/// What is called.
#[derive(Clone, Debug, Serialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A piece of a streamed answer.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChatChunk<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One output's part of it.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChunkChoice {
    pub index: usize,
    pub delta: Delta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
    pub matched_stop: Value,
}

/// What is new.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// What is new of a call: its id, type and name come with its first words only. Clients add the texts of
/// one field up, whichever it is.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ToolCallDelta {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub function: FunctionDelta,
}

/// What is new of it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
}

/// Scores of an output's tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatLogprob>,
}

/// Score of a token and of the likeliest ones in its place.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ChatLogprob {
    #[serde(flatten)]
    pub chosen: TokenScore,
    pub top_logprobs: Vec<TokenScore>,
}

/// Score of a token.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct TokenScore {
    pub token: String,
    /// The token's own bytes: tokens may end inside a character.
    pub bytes: Vec<u8>,
    pub logprob: f32,
}
