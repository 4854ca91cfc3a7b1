//! [`Rendezvous`]: processes that were started apart become the nodes of one network.
//!
//! ```text
//! node 0    listens ──── Hello of each ──── all are here: Welcome to each ──── data connections
//! node 1    connects, again and again ──── Hello, Welcome ──── data to node 0 ──── accepts those of node 2
//! node 2    connects, again and again ──── Hello, Welcome ──── data to node 0 ──── both to node 1
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Mpi, NodeEvent, NodeKey, NodePosition, Peers,
    exchange::Transport,
    handshake::{self, HandshakeError},
    key::nonce,
    message::{Hello, Purpose, Welcome},
    watch::Watched,
};

/// How often a node that is not reached is tried again, and how often one that waits looks who has come.
const RETRY: Duration = Duration::from_millis(100);

/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(3);

/// Time for the connections that follow once all nodes are there.
const FOLLOW_UP: Duration = Duration::from_secs(30);

/// Most connections that have not said yet who they are.
const MAX_UNKNOWN: usize = 64;

/// Most sentences about who was refused.
const MAX_REFUSALS: usize = 64;

/// Where node 0 is met.
#[derive(Clone, Debug)]
pub enum MeetingPlace {
    /// At `host:port`, as it was typed on all nodes.
    Typed(String),
    /// This is node 0, and it listens here already.
    Open(Arc<TcpListener>),
    /// At one of these, as node 0 told the others.
    Told(Vec<SocketAddr>),
}

impl fmt::Display for MeetingPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Typed(address) => f.write_str(address),
            Self::Open(listener) => listener.local_addr().map_or(Ok(()), |address| address.fmt(f)),
            Self::Told(addresses) => {
                let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                write!(f, "{} (chosen by node 0)", addresses.join(" or "))
            }
        }
    }
}

/// What a node brings along.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// This node.
    pub node: NodePosition,
    /// Ranks of each node.
    pub ranks: usize,
    /// Where node 0 is.
    pub place: MeetingPlace,
    /// What connects the processes besides, and carries the numbers of a step; else sockets do.
    pub mpi: Option<Arc<Mpi>>,
    /// What all nodes know.
    pub key: NodeKey,
    /// How long nodes wait for one another: until all are there, and in the middle of a step.
    pub limit: Duration,
    /// Pages of keys and values that this node has memory for.
    pub num_pages: usize,
    /// Most tokens of a step; that of node 0 counts.
    pub max_tokens: usize,
    /// Names, as an operator knows them, and values of all that must be alike.
    pub settings: Vec<(String, String)>,
}

/// Why nodes did not meet.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// Node 0 cannot listen.
    #[error("--dist-init-addr {address}: node 0 cannot listen there: {cause}")]
    Listen {
        /// As typed.
        address: String,
        /// Why.
        cause: io::Error,
    },
    /// Node 0 cannot be reached.
    #[error("--dist-init-addr {address}: node 0 was not reached for {} s (--dist-timeout): {cause}", limit.as_secs())]
    Unreached {
        /// As typed.
        address: String,
        /// How long it was tried.
        limit: Duration,
        /// What the last try ended with.
        cause: String,
    },
    /// What listens there is not node 0 of this network.
    #[error("--dist-init-addr {address}: what listens there is not a node of this network: {cause}")]
    Foreign {
        /// Of the node.
        address: String,
        /// Why.
        cause: String,
    },
    /// The node that was connected to says why this one does not belong to its network.
    #[error("node 0 at {address} refuses this node: {reason}")]
    Refused {
        /// Of the node.
        address: String,
        /// Its words.
        reason: String,
    },
    /// Not all nodes have come.
    #[error("--nnodes {count}: {missing} did not come within {} s (--dist-timeout)", limit.as_secs())]
    Missing {
        /// How many there are to be.
        count: usize,
        /// "node 1, node 3"
        missing: String,
        /// How long they were waited for.
        limit: Duration,
    },
    /// The system refuses a thread, a socket or random numbers.
    #[error("the nodes cannot be connected: {0}")]
    System(#[from] io::Error),
}

