//! Wire types of `/v1/responses`, and their translation to those of `/v1/chat/completions`.

use axum::response::{IntoResponse, Response};
use quern_text::conversation::parameters;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    custom_tool::{self, OfferedFunction},
    error::ApiError,
    scalar::{Int, shown},
};

/// What a request says beside its sampling. `null` is absent; unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ResponsesFields {
    pub model: Option<String>,
    pub input: Option<Value>,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<Int>,
    pub previous_response_id: Option<String>,
    pub store: Option<bool>,
    pub stream: Option<bool>,
    pub tools: Option<Vec<Value>>,
    pub tool_choice: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    pub text: Option<TextConfig>,
    pub reasoning: Option<Reasoning>,
    pub truncation: Option<String>,
    pub include: Option<Vec<String>>,
    pub top_logprobs: Option<Int>,
    pub metadata: Option<Map<String, Value>>,
    pub user: Option<String>,
    pub cache_salt: Option<String>,
}

/// The form of the answer's text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct TextConfig {
    pub format: Option<Value>,
    pub verbosity: Option<String>,
}

/// How much to think; a model that does not think aloud has no use for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct Reasoning {
    pub effort: Option<String>,
    pub summary: Option<String>,
}

impl ResponsesFields {
    /// `text.format` in chat's words.
    pub fn chat_response_format(&self) -> Option<Value> {
        let format = self.text.as_ref()?.format.as_ref()?;
        Some(match format.as_object() {
            Some(fields) if format["type"] == "json_schema" && !fields.contains_key("json_schema") => {
                let mut schema = fields.clone();
                schema.remove("type");
                json!({ "type": "json_schema", "json_schema": schema })
            }
            _ => format.clone(),
        })
    }
}

/// The functions that a request offers, under the names that the model knows them by.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    /// In chat's form.
    pub chat_tools: Vec<Value>,
    names: Vec<FunctionName>,
}

/// A function's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionName {
    /// What the model calls it: the client's name, or `namespace__name` where two are alike.
    pub of_model: String,
    /// What its client calls it.
    pub of_client: String,
    /// The client's group of tools that it belongs to.
    pub namespace: Option<String>,
    /// Whether it is a custom tool, whose input is a text of any form.
    pub is_custom: bool,
}

impl Functions {
    /// Functions, those in namespaces too. Kinds of tools that OpenAI's service runs itself
    /// (`web_search`, `file_search` …) and unknown ones are not offered to the model: this server does not run them
    /// here, and agents send them whatever the server. Of two with one name the first counts.
    ///
    /// # Errors
    /// If a tool is malformed.
    pub fn of(tools: &[Value]) -> Result<Self, ApiError> {
        let mut this = Self::default();
        for (index, tool) in tools.iter().enumerate() {
            this.add(tool, &format!("tools[{index}]"))?;
        }
        Ok(this)
    }

    /// Add tools that came with the items of the conversation. What is no tool is read over: it is history.
    pub fn extend(&mut self, tools: &[Value]) {
        for tool in tools {
            if let Err(cause) = self.add(tool, "a tool of the conversation") {
                tracing::warn!("{cause}");
            }
        }
    }

