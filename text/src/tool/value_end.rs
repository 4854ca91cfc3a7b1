//! [`ValueScan`]: where a parameter's value ends.
//!
//! The markup has no escapes, and code about tool calls is full of it, so an end tag counts by what comes
//! after it. Closing tags are held until that is known:
//!
//! ```text
//!   value … \n</parameter> \n</function> \n</tool_call> ?
//!                         │             │              └─ the end of the text, another call, or text: a call
//!                         │             └─ `</tool_call>`, another call, the end of the text, or text that
//!                         │                does not go on with markup
//!                         └─ `<parameter=`, `</function>` or `</tool_call>`
//! ```
//!
//! Anything else after them, a further `</parameter>` above all, makes the tags held part of the value.
//!
//! Two refinements:
//! - A whole call inside a value is recognised by its head (`<function=NAME>`, blanks, `<parameter=`) and
//!   keeps its own closing tags, unless nothing comes after them. A parameter that only the outer call can
//!   still take ends the value even then, so that half a call quoted in a value does no harm.
//! - Where `</parameter>` was forgotten, a line that starts with `</function>` or `</tool_call>` is looked
//!   at in the same way, only with more doubt, and a line that starts with `<parameter=NAME>` ends the
//!   value if the tool still lacks a parameter of that name.
//!
//! What the markup cannot carry, by these rules: a value in which one of its tags follows another with only
//! blanks between, other than in whole calls, and a value with a line that starts `<parameter=NAME>` where
//! the call could still take NAME. Every other text survives to the byte. (A parameter that may be text or
//! `null` cannot be the text `null` or `None`.)
//!
//! A call with parameters is therefore over when something comes after it, or the answer ends.

use super::{
    arguments::Arguments,
    schema::ToolSchemas,
    tags::{Tag, Token, is_blank},
};

/// Calls within calls that are followed. Deeper ones are text like any other.
const MAX_NESTED: usize = 64;

/// The call that a value belongs to.
pub(super) struct Outer<'a> {
    pub(super) schemas: &'a ToolSchemas,
    pub(super) tool: Option<usize>,
}

/// What a token made of the value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ValueStep {
    /// It goes on.
    More,
    /// It has ended, and a parameter of this name begins.
    Next(String),
    /// It has ended, and the call with it; the token belongs to what comes after.
    CallEnd {
        /// `</tool_call>` has been read.
        block_closed: bool,
        /// Blanks after the last closing tag.
        gap: String,
    },
}

/// How a value stands when the text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// In the middle.
    Open,
    /// Its `</parameter>` has been read.
    Ended,
    /// The call's own end has been read.
    CallEnded,
}

/// Closing tags that have been read and may turn out to be text.
#[derive(Clone, Copy, Debug, Default)]
struct Closers {
    parameter: bool,
    function: bool,
    call: bool,
}

/// Reads one value.
pub(super) struct ValueScan {
    /// Nothing of the value has been read: one line break is still markup.
    at_start: bool,
    /// A line break that is markup if the value ends here.
    newline: bool,
    closers: Option<Closers>,
    /// The closing tags, as they were written, up to the last of them.
    held: String,
    /// Blanks after it.
    gap: String,
    /// The calls inside the value that are open here: which tools, if they are known.
    nested: Vec<Option<usize>>,
    /// `<function=NAME>` and nothing but blanks since.
    head: Option<Option<usize>>,
    /// `<tool_call>`s inside the value that have not been closed.
    blocks: usize,
}

impl ValueScan {
    pub(super) fn new() -> Self {
        Self {
            at_start: true,
            newline: false,
            closers: None,
            held: String::new(),
            gap: String::new(),
            nested: Vec::new(),
            head: None,
            blocks: 0,
        }
    }

    /// Take the next token; the value's text goes to `value`.
    pub(super) fn token(&mut self, token: Token<'_>, outer: &Outer<'_>, value: &mut Arguments) -> ValueStep {
        let Some(closers) = self.closers else { return self.inside(token, outer, value) };
        let top = self.nested.is_empty();
        let call_end = |gap: &mut String| ValueStep::CallEnd { block_closed: closers.call, gap: std::mem::take(gap) };
        match token {
            Token::Text(text) if is_blank(text) => {
                self.gap.push_str(text);
                return ValueStep::More;
            }
            Token::Text(text) => {
                let ends = if closers.call {
                    closers.parameter || closers.function
                } else {
                    closers.parameter && closers.function && !text.starts_with('<')
                };
                if top && ends {
                    return call_end(&mut self.gap);
                }
            }
            Token::Tag(Tag::Parameter(name), _) if !closers.function && !closers.call => {
                if top || self.only_outer_takes(name, outer, value) {
                    return ValueStep::Next(name.clone());
                }
            }
            Token::Tag(Tag::FunctionClose, raw) if !closers.function && !closers.call => {
                return self.hold(raw, Closers { function: true, ..closers });
            }
            Token::Tag(Tag::CallClose, raw) if !closers.call => {
                return self.hold(raw, Closers { call: true, ..closers });
            }
            Token::Tag(Tag::CallClose, _) => return call_end(&mut self.gap),
            Token::Tag(Tag::CallOpen | Tag::Function(_), _) if top && (closers.function || closers.call) => {
                return call_end(&mut self.gap);
            }
            Token::Tag(..) => {}
        }
        self.reject(closers, value);
        self.inside(token, outer, value)
    }

