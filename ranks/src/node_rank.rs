//! [`NodeRank`]: one rank of a network on several nodes.
//!
//! The ranks of a node are a branch of the tree of sums, so they add up theirs first, the first of them exchanges with the
//! other nodes, and tells the rest: the bits are those of one process.

use std::sync::{Arc, Mutex, PoisonError};

use quern_backend::{Collective, Lost, Rank};

use crate::Peers;

/// One rank of a network on several nodes, each of which has equally many, a power of two.
pub struct NodeRank {
    rank: Rank,
    /// The ranks of this node, where there are several.
    local: Option<Arc<dyn Collective>>,
    peers: Arc<Peers>,
    /// The rows of this node's ranks.
    rows: Mutex<Vec<f32>>,
}

impl NodeRank {
    /// The rank that exchanges through `local` within its node, or the node's only one.
    ///
    /// # Panics
    /// If the node has a number of ranks whose sum is no branch of the whole.
    pub fn new(local: Option<Arc<dyn Collective>>, peers: Arc<Peers>) -> Self {
        let here = local.as_ref().map_or(Rank::SOLO, |local| local.rank());
        assert!(here.count.is_power_of_two(), "{} ranks of a node are no branch", here.count);
        let node = peers.node();
        let rank = Rank { index: node.index * here.count + here.index, count: node.count * here.count };
        Self { rank, local, peers, rows: Mutex::default() }
    }

    /// Whether this one exchanges with the other nodes.
    fn is_first(&self) -> bool {
        self.local.as_ref().is_none_or(|local| local.rank().index == 0)
    }

    /// `result` of an exchange within the node, in which ranks are counted from 0.
    fn within(&self, result: Result<(), Lost>) -> Result<(), Lost> {
        let first = self.peers.node().index * (self.rank.count / self.peers.node().count);
        // Those who wait are told of a lost node by way of the first rank.
        result.map_err(|lost| self.peers.lost().unwrap_or(Lost { rank: first + lost.rank, ..lost }))
    }

    /// `result` of an exchange with other nodes; where it failed, the rest of the node waits no longer.
    fn beyond(&self, result: Result<(), Lost>) -> Result<(), Lost> {
        result.inspect_err(|lost| {
            if let Some(local) = &self.local {
                local.poison(&lost.to_string());
            }
        })
    }
}

impl Collective for NodeRank {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Lost> {
        if let Some(local) = &self.local {
            self.within(local.all_reduce(values))?;
        }
        if self.is_first() {
            self.beyond(self.peers.sum(values))?;
        }
        self.local.as_ref().map_or(Ok(()), |local| self.within(local.broadcast(values)))
    }

    fn gather(&self, own: &[f32], widths: &[usize], all: &mut [f32]) -> Result<(), Lost> {
        let node = self.peers.node();
        let ranks = self.rank.count / node.count;
        let nodes: Vec<usize> = widths.chunks(ranks).map(|widths| widths.iter().sum()).collect();
        let Some(local) = &self.local else { return self.beyond(self.peers.gather(own, &nodes, all)) };
        let here = &widths[node.index * ranks..][..ranks];
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_first() {
            // Vocabularies have more rows than there are ranks, but a rank may have none.
            let own_width = here[0];
            let count =
                own.len().checked_div(own_width).unwrap_or_else(|| all.len() / nodes.iter().sum::<usize>().max(1));
            rows.resize(count * nodes[node.index], 0.0);
        }
        self.within(local.gather(own, here, &mut rows))?;
        if self.is_first() { self.beyond(self.peers.gather(&rows, &nodes, all)) } else { Ok(()) }
    }

    fn broadcast(&self, values: &mut [f32]) -> Result<(), Lost> {
        // Zeros of this sign change no bits of what they are added to.
        if self.rank.index != 0 {
            values.fill(-0.0);
        }
        self.all_reduce(values)
    }

    fn poison(&self, cause: &str) {
        self.peers.fail(self.rank.index, cause);
        if let Some(local) = &self.local {
            local.poison(cause);
        }
    }

    fn reset(&self) -> Result<(), Lost> {
        match self.peers.lost() {
            Some(lost) => Err(lost),
            None => self.local.as_ref().map_or(Ok(()), |local| local.reset()),
        }
    }
}
