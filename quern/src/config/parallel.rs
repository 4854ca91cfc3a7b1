//! [`ParallelFlags`] and [`ParallelOptions`]: over how many ranks the network is divided, and which of them this process
//! has.

use std::ops::Range;

use clap::Args;
use quern_backend::KvFormat;
use quern_model::{Checkpoint, ModelConfig, Parallelism, Split};
use quern_ranks::NodePosition;
use serde::Serialize;

use super::{
    refused::{RefusedFlag, ResolveError},
    values::positive_size,
};

/// What was typed about the ranks of the network.
#[derive(Args, Clone, Copy, Debug)]
pub struct ParallelFlags {
    /// Ranks that the network is divided over: each computes a part of every layer on its share of the threads
    #[arg(long, alias = "tensor-parallel-size", value_name = "RANKS", default_value = "1",
          value_parser = positive_size)]
    pub tp_size: usize,

    /// Groups of ranks that hold different experts, instead of a part of each; --tp-size is a multiple of it
    #[arg(long, aliases = ["expert-parallel-size", "ep"], value_name = "GROUPS", default_value = "1",
          value_parser = positive_size)]
    pub ep_size: usize,

    /// Processes, one a host, that share the ranks: the same command is run on each, with another --node-rank [default: 1,
    /// or as many as mpirun or srun started]
    #[arg(long, value_name = "NODES", value_parser = positive_size)]
    pub nnodes: Option<usize>,

    /// Which of the processes this is, from 0; node 0 serves requests, the others follow it and answer /health [default: 0,
    /// or what mpirun or srun says]
    #[arg(long, value_name = "NODE")]
    pub node_rank: Option<usize>,
}

/// The ranks of the network, and those of this process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ParallelOptions {
    /// Ranks that the network is divided over.
    pub tp_size: usize,
    /// Groups of ranks that hold different experts.
    pub ep_size: usize,
    /// Processes that share the ranks.
    pub nnodes: usize,
    /// Which of them this is.
    pub node_rank: usize,
}

impl ParallelFlags {
    /// What was typed, with one process where nothing was.
    pub fn options(self) -> ParallelOptions {
        let Self { tp_size, ep_size, nnodes, node_rank } = self;
        ParallelOptions { tp_size, ep_size, nnodes: nnodes.unwrap_or(1), node_rank: node_rank.unwrap_or(0) }
    }
}

impl ParallelOptions {
    /// Whether there is more than one rank.
    pub fn is_divided(self) -> bool {
        self.tp_size > 1
    }

    /// Refuse what no network can be divided into.
    ///
    /// # Errors
    /// For the flag that asks for such a division.
    pub fn check(self) -> Result<(), RefusedFlag> {
        let Self { tp_size, ep_size, nnodes, node_rank } = self;
        if !tp_size.is_multiple_of(ep_size) {
            let reason = format!("must divide --tp-size {tp_size}: the ranks form {ep_size} equal groups");
            return Err(RefusedFlag::new("ep-size", ep_size, reason));
        }
        if !tp_size.is_multiple_of(nnodes) {
            let reason = format!("must divide --tp-size {tp_size}: each node has equally many ranks");
            return Err(RefusedFlag::new("nnodes", nnodes, reason));
        }
        let ranks = tp_size / nnodes;
        if nnodes > 1 && !ranks.is_power_of_two() {
            let reason = format!(
                "each node has {ranks} ranks of --tp-size {tp_size}; 1, 2, 4, 8 … on a node are supported, whose sums have \
                 the bits of one process"
            );
            return Err(RefusedFlag::new("nnodes", nnodes, reason));
        }
        if node_rank >= nnodes {
            let reason = format!("--nnodes {nnodes} are counted from 0 to {}", nnodes - 1);
            return Err(RefusedFlag::new("node-rank", node_rank, reason));
        }
        Ok(())
    }

    /// This process among those that share the ranks.
    pub fn node(self) -> NodePosition {
        NodePosition { index: self.node_rank, count: self.nnodes }
    }

    /// The ranks of this process.
    pub fn ranks_here(self) -> Range<usize> {
        let ranks = self.tp_size / self.nnodes;
        self.node_rank * ranks..(self.node_rank + 1) * ranks
    }

    /// What each rank holds of `checkpoint`.
    ///
    /// # Errors
    /// If the network cannot be divided into as many parts.
    pub fn split(self, checkpoint: &Checkpoint) -> Result<Vec<Split>, RefusedFlag> {
        let Self { tp_size, ep_size, .. } = self;
        checkpoint.split(Parallelism { tp: tp_size, ep: ep_size }).map_err(|error| {
            let value = if ep_size == 1 { tp_size.to_string() } else { format!("{tp_size} --ep-size {ep_size}") };
            RefusedFlag::new("tp-size", value, error.to_string())
        })
    }

    /// A line on what would suit a machine of `nodes` memory nodes better.
    pub fn advice(self, nodes: usize, checkpoint: &Checkpoint) -> Option<String> {
        let a_rank_each = Self { tp_size: nodes, ep_size: 1, ..self };
        (nodes > 1 && !self.is_divided() && a_rank_each.split(checkpoint).is_ok()).then(|| {
            format!(
                "This machine has {nodes} memory nodes: --tp-size {nodes} keeps each part of the weights near the cores \
                 that read it."
            )
        })
    }

    /// Bytes of the weights of `checkpoint` on all ranks of this process together.
    ///
    /// # Errors
    /// As for [`split`](Self::split).
    pub fn weight_bytes(self, checkpoint: &Checkpoint) -> Result<u64, ResolveError> {
        if !self.is_divided() {
            return Ok(checkpoint.weight_bytes());
        }
        let parts = self.split(checkpoint)?;
        Ok(parts[self.ranks_here()].iter().map(|part| checkpoint.part_bytes(part)).sum::<Result<u64, _>>()?)
    }

    /// Bytes of one token's keys and values on all ranks of this process together: each has a KV head at least.
    pub fn kv_bytes_per_token(self, network: &ModelConfig, format: KvFormat) -> u64 {
        let mut held = network.clone();
        held.heads.num_kv_heads = held.heads.num_kv_heads.max(self.tp_size) / self.nnodes;
        held.kv_bytes_per_token(format)
    }
}