    /// The text has ended; `cut`: not by the model's will.
    pub(super) fn at_end(&self, cut: bool) -> AtEnd {
        let Some(Closers { parameter, function, call }) = self.closers else { return AtEnd::Open };
        let whole_call = if cut { parameter && call && self.nested.is_empty() } else { function || call };
        match (whole_call, parameter && (self.nested.is_empty() || !cut)) {
            (true, _) => AtEnd::CallEnded,
            (false, true) => AtEnd::Ended,
            (false, false) => AtEnd::Open,
        }
    }

    fn inside(&mut self, token: Token<'_>, outer: &Outer<'_>, value: &mut Arguments) -> ValueStep {
        let (tag, raw) = match token {
            Token::Tag(tag, raw) => (tag, raw),
            Token::Text(text) => {
                if !is_blank(text) {
                    self.head = None;
                }
                self.text(text, value);
                return ValueStep::More;
            }
        };
        let line_start = self.newline || self.at_start;
        let head = self.head.take();
        match tag {
            Tag::ParameterClose => return self.hold(raw, Closers { parameter: true, ..Closers::default() }),
            Tag::ParameterCloseDrifted if line_start => {
                return self.hold(raw, Closers { parameter: true, ..Closers::default() });
            }
            Tag::Parameter(name) => match head {
                Some(tool) if self.nested.len() < MAX_NESTED => self.nested.push(tool),
                Some(_) => {}
                None if line_start && self.nested.is_empty() && lacks(name, outer, value) => {
                    return ValueStep::Next(name.clone());
                }
                None => {}
            },
            Tag::Function(name) => self.head = Some(outer.schemas.find(name)),
            Tag::FunctionClose if line_start && head.is_none() => {
                return self.hold(raw, Closers { function: true, ..Closers::default() });
            }
            Tag::CallOpen => self.blocks += 1,
            Tag::CallClose if self.blocks > 0 => self.blocks -= 1,
            Tag::CallClose if line_start => {
                return self.hold(raw, Closers { call: true, ..Closers::default() });
            }
            Tag::FunctionClose | Tag::CallClose | Tag::ParameterCloseDrifted => {}
        }
        self.text(raw, value);
        ValueStep::More
    }

    fn hold(&mut self, raw: &str, closers: Closers) -> ValueStep {
        self.held.push_str(&self.gap);
        self.gap.clear();
        self.held.push_str(raw);
        self.closers = Some(closers);
        ValueStep::More
    }

    /// The closing tags held are text.
    fn reject(&mut self, closers: Closers, value: &mut Arguments) {
        self.closers = None;
        // A lone `</function>` ends no call at any depth.
        if closers.function && (closers.parameter || closers.call) {
            self.nested.pop();
        }
        if closers.call {
            self.blocks = self.blocks.saturating_sub(1);
        }
        let held = std::mem::take(&mut self.held) + &std::mem::take(&mut self.gap);
        self.text(&held, value);
    }

    fn text(&mut self, mut text: &str, value: &mut Arguments) {
        if std::mem::take(&mut self.at_start) {
            text = text.strip_prefix('\n').unwrap_or(text);
        }
        if text.is_empty() {
            return;
        }
        if std::mem::take(&mut self.newline) {
            value.text("\n");
        }
        if let Some(before) = text.strip_suffix('\n') {
            self.newline = true;
            text = before;
        }
        value.text(text);
    }

    /// Whether the outer call lacks a parameter that the innermost call inside its value cannot take.
    fn only_outer_takes(&self, name: &str, outer: &Outer<'_>, given: &Arguments) -> bool {
        let inner = self.nested.last().copied().flatten();
        outer.schemas.declares_parameter(outer.tool, name)
            && !given.has(name)
            && !outer.schemas.declares_parameter(inner, name)
    }
}

/// Whether the call may still take a parameter of this name.
fn lacks(name: &str, outer: &Outer<'_>, given: &Arguments) -> bool {
    let known = outer.schemas.declares_parameter(outer.tool, name) || outer.schemas.is_open(outer.tool);
    known && !given.has(name)
}
