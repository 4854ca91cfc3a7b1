//! [`Marker`]: keeps what users write apart from the control tokens that the template writes.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::prompt::ChatPrompt;
use crate::rendered::Rendered;

/// A character that occurs nowhere in the input, put behind the first character of what must not be
/// taken for a control token.
pub(super) struct Marker<'a> {
    sign: char,
    /// Longest first.
    control_tokens: &'a [String],
}

impl<'a> Marker<'a> {
    /// Unicode sets aside noncharacters and a plane for private use; the first that the input lacks is
    /// taken. One pass over the input notes which it has.
    pub(super) fn choose(control_tokens: &'a [String], prompt: &ChatPrompt) -> Self {
        let mut used = HashSet::new();
        prompt.values().for_each(|value| note_candidates(value, &mut used));
        let mut candidates = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}');
        // Where all are used, the first loses its own occurrences, and no control token comes of it.
        let sign = candidates.find(|c| !used.contains(c)).unwrap_or('\u{fdd0}');
        Self { sign, control_tokens }
    }

    fn mark_text(&self, text: &str) -> String {
        let mut text = text.to_string();
        for token in self.control_tokens {
            if text.contains(token.as_str()) {
                let mut marked = token.clone();
                marked.insert(token.chars().next().map_or(0, char::len_utf8), self.sign);
                text = text.replace(token.as_str(), &marked);
            }
        }
        text
    }

    /// `value` with every spelling of a control token marked.
    pub(super) fn mark(&self, value: &Json) -> Json {
        match value {
            Json::String(text) => Json::String(self.mark_text(text)),
            Json::Array(items) => items.iter().map(|item| self.mark(item)).collect(),
            Json::Object(fields) => {
                let fields = fields.iter();
                let field = |(k, v): (&String, &Json)| (self.mark_text(k), self.mark(v));
                Json::Object(fields.map(field).collect())
            }
            other => other.clone(),
        }
    }

    /// The output without marks, and where the template's own control tokens are in it.
    pub(super) fn unmark(&self, text: &str) -> Rendered {
        let mut out = Rendered { text: String::with_capacity(text.len()), controls: Vec::new() };
        let firsts: Vec<char> = self.control_tokens.iter().filter_map(|t| t.chars().next()).collect();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if firsts.contains(&next)
                && let Some(token) = self.control_tokens.iter().find(|t| rest.starts_with(t.as_str()))
            {
                out.controls.push(out.text.len()..out.text.len() + token.len());
                out.text.push_str(token);
                rest = &rest[token.len()..];
                continue;
            }
            if next != self.sign {
                out.text.push(next);
            }
            rest = &rest[next.len_utf8()..];
        }
        out
    }
}

/// Add the candidates for a marker that occur in `value`.
fn note_candidates(value: &Json, used: &mut HashSet<char>) {
    let mut note = |text: &str| {
        used.extend(text.chars().filter(|c| matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{f0000}'..='\u{ffffd}')));
    };
    match value {
        Json::String(text) => note(text),
        Json::Array(items) => items.iter().for_each(|item| note_candidates(item, used)),
        Json::Object(fields) => {
            fields.keys().for_each(|key| note(key));
            fields.values().for_each(|field| note_candidates(field, used));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_marker_is_what_the_input_lacks_however_much_it_has() {
        let candidates: Vec<char> = ('\u{fdd0}'..='\u{fdef}').chain('\u{f0000}'..='\u{ffffd}').collect();
        let sign = |prompt: &ChatPrompt| Marker::choose(&[], prompt).sign;
        let prompt = |used: &[char]| {
            let text = "a".repeat(4 << 20) + &used.iter().collect::<String>();
            ChatPrompt { messages: vec![json!({"role": "user", "content": [text]})], ..ChatPrompt::default() }
        };
        assert_eq!(sign(&prompt(&[])), candidates[0]);
        // Looking for each candidate in all of the text would take minutes.
        let last = candidates.len() - 1;
        assert_eq!(sign(&prompt(&candidates[..last])), candidates[last]);
        assert_eq!(sign(&prompt(&candidates)), candidates[0]);
        let keys = ChatPrompt { tools: Some(vec![json!({"\u{fdd0}": 1})]), ..ChatPrompt::default() };
        assert_eq!(sign(&keys), candidates[1]);
    }
}
