//! The front: accepts every connection, answers probes itself and hands the others on.
//!
//! ```text
//! accept ─▶ lobby: until a head is there ─┬─▶ a probe: answered here
//!                                         └─▶ a place ─▶ the runtime of requests
//! ```
//!
//! It runs on a runtime of its own with one thread, so that `/live` and `/ready` have their answer whatever
//! requests do to theirs, and whether or not there is a place for one more of them. Nothing waits in the accept
//! loop: a connection that says nothing, or too little, stays in the lobby, whose oldest gives way to the next.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tower::Layer;

use super::{
    client_socket::ClientSocket,
    places::{Full, Guarded, Place, PlaceLimits, Places},
    transport::{Listener, Socket},
};
use crate::{protocol::ApiError, request_path::RequestPathLayer};

/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Bytes read at once while a head comes in.
const READ_BYTES: usize = 4 << 10;

/// Bytes of a request's first line that are looked at to tell a probe; a longer path is none.
const MAX_LOOK_BYTES: usize = 1 << 10;

/// Wait after the system refused to accept (no more file descriptors, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for a client to receive the refusal when there are too many connections.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections that have said nothing yet, where few may be served.
const MIN_LOBBY: usize = 64;

/// Paths that are answered here. What else is asked for on the same connection is asked for on another one: an
/// answer from here closes its connection.
const PROBES: &[&str] = &["/live", "/ready", "/ping", "/health", "/health_generate", "/health/progress"];

/// What the front needs to know.
pub(super) struct Front {
    /// Answers probes.
    pub(super) probes: Router,
    /// Answers everything.
    pub(super) routes: Router,
    /// Where it does.
    pub(super) requests: Handle,
    pub(super) root_path: String,
    pub(super) max_connections: usize,
    pub(super) max_per_address: Option<usize>,
    pub(super) read_timeout: Duration,
    pub(super) slow_client: Duration,
}

