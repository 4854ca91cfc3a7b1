//! Structural tags as a grammar: free text in which certain beginnings oblige to certain contents.
//!
//! Both of SGLang's forms: `{"structures": [{"begin", "schema", "end"}], "triggers": […]}`, and XGrammar's
//! `{"format": {"type": …}}`.

use serde_json::Value;

use super::{
    bounds, ebnf, json_schema,
    lark::{Lark, literal, one_of, regex},
    tool_parameters::{self, Parameters},
};

/// Nesting of formats.
const MAX_DEPTH: usize = 16;

/// The grammar of text with these tags.
pub(super) fn to_lark(mut lark: Lark, tag: &Value) -> Result<String, String> {
    let start = match (tag.get("format"), tag.get("structures")) {
        (Some(format), _) => format_rule(&mut lark, format, 0)?,
        (None, Some(structures)) => {
            let structures = list(structures, "structures")?;
            let mut tags = Vec::with_capacity(structures.len());
            for structure in structures {
                let schema = structure.get("schema").filter(|schema| !schema.is_null());
                let content = match schema {
                    None => literal(""),
                    Some(schema) => json_schema::rule(&mut lark, schema, schema)?,
                };
                tags.push(StructuralTag {
                    begin: text(structure, "begin")?,
                    content: Content::Rule(content),
                    end: text(structure, "end")?,
                });
            }
            let triggers = texts(tag, "triggers")?;
            triggered(&mut lark, &triggers, tags, Times { at_least_one: false, only_one: false }, &[])?
        }
        (None, None) => return Err("expected `format`, or `structures` and `triggers`".into()),
    };
    Ok(lark.finish(&start))
}

/// `begin`, content, `end`.
struct StructuralTag<'a> {
    begin: &'a str,
    content: Content,
    end: &'a str,
}

enum Content {
    /// A rule's name or body.
    Rule(String),
    /// Whatever text, without `end` and these.
    AnyText(Vec<String>),
    /// Parameters in the markup of tool calls; the rule holds `end` already.
    WithEnd(String),
}

#[derive(Clone, Copy)]
struct Times {
    at_least_one: bool,
    only_one: bool,
}

fn format_rule(lark: &mut Lark, format: &Value, depth: usize) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err(format!("formats are nested more than {MAX_DEPTH} levels deep"));
    }
    let name = text(format, "type")?;
    Ok(match name {
        "const_string" => literal(text(format, "value")?),
        "json_schema" => match format.get("style").and_then(Value::as_str) {
            None | Some("json") => {
                let schema = schema(format)?;
                json_schema::rule(lark, schema, schema)?
            }
            Some(style) => return Err(format!("json_schema: style {style} is supported within a tag only")),
        },
        "regex" => {
            let pattern = text(format, "pattern")?;
            bounds::regex(pattern)?;
            if pattern.is_empty() { literal("") } else { lark.terminal_rule(pattern) }
        }
        "grammar" => {
            let nested = ebnf::to_lark(text(format, "grammar")?)?;
            lark.nested(&nested)
        }
        "any_text" => any_text(lark, &excluded(format)?),
        "sequence" => {
            let elements = list(required(format, "elements")?, "elements")?;
            let rules: Result<Vec<_>, _> = elements
                .iter()
                .enumerate()
                .map(|(i, element)| {
                    if i + 1 < elements.len() && element.get("type").and_then(Value::as_str) == Some("any_text") {
                        return Err("any_text is supported within a tag and at the end of a sequence only".to_string());
                    }
                    format_rule(lark, element, depth + 1)
                })
                .collect();
            lark.rule(&rules?.join(" "))
        }
        "or" => {
            let elements = list(required(format, "elements")?, "elements")?;
            let rules: Result<Vec<_>, _> = elements.iter().map(|e| format_rule(lark, e, depth + 1)).collect();
            lark.rule(&one_of(&rules?))
        }
        "tag" => {
            let tag = tag_of(lark, format, depth)?;
            whole(lark, &tag)
        }
        "triggered_tags" => {
            let tags = list(required(format, "tags")?, "tags")?;
            let tags: Result<Vec<_>, _> = tags.iter().map(|tag| tag_of(lark, tag, depth + 1)).collect();
            triggered(lark, &texts(format, "triggers")?, tags?, times(format), &excluded(format)?)?
        }
        "tags_with_separator" => {
            let tags = list(required(format, "tags")?, "tags")?;
            let mut options = Vec::new();
            for tag in tags {
                let tag = tag_of(lark, tag, depth + 1)?;
                options.push(whole(lark, &tag));
            }
            let one = lark.rule(&one_of(&options));
            let separator = literal(text(format, "separator")?);
            let Times { at_least_one, only_one } = times(format);
            let some = if only_one { one } else { lark.rule(&format!("{one} ({separator} {one})*")) };
            if at_least_one { some } else { lark.rule(&format!("{some}?")) }
        }
        other => {
            return Err(format!(
                "format {other} is not supported; supported: const_string, json_schema, regex, grammar, any_text, \
                 sequence, or, tag, triggered_tags, tags_with_separator"
            ));
        }
    })
}

