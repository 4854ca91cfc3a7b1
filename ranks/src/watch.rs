//! [`Watch`]: whether the other nodes are there. Each sends signs of life over a connection of its own, whether a step runs
//! or not; one that is silent for [`SILENCE`] is lost, and with it the network.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use quern_backend::Lost;

use crate::{
    NodePosition,
    frame::{Frame, FrameKind},
};

/// How often a node says that it is there.
const BEAT: Duration = Duration::from_millis(500);

/// After this long without a sign of life a node is lost.
const SILENCE: Duration = Duration::from_secs(4);

/// How long the word of a node that has closed its connections is waited for.
const WORD: Duration = Duration::from_secs(1);

/// What is heard of the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// One is gone, and no step can be computed any more.
    Lost(Lost),
    /// This one was asked to end; it follows until node 0 ends.
    Leaving(usize),
    /// Node 0 has ended as it should.
    Goodbye,
}

/// Called with what is heard, on threads of the watch.
pub(crate) type Observer = Box<dyn Fn(NodeEvent) + Send + Sync>;

/// Another node, as the watch knows it.
pub(crate) struct Watched {
    pub(crate) node: usize,
    /// Its address, for people.
    pub(crate) host: String,
    pub(crate) control: TcpStream,
    /// Shut down when a node is lost, so that nobody waits for it.
    pub(crate) data: TcpStream,
}

pub(crate) struct Watch {
    node: NodePosition,
    /// Ranks of each node.
    ranks: usize,
    others: Vec<(Watched, Mutex<()>)>,
    state: Mutex<WatchState>,
    changed: Condvar,
    observer: Observer,
}

#[derive(Default)]
struct WatchState {
    lost: Option<Lost>,
    /// The end has come, and it is no loss.
    ended: bool,
    loaded: usize,
}

impl Watch {
    /// Begin to watch `others`, each of which holds `ranks` ranks.
    ///
    /// # Errors
    /// If the system refuses a thread or a socket.
    pub(crate) fn start(
        node: NodePosition,
        ranks: usize,
        others: Vec<Watched>,
        observer: Observer,
    ) -> io::Result<Arc<Self>> {
        let others = others.into_iter().map(|other| (other, Mutex::default())).collect();
        let (state, changed) = Default::default();
        let watch = Arc::new(Self { node, ranks, others, state, changed, observer });
        for (at, (other, _)) in watch.others.iter().enumerate() {
            other.control.set_write_timeout(Some(SILENCE))?;
            let (control, watch) = (other.control.try_clone()?, Arc::clone(&watch));
            let name = format!("quern-node-{}", other.node);
            thread::Builder::new().name(name).spawn(move || watch.listen(at, &control))?;
        }
        let beating = Arc::clone(&watch);
        thread::Builder::new().name("quern-beat".into()).spawn(move || beating.beat())?;
        Ok(watch)
    }

    /// Hear what another node says, until it is lost or the end.
    fn listen(&self, at: usize, control: &TcpStream) {
        let node = self.others[at].0.node;
        while !self.is_over() {
            match Frame::receive(control, SILENCE) {
                Ok(Frame { kind: FrameKind::Beat, .. }) => {}
                Ok(Frame { kind: FrameKind::Loaded, .. }) => {
                    self.state().loaded += 1;
                    self.changed.notify_all();
                }
                Ok(Frame { kind: FrameKind::Leaving, .. }) => (self.observer)(NodeEvent::Leaving(node)),
                Ok(Frame { kind: FrameKind::Goodbye, .. }) if node == 0 => {
                    self.end();
                    return (self.observer)(NodeEvent::Goodbye);
                }
                Ok(Frame { kind: FrameKind::Failed, record }) => {
                    // A rank and its words.
                    let (rank, cause) = record.split_first_chunk().unwrap_or((&[0; 4], &record));
                    let (rank, cause) = (u32::from_le_bytes(*rank) as usize, String::from_utf8_lossy(cause));
                    self.lose(Lost { rank, cause: cause.into_owned(), gone: true });
                }
                Ok(Frame { kind, .. }) => {
                    self.lose_node(node, &format!("sent {kind:?}, which does not belong here"));
                }
                Err(error) => {
                    self.lose_node(node, &told(&error, SILENCE));
                }
            }
        }
    }

