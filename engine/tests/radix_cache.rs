//! The prefix tree against a model of it that is slow and plain: a table of prefixes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use quern_engine::{
    kv_pool::KvPool,
    radix_cache::{InsertOutcome, PrefixLock, RadixCache},
};

const PAGES: usize = 24;

/// A namespace and whole pages of tokens.
type Prefix = (Option<Arc<str>>, Vec<u32>);

/// What the tree should hold, by definition: each prefix of whole pages, its page and its last use.
#[derive(Default)]
struct Table {
    pages: BTreeMap<Prefix, (u32, u64)>,
    verified: BTreeSet<Prefix>,
    locked: Vec<Prefix>,
    clock: u64,
}

impl Table {
    /// The longest cached prefix of `tokens`.
    fn matched(&self, page_size: usize, namespace: &Option<Arc<str>>, tokens: &[u32]) -> usize {
        let is_cached = |&len: &usize| self.pages.contains_key(&(namespace.clone(), tokens[..len].to_vec()));
        (page_size..=tokens.len()).step_by(page_size).take_while(is_cached).last().unwrap_or(0)
    }

    fn touch(&mut self, prefix: &Prefix) {
        self.pages.get_mut(prefix).expect("cached").1 = self.clock;
    }

    /// Whether a lock holds this prefix or one that begins with it.
    fn is_locked(&self, (namespace, tokens): &Prefix) -> bool {
        self.locked.iter().any(|(space, held)| space == namespace && held.starts_with(tokens))
    }

    fn is_continued(&self, (namespace, tokens): &Prefix) -> bool {
        let longer = |(space, other): &Prefix| space == namespace && other.len() > tokens.len();
        self.pages.keys().any(|prefix| longer(prefix) && prefix.1.starts_with(tokens))
    }

    fn num_evictable(&self) -> usize {
        self.pages.keys().filter(|prefix| !self.is_locked(prefix)).count()
    }

    /// Free the least recently used prefix that has no children and no locks.
    fn evict_one(&mut self) -> Option<u32> {
        let free = |prefix: &&Prefix| !self.is_locked(prefix) && !self.is_continued(prefix);
        let oldest = self.pages.keys().filter(free).min_by_key(|prefix| self.pages[*prefix].1)?.clone();
        self.verified.remove(&oldest);
        self.pages.remove(&oldest).map(|(page, _)| page)
    }
}

/// A sequence that computes its tokens page by page.
struct Running {
    namespace: Option<Arc<str>>,
    tokens: Vec<u32>,
    computed: usize,
    lock: PrefixLock,
}

impl Running {
    fn prefix(&self) -> Prefix {
        (self.namespace.clone(), self.tokens[..self.computed].to_vec())
    }
}

#[derive(Clone, Debug)]
enum Op {
    Start(Option<u8>, Vec<u32>),
    Compute(prop::sample::Index),
    Verify(prop::sample::Index),
    End(prop::sample::Index),
    Evict(usize),
    Invalidate(Option<u8>, Vec<u32>),
}

/// Few tokens and short prompts, so that prefixes meet, part and nest all the time.
fn op() -> impl Strategy<Value = Op> {
    let tokens = || prop::collection::vec(0..2u32, 0..14);
    let namespace = || prop::option::weighted(0.2, 0..2u8);
    prop_oneof![
        3 => (namespace(), tokens()).prop_map(|(n, t)| Op::Start(n, t)),
        8 => any::<prop::sample::Index>().prop_map(Op::Compute),
        1 => any::<prop::sample::Index>().prop_map(Op::Verify),
        2 => any::<prop::sample::Index>().prop_map(Op::End),
        1 => (0..4usize).prop_map(Op::Evict),
        1 => (namespace(), tokens()).prop_map(|(n, t)| Op::Invalidate(n, t)),
    ]
}

/// The tree, the table, and the sequences that use both.
struct World {
    page_size: usize,
    cache: RadixCache,
    pool: KvPool,
    table: Table,
    running: Vec<Running>,
}

