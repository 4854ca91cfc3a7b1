//! [`ContentPart`]: one part of a message's content, in the forms of every API.

use serde_json::Value;

/// Contents of contents. Documents and results of tools hold parts of their own.
const MAX_DEPTH: usize = 8;

/// Longest name of a kind that is shown to the model.
const MAX_KIND_CHARS: usize = 40;

/// What a part says to a model that reads text only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentPart {
    /// Text.
    Text(String),
    /// What an earlier answer thought before it spoke.
    Thought(String),
    /// Only its maker can read it, or it is empty.
    Nothing,
    /// A picture, a recording, a file, or something that this server does not know.
    Unreadable {
        /// Its type, as the client calls it.
        kind: String,
        /// Text that it has all the same.
        text: Option<String>,
    },
}

impl ContentPart {
    /// Read a part of OpenAI's chat and responses, of Anthropic's messages, or a plain string.
    pub fn read(value: &Value) -> Self {
        Self::read_at(value, 0)
    }

    fn read_at(value: &Value, depth: usize) -> Self {
        let kind = match value {
            Value::Null => return Self::Nothing,
            Value::String(text) => return Self::Text(text.clone()),
            Value::Object(_) => value.get("type").and_then(Value::as_str).unwrap_or_default(),
            _ => return Self::Unreadable { kind: "(none)".into(), text: None },
        };
        let unreadable = |text| Self::Unreadable { kind: if kind.is_empty() { "(none)" } else { kind }.into(), text };
        let inner = |name: &str| value.get(name).and_then(|content| contained(content, depth));
        let text = match kind {
            "redacted_thinking" => return Self::Nothing,
            "thinking" | "reasoning" => {
                let thought = ["thinking", "reasoning", "text", "content"].into_iter().find_map(inner);
                return thought.map_or(Self::Nothing, Self::Thought);
            }
            "" | "text" | "input_text" | "output_text" | "summary_text" | "reasoning_text" => match value.get("text") {
                Some(Value::Null) => return Self::Nothing,
                Some(Value::Object(text)) => text.get("value").and_then(Value::as_str).map(str::to_owned),
                text => text.and_then(Value::as_str).map(str::to_owned),
            },
            "refusal" => inner("refusal"),
            "tool_reference" => inner("tool_name"),
            "document" => {
                let text = value.get("source").and_then(|source| document(source, depth));
                text.and_then(|text| lines([inner("title"), Some(text)]))
            }
            "search_result" => lines([inner("title"), inner("source"), inner("content")]),
            "web_search_result" => lines([inner("title"), inner("url")]),
            "web_fetch_result" => lines([inner("url"), inner("content")]),
            "compaction" => inner("content"),
            // What Anthropic's own tools say: commands, files, errors.
            _ if kind.ends_with("_result") || kind.ends_with("_error") => {
                lines([inner("stdout"), inner("stderr"), inner("content"), inner("error_code")])
            }
            _ => return unreadable(inner("text").or_else(|| inner("content"))),
        };
        text.map_or_else(|| unreadable(None), Self::Text)
    }

    /// What stands in the history in the part's place. Conversations that once held a picture go on.
    pub fn in_history(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Thought(_) | Self::Nothing => None,
            Self::Unreadable { text: Some(text), .. } => Some(text),
            Self::Unreadable { kind, text: None } => Some(omitted(&kind)),
        }
    }
}

/// The line that stands for something that is no text.
pub fn omitted(kind: &str) -> String {
    const MEDIA: [&str; 5] = ["image", "audio", "video", "document", "file"];
    let shown = match MEDIA.into_iter().find(|medium| kind.contains(medium)) {
        Some(medium) => medium.to_owned(),
        None if kind == "container_upload" => "file".to_owned(),
        None => kind.chars().take(MAX_KIND_CHARS).collect(),
    };
    format!("[{shown} omitted: this model reads text only]")
}

/// Text of a content whose parts stand in the history: a string, a part or parts, a line each.
pub fn history_text(content: &Value) -> String {
    match content {
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => content.to_string(),
        _ => contained(content, 0).unwrap_or_default(),
    }
}

