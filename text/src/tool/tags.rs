//! [`TagScanner`]: text as it comes, cut into tags of the tool-call markup and what lies between them.
//!
//! Every tag begins with `<` and holds no other, so a `<` that turns out to begin no tag is text and is
//! never looked at again: the work is linear whatever the text.

/// Longest name in a tag, in bytes. OpenAI allows 64 characters for a function.
const MAX_NAME_BYTES: usize = 256;

/// Longest addition to a drifted end tag (`</parameter_function>`), in bytes.
const MAX_DRIFT_BYTES: usize = 16;

const FUNCTION: &str = "<function=";
const PARAMETER: &str = "<parameter=";
const PARAMETER_CLOSE: &str = "</parameter";
const LITERALS: [&str; 6] = ["<tool_call>", "</tool_call>", "</function>", PARAMETER_CLOSE, FUNCTION, PARAMETER];

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// `<tool_call>`
    CallOpen,
    /// `</tool_call>`
    CallClose,
    /// `<function=NAME>`
    Function(String),
    /// `</function>`
    FunctionClose,
    /// `<parameter=NAME>`
    Parameter(String),
    /// `</parameter>`
    ParameterClose,
    /// What models write in its stead: `</parameter1>`, `</parameter_function>`, `</parameter` without an
    /// end. Not `</parameters>`, which may be XML that the model writes.
    ParameterCloseDrifted,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Token<'a> {
    /// Text without tags, cut anywhere.
    Text(&'a str),
    /// A tag and how it was written.
    Tag(&'a Tag, &'a str),
}

impl<'a> Token<'a> {
    /// The token as it was written.
    pub(super) fn raw(self) -> &'a str {
        match self {
            Token::Text(raw) | Token::Tag(_, raw) => raw,
        }
    }
}

/// What may stand between tags without being text.
pub(super) const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// Whether `text` is nothing but blanks and line breaks.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| BLANKS.contains(&c))
}

/// Cuts text into tokens.
#[derive(Default)]
pub(super) struct TagScanner {
    /// The beginning of what may become a tag.
    held: String,
    /// Characters looked at.
    #[cfg(test)]
    pub(super) work: usize,
}

/// What the next character makes of the text held.
enum Step {
    /// Still the beginning of a tag.
    More,
    /// The character completes a tag.
    Ends(Tag),
    /// The tag ended before the character.
    Ended(Tag),
    /// No tag.
    Text,
}

impl TagScanner {
    /// Take the next piece of text.
    pub(super) fn push(&mut self, mut text: &str, mut sink: impl FnMut(Token<'_>)) {
        while let Some(c) = text.chars().next() {
            if self.held.is_empty() {
                let start = text.find('<').unwrap_or(text.len());
                self.count(start + 1);
                if start > 0 {
                    sink(Token::Text(&text[..start]));
                }
                if start < text.len() {
                    self.held.push('<');
                }
                text = text.get(start + 1..).unwrap_or("");
                continue;
            }
            self.count(1);
            let step = step(&self.held, c);
            if matches!(step, Step::More | Step::Ends(_)) {
                self.held.push(c);
                text = &text[c.len_utf8()..];
            }
            match step {
                Step::More => continue,
                Step::Ends(tag) | Step::Ended(tag) => sink(Token::Tag(&tag, &self.held)),
                Step::Text => sink(Token::Text(&self.held)),
            }
            self.held.clear();
        }
    }

    /// The end of the text: the beginning of a tag that did not come.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn count(&mut self, _characters: usize) {
        #[cfg(test)]
        {
            self.work += _characters;
        }
    }
}

fn step(held: &str, c: char) -> Step {
    if let Some(name) = held.strip_prefix(FUNCTION) {
        return if matches!(c, '{' | '}') { Step::Text } else { name_step(name, c, Tag::Function) };
    }
    if let Some(name) = held.strip_prefix(PARAMETER) {
        return name_step(name, c, Tag::Parameter);
    }
    if let Some(drift) = held.strip_prefix(PARAMETER_CLOSE) {
        return match c {
            '>' if drift.is_empty() => Step::Ends(Tag::ParameterClose),
            c if (c.is_ascii_alphanumeric() || c == '_') && drift.len() < MAX_DRIFT_BYTES => Step::More,
            _ if drift == "s" => Step::Text,
            '>' => Step::Ends(Tag::ParameterCloseDrifted),
            ' ' | '\t' | '\n' | '\r' | '<' => Step::Ended(Tag::ParameterCloseDrifted),
            _ => Step::Text,
        };
    }
    let begins = |literal: &&str| literal.strip_prefix(held).is_some_and(|rest| rest.starts_with(c));
    match LITERALS.iter().find(|literal| begins(literal)) {
        None => Step::Text,
        Some(_) if c != '>' => Step::More,
        Some(&"<tool_call>") => Step::Ends(Tag::CallOpen),
        Some(&"</tool_call>") => Step::Ends(Tag::CallClose),
        Some(_) => Step::Ends(Tag::FunctionClose),
    }
}

fn name_step(name: &str, c: char, tag: fn(String) -> Tag) -> Step {
    match c {
        '>' => {
            let name = name.trim();
            // Models sometimes quote names, as XML would.
            let unquoted = |mark| name.strip_prefix(mark)?.strip_suffix(mark);
            let name = unquoted('"').or_else(|| unquoted('\'')).unwrap_or(name);
            if name.is_empty() { Step::Text } else { Step::Ends(tag(name.to_string())) }
        }
        '<' | '\n' | '\r' => Step::Text,
        _ if name.len() + c.len_utf8() > MAX_NAME_BYTES => Step::Text,
        _ => Step::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&str]) -> Vec<String> {
        let mut scanner = TagScanner::default();
        let mut out: Vec<String> = Vec::new();
        for piece in pieces {
            scanner.push(piece, |token| match token {
                Token::Text(text) => out.push(text.to_string()),
                Token::Tag(tag, raw) => out.push(format!("{tag:?} {raw}")),
            });
        }
        out.push(scanner.finish());
        out
    }

    #[test]
    fn tags_are_found_and_other_angles_are_text() {
        let found = scan(&["a<b <tool_call><func", "tion=x y></functio>"]);
        let want = ["a", "<", "b ", "CallOpen <tool_call>", "Function(\"x y\") <function=x y>", "</functio", ">", ""];
        assert_eq!(found, want);
    }

    #[test]
    fn names_are_unquoted_and_have_no_braces_or_line_breaks() {
        assert_eq!(scan(&["<function=\"f\">"]), ["Function(\"f\") <function=\"f\">", ""]);
        assert_eq!(scan(&["<function={f}>"]), ["<function=", "{f}>", ""]);
        assert_eq!(scan(&["<parameter=a\nb>"]), ["<parameter=a", "\nb>", ""]);
        assert_eq!(scan(&["<function=>"]), ["<function=", ">", ""]);
        let long = format!("<function={}", "x".repeat(300));
        assert_eq!(scan(&[&long])[0].len(), FUNCTION.len() + MAX_NAME_BYTES);
    }

    #[test]
    fn drifted_end_tags_are_told_from_other_xml() {
        assert_eq!(scan(&["</parameter>"]), ["ParameterClose </parameter>", ""]);
        assert_eq!(scan(&["</parameter1>"]), ["ParameterCloseDrifted </parameter1>", ""]);
        assert_eq!(scan(&["</parameter\n"]), ["ParameterCloseDrifted </parameter", "\n", ""]);
        assert_eq!(scan(&["</parameters>"]), ["</parameters", ">", ""]);
        assert_eq!(scan(&["</parameter\"x"]), ["</parameter", "\"x", ""]);
    }
}
