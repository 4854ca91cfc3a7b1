//! Wire types of `/v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    custom_tool,
    error::ApiError,
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
    pub functions: Option<Vec<Value>>,
    pub function_call: Option<Value>,
    pub continue_final_message: Option<bool>,
    pub chat_template_kwargs: Option<Map<String, Value>>,
    pub reasoning_effort: Option<String>,
    pub input_ids: Option<Vec<Int>>,
    pub rid: Option<Texts>,
    pub cache_salt: Option<String>,
    pub extra_key: Option<String>,
}

/// What a chat request says of tools, in the form of functions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatTools {
    /// The functions that are offered, custom tools among them.
    pub tools: Vec<Value>,
    /// `tool_choice`, a function's name inside of it.
    pub choice: Option<Value>,
    /// How the answer writes a call.
    pub calls: CallForm,
}

/// How an answer writes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallForm {
    /// `tool_calls`, these of them as custom tools.
    Tools {
        /// Names of custom tools.
        custom: Vec<String>,
    },
    /// The one `function_call` of the time before tools.
    Function,
}

impl Default for CallForm {
    fn default() -> Self {
        Self::Tools { custom: Vec::new() }
    }
}

impl ChatFields {
    /// Take what is said of tools. OpenAI has several forms of a choice: flat, with a function inside, for a custom
    /// tool, and one that allows some tools only; and `functions` with `function_call`, which `tools` have replaced.
    ///
    /// # Errors
    /// If a custom tool is malformed, or the request mixes the two forms: an answer is written in one of them.
    pub fn take_tools(&mut self) -> Result<ChatTools, ApiError> {
        let said = |value: &mut Option<Value>| value.take().filter(|value| !value.is_null());
        let (functions, function_call) = (self.functions.take().unwrap_or_default(), said(&mut self.function_call));
        let (given, tool_choice) = (self.tools.take().unwrap_or_default(), said(&mut self.tool_choice));
        // What is the default anyway may be said in either form.
        let chooses = |choice: &Option<Value>| choice.as_ref().is_some_and(|choice| choice != "auto");
        let mixed = [
            ("functions", "tools", !given.is_empty() && !functions.is_empty()),
            ("function_call", "tools", !given.is_empty() && chooses(&function_call)),
            ("tool_choice", "functions", !functions.is_empty() && chooses(&tool_choice)),
        ];
        if let Some((field, other, _)) = mixed.into_iter().find(|(.., is_mixed)| *is_mixed) {
            let message = format!(
                "{field} and {other} cannot be used together: functions go with function_call, tools with tool_choice."
            );
            return Err(ApiError::invalid(message).about(field));
        }
        if !functions.is_empty() {
            let tools = functions.into_iter().map(|function| json!({ "type": "function", "function": function }));
            let choice = function_call.map(|choice| match choice.get("name") {
                Some(name) => json!({ "type": "function", "function": { "name": name } }),
                None => choice,
            });
            return Ok(ChatTools { tools: tools.collect(), choice, calls: CallForm::Function });
        }
        let (mut tools, mut custom) = (Vec::new(), Vec::new());
        for (index, tool) in given.into_iter().enumerate() {
            tools.push(match tool["type"] == "custom" {
                false => custom_tool::without_grammar(tool),
                true => {
                    let offered = custom_tool::as_function(&tool, &format!("tools[{index}]"))?;
                    custom.push(offered.name.clone());
                    offered.into_chat_tool()
                }
            });
        }
        let calls = CallForm::Tools { custom };
        let Some(choice) = tool_choice else { return Ok(ChatTools { tools, choice: None, calls }) };
        let inner = |value: &Value| {
            let inner = value.pointer("/function/name").or_else(|| value.pointer("/custom/name"));
            inner.or_else(|| value.get("name")).cloned()
        };
        let choice = match choice.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => match inner(&choice) {
                Some(name) => json!({ "type": "function", "function": { "name": name } }),
                None => choice,
            },
            Some("allowed_tools") => {
                let allowed = choice.get("allowed_tools").unwrap_or(&choice);
                let names: Vec<_> = allowed["tools"].as_array().into_iter().flatten().filter_map(inner).collect();
                tools.retain(|tool| inner(tool).is_some_and(|name| names.contains(&name)));
                allowed.get("mode").cloned().unwrap_or_else(|| "auto".into())
            }
            _ => choice,
        };
        Ok(ChatTools { tools, choice: Some(choice), calls })
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
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "OpenAI's and SGLang's names")]
pub struct ChatMessage {
    pub role: &'static str,
    pub content: String,
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<Function>,
}

/// A call of a tool.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ToolCall {
    pub id: String,
    pub index: usize,
    #[serde(flatten)]
    pub called: Called,
}

/// What is called, under its `type`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "OpenAI's names")]
pub enum Called {
    Function { function: Function },
    Custom { custom: Custom },
}

/// What is called.
#[derive(Clone, Debug, Serialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// A custom tool that is called.
#[derive(Clone, Debug, Serialize)]
pub struct Custom {
    /// Its name.
    pub name: String,
    /// A text of any form.
    pub input: String,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionDelta>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDelta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomDelta>,
}

/// What is new of a custom tool's call.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct CustomDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub input: String,
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