fn tag_of<'a>(lark: &mut Lark, tag: &'a Value, depth: usize) -> Result<StructuralTag<'a>, String> {
    let (begin, end) = (text(tag, "begin")?, text(tag, "end")?);
    let content = required(tag, "content")?;
    let xml = content.get("style").and_then(Value::as_str) == Some("qwen_xml");
    let content = match content.get("type").and_then(Value::as_str) {
        Some("any_text") => Content::AnyText(excluded(content)?),
        Some("qwen_xml_parameter") => Content::WithEnd(xml_parameters(lark, content, end)?),
        Some("json_schema") if xml => Content::WithEnd(xml_parameters(lark, content, end)?),
        _ => Content::Rule(format_rule(lark, content, depth + 1)?),
    };
    Ok(StructuralTag { begin, content, end })
}

/// XGrammar's parameters bring their line breaks; an `end` that begins with one means the last of them.
fn xml_parameters(lark: &mut Lark, content: &Value, end: &str) -> Result<String, String> {
    tool_parameters::rule(lark, &Parameters::of(schema(content)?), end.strip_prefix('\n').unwrap_or(end))
}

fn whole(lark: &mut Lark, tag: &StructuralTag<'_>) -> String {
    let body = after_begin(lark, tag, "");
    lark.rule(&body)
}

/// What follows the part of a tag's beginning that has been read.
fn after_begin(lark: &mut Lark, tag: &StructuralTag<'_>, read: &str) -> String {
    let rest = &tag.begin[read.len()..];
    let rest = if rest.is_empty() { String::new() } else { format!("{} ", literal(rest)) };
    match &tag.content {
        Content::Rule(content) => format!("{rest}{content} {}", literal(tag.end)),
        Content::WithEnd(content) => format!("{rest}{content}"),
        Content::AnyText(excluded) if tag.end.is_empty() => format!("{rest}{}", any_text(lark, excluded)),
        Content::AnyText(excluded) => {
            let text = without(lark, excluded);
            format!("{rest}{}", lark.until(&text, &literal(tag.end)))
        }
    }
}

/// Free text in which a trigger obliges to one of the tags that begin with it.
fn triggered(
    lark: &mut Lark,
    triggers: &[&str],
    tags: Vec<StructuralTag<'_>>,
    times: Times,
    excluded: &[String],
) -> Result<String, String> {
    if triggers.is_empty() || triggers.contains(&"") {
        return Err("triggers: expected texts that are not empty".into());
    }
    let mut options = vec![Vec::new(); triggers.len()];
    for tag in &tags {
        let found = triggers.iter().position(|trigger| tag.begin.starts_with(trigger));
        let trigger = found.ok_or_else(|| format!("no trigger begins {:?}", tag.begin))?;
        options[trigger].push(after_begin(lark, tag, triggers[trigger]));
    }
    let everywhere: Vec<String> = excluded.iter().cloned().chain(triggers.iter().map(|t| t.to_string())).collect();
    let text = without(lark, &everywhere);
    let mut some = Vec::new();
    for (trigger, options) in triggers.iter().zip(&options).filter(|(_, options)| !options.is_empty()) {
        let head = lark.until(&text, &literal(trigger));
        some.push(format!("{head} {}", one_of(options)));
    }
    let some = lark.rule(&one_of(&some));
    Ok(lark.rule(&match times {
        Times { at_least_one: true, only_one: true } => some,
        Times { at_least_one: false, only_one: true } => format!("{some} | {text}?"),
        Times { at_least_one: true, only_one: false } => format!("{some}+ {text}?"),
        Times { at_least_one: false, only_one: false } => format!("{some}* {text}?"),
    }))
}

fn any_text(lark: &mut Lark, excluded: &[String]) -> String {
    let text = without(lark, excluded);
    lark.rule(&format!("{text}?"))
}

/// A terminal: text that holds none of `excluded`.
fn without(lark: &mut Lark, excluded: &[String]) -> String {
    let any = regex("(?s:.*)");
    if excluded.is_empty() {
        return lark.terminal(&any);
    }
    let excluded: Vec<String> = excluded.iter().map(|text| regex_syntax::escape(text)).collect();
    lark.terminal(&format!("{any} & ~{}", regex(&format!("(?s:.*({}).*)", excluded.join("|")))))
}

fn times(format: &Value) -> Times {
    let flag = |name| format.get(name) == Some(&Value::Bool(true));
    Times { at_least_one: flag("at_least_one"), only_one: flag("stop_after_first") }
}

fn excluded(format: &Value) -> Result<Vec<String>, String> {
    match format.get("excludes").filter(|value| !value.is_null()) {
        None => Ok(Vec::new()),
        Some(_) => {
            Ok(texts(format, "excludes")?.into_iter().filter(|text| !text.is_empty()).map(String::from).collect())
        }
    }
}

fn schema(format: &Value) -> Result<&Value, String> {
    required(format, "json_schema")
}

fn required<'a>(object: &'a Value, name: &str) -> Result<&'a Value, String> {
    object.get(name).ok_or_else(|| format!("`{name}` is missing"))
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value], String> {
    match value.as_array() {
        Some(items) if !items.is_empty() => Ok(items),
        _ => Err(format!("{name}: expected a list that is not empty")),
    }
}

fn text<'a>(object: &'a Value, name: &str) -> Result<&'a str, String> {
    required(object, name)?.as_str().ok_or_else(|| format!("{name}: expected text"))
}

fn texts<'a>(object: &'a Value, name: &str) -> Result<Vec<&'a str>, String> {
    let items = list(required(object, name)?, name)?;
    items.iter().map(|item| item.as_str().ok_or_else(|| format!("{name}: expected texts"))).collect()
}
