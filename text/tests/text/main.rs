//! Templates, tokens, stops, tools and grammars, a subject a file. One program, since each takes as long to link as to run.

mod custom_tools;
mod files;
mod fixtures;
mod grammar;
mod grammar_bombs;
mod json_grammar;
mod loops;
#[path = "../../../tests/reference.rs"]
mod reference;
#[path = "../../../tests/skip.rs"]
mod skip;
#[path = "../support/mod.rs"]
mod support;
mod tool_cases;
mod tool_fixtures;
mod tool_properties;
mod vocabulary;
