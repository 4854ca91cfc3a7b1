//! [`Peers`]: the other nodes of a network, once all have met: what they are sent, and what comes from them.

use std::{
    io,
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quern_backend::{ForwardBatch, Lost, collective};

pub use crate::watch::NodeEvent;
use crate::{
    NodePosition,
    exchange::{Transfer, Transport, exchange},
    frame::{FrameHeader, FrameKind, HEADER},
    sockets,
    step::{self, StepBounds},
    watch::{Observer, Watch, Watched},
};

/// A connection to another node.
struct Link {
    node: usize,
    stream: TcpStream,
    /// What comes: a header, then numbers.
    inbox: Vec<u8>,
    /// These numbers.
    floats: Vec<f32>,
}

/// The other nodes. Exchanges come from one thread at a time.
pub struct Peers {
    node: NodePosition,
    watch: Arc<Watch>,
    /// Silence of a node in the middle of a step that is too long.
    limit: Duration,
    /// What carries sums and rows. Steps go over sockets, where one that waits for the next keeps no core busy.
    transport: Transport,
    links: Mutex<Links>,
}

struct Links {
    /// By node.
    others: Vec<Link>,
    outbox: Vec<u8>,
    /// What was this node's before a sum took its place.
    own: Vec<f32>,
    /// Steps and exchanges so far, on all nodes the same: what comes with another number does not belong.
    number: u64,
}

impl Peers {
    /// `others` over connections that were made for them, each with `ranks` ranks, and numbers by `transport`. What is
    /// heard of them goes to `observer`.
    ///
    /// # Errors
    /// If the system refuses a thread or a socket.
    pub(crate) fn start(
        node: NodePosition,
        ranks: usize,
        limit: Duration,
        transport: Transport,
        others: Vec<Watched>,
        observer: Observer,
    ) -> io::Result<Self> {
        let links = others.iter().map(|other| {
            let stream = other.data.try_clone()?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(Link { node: other.node, stream, inbox: Vec::new(), floats: Vec::new() })
        });
        let links = Links { others: links.collect::<io::Result<_>>()?, outbox: Vec::new(), own: Vec::new(), number: 0 };
        let watch = Watch::start(node, ranks, others, observer)?;
        Ok(Self { node, watch, limit, transport, links: Mutex::new(links) })
    }

    /// This node.
    pub fn node(&self) -> NodePosition {
        self.node
    }

    /// The first rank of this node.
    pub fn first_rank(&self) -> usize {
        self.watch.first_rank()
    }

    /// Who was lost first, if anybody was.
    pub fn lost(&self) -> Option<Lost> {
        self.watch.lost()
    }

    /// Whether node 0 has said [goodbye](Self::goodbye), or this one has.
    pub fn has_ended(&self) -> bool {
        self.watch.has_ended()
    }

    /// Tell node 0 that this one has its weights in memory.
    pub fn tell_loaded(&self) {
        self.watch.tell(FrameKind::Loaded, &[]);
    }

    /// Wait until all other nodes have theirs.
    ///
    /// # Errors
    /// If one is lost before.
    pub fn wait_loaded(&self) -> Result<(), Lost> {
        self.watch.wait_loaded()
    }

    /// Tell node 0 that this one was asked to end. It goes on until node 0 says [goodbye](Self::goodbye).
    pub fn leave(&self) {
        self.watch.tell(FrameKind::Leaving, &[]);
    }

    /// Tell the others that all is well and this node ends.
    pub fn goodbye(&self) {
        self.watch.tell(FrameKind::Goodbye, &[]);
        self.watch.end();
    }

    /// A rank of this node has failed for good.
    pub fn fail(&self, rank: usize, cause: &str) {
        self.watch.fail(rank, cause);
    }

    /// Hand the others a step.
    ///
    /// # Errors
    /// If a node is lost.
    pub fn send_step(&self, batch: &ForwardBatch) -> Result<(), Lost> {
        let record = step::write(batch);
        if record.len() > FrameKind::Step.max_len() {
            return Err(self.watch.lose_node(self.node.index, &format!("has a step of {} bytes", record.len())));
        }
        let links = &mut *self.links();
        links.write(FrameKind::Step, &record);
        self.swap(&Transport::Sockets, links, |_| true, &vec![None; links.others.len()])
    }

    /// Wait for the next step of node 0; `None` once it has said goodbye.
    ///
    /// # Errors
    /// If a node is lost, or what comes is no step for a network within `bounds`.
    pub fn receive_step(&self, bounds: &StepBounds) -> Result<Option<ForwardBatch>, Lost> {
        match self.links().receive_step(bounds) {
            Ok(batch) => Ok(Some(batch)),
            Err(error) => match self.watch.miss(0, &error, self.limit) {
                _ if self.watch.has_ended() => Ok(None),
                lost => Err(lost),
            },
        }
    }

    /// `values` becomes the sum over all nodes, added as [`tree`](collective::tree) adds.
    ///
    /// # Errors
    /// If a node is lost.
    pub(crate) fn sum(&self, values: &mut [f32]) -> Result<(), Lost> {
        let links = &mut *self.links();
        links.write_floats(values);
        let lengths = vec![Some(values.len()); links.others.len()];
        self.swap(&self.transport, links, |_| true, &lengths)?;
        links.own.clear();
        links.own.extend_from_slice(values);
        collective::tree(&links.parts(self.node.index, &links.own), values);
        Ok(())
    }

    /// On node 0 `all` becomes the rows of all nodes side by side; the others send theirs. `widths`: the columns of each
    /// node.
    ///
    /// # Errors
    /// If a node is lost.
    pub(crate) fn gather(&self, own: &[f32], widths: &[usize], all: &mut [f32]) -> Result<(), Lost> {
        let links = &mut *self.links();
        links.write_floats(own);
        if self.node.index != 0 {
            return self.swap(&self.transport, links, |node| node == 0, &vec![None; links.others.len()]);
        }
        let rows = all.len().checked_div(widths.iter().sum()).unwrap_or(0);
        let lengths: Vec<_> = links.others.iter().map(|link| Some(rows * widths[link.node])).collect();
        self.swap(&self.transport, links, |_| false, &lengths)?;
        collective::side_by_side(&links.parts(0, own), widths, all);
        Ok(())
    }

    /// Send what is in the outbox to the nodes that are `told`, and receive as many numbers of each as `lengths` says.
    fn swap(
        &self,
        transport: &Transport,
        links: &mut Links,
        told: impl Fn(usize) -> bool,
        lengths: &[Option<usize>],
    ) -> Result<(), Lost> {
        let Links { others, outbox, number, .. } = links;
        let transfers = others.iter_mut().zip(lengths).map(|(link, length)| {
            let expected =
                length.map(|length| FrameHeader { kind: FrameKind::Floats, len: 4 * length, number: *number });
            link.inbox.resize(expected.map_or(0, |header| HEADER + header.len), 0);
            let Link { node, stream, inbox, .. } = link;
            Transfer { node: *node, stream, is_told: told(*node), into: inbox, expected }
        });
        let mut transfers: Vec<_> = transfers.collect();
        let swapped = exchange(transport, outbox, &mut transfers, self.limit, &|| self.watch.is_over());
        *number += 1;
        swapped.map_err(|(at, error)| self.watch.miss(others[at].node, &error, self.limit))?;
        for link in others {
            let (numbers, _) = link.inbox.get(HEADER..).unwrap_or_default().as_chunks();
            link.floats.clear();
            link.floats.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        Ok(())
    }

    /// A panic in the middle of an exchange is a loss for good, so poison means nothing.
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    /// Put a frame into the outbox.
    fn write(&mut self, kind: FrameKind, record: &[u8]) {
        self.outbox.clear();
        self.outbox.extend(FrameHeader { kind, len: record.len(), number: self.number }.write());
        self.outbox.extend_from_slice(record);
    }

    fn write_floats(&mut self, values: &[f32]) {
        self.outbox.clear();
        self.outbox.extend(FrameHeader { kind: FrameKind::Floats, len: 4 * values.len(), number: self.number }.write());
        self.outbox.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// What has come of each node, and `own` at its place.
    fn parts<'a>(&'a self, index: usize, own: &'a [f32]) -> Vec<&'a [f32]> {
        let mut parts: Vec<&[f32]> = self.others.iter().map(|link| &*link.floats).collect();
        parts.insert(index, own);
        parts
    }

    /// The next step of node 0, however long it takes to begin.
    fn receive_step(&mut self, bounds: &StepBounds) -> io::Result<ForwardBatch> {
        let stream = &self.others.first().expect("node 0 is one of the others").stream;
        let mut header = [0; HEADER];
        sockets::receive(stream, &mut header)?;
        let header = FrameHeader::read(header).map_err(io::Error::other)?;
        if header.kind != FrameKind::Step || header.number != self.number {
            return Err(io::Error::other(format!("{header:?} came where step {} belongs", self.number)));
        }
        self.number += 1;
        let mut record = vec![0; header.len];
        sockets::receive(stream, &mut record)?;
        step::read(&record, bounds).map_err(io::Error::other)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.watch.end();
    }
}
