//! Connections that are memory: what a client writes, the server reads at the same instant.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use quern_api::connection::transport::{Listener, Socket};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::{Mutex, mpsc},
};

/// Where connections come from, and failures to accept one.
pub(crate) struct MemoryListener(Mutex<mpsc::UnboundedReceiver<Arrival>>);

/// A client's way to the listener.
pub(crate) type Arrivals = mpsc::UnboundedSender<Arrival>;

/// What `accept` returns.
pub(crate) type Arrival = io::Result<(MemorySocket, SocketAddr)>;

impl MemoryListener {
    pub(crate) fn new() -> (Arrivals, Self) {
        let (arrivals, inbox) = mpsc::unbounded_channel();
        (arrivals, Self(Mutex::new(inbox)))
    }
}

impl Listener for MemoryListener {
    type Socket = MemorySocket;

    async fn accept(&self) -> Arrival {
        match self.0.lock().await.recv().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    fn is_loopback(&self) -> bool {
        true
    }
}

/// A fault that strikes once, at the `at`-th time that something is done.
#[derive(Default)]
pub(crate) struct Nth {
    /// 0: never.
    at: u64,
    count: AtomicU64,
}

impl Nth {
    pub(crate) fn new(at: u64) -> Self {
        Self { at, count: AtomicU64::new(0) }
    }

    /// It is done once more; says whether the fault strikes.
    pub(crate) fn strikes(&self) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.at
    }

    pub(crate) fn has_struck(&self) -> bool {
        self.at > 0 && self.count.load(Ordering::Relaxed) >= self.at
    }
}

/// The server's end of a connection.
pub(crate) struct MemorySocket {
    pub(crate) stream: DuplexStream,
    /// The write that fails, of all sockets' together.
    pub(crate) write_fault: Arc<Nth>,
}

impl Socket for MemorySocket {
    fn configure(&self, _: Duration) {}

    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }

    fn move_to_this_runtime(self) -> io::Result<Self> {
        Ok(self)
    }
}

impl AsyncRead for MemorySocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MemorySocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.write_fault.strikes() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
