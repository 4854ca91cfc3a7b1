//! [`Choice`]: a flag's value out of a fixed set of names, as what the name means.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::RefusedFlag;

/// What was typed where a flag has a fixed set of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// What is built.
    Built(T),
    /// A name of SGLang's for what is not.
    Unbuilt(&'static str),
}

impl<T> Choice<T> {
    /// What it means; a name for what is not built is refused, and `supported` says what is.
    pub fn built(self, flag: &'static str, supported: &str) -> Result<T, RefusedFlag> {
        match self {
            Self::Built(meaning) => Ok(meaning),
            Self::Unbuilt(name) => Err(RefusedFlag { flag, value: name.to_owned(), reason: supported.to_owned() }),
        }
    }
}

/// Reads one of `offered`, which the help shows, or of `other`, further names of the same.
pub(super) fn names<T: Clone + Send + Sync + 'static>(
    offered: &[(&'static str, T)],
    other: &[(&'static str, T)],
) -> impl TypedValueParser<Value = T> + use<T> {
    let shown = offered.iter().map(|(name, _)| PossibleValue::new(*name));
    let hidden = other.iter().map(|(name, _)| PossibleValue::new(*name).hide(true));
    let parser = PossibleValuesParser::new(shown.chain(hidden).collect::<Vec<_>>());
    let meanings: Vec<_> = offered.iter().chain(other).cloned().collect();
    parser.map(move |typed| {
        let found = meanings.iter().find(|(name, _)| name.eq_ignore_ascii_case(&typed));
        found.expect("the parser lets in no other name").1.clone()
    })
}

/// The same with names of SGLang's for what is not built: they are refused later, with a reason.
pub(super) fn choices<T: Clone + Send + Sync + 'static>(
    offered: &[(&'static str, T)],
    other: &[(&'static str, T)],
    unbuilt: &[&'static str],
) -> impl TypedValueParser<Value = Choice<T>> + use<T> {
    let built = |names: &[(&'static str, T)]| -> Vec<_> {
        names.iter().map(|(name, meaning)| (*name, Choice::Built(meaning.clone()))).collect()
    };
    let unbuilt = unbuilt.iter().map(|name| (*name, Choice::Unbuilt(name)));
    names(&built(offered), &built(other).into_iter().chain(unbuilt).collect::<Vec<_>>())
}
