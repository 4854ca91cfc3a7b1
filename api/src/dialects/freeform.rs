//! [`Freeform`]: the text of a custom tool's input, out of its call's arguments as they are written.

use serde_json::Value;

/// How the arguments of such a call begin. They are written here, so there is one spelling.
const BEGIN: &str = "{\"input\": \"";

/// Arguments `{"input": "…"}` in the making.
#[derive(Clone, Debug, Default)]
pub struct Freeform {
    json: String,
    /// Up to where `json` has been read.
    read: usize,
    input: String,
    ended: bool,
}

impl Freeform {
    /// Take more of the arguments; returns what is new of the input.
    pub fn push(&mut self, json: &str) -> String {
        self.json.push_str(json);
        if self.ended || !self.json.starts_with(BEGIN) {
            return String::new();
        }
        self.read = self.read.max(BEGIN.len());
        let begun = self.input.len();
        while let Some(c) = self.json[self.read..].chars().next() {
            let length = match c {
                '"' => {
                    self.ended = true;
                    break;
                }
                '\\' => match self.json.as_bytes().get(self.read + 1) {
                    Some(b'u') => 6,
                    _ => 2,
                },
                c => c.len_utf8(),
            };
            // An escape that has not arrived whole waits for its rest.
            let Some(piece) = self.json.get(self.read..self.read + length) else { break };
            let Ok(text) = serde_json::from_str::<String>(&format!("\"{piece}\"")) else { break };
            self.input.push_str(&text);
            self.read += length;
        }
        self.input[begun..].to_owned()
    }

    /// The whole input, and what of it has not been returned: a model may write arguments of its own, which
    /// are then the input as they are.
    pub fn finish(&mut self) -> (String, String) {
        if self.ended {
            return (self.input.clone(), String::new());
        }
        let arguments: Value = serde_json::from_str(&self.json).unwrap_or_default();
        let whole = match arguments.get("input") {
            Some(Value::String(input)) => input.clone(),
            _ if arguments.as_object().is_some_and(|fields| fields.is_empty()) => String::new(),
            _ => self.json.clone(),
        };
        let rest = whole.strip_prefix(self.input.as_str()).unwrap_or_default().to_owned();
        (whole, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_comes_as_it_is_written_at_every_split() {
        let input = "*** Begin Patch\n+\"é\\\" 😀\u{1}\t\n*** End Patch";
        let mut json = String::from("{\"input\": ");
        quern_text::json::write_string(input, &mut json);
        json.push('}');
        for (at, _) in json.char_indices() {
            let mut freeform = Freeform::default();
            let mut said = freeform.push(&json[..at]);
            said += &freeform.push(&json[at..]);
            let (whole, rest) = freeform.finish();
            assert_eq!((said + &rest, whole), (input.to_owned(), input.to_owned()), "{at}");
        }
    }

    #[test]
    fn other_arguments_are_the_input_as_they_are() {
        for (json, wanted) in
            [("{}", ""), ("{\"patch\": \"x\"}", "{\"patch\": \"x\"}"), ("{\"a\": 1, \"input\": \"x\"}", "x")]
        {
            let mut freeform = Freeform::default();
            assert_eq!(freeform.push(json), "");
            assert_eq!(freeform.finish(), (wanted.to_owned(), wanted.to_owned()));
        }
    }
}