impl World {
    fn new(page_size: usize) -> Self {
        let (cache, pool) = (RadixCache::new(page_size), KvPool::new(PAGES));
        Self { page_size, cache, pool, table: Table::default(), running: Vec::new() }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Start(namespace, tokens) => self.start(namespace.map(name), tokens),
            Op::Compute(index) if !self.running.is_empty() => self.compute(index.index(self.running.len())),
            Op::End(index) if !self.running.is_empty() => self.end(index.index(self.running.len())),
            Op::Verify(index) if !self.running.is_empty() => self.verify(index.index(self.running.len())),
            Op::Compute(_) | Op::Verify(_) | Op::End(_) => {}
            Op::Evict(wanted) => self.evict(wanted),
            Op::Invalidate(namespace, tokens) => self.invalidate(namespace.map(name), &tokens),
        }
    }

    fn start(&mut self, namespace: Option<Arc<str>>, tokens: Vec<u32>) {
        let computed = self.table.matched(self.page_size, &namespace, &tokens);
        assert_eq!(self.cache.matched_tokens(namespace.as_ref(), &tokens), computed);
        let mut pages = Vec::new();
        let lock = self.cache.lock_prefix(namespace.as_ref(), &tokens, &mut pages);
        self.table.clock += 1;
        let mut expected = Vec::new();
        for len in (self.page_size..=computed).step_by(self.page_size) {
            let prefix = (namespace.clone(), tokens[..len].to_vec());
            self.table.touch(&prefix);
            expected.push(self.table.pages[&prefix].0);
        }
        assert_eq!(pages, expected, "pages of the locked prefix");
        self.table.locked.push((namespace.clone(), tokens[..computed].to_vec()));
        self.running.push(Running { namespace, tokens, computed, lock });
    }

    fn compute(&mut self, index: usize) {
        let end = self.running[index].computed + self.page_size;
        if end > self.running[index].tokens.len() {
            return;
        }
        if self.pool.num_free() == 0 {
            self.evict(1);
        }
        let Some(page) = self.pool.alloc() else { return };
        let sequence = &mut self.running[index];
        let held = self
            .table
            .locked
            .iter()
            .position(|prefix| *prefix == sequence.prefix())
            .expect("a running sequence holds a lock");
        let outcome = self.cache.extend(&mut sequence.lock, &sequence.tokens[sequence.computed..end], page);
        sequence.computed = end;
        let prefix = sequence.prefix();
        self.table.locked[held] = prefix.clone();
        self.table.clock += 1;
        match self.table.pages.get(&prefix) {
            Some(&(cached, _)) => {
                assert_eq!(outcome, InsertOutcome::Duplicate(cached));
                self.pool.free(page);
                self.table.touch(&prefix);
            }
            None => {
                assert_eq!(outcome, InsertOutcome::Inserted);
                self.table.pages.insert(prefix, (page, self.table.clock));
            }
        }
    }

    fn verify(&mut self, index: usize) {
        let sequence = &self.running[index];
        self.cache.verify(&sequence.lock);
        for len in (self.page_size..=sequence.computed).step_by(self.page_size) {
            self.table.verified.insert((sequence.namespace.clone(), sequence.tokens[..len].to_vec()));
        }
    }

    fn end(&mut self, index: usize) {
        let sequence = self.running.swap_remove(index);
        let held = self
            .table
            .locked
            .iter()
            .position(|prefix| *prefix == sequence.prefix())
            .expect("a running sequence holds a lock");
        self.table.locked.swap_remove(held);
        self.cache.unlock(sequence.lock);
    }

    fn evict(&mut self, wanted: usize) {
        let freed = self.cache.evict(wanted, &mut self.pool);
        let expected: Vec<u32> = (0..wanted).map_while(|_| self.table.evict_one()).collect();
        assert_eq!(freed, expected.len(), "evicted pages");
        assert!(expected.iter().all(|&page| self.pool.is_free(page)), "the oldest go first: {expected:?}");
    }

    fn invalidate(&mut self, namespace: Option<Arc<str>>, tokens: &[u32]) {
        let freed = self.cache.invalidate(namespace.as_ref(), tokens, &mut self.pool);
        let mut expected = 0;
        let matched = self.table.matched(self.page_size, &namespace, tokens);
        for len in (1..=matched / self.page_size).rev().map(|pages| pages * self.page_size) {
            let prefix = (namespace.clone(), tokens[..len].to_vec());
            let kept = self.table.verified.contains(&prefix);
            if kept || self.table.is_locked(&prefix) || self.table.is_continued(&prefix) {
                break;
            }
            let (page, _) = self.table.pages.remove(&prefix).expect("matched");
            assert!(self.pool.is_free(page), "page {page} of {prefix:?} is freed");
            expected += 1;
        }
        assert_eq!(freed, expected, "invalidated pages");
    }

    fn check(&self) {
        self.cache.check();
        let mut pages: Vec<u32> = self.cache.pages().collect();
        let mut expected: Vec<u32> = self.table.pages.values().map(|&(page, _)| page).collect();
        pages.sort_unstable();
        expected.sort_unstable();
        assert_eq!(pages, expected, "pages of the tree");
        assert_eq!(self.cache.num_pages(), expected.len());
        assert_eq!(self.cache.num_evictable(), self.table.num_evictable(), "evictable pages");
        assert_eq!(self.cache.num_locks(), self.running.len(), "locks");
        assert_eq!(self.pool.num_free() + expected.len(), PAGES, "free and cached pages, of all");
    }
}

fn name(index: u8) -> Arc<str> {
    ["red", "blue"][usize::from(index)].into()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8_000) })]

    #[test]
    fn the_tree_is_the_table_of_its_prefixes(page_size in 1..4usize, ops in prop::collection::vec(op(), 1..160)) {
        let mut world = World::new(page_size);
        for op in ops {
            world.apply(op);
            world.check();
        }
        while !world.running.is_empty() {
            world.end(0);
        }
        world.cache.clear(&mut world.pool);
        prop_assert_eq!(world.pool.num_free(), PAGES);
    }
}
