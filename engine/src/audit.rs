//! [`Scheduler::check`]: every page has exactly one owner (invariant I5).

use crate::scheduler::Scheduler;

impl Scheduler {
    /// Whether every page is free, cached or a sequence's own, and every lock accounted for, by their numbers. O(sequences):
    /// what release builds can afford while they serve.
    ///
    /// # Errors
    /// If the numbers do not add up; they are in the text.
    pub fn check_balance(&self) -> Result<(), String> {
        let sequences = || self.sequences.values();
        let private: usize = sequences().map(|sequence| sequence.pages.len() - sequence.num_shared).sum();
        let (free, cached, total) = (self.pool.num_free(), self.cache.num_pages(), self.pool.total());
        if free + cached + private != total {
            return Err(format!("{free} free, {cached} cached and {private} private pages, of {total}"));
        }
        let (held, out) = (sequences().filter(|sequence| sequence.lock.is_some()).count(), self.cache.num_locks());
        if held != out {
            return Err(format!("{held} locks that sequences hold, of {out} that are out"));
        }
        Ok(())
    }

    /// Verify that every page has exactly one owner and every lock is accounted for (invariant I5).
    /// O(pages).
    ///
    /// # Panics
    /// If not, naming the page.
    pub fn check(&self) {
        self.cache.check();
        let mut owners: Vec<Option<&str>> = vec![None; self.pool.total()];
        let mut own = |page: u32, owner| {
            if let Some(other) = owners[page as usize].replace(owner) {
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
        let owned = owners.iter().flatten().count();
        assert_eq!(owned, self.pool.total(), "free + cached + private pages, of all");
        assert_eq!(locks, self.cache.num_locks(), "locks that sequences hold, of those that are out");
        let waiting_tokens: usize = self.waiting.iter().map(|key| self.sequences[&key].tokens.len()).sum();
        assert_eq!(waiting_tokens, self.waiting_tokens, "tokens that wait");
        let queued = self.waiting.len() + self.running.len();
        assert_eq!(queued, self.sequences.len(), "waiting and running sequences, of all");
        assert_eq!(self.shares.num_alive(), self.sequences.len(), "sequences of all tenants");
        assert_eq!(self.shares.num_running(), self.running.len(), "places of all tenants");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineConfig, fake};

    #[test]
    fn a_page_that_nobody_owns_is_missed() {
        let mut scheduler = Scheduler::new(EngineConfig {
            max_running: 2,
            chunk_tokens: 8,
            max_prefill_tokens: 8,
            ..fake::engine_config(4, 8)
        });
        assert_eq!(scheduler.check_balance(), Ok(()));
        scheduler.pool.alloc().expect("a free page");
        assert_eq!(scheduler.check_balance(), Err("7 free, 0 cached and 0 private pages, of 8".into()));
        scheduler.restart();
        assert_eq!(scheduler.check_balance(), Ok(()), "a restart begins with every page");
    }
}
