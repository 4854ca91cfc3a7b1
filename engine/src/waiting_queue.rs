//! [`WaitingQueue`]: the requests that wait, each tenant's in their own order.

use std::collections::{BTreeMap, VecDeque};

use crate::{sequence::SequenceKey, tenant::Tenant};

/// The requests that wait. A tenant's go in order of arrival, those that were retracted before them.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    /// No queue in it is empty.
    queues: BTreeMap<Tenant, VecDeque<SequenceKey>>,
    len: usize,
}

impl WaitingQueue {
    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All of them, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SequenceKey> + '_ {
        self.queues.values().flatten().copied()
    }

    /// One behind all of the tenant's.
    pub(crate) fn push_back(&mut self, tenant: &Tenant, key: SequenceKey) {
        self.queues.entry(tenant.clone()).or_default().push_back(key);
        self.len += 1;
    }

    /// One before all of the tenant's.
    pub(crate) fn push_front(&mut self, tenant: &Tenant, key: SequenceKey) {
        self.queues.entry(tenant.clone()).or_default().push_front(key);
        self.len += 1;
    }

    /// The tenant's request at `position`.
    pub(crate) fn get(&self, tenant: &Tenant, position: usize) -> Option<SequenceKey> {
        self.queues.get(tenant)?.get(position).copied()
    }

    /// The tenant's requests.
    pub(crate) fn of(&self, tenant: &Tenant) -> impl Iterator<Item = SequenceKey> + '_ {
        self.queues.get(tenant).into_iter().flatten().copied()
    }

    /// Order the tenant's requests by `rank`, equals as they stand.
    pub(crate) fn sort_by_cached_key<R: Ord>(&mut self, tenant: &Tenant, rank: impl Fn(&SequenceKey) -> R) {
        if let Some(queue) = self.queues.get_mut(tenant) {
            queue.make_contiguous().sort_by_cached_key(rank);
        }
    }

    /// Take one out.
    ///
    /// # Panics
    /// If it does not wait.
    pub(crate) fn remove(&mut self, tenant: &Tenant, key: SequenceKey) {
        let queue = self.queues.get_mut(tenant).expect("the tenant of a request that waits has a queue");
        let position = queue.iter().position(|&other| other == key);
        queue.remove(position.expect("what is alive and does not run waits"));
        if queue.is_empty() {
            self.queues.remove(tenant);
        }
        self.len -= 1;
    }
}
