//! [`StopMatcher`]: text up to the first stop string or stop pattern.
//!
//! What counts is where a match *ends*: characters are looked at in order, and the first one that
//! completes a match of any stop ends the text at that match's beginning (the longest match, if several
//! end there). So the outcome depends on the text alone, never on how it was cut into pieces.
//!
//! Text that may be the beginning of a stop is held back. For strings that is the longest suffix which
//! begins one of them. For a pattern it is as much as its longest match could need; a pattern without
//! such a bound (`a.*b`) holds back [`UNBOUNDED_HOLD`] bytes, and a match that began earlier is cut where
//! the text already given out ends.

use regex::{Regex, RegexBuilder};

/// Most stop strings, and most patterns.
pub const MAX_STOPS: usize = 32;

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256;

/// Memory a compiled pattern may take.
const PATTERN_SIZE_LIMIT: usize = 1 << 20;

/// Bytes held back for a pattern whose matches may be of any length.
pub const UNBOUNDED_HOLD: usize = 256;

/// A stop that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Too many.
    #[error("{count} {what} were given; at most {MAX_STOPS} are allowed")]
    TooMany {
        /// Strings or patterns.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// An empty string stops everywhere.
    #[error("a stop string is empty")]
    Empty,
    /// Too long a pattern.
    #[error("a stop pattern has {bytes} bytes; at most {MAX_PATTERN_BYTES} are allowed")]
    PatternTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not a pattern.
    #[error("stop pattern {pattern:?}: {cause}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The parser's words.
        cause: String,
    },
}

/// What came of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopStep {
    /// Text that is safe to give out now.
    pub text: String,
    /// The stop that ended the text: the string, or the pattern.
    pub matched: Option<String>,
}

/// Watches a text for its end.
pub struct StopMatcher {
    strings: Vec<String>,
    patterns: Vec<Pattern>,
    keep_match: bool,
    /// Everything so far; kept whole because patterns may look behind (`^`, `\b`).
    text: String,
    /// Bytes of `text` that have been given out.
    released: usize,
    /// Bytes of `text` that have been searched.
    searched: usize,
    stopped: bool,
}

struct Pattern {
    regex: Regex,
    /// Longest match in bytes, or the hold for patterns without one.
    hold: usize,
}

impl StopMatcher {
    /// Watch for `strings` and `patterns`; `keep_match` leaves the match in the text.
    pub fn new(strings: &[String], patterns: &[String], keep_match: bool) -> Result<Self, StopError> {
        for (what, count) in [("stop strings", strings.len()), ("stop patterns", patterns.len())] {
            if count > MAX_STOPS {
                return Err(StopError::TooMany { what, count });
            }
        }
        if strings.iter().any(String::is_empty) {
            return Err(StopError::Empty);
        }
        let patterns = patterns.iter().map(|p| Pattern::new(p)).collect::<Result<_, _>>()?;
        Ok(Self {
            strings: strings.to_vec(),
            patterns,
            keep_match,
            text: String::new(),
            released: 0,
            searched: 0,
            stopped: false,
        })
    }

    /// Take the next piece of text. After a match everything is swallowed.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.stopped {
            return StopStep::default();
        }
        if self.strings.is_empty() && self.patterns.is_empty() {
            return StopStep { text: piece.to_string(), matched: None };
        }
        self.text.push_str(piece);
        if let Some(found) = self.first_match() {
            self.stopped = true;
            let end = if self.keep_match { found.end } else { found.start.max(self.released) };
            let text = self.text[self.released..end].to_string();
            return StopStep { text, matched: Some(found.stop) };
        }
        self.searched = self.text.len();
        let text = self.text[self.released..self.safe_end()].to_string();
        self.released += text.len();
        StopStep { text, matched: None }
    }

    /// The end of the text: what was held back for nothing.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let rest = self.text[self.released..].to_string();
        self.released = self.text.len();
        rest
    }

    fn first_match(&self) -> Option<Match> {
        let in_strings = self.strings.iter().filter_map(|stop| {
            // A match that ends in new text begins at most its own length before it.
            let from = floor_char(&self.text, self.searched.saturating_sub(stop.len()).max(self.released));
            let start = from + self.text[from..].find(stop.as_str())?;
            Some(Match { start, end: start + stop.len(), stop: stop.clone() })
        });
        let in_patterns = self.patterns.iter().filter_map(|pattern| {
            let from = floor_char(&self.text, self.searched.saturating_sub(pattern.hold));
            // The earliest end is found by asking at each end in turn.
            let ends = self.text[self.searched..].char_indices().map(|(i, c)| self.searched + i + c.len_utf8());
            ends.filter(|&end| end > from).find_map(|end| {
                let found = pattern.regex.find_at(&self.text[..end], from)?;
                (!found.is_empty()).then(|| Match {
                    start: found.start(),
                    end,
                    stop: pattern.regex.as_str().to_string(),
                })
            })
        });
        in_strings.chain(in_patterns).min_by_key(|m| (m.end, m.start))
    }

    /// How far text can be given out without giving away the beginning of a match.
    fn safe_end(&self) -> usize {
        let held = &self.text[self.released..];
        let begun = |stop: &String| {
            let ends = stop.char_indices().map(|(i, _)| i).filter(|&i| i > 0);
            ends.filter(|&i| held.ends_with(&stop[..i])).max().unwrap_or(0)
        };
        let for_strings = self.strings.iter().map(begun).max().unwrap_or(0);
        let for_patterns = self.patterns.iter().map(|p| p.hold.saturating_sub(1)).max().unwrap_or(0);
        let hold = for_strings.max(for_patterns).min(held.len());
        floor_char(&self.text, self.text.len() - hold).max(self.released)
    }
}