impl RendezvousError {
    /// Whether the same command may succeed later: a node is missing, and nothing is wrong with this one.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreached { .. } | Self::Missing { .. } | Self::System(_))
    }
}

/// Connections to the other nodes.
type Connections = BTreeMap<(usize, Purpose), TcpStream>;

/// A connection whose other side has proven that it knows the key.
struct Joiner {
    hello: Hello,
    stream: TcpStream,
    from: SocketAddr,
}

impl Rendezvous {
    /// Wait until all nodes are there: the others, and what was agreed on. What is heard of them later goes to `observer`.
    ///
    /// # Errors
    /// If they do not meet in time, or do not belong together.
    pub fn join(
        &self,
        observer: impl Fn(NodeEvent) + Send + Sync + 'static,
    ) -> Result<(Peers, Welcome), RendezvousError> {
        let (mut connections, welcome) = if self.node.index == 0 { self.lead()? } else { self.follow()? };
        let mut others = Vec::with_capacity(self.node.count - 1);
        for node in (0..self.node.count).filter(|node| *node != self.node.index) {
            let mut take = |purpose| connections.remove(&(node, purpose)).expect("all connections are there");
            let (control, data) = (take(Purpose::Control), take(Purpose::Data));
            let host = control.peer_addr().map_or_else(|_| "gone".to_owned(), |address| address.ip().to_string());
            others.push(Watched { node, host, control, data });
        }
        let transport = self.mpi.clone().map_or(Transport::Sockets, Transport::Mpi);
        let peers = Peers::start(self.node, self.ranks, self.limit, transport, others, Box::new(observer))?;
        Ok((peers, welcome))
    }

    /// Node 0: wait for the others.
    fn lead(&self) -> Result<(Connections, Welcome), RendezvousError> {
        let refused = |cause| RendezvousError::Listen { address: self.place.to_string(), cause };
        let listener = self.listen().map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let count = self.node.count;
        tracing::info!("Node 0 of {count} waits for the others at {address}.");
        let own = self.hello(Purpose::Control, address.port())?;
        let mut acceptor = Acceptor::new(listener, self.key.clone())?;
        let all = |purpose| (1..count).map(move |node| (node, purpose)).collect::<HashSet<_>>();
        let come = acceptor.wait(&own, &all(Purpose::Control), self.limit, |_| {})?;

        let mut welcome = Welcome {
            num_pages: self.num_pages,
            max_tokens: self.max_tokens,
            addresses: Vec::with_capacity(count - 1),
        };
        for arrival in come.values() {
            welcome.num_pages = welcome.num_pages.min(arrival.hello.num_pages);
            welcome.addresses.push(SocketAddr::new(arrival.from.ip(), arrival.hello.port));
        }
        let record = welcome.write();
        come.values().for_each(|arrival| Joiner::welcome(arrival, &record));
        let data = acceptor.wait(&own, &all(Purpose::Data), FOLLOW_UP, |arrival| arrival.welcome(&[]))?;
        let connections = come.into_iter().chain(data).map(|(which, arrival)| (which, arrival.stream));
        Ok((connections.collect(), welcome))
    }

    /// Where the others come to node 0.
    fn listen(&self) -> io::Result<TcpListener> {
        let typed = match &self.place {
            MeetingPlace::Open(listener) => return listener.try_clone(),
            place => place.to_string(),
        };
        let address = resolve(&typed)?;
        if address.ip().is_unspecified() {
            let cause = "it stands for all addresses of this host; name one that the other nodes reach";
            return Err(io::Error::other(cause));
        }
        TcpListener::bind(address)
    }

