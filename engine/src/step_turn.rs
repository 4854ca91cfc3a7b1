//! [`StepTurn`]: whose work a step does, where several tenants want it.

use std::collections::BTreeSet;

use crate::{sequence::SequenceKey, tenant::Tenant};

/// Whose work a step does.
#[derive(Debug, Default)]
pub(crate) struct StepTurn {
    /// The tenants that have requests: the one that leads, then the others, the least served first.
    pub(crate) order: Vec<Tenant>,
    /// Tokens that the prompts of the one that leads may have before the others'.
    pub(crate) reserved: usize,
    /// Decoding sequences of the others that are left out this time.
    pub(crate) paused: BTreeSet<SequenceKey>,
}
