//! [`RadixCache`]: pages of computed tokens, findable by the tokens they hold.
//!
//! A tree in which each edge is one page's worth of tokens, compared in full (no hash decides). A node
//! stands for the prefix spelled on the way from its root, and owns the page of its last edge. Roots
//! are kept apart by namespace. Unit edges make a match one lookup a page and need no splitting of
//! nodes; that a path of 8,192 pages is 8,192 nodes costs under a megabyte.
//!
//! ```text
//! root ──[t0 t1]── A ──[t2 t3]── B        a sequence that shares B holds one lock, on B;
//!                   └──[t2 t9]── C        `lock_count` counts locks at or below a node: A 1, B 1, C 0.
//! ```
//!
//! A lock keeps its node and everything above it; only leaves without locks are evicted, oldest first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::kv_pool::KvPool;

/// Index of a node in the arena.
type NodeId = usize;

/// A claim on a cached prefix. Not `Clone`: it must be returned to the cache it came from.
#[derive(Debug)]
#[must_use = "a lock that is not returned pins its pages for ever"]
pub struct PrefixLock {
    node: NodeId,
}

/// The prefix tree.
///
/// ```
/// use quern_engine::{kv_pool::KvPool, radix_cache::RadixCache};
///
/// let (mut pool, mut cache) = (KvPool::new(8), RadixCache::new(2));
/// let mut pages = Vec::new();
/// let mut lock = cache.lock_prefix(None, &[1, 2, 3], &mut pages);
/// assert!(pages.is_empty(), "nothing is cached yet");
/// cache.extend(&mut lock, &[1, 2], pool.alloc().expect("a free page"));
/// cache.unlock(lock);
///
/// assert_eq!(cache.matched_tokens(None, &[1, 2, 9]), 2);
/// assert_eq!(cache.evict(1, &mut pool), 1);
/// assert_eq!(pool.num_free(), 8);
/// ```
#[derive(Debug)]
pub struct RadixCache {
    page_size: usize,
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    roots: HashMap<Option<Arc<str>>, NodeId>,
    /// Leaves without locks by last use: the order of eviction.
    evictable_leaves: BTreeSet<(u64, NodeId)>,
    clock: u64,
    num_pages: usize,
    /// Nodes with locks at or below them (roots not counted).
    num_protected: usize,
    num_locks: usize,
}

#[derive(Debug)]
struct Node {
    parent: Option<NodeId>,
    /// The tokens of the edge to this node; empty for a root.
    edge: Arc<[u32]>,
    /// The page that holds them; a root has none.
    page: Option<u32>,
    children: HashMap<Arc<[u32]>, NodeId>,
    lock_count: usize,
    last_used: u64,
    namespace: Option<Arc<str>>,
    /// Whether logits that attended to its page were finite.
    verified: bool,
}

/// What became of a page that was inserted.
#[derive(Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The cache owns it now.
    Inserted,
    /// The cache holds the same tokens in this page already; the inserted one is still the caller's.
    Duplicate(u32),
}

impl RadixCache {
    /// An empty cache of pages of `page_size` tokens.
    pub fn new(page_size: usize) -> Self {
        assert!(page_size > 0, "a page holds at least one token");
        Self {
            page_size,
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            evictable_leaves: BTreeSet::new(),
            clock: 0,
            num_pages: 0,
            num_protected: 0,
            num_locks: 0,
        }
    }

    /// Pages in the cache.
    pub fn num_pages(&self) -> usize {
        self.num_pages
    }

    /// Pages that eviction could free now.
    pub fn num_evictable(&self) -> usize {
        self.num_pages - self.num_protected
    }

    /// Locks that are out.
    pub fn num_locks(&self) -> usize {
        self.num_locks
    }

    /// How many leading tokens of `tokens` are cached, in whole pages.
    pub fn matched_tokens(&self, namespace: Option<&Arc<str>>, tokens: &[u32]) -> usize {
        self.path(namespace, tokens).count() * self.page_size
    }

    /// Lock the longest cached prefix of `tokens` and append its pages to `pages`.
    pub fn lock_prefix(&mut self, namespace: Option<&Arc<str>>, tokens: &[u32], pages: &mut Vec<u32>) -> PrefixLock {
        let path: Vec<NodeId> = self.path(namespace, tokens).collect();
        self.clock += 1;
        let root = self.root(namespace);
        for &node in &path {
            self.touch(node);
            pages.extend(self.node(node).page);
        }
        let node = path.last().copied().unwrap_or(root);
        self.lock_path(node);
        self.num_locks += 1;
        PrefixLock { node }
    }