    fn add(&mut self, tool: &Value, path: &str) -> Result<(), ApiError> {
        match tool.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => self.push(tool, None, path)?,
            Some("namespace") => {
                let namespace = tool.get("name").and_then(Value::as_str);
                for (inner, tool) in tool["tools"].as_array().into_iter().flatten().enumerate() {
                    if tool["type"] == "function" || tool["type"] == "custom" {
                        self.push(tool, namespace, &format!("{path}.tools[{inner}]"))?;
                    }
                }
            }
            Some(_) => {}
            None => return Err(ApiError::schema(format!("{path}.type: a string is wanted.")).about("tools")),
        }
        Ok(())
    }

    fn push(&mut self, tool: &Value, namespace: Option<&str>, path: &str) -> Result<(), ApiError> {
        let is_custom = tool["type"] == "custom";
        let mut offered = match is_custom {
            true => custom_tool::as_function(tool, path)?,
            false => function(tool, path)?,
        };
        let name = offered.name.clone();
        let is_it = |known: &FunctionName| known.of_client == name && known.namespace.as_deref() == namespace;
        if self.names.iter().any(is_it) {
            return Ok(());
        }
        let taken = self.names.iter().any(|known| known.of_model == name);
        let of_model = match namespace.filter(|_| taken) {
            Some(namespace) => format!("{namespace}__{name}"),
            None => name.clone(),
        };
        offered.function.insert("name".into(), of_model.as_str().into());
        self.chat_tools.push(offered.into_chat_tool());
        let namespace = namespace.map(str::to_owned);
        self.names.push(FunctionName { of_model, of_client: name, namespace, is_custom });
        Ok(())
    }

    /// The client's name of what the model has called.
    pub fn called(&self, of_model: &str) -> FunctionName {
        let known = self.names.iter().find(|known| known.of_model == of_model).cloned();
        known.unwrap_or_else(|| FunctionName {
            of_model: of_model.to_owned(),
            of_client: of_model.to_owned(),
            namespace: None,
            is_custom: false,
        })
    }

    /// The model's name of what a client says was called.
    pub fn of_model<'a>(&'a self, of_client: &'a str, namespace: Option<&str>) -> &'a str {
        let is_it = |known: &&FunctionName| known.of_client == of_client && known.namespace.as_deref() == namespace;
        self.names.iter().find(is_it).map_or(of_client, |known| &known.of_model)
    }

    /// `tool_choice` in chat's words. Where it allows some functions only, the others are no longer offered.
    ///
    /// # Errors
    /// If it is malformed, or names a function that is not offered.
    pub fn choose(&mut self, choice: Option<&Value>) -> Result<Option<Value>, ApiError> {
        let wrong = |message: String| Err(ApiError::invalid(message).about("tool_choice"));
        let Some(choice) = choice else { return Ok(None) };
        if choice.is_string() {
            return Ok(Some(choice.clone()));
        }
        match choice.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => {
                let inner = || choice.pointer("/function/name").or_else(|| choice.pointer("/custom/name"));
                let name = choice.get("name").or_else(inner).and_then(Value::as_str);
                let Some(name) = name else { return wrong("tool_choice.name: a function's name is wanted.".into()) };
                let name = self.of_model(name, choice.get("namespace").and_then(Value::as_str));
                Ok(Some(json!({ "type": "function", "function": { "name": name } })))
            }
            Some("allowed_tools") => {
                let allowed: Vec<&str> =
                    choice["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str()).collect();
                self.chat_tools.retain(|tool| {
                    let name = tool["function"]["name"].as_str().unwrap_or_default();
                    let known = self.names.iter().find(|known| known.of_model == name);
                    known.is_some_and(|known| allowed.contains(&known.of_client.as_str()))
                });
                Ok(Some(choice.get("mode").cloned().unwrap_or_else(|| "auto".into())))
            }
            _ => wrong(format!(
                "tool_choice: {} is not supported; auto, none, required, a function, a custom tool and allowed_tools are.",
                shown(choice)
            )),
        }
    }
}

/// The function that a tool is, in its own form or in chat's, `{type, function: {…}}`.
fn function(tool: &Value, path: &str) -> Result<OfferedFunction, ApiError> {
    let given = tool.get("function").filter(|inner| inner.is_object()).unwrap_or(tool);
    let Some(name) = given.get("name").and_then(Value::as_str) else {
        return Err(ApiError::schema(format!("{path}.name: a string is wanted.")).about("tools"));
    };
    let mut function = Map::from_iter([("name".to_owned(), name.into())]);
    for key in ["description", "parameters", "strict"] {
        if let Some(value) = given.get(key).filter(|value| !value.is_null()) {
            function.insert(key.into(), value.clone());
        }
    }
    if let Err(cause) = parameters::check(function.get("parameters").unwrap_or(&Value::Null)) {
        return Err(ApiError::schema(format!("{path}.{cause} (of {name:?})")).about("tools"));
    }
    Ok(OfferedFunction { name: name.to_owned(), function, grammar: None })
}

/// An answer, as far as it has come.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ResponseObject<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created_at: u64,
    pub model: &'a str,
    pub output: Vec<OutputItem>,
    pub status: &'static str,
    pub usage: Option<ResponsesUsage>,
    pub parallel_tool_calls: bool,
    pub tool_choice: Value,
    pub tools: &'a [Value],
    pub error: Option<Value>,
    pub incomplete_details: Option<Value>,
    pub instructions: Option<&'a str>,
    pub max_output_tokens: Option<i64>,
    pub previous_response_id: Option<&'a str>,
    pub reasoning: Value,
    pub store: bool,
    pub temperature: f32,
    pub text: Value,
    pub top_p: f32,
    pub truncation: &'a str,
    pub user: Option<&'a str>,
    pub metadata: Map<String, Value>,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "OpenAI's names")]
