//! What a request's fields oblige its output to: [`GrammarSpec`]s out of wire types.
//!
//! One constraint at a time, as in SGLang (0.5.23), under SGLang's names, OpenAI's, vLLM's (`guided_*`,
//! `structured_outputs`) and llama.cpp's (`grammar`). Where tools are offered beside it, it binds the answer
//! and not the calls, as at OpenAI: the model calls or answers; `tool_choice` none leaves the answer alone,
//! required or a function the calls.

use quern_text::{CallChoice, GrammarSpec, INPUT_GRAMMAR, tool::ToolFormat};
use serde_json::Value;

use crate::{
    config::ToolCallParser,
    protocol::{ApiError, sampling::SamplingFields},
};

/// SGLang's `json_schema` for any JSON object.
const ANY_OBJECT: &str = "$$ANY$$";

/// The constraint of `response_format`, `json_schema`, `regex`, `ebnf` or `structural_tag`.
///
/// # Errors
/// If a field is malformed, or two of them contradict each other.
pub fn of_fields(fields: &SamplingFields) -> Result<Option<GrammarSpec>, ApiError> {
    let said = |value: &Option<Value>| value.clone().filter(|value| !value.is_null() && value != "");
    let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let asked = [
        fields.response_format.as_ref().map(of_response_format).transpose()?.flatten(),
        said(&fields.json_schema).map(of_json_schema).transpose()?,
        text(&fields.regex).map(GrammarSpec::Regex),
        text(&fields.ebnf).map(GrammarSpec::Ebnf),
        said(&fields.structural_tag).map(of_structural_tag).transpose()?,
        said(&fields.guided_json)
            .map(|schema| parsed("guided_json", "json", schema))
            .transpose()?
            .map(GrammarSpec::JsonSchema),
        text(&fields.guided_regex).map(GrammarSpec::Regex),
        fields.guided_choice.as_ref().map(|texts| choice("guided_choice", texts)).transpose()?,
        text(&fields.guided_grammar).map(GrammarSpec::Ebnf),
        fields.guided_json_object.unwrap_or(false).then_some(GrammarSpec::JsonObject),
        said(&fields.structured_outputs).map(|fields| of_structured_outputs(&fields)).transpose()?.flatten(),
        text(&fields.grammar).map(GrammarSpec::Ebnf),
    ];
    if let Some(pattern) = text(&fields.guided_whitespace_pattern) {
        return Err(no_blanks("guided_whitespace_pattern", &pattern.into()));
    }
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
        // A schema beside it is llama.cpp's form, and that of others.
        Some("json_object") => Ok(Some(match format.get("schema") {
            None | Some(Value::Null) => GrammarSpec::JsonObject,
            Some(schema) => GrammarSpec::JsonSchema(schema.clone()),
        })),
        Some("json_schema") => match format.pointer("/json_schema/schema").or_else(|| format.get("schema")) {
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

/// vLLM's `structured_outputs`: one of its kinds.
fn of_structured_outputs(asked: &Value) -> Result<Option<GrammarSpec>, ApiError> {
    const FIELD: &str = "structured_outputs";
    let wrong = |message: String| ApiError::schema(format!("{FIELD}: {message}")).about(FIELD);
    let Some(fields) = asked.as_object() else { return Err(wrong("an object is wanted.".into())) };
    let mut found = Vec::new();
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null() && **value != false) {
        let text = || value.as_str().map(String::from).ok_or_else(|| wrong(format!("{key}: a text is wanted.")));
        found.push(match key.as_str() {
            "json" => GrammarSpec::JsonSchema(parsed(FIELD, "json", value.clone())?),
            "json_object" => GrammarSpec::JsonObject,
            "regex" => GrammarSpec::Regex(text()?),
            "grammar" => GrammarSpec::Ebnf(text()?),
            "structural_tag" => of_structural_tag(value.clone())?,
            "choice" => match serde_json::from_value::<Vec<String>>(value.clone()) {
                Ok(texts) => choice(FIELD, &texts)?,
                Err(_) => return Err(wrong("choice: a list of texts is wanted.".into())),
            },
            // There is one backend, and it falls back on no other.
            "disable_fallback" => continue,
            "whitespace_pattern" | "disable_any_whitespace" => {
                return Err(no_blanks(&format!("{FIELD}.{key}"), value));
            }
            other => {
                let message = format!("{FIELD}.{other} is not supported.");
                return Err(ApiError::unsupported(&format!("{FIELD}.{other}"), message));
            }
        });
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(wrong("only one of json, json_object, regex, choice, grammar and structural_tag can be set.".into())),
    }
}

fn choice(field: &str, texts: &[String]) -> Result<GrammarSpec, ApiError> {
    if texts.is_empty() {
        return Err(ApiError::schema(format!("{field}: at least one choice is wanted.")).about(field));
    }
    Ok(GrammarSpec::choice(texts))
}

/// Blanks are the same for all requests.
fn no_blanks(field: &str, value: &Value) -> ApiError {
    let message = format!(
        "{field}: {value} is not supported in a request; the server's --constrained-json-whitespace-pattern, \
         --constrained-json-max-whitespace-cnt and --constrained-json-disable-any-whitespace set it."
    );
    ApiError::unsupported(field, message)
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
    pub calls: Option<RequiredCalls>,
    /// Whether one answer may have several calls.
    pub parallel: bool,
}

/// An obligation about calls.
#[derive(Clone, Debug, PartialEq)]
pub struct RequiredCalls {
    choice: CallChoice,
    parallel: bool,
}

impl ToolUse {
    /// Read `tool_choice`; absent, it is `auto`.
    ///
    /// # Errors
    /// If `choice` is malformed or names a tool that is not offered.
    pub fn new(tools: &[Value], choice: Option<&Value>, parallel: bool) -> Result<Self, ApiError> {
        let wrong = |message: String| ApiError::invalid(message).about("tool_choice");
        let calls = |choice| Some(RequiredCalls { choice, parallel });
        match choice.filter(|choice| !choice.is_null()) {
            None => Ok(Self::auto(tools, parallel)),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Ok(Self::auto(tools, parallel)),
                "none" => Ok(Self::default()),
                "required" if tools.is_empty() => {
                    Err(wrong("Tools cannot be empty if tool choice is set to required.".into()))
                }
                "required" => Ok(Self { tools: tools.to_vec(), calls: calls(CallChoice::Required), parallel }),
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
                    Some(tool) => {
                        let calls = calls(CallChoice::Named(name.into()));
                        Ok(Self { tools: vec![tool.clone()], calls, parallel })
                    }
                }
            }
        }
    }

    fn auto(tools: &[Value], parallel: bool) -> Self {
        let bound = |tool: &Value| {
            tool.pointer("/function/strict") == Some(&Value::Bool(true)) || tool.get(INPUT_GRAMMAR).is_some()
        };
        let calls = tools.iter().any(bound).then_some(RequiredCalls { choice: CallChoice::AutoStrict, parallel });
        Self { tools: tools.to_vec(), calls, parallel }
    }

    /// The constraint of an answer that is otherwise obliged to `other`. Calls are written in Qwen3-Coder's
    /// markup, so they are constrained only where `parser` reads it.
    ///
    /// # Errors
    /// If both constraints cannot hold, or calls must be made, or obey a grammar, and `parser` cannot read them.
    pub fn constraint(
        &self,
        other: Option<GrammarSpec>,
        parser: Option<ToolCallParser>,
    ) -> Result<Option<GrammarSpec>, ApiError> {
        let reads_markup = parser.is_some_and(|parser| parser.format() == ToolFormat::Qwen3Coder);
        let bound = self.tools.iter().find(|tool| tool.get(INPUT_GRAMMAR).is_some());
        if let (Some(tool), false) = (bound, reads_markup) {
            let name = tool["function"]["name"].as_str().unwrap_or_default();
            let message =
                format!("tools: the grammar of {name:?}'s input (format) needs --tool-call-parser qwen3_coder.");
            return Err(ApiError::unsupported("tools", message));
        }
        let needs_markup =
            |what: &str| ApiError::unsupported("tool_choice", format!("{what} needs --tool-call-parser qwen3_coder."));
        let calls = |choice, parallel| GrammarSpec::ToolCalls { tools: self.tools.clone(), choice, parallel };
        match (&self.calls, other) {
            (Some(RequiredCalls { choice: CallChoice::Required | CallChoice::Named(_), .. }), _) if !reads_markup => {
                Err(needs_markup("tool_choice: required and named functions"))
            }
            // An answer that only calls has no text to bind.
            (Some(RequiredCalls { choice: choice @ (CallChoice::Required | CallChoice::Named(_)), parallel }), _) => {
                Ok(Some(calls(choice.clone(), *parallel)))
            }
            (_, None) if !reads_markup => Ok(None),
            (choice, None) => {
                Ok(choice.as_ref().map(|RequiredCalls { choice, parallel }| calls(choice.clone(), *parallel)))
            }
            // Without a parser nothing is taken for a call.
            (_, Some(other)) if self.tools.is_empty() || parser.is_none() => Ok(Some(other)),
            (_, Some(_)) if !reads_markup => Err(needs_markup("tools beside a constraint of the answer")),
            (_, Some(other)) => Ok(Some(calls(CallChoice::OrAnswer(Box::new(other)), self.parallel))),
        }
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
            (
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                Some(GrammarSpec::JsonSchema(schema.clone())),
            ),
            (json!({"guided_json": schema}), Some(GrammarSpec::JsonSchema(schema.clone()))),
            (json!({"guided_json": schema.to_string()}), Some(GrammarSpec::JsonSchema(schema.clone()))),
            (json!({"guided_regex": "a+"}), Some(GrammarSpec::Regex("a+".into()))),
            (json!({"guided_choice": ["a", "b."]}), Some(GrammarSpec::Regex("(a|b\\.)".into()))),
            (json!({"guided_grammar": "root ::= \"a\""}), Some(GrammarSpec::Ebnf("root ::= \"a\"".into()))),
            (json!({"grammar": "root ::= \"a\""}), Some(GrammarSpec::Ebnf("root ::= \"a\"".into()))),
            (
                json!({"structured_outputs": {"json": schema, "regex": null}}),
                Some(GrammarSpec::JsonSchema(schema.clone())),
            ),
            (json!({"structured_outputs": {"json_object": true}}), Some(GrammarSpec::JsonObject)),
            (json!({"structured_outputs": {"choice": ["a"]}}), Some(GrammarSpec::Regex("(a)".into()))),
            (json!({"structured_outputs": {"disable_fallback": true}}), None),
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
            (json!({"guided_choice": []}), "guided_choice: at least one choice"),
            (json!({"guided_regex": "a", "regex": "b"}), "Only one of"),
            (json!({"structured_outputs": {"json": schema, "regex": "a"}}), "structured_outputs: only one of"),
            (json!({"structured_outputs": {"magic": 1}}), "structured_outputs.magic is not supported"),
            (json!({"structured_outputs": {"regex": "a", "disable_any_whitespace": true}}), "--constrained-json-"),
            (json!({"guided_json": schema, "guided_whitespace_pattern": " "}), "--constrained-json-"),
        ] {
            let error = of(fields.clone()).unwrap_err();
            assert!(error.status == 400 && error.message.contains(words), "{fields}: {error}");
        }
    }

    #[test]
    fn calls_are_constrained_where_the_request_asks_and_the_parser_can_read_them() {
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
        // Tools and a form: a call or an answer, unless the choice is one of the two.
        let union = Some(CallChoice::OrAnswer(Box::new(regex().unwrap())));
        for (choice_of, wanted) in [
            (json!(null), (2, union.clone())),
            (json!("auto"), (2, union)),
            (json!("required"), (2, Some(CallChoice::Required))),
            (named.clone(), (1, Some(CallChoice::Named("f".into())))),
        ] {
            assert_eq!(choice(of(&tools, choice_of.clone(), regex(), qwen).unwrap()), wanted, "{choice_of}");
        }
        assert_eq!(of(&tools, json!("none"), regex(), qwen).unwrap(), (0, regex()));
        assert_eq!(of(&tools, json!("auto"), regex(), None).unwrap(), (2, regex()), "nothing is taken for a call");
        for (choice, other) in [(json!("auto"), regex()), (named, None), (json!("required"), None)] {
            assert_eq!(of(&tools, choice, other, hermes).unwrap_err().param.as_deref(), Some("tool_choice"));
        }
    }

    #[test]
    fn a_grammar_of_a_tools_input_is_obeyed_or_refused() {
        let grammar = json!({"syntax": "regex", "definition": "[0-9]+"});
        let tools = [json!({"function": {"name": "f"}}), json!({"function": {"name": "sum"}, INPUT_GRAMMAR: grammar})];
        let constraint = |choice: &str, parser: &str| {
            let found = ToolUse::new(&tools, Some(&choice.into()), true)?;
            found.constraint(None, ToolCallParser::from_name(parser))
        };
        assert!(constraint("auto", "qwen3_coder").unwrap().is_some());
        assert_eq!(constraint("none", "hermes").unwrap(), None);
        for parser in ["hermes", "no parser"] {
            for choice in ["auto", "required"] {
                let error = constraint(choice, parser).unwrap_err();
                assert_eq!(error.param.as_deref(), Some("tools"), "{error}");
                assert!(error.message.contains("\"sum\"") && error.message.contains("qwen3_coder"), "{error}");
            }
        }
    }
}
