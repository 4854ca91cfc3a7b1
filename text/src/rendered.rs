//! [`Rendered`]: a prompt as a template printed it, with its control tokens marked.

use std::ops::Range;

/// A rendered prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Where the template itself wrote control tokens, in order.
    pub controls: Vec<Range<usize>>,
}