struct Match {
    start: usize,
    end: usize,
    stop: String,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, StopError> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(StopError::PatternTooLong { bytes: pattern.len() });
        }
        let refused = |cause: String| StopError::Pattern { pattern: pattern.to_string(), cause };
        let regex =
            RegexBuilder::new(pattern).size_limit(PATTERN_SIZE_LIMIT).dfa_size_limit(PATTERN_SIZE_LIMIT).build();
        let regex = regex.map_err(|e| refused(e.to_string()))?;
        let hir = regex_syntax::parse(pattern).map_err(|e| refused(e.to_string()))?;
        let longest = hir.properties().maximum_len().unwrap_or(UNBOUNDED_HOLD);
        Ok(Self { regex, hold: longest.min(4 * UNBOUNDED_HOLD) })
    }
}

/// The last character boundary at or before `index`.
fn floor_char(text: &str, index: usize) -> usize {
    (0..=index).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    /// Text and match after pushing `pieces`.
    fn run(stops: &[&str], patterns: &[&str], keep: bool, pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(&strings(stops), &strings(patterns), keep).expect("valid stops");
        let mut text = String::new();
        for piece in pieces {
            let step = matcher.push(piece);
            text += &step.text;
            if step.matched.is_some() {
                return (text, step.matched);
            }
        }
        (text + &matcher.finish(), None)
    }

    #[test]
    fn text_ends_before_the_first_stop_and_nothing_before_it_is_lost() {
        assert_eq!(run(&["END"], &[], false, &["one EN", "D two"]), ("one ".into(), Some("END".into())));
        assert_eq!(run(&["END"], &[], true, &["one EN", "D two"]), ("one END".into(), Some("END".into())));
        assert_eq!(run(&["END"], &[], false, &["one EN", "d two EN"]), ("one ENd two EN".into(), None));
    }

    #[test]
    fn only_the_possible_beginning_is_held_back() {
        let mut matcher = StopMatcher::new(&strings(&["\n\n", "Question:"]), &[], false).expect("valid stops");
        assert_eq!(matcher.push("Answer: Qu").text, "Answer: ");
        assert_eq!(matcher.push("ick\n").text, "Quick");
        assert_eq!(matcher.push("next").text, "\nnext");
    }

    #[test]
    fn the_stop_that_ends_first_wins() {
        assert_eq!(run(&["abcd", "bc"], &[], false, &["xabcd"]), ("xa".into(), Some("bc".into())));
        assert_eq!(run(&["bc", "abc"], &[], false, &["xabc"]), ("x".into(), Some("abc".into())));
    }

    #[test]
    fn patterns_stop_too_and_hold_back_what_they_need() {
        assert_eq!(run(&[], &["[0-9]{2}"], false, &["a1b2", "3c"]), ("a1b".into(), Some("[0-9]{2}".into())));
        let mut matcher = StopMatcher::new(&[], &strings(&["[0-9]{2}"]), false).expect("valid stops");
        assert_eq!(matcher.push("abc").text, "ab");
    }

    #[test]
    fn bad_stops_are_refused_with_their_reason() {
        let refused = |s: &[String], p: &[String]| StopMatcher::new(s, p, false).err().expect("refused").to_string();
        assert!(refused(&strings(&[""]), &[]).contains("empty"));
        assert!(refused(&vec!["x".to_string(); 33], &[]).contains("33 stop strings"));
        assert!(refused(&[], &strings(&["("])).contains("stop pattern \"(\""));
        assert!(refused(&[], &["a".repeat(257)]).contains("257 bytes"));
        assert!(refused(&[], &strings(&["(x{1000}){1000}"])).contains("stop pattern"));
    }

    /// Stops as the definition has them: look at every end in turn.
    fn naive(stops: &[String], text: &str) -> (String, Option<String>) {
        for end in text.char_indices().map(|(i, c)| i + c.len_utf8()) {
            if let Some(stop) = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].to_string(), Some(stop.clone()));
            }
        }
        (text.to_string(), None)
    }

    proptest! {
        #[test]
        fn every_way_of_cutting_gives_the_naive_answer(
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            pieces in prop::collection::vec("[abcé]{0,4}", 0..12),
        ) {
            let text: String = pieces.concat();
            let stops_ref: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces_ref: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (got, matched) = run(&stops_ref, &[], false, &pieces_ref);
            let (want, want_matched) = naive(&stops, &text);
            prop_assert_eq!(got, want);
            prop_assert_eq!(matched.map(|m| m.len()), want_matched.map(|m| m.len()));
        }

        #[test]
        fn bounded_patterns_do_not_depend_on_the_cut(pieces in prop::collection::vec("[ab1é]{0,4}", 0..12)) {
            let text: String = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let patterns = ["a[b1]{1,2}é", "^b", "11"];
            prop_assert_eq!(run(&["ba"], &patterns, false, &pieces), run(&["ba"], &patterns, false, &[&text]));
        }
    }
}
