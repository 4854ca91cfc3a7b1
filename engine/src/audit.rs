//! [`Scheduler::check`]: every page has exactly one owner (invariant I5).

use std::collections::BTreeMap;

use crate::scheduler::Scheduler;

impl Scheduler {
    /// Verify that every page has exactly one owner and every lock is accounted for (invariant I5).
    /// O(pages).
    ///
    /// # Panics
    /// If not, naming the page.
    pub fn check(&self) {
        self.cache.check();
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        let mut own = |page: u32, owner| {
            if let Some(other) = owners.insert(page, owner) {
                panic!("page {page} is owned by {owner} and by {other}");
            }
        };
        let total = self.pool.total() as u32;
        (0..total).filter(|&page| self.pool.is_free(page)).for_each(|page| own(page, "the free list"));
        self.cache.pages().for_each(|page| own(page, "the prefix tree"));
        let mut locks = 0;
        for sequence in self.sequences.values() {
            locks += usize::from(sequence.lock.is_some());
            sequence.pages[sequence.num_shared..].iter().for_each(|&page| own(page, "a sequence"));
            assert!(sequence.lock.is_some() || sequence.pages.is_empty(), "{}: pages without a lock", sequence.id);
        }
        assert_eq!(owners.len(), self.pool.total(), "free + cached + private pages, of all");
        assert_eq!(locks, self.cache.num_locks(), "locks that sequences hold, of those that are out");
        let waiting_tokens: usize = self.waiting.iter().map(|key| self.sequences[&key].tokens.len()).sum();
        assert_eq!(waiting_tokens, self.waiting_tokens, "tokens that wait");
        let queued = self.waiting.len() + self.running.len();
        assert_eq!(queued, self.sequences.len(), "waiting and running sequences, of all");
        assert_eq!(self.shares.num_alive(), self.sequences.len(), "sequences of all tenants");
    }
}
