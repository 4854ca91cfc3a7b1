//! [`JsonCall`]: a call written as a JSON object, `{"name": …, "arguments": {…}}`.
//!
//! Only brackets and strings are followed while it arrives; it is read when it is complete.

use serde_json::Value as Json;

use crate::json;

/// Nesting; `serde_json` reads no more.
const MAX_DEPTH: usize = 128;

/// Follows an object, or a list of them, to its end.
#[derive(Default)]
pub(super) struct JsonCall {
    /// The closing brackets that are due.
    due: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// A bracket has opened and nothing but blanks came since.
    opened: bool,
    /// Bytes read.
    read: usize,
    /// Bytes before the last comma between the object's own fields.
    before_last_comma: Option<usize>,
}

/// What a piece of text made of it.
pub(super) enum JsonCallStep {
    /// It goes on.
    More,
    /// Complete, once this is added.
    Complete(String),
    /// Not JSON.
    Broken,
}

impl JsonCall {
    /// Whether the next character belongs to a string.
    pub(super) fn in_string(&self) -> bool {
        self.in_string
    }

    /// Bytes of the call so far that are its complete fields.
    pub(super) fn before_last_comma(&self) -> Option<usize> {
        self.before_last_comma
    }

    /// Take the next piece of text. Returns how many bytes of it belong to the call.
    pub(super) fn push(&mut self, text: &str) -> (JsonCallStep, usize) {
        for (i, byte) in text.bytes().enumerate() {
            // Text that only looks like a call is told early: an answer must not be held for a brace.
            if self.opened && !byte.is_ascii_whitespace() {
                let object = self.due.last() == Some(&b'}');
                if (object && !matches!(byte, b'"' | b'}')) || (self.due == *b"]" && byte != b'{') {
                    return (JsonCallStep::Broken, text.len());
                }
            }
            self.opened = !self.in_string && (matches!(byte, b'{' | b'[') || self.opened && byte.is_ascii_whitespace());
            self.read += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b',' if self.due == *b"}" => self.before_last_comma = Some(self.read - 1),
                b'{' | b'[' if self.due.len() == MAX_DEPTH => return (JsonCallStep::Broken, text.len()),
                b'{' => self.due.push(b'}'),
                b'[' => self.due.push(b']'),
                b'}' | b']' if self.due.pop() != Some(byte) => return (JsonCallStep::Broken, text.len()),
                b'}' | b']' if self.due.is_empty() => return (JsonCallStep::Complete(String::new()), i + 1),
                _ => {}
            }
        }
        (JsonCallStep::More, text.len())
    }

    /// The call is over, ready or not: add the brackets that are due.
    pub(super) fn close(&mut self) -> JsonCallStep {
        if self.in_string {
            return JsonCallStep::Broken;
        }
        let due: Vec<u8> = self.due.drain(..).rev().collect();
        JsonCallStep::Complete(String::from_utf8(due).expect("brackets are ASCII"))
    }

    /// Name and arguments of each call.
    pub(super) fn read(text: &str) -> Option<Vec<(String, String)>> {
        let calls = match serde_json::from_str(text).ok()? {
            Json::Array(calls) if !calls.is_empty() => calls,
            call => vec![call],
        };
        calls.iter().map(read_call).collect()
    }
}

fn read_call(call: &Json) -> Option<(String, String)> {
    let name = call.get("name")?.as_str()?.to_string();
    let arguments = call.get("arguments").or_else(|| call.get("parameters"));
    let arguments = match arguments {
        None | Some(Json::Null) => "{}".into(),
        Some(object @ Json::Object(_)) => json::dumps_parsed(object),
        // Some models write the object as a string, as the API does.
        Some(Json::String(text)) => match serde_json::from_str(text).ok()? {
            object @ Json::Object(_) => json::dumps_parsed(&object),
            _ => return None,
        },
        Some(_) => return None,
    };
    Some((name, arguments))
}
