//! What an answer must obey, as a client says it.

use std::sync::LazyLock;

use quern_text::{GrammarFactory, GrammarSpec};

use super::text::TOKENIZER;

/// More rows than tokens, as in real models.
const ROWS: usize = 2700;

/// Tokens of an answer.
const MAX_STEPS: usize = 24;

static FACTORY: LazyLock<GrammarFactory> = LazyLock::new(|| {
    let eos = TOKENIZER.eos_id().expect("the shipped tokenizer ends its texts");
    GrammarFactory::new(&TOKENIZER, ROWS, &[eos]).expect("a vocabulary that can be constrained")
});

/// Compiles, and says something that is allowed, which `choices` picks: while it is allowed to go on, some token is, every
/// one of them exists, and it is accepted.
fn follow(spec: &GrammarSpec, choices: &[u8]) {
    let Ok(mut matcher) = FACTORY.compile(spec) else { return };
    for step in 0..MAX_STEPS {
        // A dead end and a limit of the automaton are errors like others.
        let Ok(mask) = matcher.mask() else { return };
        let allowed: Vec<u32> =
            (0..ROWS as u32).filter(|row| mask[*row as usize / 32] >> (row % 32) & 1 == 1).collect();
        if allowed.is_empty() {
            return;
        }
        assert!(allowed.iter().all(|&row| TOKENIZER.token_bytes(row).is_some()), "a row without a token");
        let choice = choices.get(step % choices.len().max(1)).map_or(step, |byte| usize::from(*byte) * 31 + step);
        match matcher.accept(allowed[choice % allowed.len()]) {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
    }
}

/// A schema as JSON.
pub(super) fn json_schema(bytes: &[u8]) {
    let Ok(schema) = serde_json::from_slice(bytes) else { return };
    follow(&GrammarSpec::JsonSchema(schema), bytes);
}

/// A grammar in the dialect of GBNF and XGrammar.
pub(super) fn ebnf(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    follow(&GrammarSpec::Ebnf(source.to_owned()), bytes);
}

/// An expression.
pub(super) fn regex(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    follow(&GrammarSpec::Regex(source.to_owned()), bytes);
}

/// Text with constrained tags in it.
pub(super) fn structural_tag(bytes: &[u8]) {
    let Ok(tag) = serde_json::from_slice(bytes) else { return };
    follow(&GrammarSpec::StructuralTag(tag), bytes);
}
