//! The server on real sockets over the fake model, a subject a file. One program, since each takes as long to link as to run.

mod bounds;
mod connections;
mod constraints;
mod cross_origin;
mod faults;
mod history;
mod http;
mod infill;
mod messages;
mod neighbours;
mod ollama;
#[path = "../../../tests/reference.rs"]
mod reference;
mod replay;
mod responses;
mod restart;
#[path = "../../../tests/skip.rs"]
mod skip;
#[path = "../support/mod.rs"]
mod support;
mod tenants;
mod tools;
mod turns;
