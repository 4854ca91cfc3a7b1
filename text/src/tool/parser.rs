//! [`ToolParser`]: the text of an answer becomes content and calls, as it comes.
//!
//! ```text
//!            <tool_call>              <function=NAME>              <parameter=NAME>
//!  Outside ─────────────▶ Opened ────────────────────▶ Header ──────────────────────▶ Value ◀┐ next
//!     ▲ ▲                  │ │ {                        │ │ </function>               │ └────┘ parameter
//!     │ └── not a call ────┘ └──────────▶ Json          │ └──────────▶ Between ◀──────┘
//!     └──────────────────────────────────── │ ──────────┘                │
//!     └─────────────────────────────────────┴── </tool_call>, or text ───┘
//! ```
//!
//! From `<tool_call>` to the first tag that makes it a call everything is held, so that what turns out to
//! be none can be given back as it was. A bare `<function=NAME>` enters Header from Outside, if NAME is a
//! declared tool.

use std::sync::Arc;

use super::{
    arguments::Arguments,
    event::ToolEvent,
    json_call::{JsonCall, JsonCallStep},
    schema::ToolSchemas,
    tags::{BLANKS, Tag, TagScanner, Token, is_blank},
    value_end::{AtEnd, Outer, ValueScan, ValueStep},
};

/// Stray text that is tolerated between a call's tags and dropped, in bytes. Past it the text is an answer
/// that mentions a tag, and must not be held back any longer.
const MAX_STRAY_BYTES: usize = 256;

/// How a model writes its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call><function=NAME><parameter=NAME>…`. JSON in `<tool_call>` is understood as well, since
    /// these models were brought up with it.
    Qwen3Coder,
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>` only.
    Json,
}

impl ToolFormat {
    /// The names that `--tool-call-parser` takes.
    pub const NAMES: &[(&str, ToolFormat)] = &[
        ("qwen3_coder", ToolFormat::Qwen3Coder),
        ("step3p5", ToolFormat::Qwen3Coder),
        ("nanbeige", ToolFormat::Qwen3Coder),
        ("qwen", ToolFormat::Json),
        ("qwen25", ToolFormat::Json),
        ("hermes", ToolFormat::Json),
    ];

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

/// Parses one answer.
///
/// ```
/// use std::sync::Arc;
///
/// use quern_text::{ParsedMessage, ToolFormat, ToolParser, ToolSchemas};
/// use serde_json::json;
///
/// let parameters = json!({"type": "object", "properties": {"line": {"type": "integer"}}});
/// let tools = [json!({"type": "function", "function": {"name": "goto", "parameters": parameters}})];
/// let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, Arc::new(ToolSchemas::new(&tools)));
///
/// let pieces = ["There.\n<tool_call>\n<function=goto>\n<para", "meter=line>\n4", "2\n</parameter>\n</function>\n</tool_call>"];
/// let mut events: Vec<_> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
/// events.extend(parser.finish(false));
///
/// let message = ParsedMessage::from_events(events);
/// assert_eq!(message.calls[0].name, "goto");
/// assert_eq!(message.calls[0].arguments, r#"{"line": 42}"#);
/// ```
pub struct ToolParser {
    format: ToolFormat,
    schemas: Arc<ToolSchemas>,
    tags: TagScanner,
    state: State,
    /// What may yet become content: blanks between calls, and tags that may not be a call's.
    held: String,
    /// No content since the last call, or since the beginning: blanks are held, and dropped if a call
    /// comes next.
    fresh: bool,
    /// Calls begun.
    calls: usize,
    events: Vec<ToolEvent>,
    /// Bytes handled after the scanner.
    #[cfg(test)]
    work: usize,
}

enum State {
    /// Content.
    Outside,
    /// After `<tool_call>`.
    Opened {
        /// Length of `held` up to and with the tag.
        mark: usize,
        /// Something stray has come.
        stray: bool,
    },
    /// After `<function=NAME>`.
    Header(Header),
    /// In a parameter's value.
    Value(Box<Call>),
    /// In a JSON object; `held` has it from `mark` on.
    Json { call: JsonCall, mark: usize },
    /// After a function.
    Between {
        /// `</tool_call>` is to come.
        wrapped: bool,
        /// Something stray has come.
        stray: bool,
    },
}

struct Header {
    name: String,
    /// Within `<tool_call>`.
    wrapped: bool,
    /// Only blanks may come before the next tag.
    strict: bool,
    stray: bool,
    /// Length of `held` up to and with the tag.
    mark: usize,
}

struct Call {
    tool: Option<usize>,
    wrapped: bool,
    arguments: Arguments,
    scan: ValueScan,
}

