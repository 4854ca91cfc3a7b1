//! Ranks on several nodes: how their processes meet, exchange, and notice that one is lost.
//!
//! A [`Rendezvous`] makes [`Peers`] of processes that were started apart, with SGLang's flags, over plain sockets, or by a
//! [`Launcher`], which [`Mpi`] connects. A [`NodeRank`] is the [`Collective`](quern_backend::Collective) of one rank on top
//! of them: sums are those of one process, bit for bit, whatever carries them. Node 0 sends each step to the others
//! ([`step`]).
//!
//! All calls of MPI, and all `unsafe` with them, are in the module `mpi`.

#![deny(unsafe_code)]

mod address;
mod exchange;
mod frame;
mod handshake;
mod host;
mod introduction;
mod key;
mod launcher;
mod message;
#[allow(unsafe_code, reason = "every call of a library that was opened at run time is unsafe")]
mod mpi;
mod node_rank;
mod peers;
mod rendezvous;
mod sockets;
pub mod step;
mod watch;
pub mod wire;

pub use address::is_private;
pub use frame::{Frame, FrameKind};
pub use host::HostRecord;
pub use introduction::{Introduction, introduce};
pub use key::NodeKey;
pub use launcher::{Launcher, LauncherError};
pub use message::{Hello, Welcome};
pub use mpi::{Mpi, MpiError};
pub use node_rank::NodeRank;
pub use peers::{NodeEvent, Peers};
pub use rendezvous::{MeetingPlace, Rendezvous, RendezvousError};
pub use step::StepBounds;

/// Which of several processes, which may be on other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodePosition {
    /// From 0. Node 0 serves requests; the others follow it.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}
