//! Ranks on several nodes: how their processes meet, exchange, and notice that one is lost.
//!
//! A [`Rendezvous`] makes [`Peers`] of processes that were started apart, with SGLang's flags, over plain sockets. A
//! [`NodeRank`] is the [`Collective`](quern_backend::Collective) of one rank on top of them: sums are those of one process,
//! bit for bit. Node 0 sends each step to the others ([`step`]).

#![forbid(unsafe_code)]

mod address;
mod exchange;
mod frame;
mod handshake;
mod key;
mod message;
mod node_rank;
mod peers;
mod rendezvous;
pub mod step;
mod watch;
pub mod wire;

pub use address::is_private;
pub use frame::{Frame, FrameKind};
pub use key::NodeKey;
pub use message::{Hello, Welcome};
pub use node_rank::NodeRank;
pub use peers::{NodeEvent, Peers};
pub use rendezvous::{Rendezvous, RendezvousError};
pub use step::StepBounds;

/// Which of several processes, which may be on other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodePosition {
    /// From 0. Node 0 serves requests; the others follow it.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}
