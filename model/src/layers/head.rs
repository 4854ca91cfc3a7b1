//! [`Head`]: logits.

use std::ops::Range;

use quern_backend::Backend;

use super::{Embedding, Linear, LoadContext};
use crate::{network::Role, weights::LoadError};

/// The matrix that makes the logits, or its rows for some tokens of the vocabulary.
pub struct Head<B: Backend> {
    proj: Linear<B>,
    /// Logits that each rank makes.
    widths: Vec<usize>,
}

/// The buffers of the head.
pub struct HeadBuffers<B: Backend> {
    /// `[logit rows, hidden]`.
    last: B::Buffer,
    /// `[logit rows, this rank's logits]`, where there are several ranks.
    part: Option<B::Buffer>,
    /// `[logit rows, vocab]` on the rank that samples, no rows on the others.
    logits: B::Buffer,
}

impl<B: Backend> Head<B> {
    /// The network's; a tied one is the `embedding`.
    ///
    /// # Errors
    /// If the matrix cannot be read or uploaded.
    pub fn load(cx: &LoadContext<'_, B>, embedding: &Embedding<B>) -> Result<Self, LoadError> {
        let proj = match cx.network.head() {
            head if head.role == Role::TiedEmbedding => embedding.table.share(),
            head => Linear::load(cx, &[head])?,
        };
        Ok(Self { proj, widths: cx.split.logit_widths() })
    }

    /// Room for `rows` rows of logits at once.
    pub fn buffers(&self, cx: &LoadContext<'_, B>, rows: usize) -> HeadBuffers<B> {
        let (b, rank) = (cx.backend, cx.split.rank());
        let alone = self.widths.len() == 1;
        HeadBuffers {
            last: b.alloc(rows, cx.config.hidden),
            part: (!alone).then(|| b.alloc(rows, self.widths[rank.index])),
            logits: b.alloc(if rank.index == 0 { rows } else { 0 }, self.widths.iter().sum()),
        }
    }

    /// Logits of the step's rows `rows`, made of `x`, and what their tasks make of them.
    pub fn sample(&self, b: &B, x: &B::Buffer, s: &mut HeadBuffers<B>, step: &mut B::Step, rows: Range<usize>) {
        b.gather_rows(x, step, rows.clone(), &mut s.last);
        match &mut s.part {
            None => self.proj.forward(b, &s.last, &mut s.logits),
            Some(part) => {
                self.proj.forward(b, &s.last, part);
                b.gather(part, &self.widths, &mut s.logits);
            }
        }
        b.sample(&mut s.logits, step, rows);
    }
}
