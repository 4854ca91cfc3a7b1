//! [`RequestBook`]: how many requests are alive and how many wait, of each tenant, held to the queue's limits.

use std::collections::HashMap;

use crate::{config::EngineConfig, request::SubmitError, tenant::Tenant};

/// Requests that are alive, and those of them that wait.
#[derive(Debug, Default)]
pub(crate) struct RequestBook {
    total: TenantCounts,
    /// Of those tenants that have any.
    tenants: HashMap<Tenant, TenantCounts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TenantCounts {
    alive: usize,
    waiting: usize,
    waiting_tokens: usize,
}

impl RequestBook {
    /// Requests that have not ended.
    pub(crate) fn num_alive(&self) -> usize {
        self.total.alive
    }

    /// Those that have not been admitted yet.
    pub(crate) fn num_waiting(&self) -> usize {
        self.total.waiting
    }

    /// A request of `tokens` prompt tokens begins to wait.
    ///
    /// # Errors
    /// If the queue is full and the tenant has its share of it. One that has less is let in, up to twice the limit, so
    /// that a flood does not keep others out.
    pub(crate) fn begin(&mut self, tenant: &Tenant, tokens: usize, config: &EngineConfig) -> Result<(), SubmitError> {
        self.check(tenant, tokens, config)?;
        for counts in [&mut self.total, self.tenants.entry(tenant.clone()).or_default()] {
            counts.alive += 1;
            counts.waiting += 1;
            counts.waiting_tokens += tokens;
        }
        Ok(())
    }

    /// Whether a request of `tokens` prompt tokens may begin to wait.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) fn check(&self, tenant: &Tenant, tokens: usize, config: &EngineConfig) -> Result<(), SubmitError> {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        let tenants = self.tenants.len() + usize::from(own.alive == 0);
        let limit = |limit: Option<usize>| limit.unwrap_or(usize::MAX);
        let (requests, prompt_tokens) = (limit(config.max_queued), limit(config.max_queued_tokens));
        let by_requests = judge(self.total.waiting, own.waiting, 1, requests, tenants);
        // A prompt that alone is longer than all may wait with none before it.
        let tokens_wanted = if self.total.waiting == 0 { 0 } else { tokens };
        let by_tokens = judge(self.total.waiting_tokens, own.waiting_tokens, tokens_wanted, prompt_tokens, tenants);
        match by_requests.and(by_tokens) {
            Ok(()) => Ok(()),
            Err(FullQueue::Whole) if by_requests.is_err() => Err(SubmitError::QueueFull { limit: requests }),
            Err(FullQueue::Whole) => Err(SubmitError::QueueFullOfTokens { limit: prompt_tokens }),
            Err(FullQueue::Share) => Err(SubmitError::ShareExceeded { waiting: own.waiting, tenants }),
        }
    }

    /// One that waited is admitted, or has ended.
    pub(crate) fn leave_queue(&mut self, tenant: &Tenant, tokens: usize) {
        for counts in [&mut self.total, self.tenants.get_mut(tenant).expect("it has a request")] {
            counts.waiting -= 1;
            counts.waiting_tokens -= tokens;
        }
    }

    /// One that does not wait has ended.
    pub(crate) fn end(&mut self, tenant: &Tenant) {
        self.total.alive -= 1;
        let own = self.tenants.get_mut(tenant).expect("it has a request");
        own.alive -= 1;
        if own.alive == 0 {
            self.tenants.remove(tenant);
        }
    }
}

/// What is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FullQueue {
    Whole,
    Share,
}

/// Whether `more` may wait beside `total`, of which `own` are the tenant's, where `tenants` share `limit`.
fn judge(total: usize, own: usize, more: usize, limit: usize, tenants: usize) -> Result<(), FullQueue> {
    if total.saturating_add(more) <= limit {
        return Ok(());
    }
    let share = (limit / tenants).max(1);
    if tenants == 1 {
        Err(FullQueue::Whole)
    } else if own.saturating_add(more) > share {
        Err(FullQueue::Share)
    } else if total.saturating_add(more) <= limit.saturating_mul(2) {
        Ok(())
    } else {
        Err(FullQueue::Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_may_fill_the_queue_and_keeps_nobody_else_out() {
        assert_eq!(judge(9, 9, 1, 10, 1), Ok(()));
        assert_eq!(judge(10, 10, 1, 10, 1), Err(FullQueue::Whole));
        assert_eq!(judge(10, 10, 1, 10, 2), Err(FullQueue::Share), "others are there, and this is more than a half");
        assert_eq!(judge(10, 0, 1, 10, 2), Ok(()));
        assert_eq!(judge(14, 5, 1, 10, 2), Err(FullQueue::Share));
        assert_eq!(judge(20, 0, 1, 10, 20), Err(FullQueue::Whole), "twice the limit is the end");
        assert_eq!(judge(1, 1, 5, 4, 2), Err(FullQueue::Share), "a prompt longer than its share");
        assert_eq!(judge(usize::MAX, 1, usize::MAX, usize::MAX, 3), Ok(()), "no limit");
    }
}
