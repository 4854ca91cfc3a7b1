//! [`skip`]: says that a test does not run here, where people see it.

use std::io::Write;

/// Write `SKIPPED: package, test: why; how to get it` to standard error. Not by `eprintln!`, whose lines libtest swallows in
/// tests that pass; `./test` gathers these lines and ends with them.
pub(crate) fn skip(why: &str, how: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {}, {test}: {why}; {how}", env!("CARGO_PKG_NAME"));
}
