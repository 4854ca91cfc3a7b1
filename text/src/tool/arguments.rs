//! [`Arguments`]: the arguments of one call, written as JSON while its parameters arrive.

use std::collections::HashSet;

use super::{schema::ValueType, value::Prospect};
use crate::json;

/// Writes `{"name": value, …}` piece by piece. Text goes out as it comes; everything else when it is
/// complete.
#[derive(Default)]
pub(super) struct Arguments {
    /// Written and not yet taken.
    json: String,
    /// Bytes written so far.
    written: usize,
    /// Bytes written when the last parameter was complete.
    complete: usize,
    given: HashSet<String>,
    current: Option<Current>,
}

/// The parameter that is arriving.
struct Current {
    name: String,
    value_type: ValueType,
    prospect: Prospect,
    /// What cannot be given out yet.
    text: String,
    /// A parameter that was given before: read and dropped.
    repeated: bool,
}

impl Arguments {
    /// Whether a parameter of this name has been given, or is arriving.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// A parameter begins.
    pub(super) fn begin(&mut self, name: &str, value_type: ValueType) {
        debug_assert!(self.current.is_none(), "one parameter at a time");
        let repeated = !self.given.insert(name.to_string());
        let prospect = value_type.prospect("");
        self.current = Some(Current { name: name.into(), value_type, prospect, text: String::new(), repeated });
    }

    /// More of its value.
    pub(super) fn text(&mut self, text: &str) {
        let Some(current) = self.current.as_mut().filter(|c| !c.repeated && !text.is_empty()) else { return };
        if current.prospect == Prospect::Text {
            return self.write(|json| json::escape(text, json));
        }
        current.text.push_str(text);
        if current.prospect == Prospect::Open {
            current.prospect = current.value_type.prospect(&current.text);
            if current.prospect == Prospect::Text {
                let (name, text) = (current.name.clone(), std::mem::take(&mut current.text));
                self.key(&name);
                self.write(|json| {
                    json.push('"');
                    json::escape(&text, json);
                });
            }
        }
    }

    /// The value is complete.
    pub(super) fn end(&mut self) {
        let Some(current) = self.current.take().filter(|c| !c.repeated) else { return };
        if current.prospect == Prospect::Text {
            self.write(|json| json.push('"'));
        } else {
            self.key(&current.name);
            let value = current.value_type.convert(&current.text);
            self.write(|json| json.push_str(&value));
        }
        self.complete = self.written;
    }

    /// All parameters have been given.
    pub(super) fn close(&mut self) {
        let end = if self.written == 0 { "{}" } else { "}" };
        self.write(|json| json.push_str(end));
    }

    /// Bytes of the JSON text that hold complete parameters; with a `}` they are an object again.
    pub(super) fn complete_bytes(&self) -> usize {
        self.complete
    }

    /// What has been written since the last time.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.json)
    }

    fn key(&mut self, name: &str) {
        let start = if self.written == 0 { "{" } else { ", " };
        self.write(|json| {
            json.push_str(start);
            json::write_string(name, json);
            json.push_str(": ");
        });
    }

    fn write(&mut self, write: impl FnOnce(&mut String)) {
        let before = self.json.len();
        write(&mut self.json);
        self.written += self.json.len() - before;
    }
}
