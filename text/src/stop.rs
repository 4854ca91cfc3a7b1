//! [`StopMatcher`]: text up to the first stop string or stop pattern.
//!
//! What counts is where a match *ends*: characters are looked at in order, and the first one that
//! completes a match of any stop ends the text at that match's beginning (the longest match, if several
//! end there). So the outcome depends on the text alone, never on how it was cut into pieces.
//!
//! Nothing is searched twice. A stop string is followed by its Knuth-Morris-Pratt automaton, a pattern by
//! simulating its NFA: each state at most once a byte, remembered with the place where its match began.
//! So a character costs at most the number of states ([`Stops::num_states`]), whatever was written in a
//! pattern, and one compiled [`Stops`] serves all outputs of a request.
//!
//! Text that may be the beginning of a stop is held back: from where the oldest unfinished match began.
//! A pattern without a longest match (`a.*b`) holds back at most [`UNBOUNDED_HOLD`] bytes; a match that
//! began earlier is cut there.

use std::sync::Arc;

use regex_automata::{
    nfa::thompson::{self, NFA, State, WhichCaptures},
    util::primitives::StateID,
};
use regex_syntax::{ast, hir::Hir};

/// Most stop strings, and most patterns.
pub const MAX_STOPS: usize = 32;

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256;

/// Memory that all patterns of a request may take when compiled; about 30,000 states.
pub const MAX_COMPILED_BYTES: usize = 1 << 20;

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
    /// Patterns that are short to write and large to follow, such as `\w{100}`.
    #[error(
        "stop pattern {pattern:?}: compiled, it and the patterns before it take more than the {MAX_COMPILED_BYTES} \
         bytes allowed; shorten repetitions, or write [a-z] or (?-u:\\w) where ASCII is meant"
    )]
    TooLarge {
        /// The pattern that went beyond.
        pattern: String,
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

/// The stops of a request, compiled once for all its outputs.
#[derive(Debug, Default)]
pub struct Stops {
    strings: Vec<StopString>,
    patterns: Vec<StopPattern>,
}

#[derive(Debug)]
struct StopString {
    text: String,
    /// For each length of a beginning, the longest shorter one that it ends with.
    borders: Vec<usize>,
}

#[derive(Debug)]
struct StopPattern {
    source: String,
    nfa: NFA,
    /// Longest match in bytes, or the hold for patterns without one.
    hold: usize,
}

impl Stops {
    /// Refuse what is too many, too long or malformed, without the cost of compiling.
    ///
    /// # Errors
    /// For the first one that is too long or malformed, or if they are too many.
    pub fn check(strings: &[String], patterns: &[String]) -> Result<(), StopError> {
        for (what, count) in [("stop strings", strings.len()), ("stop patterns", patterns.len())] {
            if count > MAX_STOPS {
                return Err(StopError::TooMany { what, count });
            }
        }
        if strings.iter().any(String::is_empty) {
            return Err(StopError::Empty);
        }
        patterns.iter().try_for_each(|pattern| {
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(StopError::PatternTooLong { bytes: pattern.len() });
            }
            ast::parse::Parser::new().parse(pattern).map(drop).map_err(|cause| refused(pattern, cause))
        })
    }

    /// Compile them. With patterns this takes milliseconds, tens of them at worst.
    ///
    /// # Errors
    /// As for [`check`](Self::check), or if a pattern compiles to too much.
    pub fn new(strings: &[String], patterns: &[String]) -> Result<Self, StopError> {
        Self::check(strings, patterns)?;
        let mut left = MAX_COMPILED_BYTES;
        let compile = |source: &String| {
            let pattern = StopPattern::new(source, left)?;
            left = left.saturating_sub(pattern.nfa.memory_usage());
            Ok(pattern)
        };
        let patterns = patterns.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { strings: strings.iter().map(|text| StopString::new(text)).collect(), patterns })
    }

    /// What a byte of an output may cost at most: states of all patterns, and the strings.
    pub fn num_states(&self) -> usize {
        self.strings.len() + self.patterns.iter().map(|pattern| pattern.nfa.states().len()).sum::<usize>()
    }
}

fn refused(pattern: &str, cause: impl std::fmt::Display) -> StopError {
    StopError::Pattern { pattern: pattern.to_string(), cause: cause.to_string() }
}

