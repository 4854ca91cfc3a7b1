//! Constrained output: which tokens may come next, so that the whole obeys a schema, a regular
//! expression, a grammar, or the markup of tool calls.
//!
//! The automaton is `llguidance`'s: an Earley parser over lexemes that are found by derivatives of regular
//! expressions, walked along the tree of the vocabulary. Ours is what goes into it: grammars in its Lark
//! dialect (`lark.rs`), bounded before they are written.
//!
//! What holds of every grammar here:
//! - Control tokens never appear in constrained text. The one exception ends it: an end-of-sequence token
//!   where the grammar may end. Added tokens that are text (`<tool_call>`) may stand for that text.
//! - A mask has a bit for each row of logits, whether or not the vocabulary has a token there.
//! - An output that repeats itself where it may not end is stopped from it (`loop_guard.rs`).
//! - No source, however hostile, takes long to compile: sizes are bounded before, fuel during.

mod bounds;
mod ebnf;
mod factory;
mod json_blanks;
mod json_schema;
mod lark;
mod loop_guard;
mod matcher;
mod spec;
mod structural_tag;
mod tool_calls;
mod tool_parameters;

pub use factory::GrammarFactory;
pub use json_blanks::JsonBlanks;
pub use matcher::GrammarMatcher;
pub use spec::{CallChoice, ConstraintError, GrammarSpec};
pub use tool_calls::INPUT_GRAMMAR;