    /// Return a lock.
    pub fn unlock(&mut self, lock: PrefixLock) {
        self.unlock_path(lock.node);
        self.num_locks -= 1;
    }

    /// Insert the page that follows the locked prefix and holds `edge`; move the lock onto it.
    pub fn extend(&mut self, lock: &mut PrefixLock, edge: &[u32], page: u32) -> InsertOutcome {
        assert_eq!(edge.len(), self.page_size, "an edge is one page of tokens");
        self.clock += 1;
        let existing = self.node(lock.node).children.get(edge).copied();
        let (child, outcome) = match existing {
            Some(child) => {
                (child, InsertOutcome::Duplicate(self.node(child).page.expect("every node but a root has a page")))
            }
            None => (self.insert(lock.node, edge.into(), page), InsertOutcome::Inserted),
        };
        // Locks count towards every ancestor, and the parent stays one: only the child changes.
        self.touch(child);
        self.lock_node(child);
        lock.node = child;
        outcome
    }

    /// Free at least `wanted` pages into `pool`, or all that can be; returns how many.
    pub fn evict(&mut self, wanted: usize, pool: &mut KvPool) -> usize {
        let mut freed = 0;
        while freed < wanted {
            let Some(&(last_used, leaf)) = self.evictable_leaves.first() else { break };
            self.evictable_leaves.remove(&(last_used, leaf));
            pool.free(self.remove(leaf));
            freed += 1;
        }
        freed
    }

    /// Logits that attended to every page up to the lock were finite, so these pages are sound: a NaN or an infinity
    /// among their keys and values would have reached the logits.
    pub fn verify(&mut self, lock: &PrefixLock) {
        let mut at = Some(lock.node);
        while let Some(id) = at {
            let node = self.node_mut(id);
            if node.verified {
                break;
            }
            node.verified = true;
            at = node.parent;
        }
    }

    /// Free the pages along `tokens` that may be unsound, the deepest first, as far up as none is
    /// [verified](Self::verify), locked or continued; returns how many.
    pub fn invalidate(&mut self, namespace: Option<&Arc<str>>, tokens: &[u32], pool: &mut KvPool) -> usize {
        let path: Vec<NodeId> = self.path(namespace, tokens).collect();
        let mut freed = 0;
        for &id in path.iter().rev() {
            if self.node(id).verified || !self.is_evictable_leaf(id) {
                break;
            }
            self.unlist(id);
            pool.free(self.remove(id));
            freed += 1;
        }
        freed
    }

    /// Free everything that is not locked.
    pub fn clear(&mut self, pool: &mut KvPool) -> usize {
        self.evict(usize::MAX, pool)
    }