impl StopString {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len() + 1];
        let mut border = 0;
        for length in 2..=bytes.len() {
            border = advance(bytes, &borders, border, bytes[length - 1]);
            borders[length] = border;
        }
        Self { text: text.to_string(), borders }
    }

    /// How much of the string the text ends with after `byte`, if it ended with `matched` before.
    fn step(&self, matched: usize, byte: u8) -> usize {
        advance(self.text.as_bytes(), &self.borders, matched, byte)
    }
}

fn advance(bytes: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && bytes.get(matched) != Some(&byte) {
        matched = borders[matched];
    }
    matched + usize::from(bytes.get(matched) == Some(&byte))
}

impl StopPattern {
    fn new(source: &str, max_bytes: usize) -> Result<Self, StopError> {
        let hir: Hir = regex_syntax::parse(source).map_err(|cause| refused(source, cause))?;
        let config =
            thompson::Config::new().nfa_size_limit(Some(max_bytes)).which_captures(WhichCaptures::None).utf8(true);
        let nfa = NFA::compiler().configure(config).build_from_hir(&hir);
        let nfa = nfa.map_err(|cause| match cause.size_limit() {
            Some(_) => StopError::TooLarge { pattern: source.to_string() },
            None => refused(source, cause),
        })?;
        let longest = hir.properties().maximum_len().unwrap_or(UNBOUNDED_HOLD);
        Ok(Self { source: source.to_string(), nfa, hold: longest.min(4 * UNBOUNDED_HOLD) })
    }
}

/// What came of a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopStep {
    /// Text that is safe to give out now.
    pub text: String,
    /// The stop that ended the text: the string, or the pattern.
    pub matched: Option<String>,
}

/// Watches one text for its end.
///
/// ```
/// use std::sync::Arc;
///
/// use quern_text::{StopMatcher, Stops};
///
/// let stops = Stops::new(&["\nEND".to_string()], &[])?;
/// let mut matcher = StopMatcher::new(Arc::new(stops), false);
/// assert_eq!(matcher.push("one\nE").text, "one", "what may begin a stop is held back");
/// let step = matcher.push("ND two");
/// assert_eq!((step.text.as_str(), step.matched.as_deref()), ("", Some("\nEND")));
/// # Ok::<(), quern_text::StopError>(())
/// ```
#[derive(Debug)]
pub struct StopMatcher {
    stops: Arc<Stops>,
    keep_match: bool,
    /// Everything so far; kept whole because patterns may look behind (`^`, `\b`).
    text: String,
    /// Bytes of `text` that have been given out.
    released: usize,
    /// How much of each stop string the text ends with.
    matched: Vec<usize>,
    /// How far each pattern has come.
    threads: Vec<Vec<Thread>>,
    closure: Closure,
    stopped: bool,
}

/// A match in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Thread {
    state: StateID,
    /// Where it began.
    begun: usize,
}

/// What is reached without a byte, and the space to find it in.
#[derive(Debug, Default)]
struct Closure {
    /// States that wait for a byte, the oldest match first.
    waiting: Vec<Thread>,
    /// Where the oldest complete match began.
    complete: Option<usize>,
    /// One bit a state.
    seen: Vec<u64>,
    stack: Vec<StateID>,
    /// States visited, ever.
    visits: u64,
}

#[derive(Clone, Copy, Debug)]
struct Match<'a> {
    start: usize,
    end: usize,
    stop: &'a str,
}

impl StopMatcher {
    /// Watch for `stops`; `keep_match` leaves the match in the text.
    pub fn new(stops: Arc<Stops>, keep_match: bool) -> Self {
        let matched = vec![0; stops.strings.len()];
        let threads = vec![Vec::new(); stops.patterns.len()];
        Self {
            stops,
            keep_match,
            text: String::new(),
            released: 0,
            matched,
            threads,
            closure: Closure::default(),
            stopped: false,
        }
    }