    /// Say that this node is there, until one is lost or the end.
    fn beat(&self) {
        let mut state = self.state();
        while state.lost.is_none() && !state.ended {
            drop(state);
            self.tell(FrameKind::Beat, &[]);
            let until = Instant::now() + BEAT;
            state = self.state();
            while let Some(left) = until.checked_duration_since(Instant::now())
                && state.lost.is_none()
                && !state.ended
            {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Tell all others. One that cannot be told is missed by its listener.
    pub(crate) fn tell(&self, kind: FrameKind, record: &[u8]) {
        for (other, sending) in &self.others {
            let _one_frame_at_a_time = sending.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = Frame::send(kind, record, &other.control);
        }
    }

    /// `node` is lost: the loss, or that of another one before.
    pub(crate) fn lose_node(&self, node: usize, cause: &str) -> Lost {
        let host = self.others.iter().find(|(other, _)| other.node == node).map_or("", |(other, _)| &other.host);
        self.lose(Lost { rank: node * self.ranks, cause: format!("(node {node}, {host}) {cause}"), gone: true })
    }

    /// The data connection to `node` failed with `error`, after `limit` where it was silent: the loss, or that of another
    /// one before. What a node says of its end comes over the other connection, and may come a little later.
    pub(crate) fn miss(&self, node: usize, error: &io::Error, limit: Duration) -> Lost {
        if !matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Other) {
            let until = Instant::now() + WORD;
            let mut state = self.state();
            while let Some(left) = until.checked_duration_since(Instant::now())
                && state.lost.is_none()
                && !state.ended
            {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        self.lose_node(node, &told(error, limit))
    }

    /// A rank is lost for good; nobody waits for another node any more. The first loss counts.
    pub(crate) fn lose(&self, lost: Lost) -> Lost {
        let mut state = self.state();
        if let Some(first) = &state.lost {
            return first.clone();
        }
        state.lost = Some(lost.clone());
        let is_news = !state.ended;
        drop(state);
        self.wake();
        if is_news {
            (self.observer)(NodeEvent::Lost(lost.clone()));
        }
        lost
    }

    /// A rank of this node has failed: the others are told so.
    pub(crate) fn fail(&self, rank: usize, cause: &str) {
        let lost = Lost { rank, cause: cause.into(), gone: true };
        if self.lose(lost.clone()) == lost {
            let mut end = cause.len().min(FrameKind::Failed.max_len() - 4);
            while !cause.is_char_boundary(end) {
                end -= 1;
            }
            self.tell(FrameKind::Failed, &[&(rank as u32).to_le_bytes()[..], &cause.as_bytes()[..end]].concat());
        }
    }

    /// Nothing is heard and nobody is lost from now on.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.wake();
    }

    /// Wait until all other nodes have their weights in memory.
    pub(crate) fn wait_loaded(&self) -> Result<(), Lost> {
        let mut state = self.state();
        loop {
            match &state.lost {
                Some(lost) => return Err(lost.clone()),
                None if state.loaded >= self.node.count - 1 => return Ok(()),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(crate) fn first_rank(&self) -> usize {
        self.node.index * self.ranks
    }

    pub(crate) fn lost(&self) -> Option<Lost> {
        self.state().lost.clone()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Whether nothing is to be waited for any more: a node is lost, or all is well and at its end.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state();
        state.ended || state.lost.is_some()
    }

    /// Let nobody wait any longer, neither for numbers nor for a change of the state.
    fn wake(&self) {
        self.changed.notify_all();
        for (other, _) in &self.others {
            // It may be closed already.
            let _ = other.data.shutdown(Shutdown::Both);
        }
    }

    /// Each change is one assignment, so poison means nothing.
    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a node whose connection failed with `error`, as the rest of a sentence.
fn told(error: &io::Error, limit: Duration) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!("has been silent for {} s", limit.as_secs_f64()),
        io::ErrorKind::Other => format!("sent what does not belong: {error}"),
        _ => format!("is gone: {error}"),
    }
}
