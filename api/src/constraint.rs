//! What a request's fields oblige its output to: [`GrammarSpec`]s out of wire types.
//!
//! Rules and refusals are SGLang's (0.5.23): one constraint at a time; `tool_choice` required or of a
//! function allows no other; `strict` tools give way to another.

use quern_text::{CallChoice, GrammarSpec, tool::ToolFormat};
use serde_json::Value;

use crate::{
    config::ToolCallParser,
    protocol::{ApiError, sampling::SamplingFields},
};

/// SGLang's `json_schema` for any JSON object.
const ANY_OBJECT: &str = "$$ANY$$";

/// The constraint of `response_format`, `json_schema`, `regex`, `ebnf` or `structural_tag`.
pub fn of_fields(fields: &SamplingFields) -> Result<Option<GrammarSpec>, ApiError> {
    let said = |value: &Option<Value>| value.clone().filter(|value| !value.is_null() && value != "");
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let asked = [
        fields.response_format.as_ref().map(of_response_format).transpose()?.flatten(),
        said(&fields.json_schema).map(of_json_schema).transpose()?,
        text(&fields.regex).map(GrammarSpec::Regex),
        text(&fields.ebnf).map(GrammarSpec::Ebnf),
        said(&fields.structural_tag).map(of_structural_tag).transpose()?,
    ];
    let mut asked = asked.into_iter().flatten();
    match (asked.next(), asked.next()) {
        (Some(_), Some(_)) => {
            Err(ApiError::invalid("Only one of json_schema, regex, ebnf, or structural_tag can be set."))
        }
        (one, _) => Ok(one),
    }
}

fn of_response_format(format: &Value) -> Result<Option<GrammarSpec>, ApiError> {
    let wrong = |message: &str| Err(ApiError::schema(message).about("response_format"));
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(GrammarSpec::JsonObject)),
        Some("json_schema") => match format.pointer("/json_schema/schema") {
            Some(schema) if !schema.is_null() => Ok(Some(GrammarSpec::JsonSchema(schema.clone()))),
            _ => wrong("response_format.json_schema.schema is required for response_format json_schema."),
        },
        Some("structural_tag") => Ok(Some(GrammarSpec::StructuralTag(format.clone()))),
        _ => wrong("response_format.type must be text, json_object, json_schema or structural_tag."),
    }
}

/// A schema, or its JSON text.
fn of_json_schema(schema: Value) -> Result<GrammarSpec, ApiError> {
    match schema {
        Value::String(text) if text == ANY_OBJECT => Ok(GrammarSpec::JsonObject),
        schema => Ok(GrammarSpec::JsonSchema(parsed("json_schema", "json", schema)?)),
    }
}

fn of_structural_tag(tag: Value) -> Result<GrammarSpec, ApiError> {
    Ok(GrammarSpec::StructuralTag(parsed("structural_tag", "structural_tag", tag)?))
}

fn parsed(field: &str, kind: &str, value: Value) -> Result<Value, ApiError> {
    let Value::String(text) = value else { return Ok(value) };
    let refused = |cause| ApiError::invalid(format!("Failed to compile {kind} grammar: {cause}")).about(field);
    serde_json::from_str(&text).map_err(refused)
}

/// What `tool_choice` makes of a request's tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolUse {
    /// The tools that the model is told of and may call.
    pub tools: Vec<Value>,
    /// What its calls must look like.
    pub calls: Option<Calls>,
}

/// An obligation about calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    choice: CallChoice,
    parallel: bool,
}

