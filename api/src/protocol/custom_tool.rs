//! Custom tools of OpenAI's APIs, whose input is a text of any form or of a grammar's: for the model they are functions
//! of one text.

use quern_text::INPUT_GRAMMAR;
use serde_json::{Map, Value, json};

use super::error::ApiError;

/// A tool, as far as the model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedFunction {
    /// Its name.
    pub name: String,
    /// Name, description, parameters, in chat's form.
    pub function: Map<String, Value>,
    /// What the input of a custom tool obeys, `{syntax, definition}`.
    pub grammar: Option<Value>,
}

impl OfferedFunction {
    /// The tool in chat's form, its grammar beside the function.
    pub fn into_chat_tool(self) -> Value {
        let mut tool = json!({ "type": "function", "function": self.function });
        if let Some(grammar) = self.grammar {
            tool[INPUT_GRAMMAR] = grammar;
        }
        tool
    }
}

/// A client's function without a grammar: only custom tools have one, and the key that carries it is not the clients'.
pub fn without_grammar(mut tool: Value) -> Value {
    if let Some(fields) = tool.as_object_mut() {
        fields.remove(INPUT_GRAMMAR);
    }
    tool
}

/// The function that a custom tool is, `{type: custom, custom: {name, …}}` or flat. What form its input has, the model
/// is told in words, too. `path` names it in errors.
///
/// # Errors
/// If it has no name, or a `format` that is not supported.
pub fn as_function(tool: &Value, path: &str) -> Result<OfferedFunction, ApiError> {
    let wrong = |message: String| ApiError::schema(format!("{path}.{message}")).about("tools");
    let given = tool.get("custom").filter(|inner| inner.is_object()).unwrap_or(tool);
    let Some(name) = given.get("name").and_then(Value::as_str) else {
        return Err(wrong("name: a string is wanted.".into()));
    };
    let grammar = grammar(given.get("format").unwrap_or(&Value::Null)).map_err(wrong)?;
    let mut description = given.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(grammar) = &grammar {
        let [syntax, definition] = ["syntax", "definition"].map(|key| grammar[key].as_str().unwrap_or_default());
        if !description.is_empty() {
            description.push_str("\n\n");
        }
        description.push_str(&format!("The input obeys this {syntax} grammar:\n{definition}"));
    }
    let mut function = Map::from_iter([("name".to_owned(), name.into())]);
    if !description.is_empty() {
        function.insert("description".into(), description.into());
    }
    let input = json!({ "type": "string", "description": "The whole input, as plain text rather than JSON." });
    let properties = json!({ "input": input });
    function.insert("parameters".into(), json!({ "type": "object", "properties": properties, "required": ["input"] }));
    Ok(OfferedFunction { name: name.to_owned(), function, grammar })
}

/// `{syntax, definition}` of a `format`; none where any text will do. Chat has them one level deeper.
fn grammar(format: &Value) -> Result<Option<Value>, String> {
    match format.get("type").and_then(Value::as_str) {
        None if format.is_null() => Ok(None),
        Some("text") => Ok(None),
        Some("grammar") => {
            let inner = format.get("grammar").filter(|inner| inner.is_object()).unwrap_or(format);
            let text = |key: &str| {
                let text = inner.get(key).and_then(Value::as_str);
                text.ok_or_else(|| format!("format.{key}: a string is wanted."))
            };
            let (syntax, definition) = (text("syntax")?, text("definition")?);
            match syntax {
                "lark" | "regex" => Ok(Some(json!({ "syntax": syntax, "definition": definition }))),
                other => Err(format!("format.syntax: {other:?} is not supported; lark and regex are.")),
            }
        }
        _ => Err("format.type must be text or grammar.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_tool_is_a_function_of_one_text() {
        let format = json!({"type": "grammar", "syntax": "regex", "definition": "[0-9]+"});
        let flat = json!({"type": "custom", "name": "f", "description": "D.", "format": format});
        let nested = json!({"type": "custom", "custom": {"name": "f", "description": "D.",
            "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9]+"}}}});
        for tool in [flat, nested] {
            let OfferedFunction { name, function, grammar } = as_function(&tool, "tools[0]").expect("a tool");
            assert_eq!(name, "f");
            assert_eq!(function["description"], "D.\n\nThe input obeys this regex grammar:\n[0-9]+");
            assert_eq!(function["parameters"]["required"], json!(["input"]));
            assert_eq!(grammar, Some(json!({"syntax": "regex", "definition": "[0-9]+"})));
        }
        let plain =
            as_function(&json!({"type": "custom", "name": "f", "format": {"type": "text"}}), "t").expect("a tool");
        assert_eq!((plain.function.get("description"), plain.grammar), (None, None));
        for (tool, words) in [
            (json!({"type": "custom"}), "t.name"),
            (json!({"name": "f", "format": {"type": "yaml"}}), "t.format.type"),
            (
                json!({"name": "f", "format": {"type": "grammar", "syntax": "gbnf", "definition": ""}}),
                "t.format.syntax",
            ),
            (json!({"name": "f", "format": {"type": "grammar", "syntax": "lark"}}), "t.format.definition"),
        ] {
            let error = as_function(&tool, "t").unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }
}