pub enum OutputItem {
    Message {
        id: String,
        status: &'static str,
        role: &'static str,
        content: Vec<OutputText>,
        phase: Option<&'static str>,
    },
    FunctionCall {
        id: String,
        call_id: String,
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        arguments: String,
        status: &'static str,
    },
    CustomToolCall {
        id: String,
        call_id: String,
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        input: String,
        status: &'static str,
    },
}

/// Text of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(tag = "type", rename = "output_text")]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct OutputText {
    pub text: String,
    pub annotations: Vec<Value>,
    pub logprobs: Vec<Value>,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct ResponsesUsage {
    pub input_tokens: usize,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: usize,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: usize,
}

/// How the prompt's tokens were come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "OpenAI's names")]
pub struct InputTokensDetails {
    pub cached_tokens: usize,
    /// Always 0: every prompt is cached, and none costs more for it.
    pub cache_write_tokens: usize,
}

/// What the answer's tokens were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputTokensDetails {
    /// Always 0: Qwen3-Coder does not think aloud.
    pub reasoning_tokens: usize,
}

/// An [`ApiError`] in the envelope of `/v1/responses`.
#[derive(Clone, Debug)]
pub struct ResponsesError(pub ApiError);

impl ResponsesError {
    /// `{error: {message, type, param, code}}`.
    pub fn body(&self) -> Value {
        let ApiError { status, message, param, .. } = &self.0;
        let kind = match status.is_client_error() {
            true => "invalid_request_error",
            false => status.canonical_reason().unwrap_or("server_error"),
        };
        let code = self.0.code.map_or_else(|| Value::from(status.as_u16()), Value::from);
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl From<ApiError> for ResponsesError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for ResponsesError {
    fn into_response(self) -> Response {
        self.0.response(self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> Value {
        json!({"type": "function", "name": name, "description": "d", "parameters": {"type": "object"}, "strict": false})
    }

    fn functions() -> Functions {
        let group = |name: &str, tools: Vec<Value>| json!({"type": "namespace", "name": name, "description": "g", "tools": tools});
        let tools = [
            function("ls"),
            group("agents", vec![function("spawn"), function("ls"), json!({"type": "custom", "name": "c"})]),
            json!({"type": "web_search", "external_web_access": true}),
            json!({"type": "something_new"}),
        ];
        Functions::of(&tools).unwrap()
    }

    #[test]
    fn namespaces_are_flattened_and_unknown_tools_not_offered() {
        let functions = functions();
        let names: Vec<_> = functions.chat_tools.iter().map(|tool| tool["function"]["name"].clone()).collect();
        assert_eq!(json!(names), json!(["ls", "spawn", "agents__ls", "c"]));
        let called = |name: &str| {
            let FunctionName { of_client, namespace, .. } = functions.called(name);
            (of_client, namespace)
        };
        assert_eq!(called("ls"), ("ls".into(), None));
        assert_eq!(called("spawn"), ("spawn".into(), Some("agents".into())));
        assert_eq!(called("agents__ls"), ("ls".into(), Some("agents".into())));
        assert_eq!(called("rm"), ("rm".into(), None));
        assert!(Functions::of(&[json!({"type": "function"})]).is_err());
    }

    #[test]
    fn some_tools_may_be_allowed() {
        let mut functions = functions();
        let tools = json!([{"type": "function", "name": "spawn"}, {"type": "web_search"}]);
        let choice = json!({"type": "allowed_tools", "mode": "auto", "tools": tools});
        assert_eq!(functions.choose(Some(&choice)).unwrap(), Some("auto".into()));
        assert_eq!(functions.chat_tools.len(), 1);
        let named = json!({"type": "function", "name": "ls", "namespace": "agents"});
        let chat = json!({"type": "function", "function": {"name": "agents__ls"}});
        assert_eq!(functions.choose(Some(&named)).unwrap(), Some(chat));
        assert!(functions.choose(Some(&json!({"type": "file_search"}))).is_err());
    }
}
