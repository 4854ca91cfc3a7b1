//! [`Lark`]: a grammar in llguidance's dialect of Lark, written rule by rule.
//!
//! Rules (lower case) are context-free; terminals (upper case) are regular and found greedily. Names are
//! ours, so nothing that a client sends can be mistaken for syntax.

use std::{collections::HashMap, fmt::Write as _};

use serde_json::Value;

use super::json_blanks::JsonBlanks;

/// A grammar in the making.
#[derive(Default)]
pub(super) struct Lark {
    text: String,
    /// Definitions that exist, by what they say.
    names: HashMap<String, String>,
    /// What may stand between the tokens of its JSON.
    blanks: JsonBlanks,
}

impl Lark {
    /// An empty grammar whose JSON has these blanks.
    pub(super) fn new(blanks: &JsonBlanks) -> Self {
        Self { blanks: blanks.clone(), ..Self::default() }
    }

    /// What may stand between the tokens of its JSON.
    pub(super) fn blanks(&self) -> &JsonBlanks {
        &self.blanks
    }

    /// The rule that was remembered under `key`.
    pub(super) fn known(&self, key: &str) -> Option<String> {
        self.names.get(key).cloned()
    }

    /// Remember a rule under `key`, which is no definition.
    pub(super) fn know(&mut self, key: &str, name: &str) {
        self.names.insert(key.to_owned(), name.to_owned());
    }

    /// Define a rule; the same body twice is the same rule.
    pub(super) fn rule(&mut self, body: &str) -> String {
        self.define("r", ": ", body)
    }

    /// Define a terminal.
    pub(super) fn terminal(&mut self, body: &str) -> String {
        self.define("T", ": ", body)
    }

    /// Define a rule that matches an expression, which is not empty.
    pub(super) fn terminal_rule(&mut self, expression: &str) -> String {
        self.rule(&regex(expression))
    }

    /// Define a rule that is a whole grammar of its own.
    pub(super) fn nested(&mut self, grammar: &str) -> String {
        self.rule(&format!("%lark {{\n{grammar}\n}}"))
    }

    /// Define a rule that matches `body` as far as the first `suffix`, and the suffix. Both are regular.
    pub(super) fn until(&mut self, body: &str, suffix: &str) -> String {
        self.define("r", &format!("[suffix={suffix}]: "), body)
    }

    /// A name for a rule that is defined later.
    pub(super) fn forward(&mut self) -> String {
        let name = format!("r{}", self.names.len());
        self.names.insert(name.clone(), name.clone());
        name
    }

    /// Define a rule that was named before.
    pub(super) fn define_forward(&mut self, name: &str, body: &str) {
        writeln!(self.text, "{name}: {body}").expect("a string takes everything");
    }

    /// The grammar whose sentences are those of `start`.
    pub(super) fn finish(mut self, start: &str) -> String {
        writeln!(self.text, "start: {start}").expect("a string takes everything");
        self.text
    }

    fn define(&mut self, prefix: &str, attributes: &str, body: &str) -> String {
        let definition = format!("{attributes}{body}");
        let key = format!("{prefix}{definition}");
        if let Some(name) = self.names.get(&key) {
            return name.clone();
        }
        let name = format!("{prefix}{}", self.names.len());
        writeln!(self.text, "{name}{definition}").expect("a string takes everything");
        self.names.insert(key, name.clone());
        name
    }
}

/// `text` itself.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

/// What matches `expression`, which is not empty.
pub(super) fn regex(expression: &str) -> String {
    format!("/{}/", llguidance::regex_to_lark(expression, ""))
}

/// `body`, which is an atom, at least `min` times and at most `max`.
pub(super) fn repeat(body: &str, min: usize, max: Option<usize>) -> String {
    match (min, max) {
        (_, Some(0)) => String::new(),
        (0, Some(1)) => format!("{body}?"),
        (0, None) => format!("{body}*"),
        (1, None) => format!("{body}+"),
        (min, Some(max)) => format!("{body}{{{min},{max}}}"),
        (min, None) => format!("{body}{{{min},}}"),
    }
}

/// One of `options`, which is empty text if there are none.
pub(super) fn one_of(options: &[String]) -> String {
    match options {
        [] => literal(""),
        options => format!("({})", options.join(" | ")),
    }
}
