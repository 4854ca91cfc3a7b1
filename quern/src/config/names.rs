//! [`Names`]: a flag's value out of a fixed set of names, as what the name means.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, Resettable, Str, TypedValueParser},
    error::ErrorKind,
};

/// A choice that may be left to the model or the machine, by the name `auto`: `None`. (Under this name clap takes it
/// for a value and not for a flag that may be absent.)
pub type Auto<T> = Option<T>;

/// Reads one of a set of names. Those of other programs for what is not supported are refused with what is.
#[derive(Clone, Debug)]
pub struct Names<T> {
    known: Vec<(PossibleValue, T)>,
    unsupported: &'static [&'static str],
}

impl<T> Names<T> {
    /// Reads one of `offered`, which the help shows.
    pub fn new(offered: impl IntoIterator<Item = (impl Into<Str>, T)>) -> Self {
        let known = offered.into_iter().map(|(name, meaning)| (PossibleValue::new(name), meaning)).collect();
        Self { known, unsupported: &[] }
    }

    /// Also reads `others`, which the help does not show: further names of the same.
    pub fn or(mut self, others: impl IntoIterator<Item = (impl Into<Str>, T)>) -> Self {
        self.known.extend(others.into_iter().map(|(name, meaning)| (PossibleValue::new(name).hide(true), meaning)));
        self
    }

    /// Knows `names` as those of what is not supported.
    pub fn refusing(mut self, names: &'static [&'static str]) -> Self {
        self.unsupported = names;
        self
    }

    /// `a, b and c`: those that the help shows.
    fn offered(&self) -> String {
        let shown: Vec<_> = self.known.iter().map(|(name, _)| name).filter(|name| !name.is_hide_set()).collect();
        let names: Vec<_> = shown.into_iter().map(PossibleValue::get_name).collect();
        match names.as_slice() {
            [] => String::new(),
            [only] => (*only).to_owned(),
            [others @ .., last] => format!("{} and {last}", others.join(", ")),
        }
    }
}

impl<T: ValueEnum> Names<T> {
    /// Reads the names of an enumeration. What its variants are documented with is for readers of the code.
    pub fn of_enum() -> Self {
        let name = |value: &T| Some(value.to_possible_value()?.help(Resettable::Reset));
        let shown = T::value_variants().iter().filter_map(|value| Some((name(value)?, value.clone())));
        Self { known: shown.collect(), unsupported: &[] }
    }
}

impl<T> Names<Auto<T>> {
    /// Reads one of `offered`, or `auto`.
    pub fn or_auto(offered: impl IntoIterator<Item = (impl Into<Str>, T)>) -> Self {
        let auto = [(Str::from("auto"), None)].into_iter();
        Self::new(auto.chain(offered.into_iter().map(|(name, meaning)| (name.into(), Some(meaning)))))
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Names<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, typed: &OsStr) -> Result<T, Error> {
        let name = typed.to_string_lossy();
        let ignore_case = arg.is_some_and(Arg::is_ignore_case_set);
        if let Some((_, meaning)) = self.known.iter().find(|(known, _)| known.matches(&name, ignore_case)) {
            return Ok(meaning.clone());
        }
        if self.unsupported.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            let flag = arg.and_then(Arg::get_long).unwrap_or_default();
            let message = format!("--{flag} {name}: {} are supported\n", self.offered());
            return Err(Error::raw(ErrorKind::InvalidValue, message).with_cmd(command));
        }
        // Its error lists what is offered and says what may have been meant.
        let known: Vec<_> = self.known.iter().map(|(known, _)| known.clone()).collect();
        Err(PossibleValuesParser::new(known).parse_ref(command, arg, typed).expect_err("no name of them matched"))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.known.iter().map(|(known, _)| known.clone())))
    }
}
