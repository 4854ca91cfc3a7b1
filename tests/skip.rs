//! [`skip`]: says that a test does not run here, where people see it.

use std::io::Write;

/// Write `SKIPPED: package, test: why; how to get it` to standard error. Not by `eprintln!`, whose lines libtest swallows in
/// tests that pass; `./test` gathers these lines and ends with them.
pub(crate) fn skip(why: &str, how: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED: {}, {test}: {why}; {how}", env!("CARGO_PKG_NAME")).replace('\n', " ") + "\n";
    // In one write, since libtest writes to the same pipe. Standard error may be closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
