//! Connections: accepted up to a bound, read within a time, cut off when their client no longer reads.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, Sleep, sleep},
};
use tower::Layer;

use crate::{root_path::RootPathLayer, state::AppState};

/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Wait after the system refused to accept (no more file descriptors, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for connections to end by themselves once the last answers are out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answer requests until `stop` says so; then let the answers that are under way reach their clients.
pub async fn serve(listener: TcpListener, routes: Router, state: Arc<AppState>, mut stop: watch::Receiver<bool>) {
    let config = &state.config;
    let permits = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
    let slow_client = Duration::from_secs_f64(config.slow_client_timeout);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs_f64(config.request_read_timeout))
        .max_buf_size(MAX_HEAD_BYTES);
    let under_way = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await.expect("never closed");
                (permit, listener.accept().await)
            } => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (permit, (socket, client)) = match accepted {
            (permit, Ok(accepted)) => (permit, accepted),
            (_, Err(cause)) => {
                tracing::warn!("a connection could not be accepted: {cause}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Frames of a stream are small and must not wait for one another.
        let _ = socket.set_nodelay(true);
        let routes = RootPathLayer::new(&config.fastapi_root_path).layer(routes.clone());
        let service = TowerToHyperService::new(Extension(ConnectInfo(client)).layer(routes));
        let connection = http.serve_connection(TokioIo::new(ClientSocket::new(socket, slow_client)), service);
        let watched = under_way.watch(connection);
        tokio::spawn(async move {
            if let Err(cause) = watched.await {
                // Clients leave, send garbage or stop reading; none of it is our failure.
                tracing::debug!("{client}: {cause}");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(CLOSE_TIMEOUT, under_way.shutdown()).await.is_err() {
        tracing::warn!("some connections did not end within {CLOSE_TIMEOUT:?}; they are cut");
    }
}

/// A socket that fails when its client takes nothing of what we write for too long.
struct ClientSocket {
    socket: TcpStream,
    patience: Duration,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl ClientSocket {
    fn new(socket: TcpStream, patience: Duration) -> Self {
        Self { socket, patience, stalled: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing (--slow-client-timeout)")))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
