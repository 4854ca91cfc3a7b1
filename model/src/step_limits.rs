//! [`StepLimits`]: sizes that are fixed when a network is loaded.

use quern_backend::KvFormat;

/// Sizes that are fixed when a network is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Most tokens of a step.
    pub max_tokens: usize,
    /// Rows of logits that are computed at once; a step may ask for more, in several rounds.
    pub max_logit_rows: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of keys and values.
    pub num_pages: usize,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
}
