//! [`Listener`] and [`Socket`]: what the front needs of a transport. A server's is TCP; a simulation's is memory.

use std::{io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::listen;

/// A silent client is asked whether it is still there after this time, and then every [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// So many questions without an answer, and it is gone.
const KEEPALIVE_PROBES: u32 = 3;

/// Where connections come from.
pub trait Listener: Send {
    /// A connection.
    type Socket: Socket;

    /// The next connection and its client's address. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Socket, SocketAddr)>> + Send;

    /// Whether only this machine can connect.
    fn is_loopback(&self) -> bool;
}

/// A connection's bytes.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Have the transport notice clients that vanish. `slow_client`: what a client may leave unacknowledged for.
    fn configure(&self, slow_client: Duration);

    /// Completes when there is something to read, or may be. Cancel-safe.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// The same connection, served by the runtime of the caller from now on.
    ///
    /// # Errors
    /// If the runtime cannot take it.
    fn move_to_this_runtime(self) -> io::Result<Self>;
}

impl Listener for TcpListener {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept().await
    }

    fn is_loopback(&self) -> bool {
        self.local_addr().is_ok_and(listen::is_loopback)
    }
}

impl Socket for TcpStream {
    /// Have the system notice clients that vanished without a word (power, cable, a firewall that forgot them), and
    /// let frames of a stream, which are small, not wait for one another.
    fn configure(&self, slow_client: Duration) {
        // A system that knows one of these not is no reason to refuse a client.
        let _ = self.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(self, true);
        let _ = sockopt::set_tcp_keepidle(self, KEEPALIVE_IDLE);
        let _ = sockopt::set_tcp_keepintvl(self, KEEPALIVE_INTERVAL);
        let _ = sockopt::set_tcp_keepcnt(self, KEEPALIVE_PROBES);
        // What was sent and is not acknowledged for so long ends the connection, also while there is more to send.
        #[cfg(target_os = "linux")]
        let _ = sockopt::set_tcp_user_timeout(self, u32::try_from(slow_client.as_millis()).unwrap_or(u32::MAX));
        #[cfg(not(target_os = "linux"))]
        let _ = slow_client;
    }

    async fn readable(&self) -> io::Result<()> {
        self.readable().await
    }

    fn move_to_this_runtime(self) -> io::Result<Self> {
        self.into_std().and_then(Self::from_std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn vanished_clients_are_noticed_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        socket.configure(Duration::from_secs(7));
        assert!(socket.nodelay().unwrap() && sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), KEEPALIVE_PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 7000);
    }
}
