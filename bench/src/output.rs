//! [`line()`] and [`note()`]: what is printed for a reader.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::BenchError;

/// Print a line of the result on standard output.
///
/// # Errors
/// If it cannot be written: a disk is full, say.
pub fn line(line: impl Display) -> Result<(), BenchError> {
    writeln!(io::stdout(), "{line}").map_err(BenchError::Output)
}

/// Print a line beside the result on standard error. Where that cannot be written, there is no place to say so.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