    /// Every page the cache owns.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.iter().flatten().filter_map(|node| node.page)
    }

    /// Verify the tree's invariants. O(nodes); for tests and debug builds.
    ///
    /// # Panics
    /// If a count is wrong, naming it.
    pub fn check(&self) {
        let (mut paged, mut protected, mut evictable) = (0, 0, 0);
        for (id, node) in self.nodes.iter().enumerate().filter_map(|(id, node)| Some((id, node.as_ref()?))) {
            paged += usize::from(node.page.is_some());
            protected += usize::from(node.page.is_some() && node.lock_count > 0);
            let parent_verified = node.parent.is_none_or(|parent| self.node(parent).verified);
            assert!(parent_verified || !node.verified, "node {id} is verified and what it continues is not");
            let mut below = 0;
            for (edge, &child_id) in &node.children {
                let child = self.node(child_id);
                below += child.lock_count;
                assert_eq!(child.parent, Some(id), "parent of node {child_id}");
                assert_eq!(&child.edge, edge, "edge of node {child_id}");
            }
            assert!(node.lock_count >= below, "node {id}: {} locks at or below, {below} below", node.lock_count);
            if self.is_evictable_leaf(id) {
                evictable += 1;
                assert!(self.evictable_leaves.contains(&(node.last_used, id)), "node {id}: evictable and not listed");
            }
        }
        assert_eq!(paged, self.num_pages, "cached pages");
        assert_eq!(protected, self.num_protected, "protected pages");
        // Each is listed, so that as many mean that nothing else is.
        assert_eq!(evictable, self.evictable_leaves.len(), "evictable leaves, of those listed");
        let locks: usize = self.roots.values().map(|&root| self.node(root).lock_count).sum();
        assert_eq!(locks, self.num_locks, "locks that are out");
    }

    /// The nodes along the longest cached prefix, without the root.
    fn path<'a>(&'a self, namespace: Option<&Arc<str>>, tokens: &'a [u32]) -> impl Iterator<Item = NodeId> + 'a {
        let mut at = self.roots.get(&namespace.cloned()).copied();
        tokens.chunks_exact(self.page_size).map_while(move |edge| {
            at = self.node(at?).children.get(edge).copied();
            at
        })
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id].as_ref().expect("ids of nodes in use only")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id].as_mut().expect("ids of nodes in use only")
    }

    fn place(&mut self, node: Node) -> NodeId {
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        }
    }

    fn root(&mut self, namespace: Option<&Arc<str>>) -> NodeId {
        let namespace = namespace.cloned();
        if let Some(&root) = self.roots.get(&namespace) {
            return root;
        }
        let root = self.place(Node {
            parent: None,
            edge: Arc::new([]),
            page: None,
            children: HashMap::new(),
            lock_count: 0,
            last_used: 0,
            namespace: namespace.clone(),
            verified: true,
        });
        self.roots.insert(namespace, root);
        root
    }

    fn insert(&mut self, parent: NodeId, edge: Arc<[u32]>, page: u32) -> NodeId {
        self.unlist(parent);
        let (last_used, namespace) = (self.clock, None);
        let child = self.place(Node {
            parent: Some(parent),
            edge: Arc::clone(&edge),
            page: Some(page),
            children: HashMap::new(),
            lock_count: 0,
            last_used,
            namespace,
            verified: false,
        });
        self.node_mut(parent).children.insert(edge, child);
        self.num_pages += 1;
        self.list(child);
        child
    }

    /// Take a leaf out of the tree; its page is the caller's.
    fn remove(&mut self, leaf: NodeId) -> u32 {
        let node = self.nodes[leaf].take().expect("a listed leaf is in use");
        self.vacant.push(leaf);
        self.num_pages -= 1;
        let parent = node.parent.expect("roots are never listed");
        self.node_mut(parent).children.remove(&node.edge);
        self.list(parent);
        self.drop_empty_root(parent);
        node.page.expect("every node but a root has a page")
    }

    /// Namespaces come and go with tenants; an empty one is dropped.
    fn drop_empty_root(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.page.is_none() && node.children.is_empty() && node.lock_count == 0 {
            let namespace = node.namespace.clone();
            self.roots.remove(&namespace);
            self.nodes[id] = None;
            self.vacant.push(id);
        }
    }

    fn touch(&mut self, id: NodeId) {
        self.unlist(id);
        let clock = self.clock;
        self.node_mut(id).last_used = clock;
        self.list(id);
    }

    fn unlist(&mut self, id: NodeId) {
        let last_used = self.node(id).last_used;
        self.evictable_leaves.remove(&(last_used, id));
    }

    /// Put a node on the list of evictable leaves if it is one.
    fn list(&mut self, id: NodeId) {
        if self.is_evictable_leaf(id) {
            let entry = (self.node(id).last_used, id);
            self.evictable_leaves.insert(entry);
        }
    }

    fn is_evictable_leaf(&self, id: NodeId) -> bool {
        let node = self.node(id);
        node.page.is_some() && node.children.is_empty() && node.lock_count == 0
    }

    fn lock_path(&mut self, id: NodeId) {
        let mut at = Some(id);
        while let Some(id) = at {
            self.lock_node(id);
            at = self.node(id).parent;
        }
    }

    fn lock_node(&mut self, id: NodeId) {
        self.unlist(id);
        let node = self.node_mut(id);
        node.lock_count += 1;
        if node.lock_count == 1 && node.page.is_some() {
            self.num_protected += 1;
        }
    }

    fn unlock_path(&mut self, id: NodeId) {
        let mut at = Some(id);
        while let Some(id) = at {
            let node = self.node_mut(id);
            node.lock_count -= 1;
            let (idle, paged, parent) = (node.lock_count == 0, node.page.is_some(), node.parent);
            if idle && paged {
                self.num_protected -= 1;
            }
            self.list(id);
            if parent.is_none() {
                self.drop_empty_root(id);
            }
            at = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache over a pool, and what a sequence does with both.
    struct Fixture {
        cache: RadixCache,
        pool: KvPool,
    }

    impl Fixture {
        fn new(pages: usize) -> Self {
            Self { cache: RadixCache::new(2), pool: KvPool::new(pages) }
        }

        /// Compute `tokens` with a lock and leave them cached.
        fn run(&mut self, tokens: &[u32]) -> usize {
            let mut pages = Vec::new();
            let mut lock = self.cache.lock_prefix(None, tokens, &mut pages);
            let matched = pages.len();
            for edge in tokens.chunks_exact(2).skip(matched) {
                let page = self.pool.alloc().expect("room");
                if let InsertOutcome::Duplicate(_) = self.cache.extend(&mut lock, edge, page) {
                    self.pool.free(page);
                }
            }
            self.cache.unlock(lock);
            self.cache.check();
            matched * 2
        }
    }

    #[test]
    fn a_prefix_is_found_in_whole_pages() {
        let mut fixture = Fixture::new(16);
        assert_eq!(fixture.run(&[1, 2, 3, 4, 5]), 0);
        assert_eq!(fixture.run(&[1, 2, 3, 4, 5, 6]), 4);
        assert_eq!(fixture.run(&[1, 2, 3, 9]), 2);
        assert_eq!(fixture.run(&[2, 1]), 0);
        assert_eq!(fixture.cache.num_pages(), 5);
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first_and_its_parent_after_it() {
        let mut fixture = Fixture::new(16);
        fixture.run(&[1, 2, 3, 4]);
        fixture.run(&[5, 6]);
        fixture.run(&[1, 2, 3, 4]);
        fixture.cache.evict(1, &mut fixture.pool);
        assert_eq!(fixture.cache.matched_tokens(None, &[5, 6]), 0);
        fixture.cache.evict(1, &mut fixture.pool);
        assert_eq!(fixture.cache.matched_tokens(None, &[1, 2, 3, 4]), 2);
        assert_eq!(fixture.pool.num_free(), 15);
        fixture.cache.check();
    }

    #[test]
    fn evicting_a_locked_prefix_is_refused() {
        let mut fixture = Fixture::new(16);
        fixture.run(&[1, 2, 3, 4]);
        let mut pages = Vec::new();
        let lock = fixture.cache.lock_prefix(None, &[1, 2], &mut pages);
        assert_eq!(fixture.cache.evict(9, &mut fixture.pool), 1);
        assert_eq!(fixture.cache.matched_tokens(None, &[1, 2, 3, 4]), 2);
        fixture.cache.unlock(lock);
        assert_eq!(fixture.cache.evict(9, &mut fixture.pool), 1);
        assert_eq!(fixture.pool.num_free(), 16);
        fixture.cache.check();
    }

    #[test]
    fn namespaces_do_not_see_each_other() {
        let mut fixture = Fixture::new(4);
        fixture.run(&[1, 2]);
        let tenant: Arc<str> = "tenant".into();
        assert_eq!(fixture.cache.matched_tokens(Some(&tenant), &[1, 2]), 0);
        let lock = fixture.cache.lock_prefix(Some(&tenant), &[1, 2], &mut Vec::new());
        fixture.cache.unlock(lock);
        assert_eq!(fixture.cache.roots.len(), 1, "an empty namespace is dropped");
    }

    #[test]
    fn a_duplicate_page_stays_with_its_owner() {
        let mut fixture = Fixture::new(4);
        let mut first = fixture.cache.lock_prefix(None, &[1, 2], &mut Vec::new());
        let mut second = fixture.cache.lock_prefix(None, &[1, 2], &mut Vec::new());
        let (a, b) = (fixture.pool.alloc().expect("room"), fixture.pool.alloc().expect("room"));
        assert_eq!(fixture.cache.extend(&mut first, &[1, 2], a), InsertOutcome::Inserted);
        assert_eq!(fixture.cache.extend(&mut second, &[1, 2], b), InsertOutcome::Duplicate(a));
        fixture.cache.check();
        fixture.cache.unlock(first);
        assert_eq!(fixture.cache.num_evictable(), 0);
        fixture.cache.unlock(second);
        assert_eq!(fixture.cache.num_evictable(), 1);
    }
}