impl ToolUse {
    /// Read `tool_choice`; absent, it is `auto`.
    pub fn new(tools: &[Value], choice: Option<&Value>, parallel: bool) -> Result<Self, ApiError> {
        let wrong = |message: String| ApiError::invalid(message).about("tool_choice");
        let calls = |choice| Some(Calls { choice, parallel });
        match choice.filter(|choice| !choice.is_null()) {
            None => Ok(Self::auto(tools, parallel)),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Ok(Self::auto(tools, parallel)),
                "none" => Ok(Self::default()),
                "required" if tools.is_empty() => {
                    Err(wrong("Tools cannot be empty if tool choice is set to required.".into()))
                }
                "required" => Ok(Self { tools: tools.to_vec(), calls: calls(CallChoice::Required) }),
                other => Err(wrong(format!("tool_choice must be none, auto, required or a function, got {other:?}."))),
            },
            Some(value) => {
                let Some(name) = value.pointer("/function/name").and_then(Value::as_str) else {
                    return Err(wrong("tool_choice must be none, auto, required or {type, function: {name}}.".into()));
                };
                if tools.is_empty() {
                    return Err(wrong("Tools cannot be empty if tool choice is set to a specific tool.".into()));
                }
                let named = |tool: &&Value| tool.pointer("/function/name").and_then(Value::as_str) == Some(name);
                match tools.iter().find(named) {
                    None => Err(wrong(format!("Tool '{name}' not found in tools list."))),
                    Some(tool) => Ok(Self { tools: vec![tool.clone()], calls: calls(CallChoice::Named(name.into())) }),
                }
            }
        }
    }

    fn auto(tools: &[Value], parallel: bool) -> Self {
        let strict = |tool: &Value| tool.pointer("/function/strict") == Some(&Value::Bool(true));
        let calls = tools.iter().any(strict).then_some(Calls { choice: CallChoice::AutoStrict, parallel });
        Self { tools: tools.to_vec(), calls }
    }

    /// The constraint of an answer that is otherwise obliged to `other`. Calls are written in Qwen3-Coder's
    /// markup, so they are constrained only where `parser` reads it.
    pub fn constraint(
        &self,
        other: Option<GrammarSpec>,
        parser: Option<ToolCallParser>,
    ) -> Result<Option<GrammarSpec>, ApiError> {
        let Some(Calls { choice, parallel }) = &self.calls else { return Ok(other) };
        let reads_markup = parser.is_some_and(|parser| parser.format() == ToolFormat::Qwen3Coder);
        if *choice == CallChoice::AutoStrict {
            if other.is_some() || !reads_markup {
                return Ok(other);
            }
        } else if other.is_some() {
            let message = "tool_choice: required and named functions cannot be combined with response_format, \
                           json_schema, regex, ebnf or structural_tag.";
            return Err(ApiError::invalid(message).about("tool_choice"));
        } else if !reads_markup {
            let message = "tool_choice: required and named functions need --tool-call-parser qwen3_coder.";
            return Err(ApiError::unsupported("tool_choice", message));
        }
        Ok(Some(GrammarSpec::ToolCalls { tools: self.tools.clone(), choice: choice.clone(), parallel: *parallel }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::Body;

    fn of(value: Value) -> Result<Option<GrammarSpec>, ApiError> {
        of_fields(&Body::from_value(value)?.read()?)
    }

    #[test]
    fn each_field_says_one_kind() {
        let schema = json!({"type": "integer"});
        let tag = json!({"type": "structural_tag", "structures": [], "triggers": []});
        for (fields, wanted) in [
            (json!({}), None),
            (json!({"response_format": {"type": "text"}, "regex": ""}), None),
            (json!({"response_format": null, "json_schema": null, "structural_tag": ""}), None),
            (json!({"response_format": {"type": "json_object"}}), Some(GrammarSpec::JsonObject)),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
                Some(GrammarSpec::JsonSchema(schema.clone())),
            ),
            (json!({"response_format": tag}), Some(GrammarSpec::StructuralTag(tag.clone()))),
            (json!({"json_schema": schema}), Some(GrammarSpec::JsonSchema(schema.clone()))),
            (json!({"json_schema": schema.to_string()}), Some(GrammarSpec::JsonSchema(schema.clone()))),
            (json!({"json_schema": "$$ANY$$"}), Some(GrammarSpec::JsonObject)),
            (json!({"regex": "a+"}), Some(GrammarSpec::Regex("a+".into()))),
            (json!({"ebnf": "root ::= \"a\""}), Some(GrammarSpec::Ebnf("root ::= \"a\"".into()))),
            (json!({"structural_tag": tag.to_string()}), Some(GrammarSpec::StructuralTag(tag.clone()))),
        ] {
            assert_eq!(of(fields.clone()).unwrap(), wanted, "{fields}");
        }
        for (fields, words) in [
            (json!({"regex": "a", "ebnf": "b"}), "Only one of"),
            (json!({"response_format": {"type": "json_object"}, "regex": "a"}), "Only one of"),
            (json!({"response_format": {"type": "yaml"}}), "response_format.type must be"),
            (json!({"response_format": {"type": "json_schema"}}), "schema is required"),
            (json!({"json_schema": "{"}), "Failed to compile json grammar: "),
            (json!({"structural_tag": "{"}), "Failed to compile structural_tag grammar: "),
        ] {
            let error = of(fields.clone()).unwrap_err();
            assert!(error.status == 400 && error.message.contains(words), "{fields}: {error}");
        }
    }

    #[test]
    fn calls_are_constrained_where_somebody_asks_and_the_parser_can_read_them() {
        let tools = [json!({"function": {"name": "f"}}), json!({"function": {"name": "g", "strict": true}})];
        let (qwen, hermes) = (ToolCallParser::from_name("qwen3_coder"), ToolCallParser::from_name("hermes"));
        let of = |tools: &[Value], choice: Value, other: Option<GrammarSpec>, parser| {
            let found = ToolUse::new(tools, Some(&choice), true)?;
            let constraint = found.constraint(other, parser)?;
            Ok::<_, ApiError>((found.tools.len(), constraint))
        };
        let regex = || Some(GrammarSpec::Regex("a".into()));
        let named = json!({"type": "function", "function": {"name": "f"}});
        let choice = |found: (usize, Option<GrammarSpec>)| match found {
            (count, Some(GrammarSpec::ToolCalls { choice, tools, .. })) if count == tools.len() => {
                (count, Some(choice))
            }
            (count, None) => (count, None),
            other => panic!("{other:?}"),
        };
        for (choice_of, tools, parser, wanted) in [
            (json!("auto"), &tools[..1], qwen, (1, None)),
            (json!(null), &tools[..], qwen, (2, Some(CallChoice::AutoStrict))),
            (json!("auto"), &tools[..], hermes, (2, None)),
            (json!("auto"), &tools[..], None, (2, None)),
            (json!("none"), &tools[..], qwen, (0, None)),
            (json!("required"), &tools[..], qwen, (2, Some(CallChoice::Required))),
            (named.clone(), &tools[..], qwen, (1, Some(CallChoice::Named("f".into())))),
        ] {
            assert_eq!(choice(of(tools, choice_of.clone(), None, parser).unwrap()), wanted, "{choice_of}");
        }
        assert_eq!(of(&tools, json!("auto"), regex(), qwen).unwrap().1, regex(), "strict tools give way");
        for (choice, other, parser) in
            [(json!("required"), regex(), qwen), (named, regex(), qwen), (json!("required"), None, hermes)]
        {
            assert_eq!(of(&tools, choice, other, parser).unwrap_err().param.as_deref(), Some("tool_choice"));
        }
    }
}
