//! The command generator: one set of rules for the terminal (`quern configure`) and for the page.

pub mod cookbook;
pub mod fitting;
pub mod hardware;
pub mod network;
pub mod plan;
pub mod table;