    /// Take the next piece of text. After a match everything is swallowed.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.stopped {
            return StopStep::default();
        }
        if self.matched.is_empty() && self.threads.is_empty() {
            return StopStep { text: piece.to_string(), matched: None };
        }
        let stops = Arc::clone(&self.stops);
        for c in piece.chars() {
            self.text.push(c);
            if let Some(found) = self.step(&stops, c.len_utf8()) {
                self.stopped = true;
                let end = if self.keep_match { found.end } else { found.start };
                let text = self.text[self.released..end.max(self.released)].to_string();
                return StopStep { text, matched: Some(found.stop.to_string()) };
            }
        }
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

    /// What the search has cost so far, in states of patterns visited: some nanoseconds each.
    pub fn visits(&self) -> u64 {
        self.closure.visits
    }

    /// Follow the last character, `len` bytes long; the match that it completes.
    fn step<'a>(&mut self, stops: &'a Stops, len: usize) -> Option<Match<'a>> {
        let (text, end) = (self.text.as_bytes(), self.text.len());
        let mut found: Option<Match<'a>> = None;
        let mut consider = |candidate: Match<'a>| {
            if found.is_none_or(|found| (candidate.end, candidate.start) < (found.end, found.start)) {
                found = Some(candidate);
            }
        };
        for (string, matched) in stops.strings.iter().zip(&mut self.matched) {
            *matched = text[end - len..].iter().fold(*matched, |matched, &byte| string.step(matched, byte));
            if *matched == string.text.len() {
                consider(Match { start: end - *matched, end, stop: &string.text });
            }
        }
        for (pattern, threads) in stops.patterns.iter().zip(&mut self.threads) {
            if let Some((start, match_end)) = self.closure.step(pattern, threads, text, end - len) {
                let held = floor_char(&self.text, (end - len).saturating_sub(pattern.hold));
                consider(Match { start: start.max(held), end: match_end, stop: &pattern.source });
            }
        }
        found
    }

    /// How far text can be given out without giving away the beginning of a match.
    fn safe_end(&self) -> usize {
        let end = self.text.len();
        let strings = self.matched.iter().map(|matched| end - matched);
        let patterns = self.stops.patterns.iter().zip(&self.threads).filter_map(|(pattern, threads)| {
            let oldest = threads.first()?.begun;
            Some(oldest.max(floor_char(&self.text, end.saturating_sub(pattern.hold))))
        });
        strings.chain(patterns).min().unwrap_or(end).max(self.released)
    }
}

impl Closure {
    /// Follow the character of `text` from `at` to its end; beginning and end of the match that it completes.
    fn step(
        &mut self,
        pattern: &StopPattern,
        threads: &mut Vec<Thread>,
        text: &[u8],
        at: usize,
    ) -> Option<(usize, usize)> {
        let nfa = &pattern.nfa;
        for position in at..text.len() {
            self.close(nfa, threads, text, position);
            if position == at {
                if let Some(begun) = self.complete {
                    // What follows was needed to see that it had ended (`\B`).
                    return Some((begun, at));
                }
                // A match may begin with any character; the youngest comes last.
                self.follow(nfa, Thread { state: nfa.start_anchored(), begun: at }, text, at);
            }
            threads.clear();
            let byte = text[position];
            threads.extend(self.waiting.iter().filter_map(|&Thread { state, begun }| {
                let next = match nfa.state(state) {
                    State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                    State::Sparse(transitions) => transitions.matches_byte(byte),
                    State::Dense(transitions) => transitions.matches_byte(byte),
                    _ => unreachable!("only states that wait for a byte are listed"),
                };
                next.map(|state| Thread { state, begun })
            }));
        }
        if threads.is_empty() {
            return None;
        }
        self.close(nfa, threads, text, text.len());
        self.complete.map(|begun| (begun, text.len()))
    }

    /// All that `threads` reach at `at` without a byte.
    fn close(&mut self, nfa: &NFA, threads: &[Thread], text: &[u8], at: usize) {
        self.waiting.clear();
        self.complete = None;
        self.seen.clear();
        self.seen.resize(nfa.states().len().div_ceil(64), 0);
        for &thread in threads {
            self.follow(nfa, thread, text, at);
        }
    }

