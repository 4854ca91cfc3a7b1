//! [`StepTurn`]: whose work a step does, where several tenants want it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{sequence::SequenceKey, tenant::Tenant};

/// Whose work a step does.
#[derive(Debug, Default)]
pub(crate) struct StepTurn {
    /// The tenants that have requests: the one that leads, then the others, the least served first.
    pub(crate) order: Vec<Tenant>,
    /// Each tenant's sequences that run and compute what is known already, the oldest first. Empty where one tenant has the whole step.
    pub(crate) prompts: BTreeMap<Tenant, Vec<SequenceKey>>,
    /// Tokens that the prompts of the one that leads may have before the others'.
    pub(crate) reserved: usize,
    /// Tokens that are left for prompts of each tenant that floods.
    pub(crate) bounds: BTreeMap<Tenant, usize>,
    /// Decoding sequences that are left out this time.
    pub(crate) paused: BTreeSet<SequenceKey>,
}

impl StepTurn {
    /// The tenant's part of `prompts`.
    pub(crate) fn prompts_of(&self, tenant: &Tenant) -> &[SequenceKey] {
        self.prompts.get(tenant).map_or(&[], Vec::as_slice)
    }
}