    /// Another node: reach node 0, then those in between, and wait for those behind.
    fn follow(&self) -> Result<(Connections, Welcome), RendezvousError> {
        let begin = Instant::now();
        tracing::info!("Node {} of {} connects to node 0 at {}.", self.node.index, self.node.count, self.place);
        let (control, record, listener) = loop {
            let cause = match self.reach() {
                Ok(reached) => break reached,
                Err(HandshakeError::Io(error)) => error.to_string(),
                Err(HandshakeError::Refused(reason)) => {
                    return Err(RendezvousError::Refused { address: self.place.to_string(), reason });
                }
                Err(HandshakeError::Foreign(cause)) => {
                    return Err(RendezvousError::Foreign { address: self.place.to_string(), cause });
                }
            };
            if begin.elapsed() >= self.limit {
                return Err(RendezvousError::Unreached { address: self.place.to_string(), limit: self.limit, cause });
            }
            thread::sleep(RETRY);
        };
        let foreign = |address: String, cause: String| RendezvousError::Foreign { address, cause };
        let welcome = Welcome::read(&record).map_err(|error| foreign(self.place.to_string(), error.to_string()))?;
        let (leader, own) = (control.peer_addr()?, listener.local_addr()?.port());
        let mut connections = Connections::from([((0, Purpose::Control), control)]);
        let mut connect = |node: usize, address: SocketAddr, purpose| {
            let failed = |error: HandshakeError| foreign(address.to_string(), format!("node {node}: {error}"));
            let stream = TcpStream::connect_timeout(&address, CONNECT)?;
            handshake::connect(&stream, &self.hello(purpose, own)?, &self.key, FOLLOW_UP).map_err(failed)?;
            connections.insert((node, purpose), stream);
            Ok::<_, RendezvousError>(())
        };
        connect(0, leader, Purpose::Data)?;
        for (node, address) in (1..self.node.index).zip(&welcome.addresses) {
            connect(node, *address, Purpose::Control)?;
            connect(node, *address, Purpose::Data)?;
        }
        let behind = (self.node.index + 1..self.node.count)
            .flat_map(|node| [(node, Purpose::Control), (node, Purpose::Data)])
            .collect::<HashSet<_>>();
        let mut acceptor = Acceptor::new(listener, self.key.clone())?;
        let hello = self.hello(Purpose::Control, own)?;
        let come = acceptor.wait(&hello, &behind, FOLLOW_UP, |arrival| arrival.welcome(&[]))?;
        connections.extend(come.into_iter().map(|(which, arrival)| (which, arrival.stream)));
        Ok((connections, welcome))
    }

    /// One try to reach node 0: the connection, its welcome, and where this node listens.
    fn reach(&self) -> Result<(TcpStream, Vec<u8>, TcpListener), HandshakeError> {
        let addresses = match &self.place {
            MeetingPlace::Told(addresses) => addresses.clone(),
            place => vec![resolve(&place.to_string())?],
        };
        let mut failed = None;
        for address in addresses {
            match self.reach_at(address) {
                // What listens at another of the addresses, within this host or elsewhere, is not node 0.
                Err(error @ HandshakeError::Io(_)) => failed = Some(error),
                Err(error @ HandshakeError::Foreign(_)) => failed = failed.or(Some(error)),
                reached => return reached,
            }
        }
        Err(failed.expect("node 0 has an address"))
    }

    fn reach_at(&self, address: SocketAddr) -> Result<(TcpStream, Vec<u8>, TcpListener), HandshakeError> {
        let stream = TcpStream::connect_timeout(&address, CONNECT)?;
        let listener = TcpListener::bind((stream.local_addr()?.ip(), 0))?;
        let hello = self.hello(Purpose::Control, listener.local_addr()?.port())?;
        let welcome = handshake::connect(&stream, &hello, &self.key, self.limit)?;
        Ok((stream, welcome, listener))
    }

    fn hello(&self, purpose: Purpose, port: u16) -> io::Result<Hello> {
        let (node, num_pages, settings) = (self.node, self.num_pages, self.settings.clone());
        Ok(Hello { node, purpose, nonce: nonce()?, port, num_pages, settings })
    }
}

impl Joiner {
    fn welcome(&self, record: &[u8]) {
        // A node that has gone is missed when its next connection does not come.
        let _ = crate::frame::Frame::send(crate::frame::FrameKind::Welcome, record, &self.stream);
    }