fn contained(content: &Value, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| ContentPart::read_at(part, depth + 1).in_history());
            Some(texts.collect::<Vec<_>>().join("\n"))
        }
        Value::Object(_) => ContentPart::read_at(content, depth + 1).in_history(),
        _ => None,
    }
}

/// A document of Anthropic's: plain text, or parts.
fn document(source: &Value, depth: usize) -> Option<String> {
    match source.get("type").and_then(Value::as_str) {
        Some("text") => source.get("data").and_then(Value::as_str).map(str::to_owned),
        Some("content") => contained(source.get("content")?, depth),
        _ => None,
    }
}

/// The lines that there are.
fn lines(texts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let texts: Vec<_> = texts.into_iter().flatten().collect();
    let filled = texts.iter().map(String::as_str).filter(|text| !text.is_empty());
    (!texts.is_empty()).then(|| filled.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_every_api_have_their_text() {
        let source = |source: Value| json!({"type": "document", "title": "T", "source": source});
        let parts = json!([{"type": "text", "text": "x"}, {"type": "image"}, "y", null]);
        for (part, wanted) in [
            (json!("x"), "x"),
            (json!({"text": "x"}), "x"),
            (json!({"type": "input_text", "text": "x"}), "x"),
            (json!({"type": "text", "text": {"value": "x", "annotations": []}}), "x"),
            (json!({"type": "refusal", "refusal": "No."}), "No."),
            (source(json!({"type": "text", "media_type": "text/plain", "data": "x"})), "T\nx"),
            (
                source(json!({"type": "content", "content": parts})),
                "T\nx\n[image omitted: this model reads text only]\ny",
            ),
            (
                json!({"type": "search_result", "source": "s", "title": "T", "content": [{"type": "text", "text": "x"}]}),
                "T\ns\nx",
            ),
            (json!({"type": "web_search_result", "url": "u", "title": "T", "encrypted_content": "…"}), "T\nu"),
            (json!({"type": "bash_code_execution_result", "stdout": "x", "stderr": "", "return_code": 0}), "x"),
            (json!({"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}), "max_uses_exceeded"),
            (json!({"type": "compaction", "content": "So far."}), "So far."),
        ] {
            assert_eq!(ContentPart::read(&part), ContentPart::Text(wanted.into()), "{part}");
        }
    }

    #[test]
    fn what_is_no_text_leaves_a_line_in_the_history() {
        let line = |part: Value| ContentPart::read(&part).in_history();
        let omitted = |what: &str| Some(format!("[{what} omitted: this model reads text only]"));
        assert_eq!(line(json!({"type": "image_url", "image_url": {"url": "…"}})), omitted("image"));
        assert_eq!(line(json!({"type": "input_audio"})), omitted("audio"));
        assert_eq!(line(json!({"type": "file", "file": {}})), omitted("file"));
        assert_eq!(line(json!({"type": "container_upload", "file_id": "f"})), omitted("file"));
        assert_eq!(line(json!({"type": "document", "title": "T", "source": {"type": "base64"}})), omitted("document"));
        assert_eq!(line(json!({"type": "novelty"})), omitted("novelty"));
        assert_eq!(line(json!({"type": "novelty", "text": "x"})), Some("x".into()));
        assert_eq!(line(json!({"type": "x".repeat(100)})), omitted(&"x".repeat(40)));
        assert_eq!(line(json!(7)), omitted("(none)"));
        for silent in [json!(null), json!({"type": "text", "text": null}), json!({"type": "redacted_thinking"})] {
            assert_eq!(line(silent), None);
        }
        assert_eq!(
            ContentPart::read(&json!({"type": "thinking", "thinking": "Hm."})),
            ContentPart::Thought("Hm.".into())
        );
        assert_eq!(history_text(&json!(["a", {"type": "image"}])), "a\n[image omitted: this model reads text only]");
        assert_eq!(history_text(&json!(3)), "3");
    }

    #[test]
    fn contents_of_contents_have_an_end() {
        let mut part = json!({"type": "text", "text": "deep"});
        for _ in 0..40 {
            part = json!({"type": "tool_result", "content": [part]});
        }
        assert_eq!(history_text(&part), "[tool_result omitted: this model reads text only]");
    }
}
