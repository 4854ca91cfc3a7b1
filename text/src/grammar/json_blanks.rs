//! [`JsonBlanks`]: the whitespace between the tokens of constrained JSON.

use std::fmt;

use super::bounds;

/// What may stand between two tokens of constrained JSON.
///
/// Unbounded whitespace is where constrained models get stuck: it is always allowed and never the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JsonBlanks {
    /// Up to two spaces, or one line break with up to [`MAX_INDENT`](Self::MAX_INDENT) blanks of
    /// indentation: compact, spaced and pretty-printed JSON.
    #[default]
    Short,
    /// None: compact JSON.
    None,
    /// At most this many blanks of any kind.
    AtMost(u32),
    /// What this expression matches, once.
    Pattern(String),
}

impl JsonBlanks {
    /// Blanks after a line break in [`Short`](Self::Short): seven levels of two, three of four.
    pub const MAX_INDENT: usize = 14;

    /// A pattern as an operator writes it; the error says what is wrong with it.
    ///
    /// # Errors
    /// If it is no regular expression, or too large a one.
    pub fn pattern(expression: &str) -> Result<Self, String> {
        bounds::regex(expression)?;
        match regex_syntax::parse(expression) {
            Ok(_) => Ok(Self::Pattern(expression.to_owned())),
            Err(cause) => Err(super::matcher::brief(&cause)),
        }
    }

    /// The expression of one gap; `None` where nothing may stand.
    pub(super) fn expression(&self) -> Option<String> {
        match self {
            Self::None | Self::AtMost(0) => None,
            Self::Short => Some(format!(r"[ \t]{{1,2}}|\r?\n[ \t]{{0,{}}}", Self::MAX_INDENT)),
            Self::AtMost(most) => Some(format!(r"[ \t\n\r]{{1,{most}}}")),
            Self::Pattern(expression) => Some(expression.clone()),
        }
    }
}

impl fmt::Display for JsonBlanks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("short"),
            Self::None => f.write_str("none"),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Pattern(expression) => f.write_str(expression),
        }
    }
}