impl ToolParser {
    /// A parser for one answer to a request with these tools.
    pub fn new(format: ToolFormat, schemas: Arc<ToolSchemas>) -> Self {
        Self {
            format,
            schemas,
            tags: TagScanner::default(),
            state: State::Outside,
            held: String::new(),
            fresh: true,
            calls: 0,
            events: Vec::new(),
            #[cfg(test)]
            work: 0,
        }
    }

    /// Take the next piece of the answer.
    pub fn push(&mut self, text: &str) -> Vec<ToolEvent> {
        let mut tags = std::mem::take(&mut self.tags);
        tags.push(text, |token| self.token(token));
        self.tags = tags;
        self.flush_arguments();
        std::mem::take(&mut self.events)
    }

    /// The end of the answer. `cut`: it was ended from outside, by `max_tokens` or a stop string, rather than
    /// by the model. Nothing may be pushed after it.
    pub fn finish(&mut self, cut: bool) -> Vec<ToolEvent> {
        let rest = self.tags.finish();
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Outside => {
                let begun = rest.strip_prefix("<function=").filter(|_| self.format == ToolFormat::Qwen3Coder);
                // Of a call that was cut within its opening tag there is nothing to tell.
                let opens = "<tool_call>".starts_with(rest.as_str()) && rest.len() >= "<tool_".len();
                if !(cut && (opens || begun.is_some_and(|name| self.schemas.begins_a_name(name)))) {
                    self.content(&rest);
                }
            }
            State::Opened { stray: false, .. } if cut => self.held.clear(),
            State::Header(header) if !header.stray && (cut || (header.wrapped && !header.strict)) => {
                let call = self.start_call(&header.name, header.wrapped);
                self.cut_call(&call.arguments);
            }
            State::Json { call, mark } => self.finish_json(call, mark, cut, &rest),
            State::Between { .. } if cut && is_blank(&self.held) => {}
            State::Opened { .. } | State::Header(_) | State::Between { .. } => {
                self.held.push_str(&rest);
                if !is_blank(&self.held) {
                    self.give_back();
                }
            }
            State::Value(mut call) => match call.scan.at_end(cut) {
                AtEnd::CallEnded => self.end_call(*call),
                AtEnd::Ended if !cut => self.end_call(*call),
                AtEnd::Ended => {
                    call.arguments.end();
                    self.cut_call_with(*call);
                }
                AtEnd::Open => self.cut_call_with(*call),
            },
        }
        // Blanks alone are an answer only where nothing else is.
        if self.calls == 0 && !self.held.is_empty() {
            self.give_back();
        }
        std::mem::take(&mut self.events)
    }

    fn token(&mut self, token: Token<'_>) {
        self.count(token.raw().len());
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Outside => self.outside(token),
            State::Opened { mark, stray } => self.opened(token, mark, stray),
            State::Header(header) => self.header(token, header),
            State::Value(call) => self.value(token, call),
            State::Json { call, mark } => self.json(token.raw(), Some(token), call, mark),
            State::Between { wrapped, stray } => self.between(token, wrapped, stray),
        }
    }

    fn outside(&mut self, token: Token<'_>) {
        match token {
            Token::Tag(Tag::CallOpen, raw) => {
                self.held.push_str(raw);
                self.state = State::Opened { mark: self.held.len(), stray: false };
            }
            Token::Tag(Tag::Function(name), raw) if self.xml() && self.schemas.declares(name) => {
                self.begin_header(name, raw, false, true);
            }
            _ => self.content(token.raw()),
        }
    }

    fn opened(&mut self, token: Token<'_>, mark: usize, stray: bool) {
        match token {
            Token::Text(text) if !stray && text.trim_start_matches(BLANKS).starts_with(['{', '[']) => {
                let start = text.len() - text.trim_start_matches(BLANKS).len();
                self.held.push_str(&text[..start]);
                let mark = self.held.len();
                return self.json(&text[start..], None, JsonCall::default(), mark);
            }
            Token::Tag(Tag::CallClose, _) if !stray => {
                self.held.clear();
                self.state = State::Between { wrapped: false, stray: false };
                return;
            }
            Token::Tag(Tag::Function(name), raw) if self.xml() && (!stray || self.schemas.declares(name)) => {
                return self.begin_header(name, raw, true, stray);
            }
            Token::Tag(Tag::CallOpen, _) => {
                self.give_back();
                return self.outside(token);
            }
            _ => self.held.push_str(token.raw()),
        }
        let stray = stray || !is_blank(token.raw());
        let closed = matches!(token, Token::Tag(Tag::CallClose, _));
        if stray && (closed || self.held.len() - mark > MAX_STRAY_BYTES) {
            return self.give_back();
        }
        self.state = State::Opened { mark, stray };
    }

    fn header(&mut self, token: Token<'_>, mut header: Header) {
        match token {
            Token::Tag(Tag::Parameter(parameter), _) => {
                let mut call = self.start_call(&header.name, header.wrapped);
                self.begin_value(&mut call, parameter);
                self.state = State::Value(Box::new(call));
            }
            Token::Tag(tag @ (Tag::FunctionClose | Tag::CallClose), _) => {
                let call = self.start_call(&header.name, header.wrapped);
                let wrapped = header.wrapped && *tag == Tag::FunctionClose;
                self.state = State::Between { wrapped, stray: false };
                self.end_call(call);
            }
            Token::Tag(Tag::CallOpen | Tag::Function(_), _) => {
                self.give_back();
                self.outside(token);
            }
            _ => {
                self.held.push_str(token.raw());
                header.stray |= !is_blank(token.raw());
                if header.stray && (header.strict || self.held.len() - header.mark > MAX_STRAY_BYTES) {
                    return self.give_back();
                }
                self.state = State::Header(header);
            }
        }
    }

    fn value(&mut self, token: Token<'_>, mut call: Box<Call>) {
        let outer = Outer { schemas: &self.schemas, tool: call.tool };
        match call.scan.token(token, &outer, &mut call.arguments) {
            ValueStep::More => self.state = State::Value(call),
            ValueStep::Next(parameter) => {
                call.arguments.end();
                self.begin_value(&mut call, &parameter);
                self.state = State::Value(call);
            }
            ValueStep::CallEnd { block_closed, gap } => {
                let wrapped = call.wrapped && !block_closed;
                self.end_call(*call);
                self.held = gap;
                self.between(token, wrapped, false);
            }
        }
    }

    fn between(&mut self, token: Token<'_>, wrapped: bool, stray: bool) {
        match token {
            Token::Tag(Tag::CallClose, _) => {
                self.held.clear();
                self.state = State::Between { wrapped: false, stray: false };
            }
            Token::Tag(Tag::Function(name), raw) if self.xml() && wrapped && !stray => {
                self.begin_header(name, raw, true, false);
            }
            Token::Text(text)
                if (!stray && is_blank(text)) || (wrapped && self.held.len() + text.len() <= MAX_STRAY_BYTES) =>
            {
                self.held.push_str(text);
                self.state = State::Between { wrapped, stray: stray || !is_blank(text) };
            }
            _ => {
                if stray {
                    self.give_back();
                }
                self.outside(token);
            }
        }
    }

    /// Take `text`, all of it from `token` if there is one, as part of a JSON call.
    fn json(&mut self, text: &str, token: Option<Token<'_>>, mut call: JsonCall, mark: usize) {
        // Within a string a tag is text like any other.
        let closes = matches!(token, Some(Token::Tag(Tag::CallClose, _))) && !call.in_string();
        let (progress, used) = if closes { (call.close(), 0) } else { call.push(text) };
        self.held.push_str(&text[..used]);
        let calls = match progress {
            JsonCallStep::More => {
                self.state = State::Json { call, mark };
                return;
            }
            JsonCallStep::Complete(end) => JsonCall::read(&(self.held[mark..].to_string() + &end)),
            JsonCallStep::Broken => None,
        };
        match calls {
            Some(calls) => {
                self.whole_calls(calls);
                self.state = State::Between { wrapped: true, stray: false };
            }
            None => self.give_back(),
        }
        if let (true, Some(token)) = (closes, token) {
            self.token(token);
        } else if used < text.len() {
            self.token(Token::Text(&text[used..]));
        }
    }

    fn finish_json(&mut self, mut call: JsonCall, mark: usize, cut: bool, rest: &str) {
        if cut {
            // Half an object has no complete argument, but it may have a name.
            let name = call.before_last_comma().map(|end| self.held[mark..mark + end].to_string() + "}");
            if let Some([(name, _)]) = name.and_then(|text| JsonCall::read(&text)).as_deref() {
                let call = self.start_call(name, true);
                self.cut_call(&call.arguments);
            }
            self.held.clear();
            return;
        }
        self.held.push_str(rest);
        let calls = match call.close() {
            JsonCallStep::Complete(end) => JsonCall::read(&(self.held[mark..].to_string() + &end)),
            _ => None,
        };
        match calls {
            Some(calls) => self.whole_calls(calls),
            None => self.give_back(),
        }
    }

    fn whole_calls(&mut self, calls: Vec<(String, String)>) {
        for (name, json) in calls {
            self.start_call(&name, true);
            let index = self.calls - 1;
            self.events.extend([ToolEvent::Arguments { index, json }, ToolEvent::CallEnd { index }]);
        }
    }

    fn begin_header(&mut self, name: &str, raw: &str, wrapped: bool, strict: bool) {
        self.held.push_str(raw);
        let mark = self.held.len();
        self.state = State::Header(Header { name: name.into(), wrapped, strict, stray: false, mark });
    }

    fn start_call(&mut self, name: &str, wrapped: bool) -> Call {
        self.held.clear();
        self.fresh = true;
        self.events.push(ToolEvent::CallStart { index: self.calls, name: name.to_string() });
        self.calls += 1;
        let tool = self.schemas.find(name);
        Call { tool, wrapped, arguments: Arguments::default(), scan: ValueScan::new() }
    }

    fn begin_value(&mut self, call: &mut Call, parameter: &str) {
        call.arguments.begin(parameter, self.schemas.value_type(call.tool, parameter));
        call.scan = ValueScan::new();
    }

    fn end_call(&mut self, mut call: Call) {
        call.arguments.end();
        call.arguments.close();
        self.fragment(call.arguments.take());
        self.events.push(ToolEvent::CallEnd { index: self.calls - 1 });
    }

    fn cut_call_with(&mut self, mut call: Call) {
        self.fragment(call.arguments.take());
        self.cut_call(&call.arguments);
    }

    fn cut_call(&mut self, arguments: &Arguments) {
        let complete_bytes = arguments.complete_bytes();
        self.events.push(ToolEvent::CallCut { index: self.calls - 1, complete_bytes });
    }

    /// Give out what has been written of the open call's arguments.
    fn flush_arguments(&mut self) {
        if let State::Value(call) = &mut self.state {
            let json = call.arguments.take();
            self.fragment(json);
        }
    }

    fn fragment(&mut self, json: String) {
        if !json.is_empty() {
            self.events.push(ToolEvent::Arguments { index: self.calls - 1, json });
        }
    }

    fn content(&mut self, text: &str) {
        self.held.push_str(text);
        if !(text.is_empty() || self.fresh && is_blank(text)) {
            self.give_back();
        }
    }

    /// What is held is content.
    fn give_back(&mut self) {
        self.count(self.held.len());
        self.fresh = false;
        self.state = State::Outside;
        let text = std::mem::take(&mut self.held);
        match self.events.last_mut() {
            Some(ToolEvent::Content(before)) => before.push_str(&text),
            _ => self.events.push(ToolEvent::Content(text)),
        }
    }

    fn xml(&self) -> bool {
        self.format == ToolFormat::Qwen3Coder
    }

    fn count(&mut self, _bytes: usize) {
        #[cfg(test)]
        {
            self.work += _bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters looked at by the scanner and bytes handled after it.
    fn work(text: &str, piece: usize) -> usize {
        let tools = serde_json::json!({"name": "f", "parameters": {"properties": {
            "s": {"type": "string"}, "i": {"type": "integer"}, "m": {"anyOf": [{"type": "string"}, {"type": "array"}]},
        }}});
        let mut parser = ToolParser::new(ToolFormat::Qwen3Coder, Arc::new(ToolSchemas::new(&[tools])));
        let mut rest = text;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            parser.push(now);
            rest = later;
        }
        parser.finish(false);
        parser.work + parser.tags.work
    }

    #[test]
    fn work_grows_with_the_text_and_no_faster() {
        let value = "<tool_call>\n<function=f>\n<parameter=s>\n";
        let whole = "<tool_call>\n<function=f>\n<parameter=i>\n1\n</parameter>\n</function>\n</tool_call>\n";
        let cases = [
            ("", "plain text "),
            ("", "<"),
            ("", " "),
            ("", "<tool_call>"),
            ("", "<tool_call> "),
            ("", "<tool_call>{"),
            ("<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"", "\\\"x"),
            ("<tool_call>", "[{\""),
            ("", "<function=f> "),
            ("", "<function=f"),
            ("", whole),
            ("<tool_call><function=f>", "\n"),
            (value, "text <b> "),
            (value, "<"),
            (value, "\n"),
            (value, "</parameter>"),
            (value, "</parameter>\n"),
            (value, "</parameter>\n</function>"),
            (value, "\n</function>\n</tool_call>\n</parameter>"),
            (value, "<function=f><parameter=s>"),
            (value, "\n<parameter=s>\n</parameter>"),
            (value, "</parameter>\n</function>\n</tool_call>\n"),
            (&value.replace("=s", "=m"), " "),
            (&value.replace("=s", "=i"), "1"),
        ];
        for (start, unit) in cases {
            // By character a smaller text shows the same, in less time.
            for (piece, size) in [(1, 1 << 17), (4096, 1 << 20)] {
                let work = |bytes: usize| work(&(start.to_string() + &unit.repeat(bytes / unit.len())), piece);
                let (half, whole) = (work(size / 2), work(size));
                assert!(whole < 5 * size, "{whole} steps for {size} bytes of {start:?} {unit:?}");
                assert!(
                    whole < half * 21 / 10,
                    "{half} steps for half of {size} bytes, {whole} for all: {start:?} {unit:?}"
                );
            }
        }
    }
}
