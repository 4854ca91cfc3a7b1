//! [`Embedding`]: the features of each token.

use quern_backend::Backend;

use super::{Linear, LoadContext};
use crate::weights::LoadError;

/// A table of features, or its rows of some tokens.
pub struct Embedding<B: Backend> {
    pub(super) table: Linear<B>,
    /// The token of its first row.
    first: usize,
}

impl<B: Backend> Embedding<B> {
    /// The network's.
    ///
    /// # Errors
    /// If the table cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>) -> Result<Self, LoadError> {
        let tensor = cx.network.embedding();
        Ok(Self { table: Linear::load(cx, &[tensor])?, first: cx.split.shard(tensor).rows.start })
    }

    /// `out[i]` = the features of token `i` of the step.
    pub fn forward(&self, b: &B, step: &B::Step, out: &mut B::Buffer) {
        b.embed(self.table.weight(), self.first, step, out);
        b.all_reduce(out);
    }
}
