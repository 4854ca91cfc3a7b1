//! [`GrammarFactory`]: compiled grammars for one vocabulary, the recent ones kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarWithLexer, ParserLimits, TopLevelGrammar},
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

use super::{
    bounds, ebnf,
    json_blanks::JsonBlanks,
    json_schema,
    lark::{self, Lark},
    matcher::{GrammarMatcher, brief},
    spec::{ConstraintError, GrammarSpec},
    structural_tag, tool_calls,
};
use crate::tokenizer::Tokenizer;

/// Grammars kept. Agents repeat one set of tools; a public server sees some dozens of schemas.
const MAX_CACHED: usize = 64;

/// Bytes of all grammars kept, as estimated by [`estimated_bytes`], unless there is less memory.
const MAX_CACHED_BYTES: usize = 256 << 20;

/// What one grammar may cost. llguidance counts work, not time: 50 units of lexer fuel are about a
/// microsecond at compilation and 14 while masks are computed.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000, // 1–2 KB each; the default would allow one request half a gigabyte
    max_grammar_size: 200_000,
    precompute_large_lexemes: false, // seconds for a hostile schema, nothing gained on ordinary ones
    verbose_errors: false,
};

/// Sets of tokens whose masks are computed once, smaller sets within larger ones: blanks; text of a JSON
/// string; text without tags. Where a grammar allows all texts of a set, its tokens are not looked at.
const SLICES: [&str; 5] = [
    r"[\x20\x0A\x0D\x09]+",
    r#"[^<"\\\x00-\x1F\x7F]{1,10}"#,
    r#"[^<"\\\x00-\x1F\x7F]{1,30}"#,
    r#"[^<"\\\x00-\x1F\x7F]+"#,
    r"[^<\x00-\x08\x0B\x0C\x0E-\x1F\x7F]+",
];

/// Compiles grammars. Made once for a tokenizer; shared by all requests.
///
/// ```
/// use quern_text::{GrammarFactory, GrammarSpec, Specials, Tokenizer};
///
/// let tokenizer = Tokenizer::from_dir("../models/quern-demo".as_ref())?;
/// let eos = tokenizer.eos_id().expect("the model has one");
/// let factory = GrammarFactory::new(&tokenizer, tokenizer.vocab_size(), &[eos])?;
///
/// let mut matcher = factory.compile(&GrammarSpec::Regex("yes|no".into()))?;
/// let allows = |mask: &[u32], token: u32| mask[token as usize / 32] >> (token % 32) & 1 == 1;
/// let [yes, maybe] = ["yes", "maybe"].map(|text| tokenizer.encode(text, Specials::AsText)[0]);
/// let mask = matcher.mask()?;
/// assert!(allows(&mask, yes) && !allows(&mask, maybe));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GrammarFactory {
    parsers: ParserFactory,
    /// Rows of logits.
    rows: usize,
    /// What may stand between the tokens of JSON.
    blanks: JsonBlanks,
    /// Repeats of one unit that an output may have where it may not end; 0: any number.
    max_repeats: usize,
    cache: Mutex<Cache>,
}

impl GrammarFactory {
    /// Repeats of one unit after which an output is taken to loop, if they are long as well.
    pub const MAX_REPEATS: usize = 32;

