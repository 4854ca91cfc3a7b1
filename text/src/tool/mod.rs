//! Calls of tools in the text of an answer: found as the text comes, by explicit states, in linear time.
//!
//! The rules:
//! - Text outside calls is content, to the byte. Blanks between calls are not, nor are they before the
//!   first call or after the last where nothing else stands there.
//! - A call is `<tool_call>`, `<function=NAME>`, any number of `<parameter=NAME>VALUE</parameter>`,
//!   `</function>`, `</tool_call>`. Closing tags may be missing; several functions may share a block; up to
//!   256 bytes of stray text between tags are dropped. Without `<tool_call>` it is a call only if NAME is a
//!   declared tool. What turns out not to be a call is content as it was written.
//! - One line break after `<parameter=NAME>` and one before `</parameter>` are markup. All else is the
//!   value. Where it ends, tags inside it notwithstanding, is told in `value_end.rs`.
//! - A value is converted by the type its schema states, and stays text where that fails. Text is given out
//!   as it arrives; held back is only what may be an end tag.
//! - Arguments are written as Python's `json.dumps(ensure_ascii=False)` writes them.
//! - A call that the end of the text cut is never reported as complete: [`ToolEvent::CallCut`]. When the
//!   text was cut from outside, even a call whose `</function>` was read counts as cut until `</tool_call>`
//!   shows that the tag was not part of a value. (A call without parameters has no such doubt.)
//!
//! One departure from the shared cases: `duplicate_param` wants the last of two values of one name, and the
//! first is taken here. The first has been given out by the time the second arrives, and an answer must
//! not depend on whether it was streamed. (The case is marked as a matter of opinion.)
//!
//! And one from SGLang's types: where a schema admits text and objects or arrays, what is JSON of that
//! kind becomes it (`["a", "b"]` for `string | string[]`), everything else text.

mod arguments;
mod event;
mod json_call;
mod parser;
mod schema;
mod tags;
mod value;
mod value_end;

pub use event::{ParsedMessage, ToolCall, ToolEvent, render};
pub use parser::{ToolFormat, ToolParser};
pub use schema::ToolSchemas;