    /// Whether the other side has closed the connection.
    fn has_gone(&self) -> bool {
        let peek = self.stream.set_nonblocking(true).and_then(|()| self.stream.peek(&mut [0]));
        let alive = matches!(&peek, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        // It says nothing before it is welcome.
        !alive || self.stream.set_nonblocking(false).is_err()
    }
}

/// Takes connections of nodes.
struct Acceptor {
    listener: TcpListener,
    key: NodeKey,
    arrivals: Receiver<Result<Joiner, (SocketAddr, HandshakeError)>>,
    sender: Sender<Result<Joiner, (SocketAddr, HandshakeError)>>,
    /// Connections that have not said yet who they are.
    unknown: usize,
    /// What was said of whom: each is said once.
    refusals: HashSet<(IpAddr, String)>,
}

impl Acceptor {
    fn new(listener: TcpListener, key: NodeKey) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (sender, arrivals) = mpsc::channel();
        Ok(Self { listener, key, arrivals, sender, unknown: 0, refusals: HashSet::new() })
    }

    /// Wait until each of `wanted` is here and alive; `greet` those that come. A node that comes again takes its old
    /// place: it was started anew.
    fn wait(
        &mut self,
        own: &Hello,
        wanted: &HashSet<(usize, Purpose)>,
        limit: Duration,
        greet: impl Fn(&Joiner),
    ) -> Result<BTreeMap<(usize, Purpose), Joiner>, RendezvousError> {
        let begin = Instant::now();
        let mut here = BTreeMap::new();
        while here.len() < wanted.len() {
            self.accept()?;
            match self.arrivals.recv_timeout(RETRY) {
                Err(_) => {}
                Ok(result) => {
                    self.unknown -= 1;
                    match result {
                        Err((from, error)) => self.tell(from, error.to_string()),
                        Ok(arrival) => match judge(own, &arrival.hello, wanted) {
                            None => {
                                greet(&arrival);
                                here.insert((arrival.hello.node.index, arrival.hello.purpose), arrival);
                            }
                            Some(reason) => {
                                handshake::refuse(&arrival.stream, &reason);
                                self.tell(arrival.from, reason);
                            }
                        },
                    }
                }
            }
            here.retain(|(_, purpose), arrival| *purpose == Purpose::Data || !arrival.has_gone());
            if here.len() < wanted.len() && begin.elapsed() >= limit {
                let missing: std::collections::BTreeSet<_> =
                    wanted.iter().filter(|which| !here.contains_key(which)).map(|(node, _)| *node).collect();
                let missing: Vec<String> = missing.iter().map(|node| format!("node {node}")).collect();
                return Err(RendezvousError::Missing { count: own.node.count, missing: missing.join(", "), limit });
            }
        }
        Ok(here)
    }

    /// Take the connections that wait, each to a thread of its own: one that says nothing keeps nobody out.
    fn accept(&mut self) -> io::Result<()> {
        while self.unknown < MAX_UNKNOWN {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It was gone before it was taken.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let (key, sender) = (self.key.clone(), self.sender.clone());
            let shake = move || {
                let accepted = stream.set_nonblocking(false).map_err(HandshakeError::from);
                let hello = accepted.and_then(|()| handshake::accept(&stream, &key));
                // The rendezvous may be over.
                let _ = sender.send(hello.map(|hello| Joiner { hello, stream, from }).map_err(|error| (from, error)));
            };
            thread::Builder::new().name("quern-hello".into()).spawn(shake)?;
            self.unknown += 1;
        }
        Ok(())
    }

    /// Say once what is wrong with who has connected.
    fn tell(&mut self, from: SocketAddr, reason: String) {
        if self.refusals.len() < MAX_REFUSALS && self.refusals.insert((from.ip(), reason.clone())) {
            tracing::warn!("{} connects as a node and is refused: {reason}", from.ip());
        }
    }
}

/// Why the node that says `hello` is none of those that are `wanted`.
fn judge(own: &Hello, hello: &Hello, wanted: &HashSet<(usize, Purpose)>) -> Option<String> {
    if let Some(difference) = hello.difference(own) {
        return Some(difference);
    }
    let Hello { node, purpose, .. } = hello;
    (!wanted.contains(&(node.index, *purpose)))
        .then(|| format!("--node-rank {}: no {purpose:?} connection of such a node is waited for now", node.index))
}

/// The address that `host:port` means; of a name's addresses the first IPv4 one.
fn resolve(address: &str) -> io::Result<SocketAddr> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    address.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}