    fn follow(&mut self, nfa: &NFA, thread: Thread, text: &[u8], at: usize) {
        self.stack.push(thread.state);
        while let Some(state) = self.stack.pop() {
            let (word, bit) = (state.as_usize() / 64, 1 << (state.as_usize() % 64));
            if self.seen[word] & bit != 0 {
                continue;
            }
            self.seen[word] |= bit;
            self.visits += 1;
            match nfa.state(state) {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => {
                    self.waiting.push(Thread { state, ..thread });
                }
                State::Look { look, next } if nfa.look_matcher().matches(*look, text, at) => self.stack.push(*next),
                State::Look { .. } | State::Fail => {}
                State::Union { alternates } => self.stack.extend(alternates.iter().rev()),
                State::BinaryUnion { alt1, alt2 } => self.stack.extend([*alt2, *alt1]),
                State::Capture { next, .. } => self.stack.push(*next),
                State::Match { .. } => {
                    self.complete.get_or_insert(thread.begun);
                }
            }
        }
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

    fn matcher(stops: &[&str], patterns: &[&str], keep: bool) -> StopMatcher {
        StopMatcher::new(Arc::new(Stops::new(&strings(stops), &strings(patterns)).expect("valid stops")), keep)
    }

    /// Text and match after pushing `pieces`.
    fn run(stops: &[&str], patterns: &[&str], keep: bool, pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = matcher(stops, patterns, keep);
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
        let mut matcher = matcher(&["\n\n", "Question:"], &[], false);
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
        let mut matcher = matcher(&[], &["[0-9]{2}"], false);
        assert_eq!(matcher.push("abc").text, "abc", "no match can have begun");
        assert_eq!(matcher.push("d1").text, "d");
        assert_eq!(matcher.push("e").text, "1e");
    }

    #[test]
    fn bad_stops_are_refused_with_their_reason() {
        let refused = |s: &[String], p: &[String]| Stops::new(s, p).expect_err("refused").to_string();
        assert!(refused(&strings(&[""]), &[]).contains("empty"));
        assert!(refused(&vec!["x".to_string(); 33], &[]).contains("33 stop strings"));
        assert!(refused(&[], &strings(&["("])).contains("stop pattern \"(\""));
        assert!(refused(&[], &["a".repeat(257)]).contains("257 bytes"));
        assert!(refused(&[], &strings(&["(x{1000}){1000}"])).contains("stop pattern"));
    }

    #[test]
    fn patterns_see_what_stands_around_them() {
        assert_eq!(run(&[], &[r"\bend\b"], false, &["bend, ", "the en", "d."]).0, "bend, the ");
        assert_eq!(run(&[], &[r"(?-u:\bend\B)"], true, &["end ended"]).0, "end end");
        assert_eq!(run(&[], &["(?m)^é"], false, &["xé\n", "é"]).0, "xé\n");
        assert_eq!(run(&[], &["^b"], false, &["ab", "b"]), ("abb".into(), None));
        assert_eq!(run(&[], &["a*"], false, &["bba"]).0, "bb", "an empty match is none");
        assert_eq!(run(&[], &["[^é]é", "é"], false, &["aé"]).0, "", "the longest match that ends there");
    }

    #[test]
    fn a_match_without_bounds_is_cut_where_its_hold_begins_however_it_came() {
        let long = format!("x<{}>y", "é".repeat(400));
        let whole = run(&[], &["<.*>"], false, &[&long]);
        // 256 bytes before the last character of the match, which has one.
        assert_eq!((whole.0.len(), whole.1.as_deref()), (2 + 800 - UNBOUNDED_HOLD, Some("<.*>")));
        let pieces: Vec<String> = long.chars().map(String::from).collect();
        assert_eq!(run(&[], &["<.*>"], false, &pieces.iter().map(String::as_str).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn a_byte_costs_at_most_the_states_however_much_is_held_back() {
        // Each repetition may begin anywhere: what is searched again and again costs its square.
        let hostile = r"(?-u)([ab]{0,90}[b-z][ab]{0,90}){1,3}\bZZ";
        let stops = Arc::new(Stops::new(&strings(&["ab".repeat(500).as_str()]), &strings(&[hostile])).expect("valid"));
        let mut matcher = StopMatcher::new(Arc::clone(&stops), false);
        let text = "ab".repeat(2000);
        for piece in text.as_bytes().chunks(3) {
            matcher.push(std::str::from_utf8(piece).expect("ASCII"));
        }
        // Twice: a closure before each byte and one behind it.
        let most = 2 * stops.num_states() as u64 * text.len() as u64;
        assert!(matcher.visits() <= most, "{} visits of {most}", matcher.visits());
    }

    #[test]
    fn patterns_share_one_bound_when_compiled() {
        let patterns: Vec<String> = (0..32).map(|i| format!(r"\w{{8}}X{i}")).collect();
        let error = Stops::new(&[], &patterns).expect_err("too large together");
        assert!(matches!(error, StopError::TooLarge { .. }), "{error}");
        assert!(Stops::new(&[], &patterns[..4]).is_ok());
        let ordinary = [r"\d+\.", r"(?i)\bfinal answer\b", r"\n\s*\n", "```", r"[A-Z]\w*:", r"\p{Greek}+"];
        assert!(Stops::new(&[], &strings(&ordinary)).is_ok());
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