impl Front {
    /// Accept connections until `stop` says so.
    pub(super) async fn run(
        self,
        listener: impl Listener,
        closing: &GracefulShutdown,
        mut stop: watch::Receiver<bool>,
    ) {
        let most = self.max_connections;
        let limits = PlaceLimits { most, most_per_address: self.max_per_address, answered_give_way: false };
        let places = Places::new(limits);
        let lobby = PlaceLimits { most: most.max(MIN_LOBBY), most_per_address: None, answered_give_way: true };
        let lobby = Places::new(lobby);
        let waiting = Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        let desk = Arc::new(Desk { front: self, places: Arc::clone(&places), waiting });
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((socket, client)) => {
                    socket.configure(desk.front.slow_client);
                    // None is left only while those that were asked to go have not gone; this one has to, then.
                    let Ok(place) = lobby.try_take(client.ip()) else { continue };
                    let (desk, watcher, mut stop) = (Arc::clone(&desk), closing.watcher(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = desk.receive(Newcomer { socket, client, first: Vec::new(), watcher }, place) => {}
                            _ = stop.wait_for(|stop| *stop) => {}
                        }
                    });
                }
                Err(cause) => {
                    tracing::warn!("a connection could not be accepted: {cause}");
                    // An idle connection is worth less than the next probe.
                    let _ = lobby.make_room() || places.make_room();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Where newcomers are received.
struct Desk {
    front: Front,
    places: Arc<Places>,
    /// Requests that wait for a place.
    waiting: Semaphore,
}

/// A connection that was just accepted.
struct Newcomer<S> {
    socket: S,
    client: SocketAddr,
    /// What was read of it.
    first: Vec<u8>,
    watcher: Watcher,
}

impl Desk {
    /// Find out what is asked, and who answers it.
    async fn receive<S: Socket>(&self, mut newcomer: Newcomer<S>, place: Place) {
        let look = timeout(self.front.read_timeout, newcomer.look(&self.front.root_path));
        let first = tokio::select! {
            // A request that is there is answered, though room is wanted.
            biased;
            looked = look => match looked {
                Ok(Ok(first)) => first,
                // It has gone, or it was too slow.
                Ok(Err(_)) | Err(_) => return,
            },
            () = place.seat().must_give_way() => return,
        };
        if first == First::Probe {
            let routes = self.front.probes.clone();
            // Detached: a probe that is being answered when the server ends is answered.
            tokio::spawn(serve_connection(&self.front, newcomer, routes, place, false));
            return;
        }
        place.waits();
        let taken = match self.places.try_take(newcomer.client.ip()) {
            Err(Full::All) => match self.waiting.try_acquire() {
                Ok(_waits) => self.places.take(newcomer.client.ip()).await,
                Err(_) => Err(Full::All),
            },
            taken => taken,
        };
        match taken {
            Ok(place) => newcomer.hand_on(&self.front, place),
            Err(full) => newcomer.refuse(full).await,
        }
    }
}

impl<S: Socket> Newcomer<S> {
    /// Read until a probe is told, or the head of another request is whole: one that comes in slowly waits here.
    async fn look(&mut self, root_path: &str) -> io::Result<First> {
        loop {
            let seen = self.first.len();
            // A connection that says nothing has no buffer.
            self.socket.readable().await?;
            self.first.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match First::of(&self.first, root_path) {
                First::Other if !head_is_whole(&self.first, seen) => {}
                First::Undecided => {}
                decided => return Ok(decided),
            }
        }
    }

    /// Have the runtime of requests serve it.
    fn hand_on(mut self, front: &Front, place: Place) {
        let routes = front.routes.clone();
        let _entered = front.requests.enter();
        match self.socket.move_to_this_runtime() {
            Ok(socket) => {
                self.socket = socket;
                front.requests.spawn(serve_connection(front, self, routes, place, true));
            }
            Err(cause) => tracing::warn!("{}: {cause}", self.client),
        }
    }

    /// Say that there is no place, instead of an answer.
    async fn refuse(mut self, full: Full) {
        let message = match full {
            Full::All => "All connections are in use, and as many wait (--max-connections).".to_owned(),
            Full::Address(limit) => {
                format!("This address has {limit} connections in use (--max-connections-per-address).")
            }
        };
        let body = ApiError::unavailable(message).openai_body().to_string();
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let tell = async {
            self.socket.write_all(answer.as_bytes()).await?;
            self.socket.shutdown().await?;
            // What is still on its way in would make the system throw the answer away.
            tokio::io::copy(&mut self.socket, &mut tokio::io::sink()).await
        };
        let _ = timeout(REFUSAL_TIMEOUT, tell).await;
    }
}

/// Serve the requests of a connection with `routes`.
fn serve_connection<S: Socket>(
    front: &Front,
    newcomer: Newcomer<S>,
    routes: Router,
    place: Place,
    keep_alive: bool,
) -> impl Future<Output = ()> + use<S> {
    let Newcomer { socket, client, first, watcher } = newcomer;
    let place = Arc::new(place);
    let seat = Arc::clone(place.seat());
    let routes = RequestPathLayer::new(&front.root_path).layer(routes);
    let routes = TowerToHyperService::new(Extension(ConnectInfo(client)).layer(routes));
    let service = service_fn(move |request: Request<Incoming>| {
        let (receiving, answering) = place.request();
        let answer = routes.call(request.map(|body| Guarded { body, _guard: receiving }));
        async move { Ok::<_, Infallible>(answer.await?.map(|body| Guarded { body, _guard: answering })) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .keep_alive(keep_alive)
        .header_read_timeout(front.read_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    let socket = ClientSocket::new(socket, first, Arc::clone(&seat), front.slow_client);
    async move {
        let mut connection = pin!(watcher.watch(http.serve_connection(TokioIo::new(socket), service)));
        let asked_to_go = async {
            seat.must_give_way().await;
            if !seat.can_give_way() {
                // A request has come in meanwhile; it gets its answer.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(cause) = ended {
                    // Clients leave, send garbage or stop reading; none of it is our failure.
                    tracing::debug!("{client}: {cause}");
                }
            }
            () = asked_to_go => tracing::debug!("{client}: it was idle and gave way to another connection"),
        }
    }
}

/// Whether there is nothing to wait for before a request is parsed: its head has ended, is too long or is none.
/// `seen`: bytes that were looked at before.
fn head_is_whole(bytes: &[u8], seen: usize) -> bool {
    let new = &bytes[seen.saturating_sub(2)..];
    let ends = new.windows(2).any(|end| end == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n");
    let line = bytes.iter().take_while(|byte| !b"\r\n".contains(byte));
    ends || bytes.len() >= MAX_HEAD_BYTES || line.into_iter().any(|byte| !(b' '..=b'~').contains(byte))
}

/// What the first bytes of a connection are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Too few to tell.
    Undecided,
    Probe,
    Other,
}

impl First {
    fn of(bytes: &[u8], root_path: &str) -> Self {
        for method in [&b"GET "[..], b"HEAD "] {
            if let Some(target) = bytes.strip_prefix(method) {
                return Self::of_target(target, root_path);
            }
            if method.starts_with(bytes) {
                return Self::Undecided;
            }
        }
        Self::Other
    }

    fn of_target(target: &[u8], root_path: &str) -> Self {
        let end = target.iter().position(|byte| b" ?\r\n".contains(byte));
        let path = &target[..end.unwrap_or(target.len())];
        let inner = path.strip_prefix(root_path.as_bytes()).unwrap_or(path);
        let is_probe = |path: &[u8]| PROBES.iter().any(|probe| probe.as_bytes() == path);
        match end {
            Some(_) if is_probe(path) || is_probe(inner) => Self::Probe,
            None if target.len() < MAX_LOOK_BYTES => Self::Undecided,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_told_by_their_first_line_however_it_is_cut() {
        let of = |text: &str, root_path: &str| First::of(text.as_bytes(), root_path);
        for (line, root_path, wanted) in [
            ("GET /live HTTP/1.1\r\n", "", First::Probe),
            ("HEAD /ready HTTP/1.1\r\n", "", First::Probe),
            ("GET /health?x=1 HTTP/1.1\r\n", "", First::Probe),
            ("GET /llm/health/progress HTTP/1.1\r\n", "/llm", First::Probe),
            ("GET /health HTTP/1.1\r\n", "/llm", First::Probe),
            ("GET /lively HTTP/1.1\r\n", "", First::Other),
            ("GET /v1/models HTTP/1.1\r\n", "", First::Other),
            ("POST /live HTTP/1.1\r\n", "", First::Other),
            ("\x16\x03\x01", "", First::Other),
        ] {
            assert_eq!(of(line, root_path), wanted, "{line:?}");
            for cut in 1..line.len() {
                let found = of(&line[..cut], root_path);
                assert!(found == wanted || found == First::Undecided, "{:?}: {found:?}", &line[..cut]);
            }
        }
        assert_eq!(of(&format!("GET /{}", "x".repeat(MAX_LOOK_BYTES)), ""), First::Other);
    }

    #[test]
    fn heads_are_waited_for_however_they_are_cut() {
        for head in ["POST / HTTP/1.1\r\nhost: x\r\n\r\n", "POST / HTTP/1.1\nhost: x\n\n"] {
            for seen in 0..head.len() {
                assert!(!head_is_whole(&head.as_bytes()[..seen], seen.saturating_sub(1)), "{seen}");
                assert!(head_is_whole(head.as_bytes(), seen), "{seen}");
            }
        }
        assert!(head_is_whole(b"\x16\x03\x01\x02", 0), "an error is told at once");
        assert!(head_is_whole(&[b'x'; MAX_HEAD_BYTES], 0));
    }
}
