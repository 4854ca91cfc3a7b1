//! A vocabulary, and a model that says any token that a grammar's mask allows.

#![allow(dead_code, reason = "each test uses its own part")]

use std::sync::LazyLock;

use quern_text::{GrammarFactory, GrammarMatcher, GrammarSpec, Specials, Tokenizer};

/// More rows than tokens, as in real models.
pub(crate) const ROWS: usize = 2700;

pub(crate) static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let json = include_bytes!("../../../models/quern-demo/tokenizer.json");
    Tokenizer::from_bytes(json, Some(include_bytes!("../../../models/quern-demo/tokenizer_config.json"))).unwrap()
});

pub(crate) static FACTORY: LazyLock<GrammarFactory> =
    LazyLock::new(|| GrammarFactory::new(&TOKENIZER, ROWS, &[eos()]).expect("a vocabulary"));

pub(crate) fn eos() -> u32 {
    TOKENIZER.eos_id().unwrap()
}

/// Numbers that depend on a seed alone (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

pub(crate) fn compile(spec: &GrammarSpec) -> GrammarMatcher {
    FACTORY.compile(spec).unwrap_or_else(|error| panic!("{error}\n{spec:?}"))
}

pub(crate) fn allowed(mask: &[u32]) -> Vec<u32> {
    assert_eq!(mask.len(), ROWS.div_ceil(32));
    (0..ROWS as u32).filter(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).collect()
}

/// One output of at most `limit` tokens; `None` if it did not end. Prefers `liked` tokens, where allowed,
/// half of the time, and the end a third of it.
pub(crate) fn generate(spec: &GrammarSpec, seed: u64, limit: usize, liked: &[u32]) -> Option<String> {
    let mut grammar = compile(spec);
    let mut dice = Dice(seed);
    let mut tokens = Vec::new();
    while tokens.len() < limit {
        let allowed = allowed(&grammar.mask().unwrap_or_else(|e| panic!("{e} after {:?}", text(&tokens))));
        assert!(!allowed.is_empty(), "nothing may follow {:?}", text(&tokens));
        for &token in &allowed {
            assert!(token == eos() || !TOKENIZER.is_special(token), "control token {token} after {:?}", text(&tokens));
            assert!(TOKENIZER.token_bytes(token).is_some(), "row {token} has no token");
        }
        let mut pick = allowed[dice.roll(allowed.len())];
        let liked: Vec<u32> = liked.iter().copied().filter(|token| allowed.contains(token)).collect();
        if !liked.is_empty() && dice.roll(2) == 0 {
            pick = liked[dice.roll(liked.len())];
        }
        if allowed.contains(&eos()) && dice.roll(3) == 0 {
            pick = eos();
        }
        let ended = grammar.accept(pick).unwrap_or_else(|e| panic!("{e}: {pick} after {:?}", text(&tokens)));
        assert!(ended || pick != eos());
        tokens.extend((pick != eos()).then_some(pick));
        if ended {
            return Some(text(&tokens));
        }
    }
    None
}

pub(crate) fn text(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter_map(|&t| TOKENIZER.token_bytes(t)).flatten().copied().collect();
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Whether `text` is a whole output under `spec`.
pub(crate) fn matches(spec: &GrammarSpec, text: &str) -> bool {
    let mut grammar = compile(spec);
    let tokens = tokens_in(text);
    for (i, &token) in tokens.iter().enumerate() {
        if !allowed(&grammar.mask().unwrap()).contains(&token) {
            return false;
        }
        if grammar.accept(token).unwrap() {
            return i + 1 == tokens.len();
        }
    }
    grammar.is_accepting().unwrap()
}

pub(crate) fn tokens_in(text: &str) -> Vec<u32> {
    TOKENIZER.encode(text, Specials::AsText)
}