    /// A factory for the vocabulary of `tokenizer`, padded to the model's `vocab_size` rows of logits.
    /// `eos` are the tokens that may end an output.
    ///
    /// # Errors
    /// If the vocabulary cannot be constrained.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, eos: &[u32]) -> Result<Self, ConstraintError> {
        let error = |cause: String| ConstraintError::Tokenizer(cause);
        let rows = u32::try_from(vocab_size).map_err(|_| error(format!("{vocab_size} tokens")))?;
        let eos: Vec<u32> = eos.iter().copied().filter(|&id| id < rows).collect();
        let Some(&first_eos) = eos.first() else { return Err(error("it has no end-of-sequence token".into())) };
        let words: Vec<Vec<u8>> = (0..rows).map(|id| word(tokenizer, id, eos.contains(&id))).collect();
        let trie = TokTrie::from(&TokRxInfo::new(rows, first_eos), &words).with_eos_tokens(&eos);
        // "Approximate": never forces tokens, so that a mask holds every token that fits and the model
        // chooses among the ways to spell what must come.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SLICES.map(String::from);
        let mut parsers = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|cause| error(brief(&cause)))?;
        *parsers.limits_mut() = LIMITS;
        parsers.quiet();
        let (blanks, max_repeats) = (JsonBlanks::default(), Self::MAX_REPEATS);
        Ok(Self { parsers, rows: vocab_size, blanks, max_repeats, cache: Mutex::new(Cache::new(MAX_CACHED_BYTES)) })
    }

    /// The same with another bound of repeats; 0: none.
    pub fn with_max_repeats(self, max_repeats: usize) -> Self {
        Self { max_repeats, ..self }
    }

    /// The same with other blanks between the tokens of JSON.
    pub fn with_json_blanks(self, blanks: JsonBlanks) -> Self {
        Self { blanks, ..self }
    }

    /// The same, which keeps at most so many bytes of compiled grammars, and never more than 256 MiB.
    pub fn with_max_cached_bytes(self, bytes: usize) -> Self {
        Self { cache: Mutex::new(Cache::new(bytes.min(MAX_CACHED_BYTES))), ..self }
    }

    /// The grammar of `spec`, at its beginning: from the cache, or compiled now.
    ///
    /// Takes milliseconds to a few hundred; nothing for one that is cached.
    ///
    /// # Errors
    /// If `spec` does not compile within its limits.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<GrammarMatcher, ConstraintError> {
        let key = key(spec);
        if let Some(matcher) = self.cached().get(&key) {
            return Ok(self.begin(spec, matcher));
        }
        let error = |cause| ConstraintError::Compile { kind: spec.kind(), cause };
        let grammar = self.translate(spec).map_err(error)?;
        let source_bytes = source_bytes(&grammar);
        let matcher = Matcher::new(self.parsers.create_parser(TopLevelGrammar::from_grammar(grammar)));
        // A grammar that allows nothing shows at the first mask; so does one whose lexer is too complex.
        let first = match matcher.get_error() {
            Some(cause) => Err(brief(&cause)),
            None => matcher.deep_clone().compute_mask_or_eos().map_err(|cause| brief(&cause)),
        };
        first.map_err(error)?;
        self.cached().insert(key, matcher.deep_clone(), source_bytes);
        Ok(self.begin(spec, matcher))
    }

    fn begin(&self, spec: &GrammarSpec, matcher: Matcher) -> GrammarMatcher {
        let has_calls = matches!(spec, GrammarSpec::ToolCalls { .. });
        GrammarMatcher::new(matcher, self.parsers.tok_env().clone(), self.rows, has_calls, self.max_repeats)
    }

    /// Grammars kept now.
    pub fn num_cached(&self) -> usize {
        self.cached().entries.len()
    }

    fn translate(&self, spec: &GrammarSpec) -> Result<GrammarWithLexer, String> {
        let mut lark = Lark::new(&self.blanks);
        Ok(GrammarWithLexer::from_lark(match spec {
            GrammarSpec::JsonObject => {
                let start = json_schema::any_object(&mut lark)?;
                lark.finish(&start)
            }
            GrammarSpec::JsonSchema(schema) => {
                bounds::schema(schema)?;
                let start = json_schema::rule(&mut lark, schema, schema)?;
                lark.finish(&start)
            }
            GrammarSpec::Regex(expression) => {
                bounds::regex(expression)?;
                match expression.as_str() {
                    "" => format!("start: {}", lark::literal("")),
                    expression => format!("start: {}", lark::regex(expression)),
                }
            }
            GrammarSpec::Ebnf(source) => ebnf::to_lark(source)?,
            GrammarSpec::StructuralTag(tag) => {
                bounds::schema(tag)?;
                structural_tag::to_lark(lark, tag)?
            }
            GrammarSpec::ToolCalls { tools, choice, parallel } => {
                tools.iter().try_for_each(bounds::schema)?;
                tool_calls::to_lark(lark, tools, choice, *parallel)?
            }
        }))
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token spells, as llguidance wants it: nothing for a row without a token, a byte that no text
/// holds before a control token.
fn word(tokenizer: &Tokenizer, id: u32, is_eos: bool) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if tokenizer.is_special(id) || is_eos { [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat() } else { bytes.to_vec() }
}

fn key(spec: &GrammarSpec) -> String {
    match spec {
        GrammarSpec::JsonObject => "object".into(),
        GrammarSpec::JsonSchema(schema) => format!("json {schema}"),
        GrammarSpec::Regex(expression) => format!("regex {expression}"),
        GrammarSpec::Ebnf(source) => format!("ebnf {source}"),
        GrammarSpec::StructuralTag(tag) => format!("tag {tag}"),
        GrammarSpec::ToolCalls { tools, choice, parallel } => {
            format!("tools {choice:?} {parallel} {}", Value::from(tools.clone()))
        }
    }
}

fn source_bytes(grammar: &GrammarWithLexer) -> usize {
    let lark = grammar.lark_grammar.as_ref().map_or(0, String::len);
    lark + grammar.json_schema.as_ref().map_or(0, |schema| schema.to_string().len())
}

/// The grammars used last.
struct Cache {
    max_bytes: usize,
    entries: HashMap<String, Entry>,
    bytes: usize,
    clock: u64,
}

struct Entry {
    /// At the beginning, with a lexer of its own.
    matcher: Matcher,
    bytes: usize,
    last_use: u64,
}

impl Cache {
    /// An empty one.
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, entries: HashMap::new(), bytes: 0, clock: 0 }
    }

    fn get(&mut self, key: &str) -> Option<Matcher> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.last_use = self.clock;
        // Deep: outputs that shared a lexer would wait for each other, and fail with each other.
        Some(entry.matcher.deep_clone())
    }

    fn insert(&mut self, key: String, matcher: Matcher, source_bytes: usize) {
        self.clock += 1;
        let bytes = key.len() + estimated_bytes(source_bytes);
        if bytes > self.max_bytes {
            return;
        }
        self.remove(&key);
        while self.entries.len() >= MAX_CACHED || self.bytes + bytes > self.max_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone());
            self.remove(&oldest.expect("a cache without entries has room"));
        }
        self.bytes += bytes;
        self.entries.insert(key, Entry { matcher, bytes, last_use: self.clock });
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }
}

/// A compiled grammar's size by its source's: measured, rules and expressions take up to 150 times the
/// bytes they are written in, and the empty one 300 KB.
fn estimated_bytes(source_bytes: usize) -> usize {
    (300 << 10) + 150 * source_bytes
}
