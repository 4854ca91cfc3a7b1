//! [`RecentLog`]: the last lines of the log, for the live view.
//!
//! Keeping them costs a copy each, and there are a few a second at most. They are kept whether or not they can be
//! written.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Lines that are kept.
const MOST_LINES: usize = 200;
/// Longest part of a line that is kept, bytes.
const MOST_BYTES: usize = 400;

/// The log of this process.
pub static RECENT: RecentLog = RecentLog::new();

/// The last lines, numbered from 0 since the start.
#[derive(Debug)]
pub struct RecentLog(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    kept: VecDeque<String>,
    /// Number of the next line.
    next: u64,
}

impl RecentLog {
    const fn new() -> Self {
        Self(Mutex::new(Lines { kept: VecDeque::new(), next: 0 }))
    }

    /// Keep a line.
    pub(crate) fn push(&self, line: &str) {
        let end = line.floor_char_boundary(MOST_BYTES);
        let mut lines = self.lines();
        if lines.kept.len() == MOST_LINES {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line[..end].to_owned());
        lines.next += 1;
    }

    /// The kept lines from number `from` on, and the number of the line after them.
    pub fn since(&self, from: u64) -> (Vec<String>, u64) {
        let lines = self.lines();
        let first = lines.next - lines.kept.len() as u64;
        let skipped = from.saturating_sub(first) as usize;
        (lines.kept.iter().skip(skipped).cloned().collect(), lines.next)
    }

    /// Lines are whole whenever the lock is free.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_each_is_told_once() {
        let log = RecentLog::new();
        assert_eq!(log.since(0), (vec![], 0));
        log.push("one");
        log.push(&"ä".repeat(MOST_BYTES));
        let (lines, next) = log.since(0);
        assert_eq!((lines[0].as_str(), lines[1].len(), next), ("one", MOST_BYTES, 2));
        assert_eq!(log.since(2), (vec![], 2));
        for i in 0..1000 {
            log.push(&i.to_string());
        }
        let (lines, next) = log.since(2);
        assert_eq!((lines.len(), next), (MOST_LINES, 1002));
        assert_eq!((lines[0].as_str(), lines[MOST_LINES - 1].as_str()), ("800", "999"));
        assert_eq!(log.since(1001).0, ["999"]);
    }
}
