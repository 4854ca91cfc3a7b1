//! The address the server listens on.

use std::net::{SocketAddr, ToSocketAddrs};

use tokio::net::{TcpListener, TcpSocket};

/// Connections the system keeps until they are accepted.
const BACKLOG: u32 = 2048;

/// Whether only this machine can reach what listens at `address`.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address of this machine, and no name of one.
    #[error("--host {host}: {cause}")]
    Host {
        /// As typed.
        host: String,
        /// The resolver's words.
        cause: String,
    },
    /// Taken.
    #[error(
        "--port {port}: another program is listening on {address}; stop it, or choose another port (0 finds a free one)"
    )]
    Busy {
        /// As typed.
        port: u16,
        /// In full.
        address: SocketAddr,
    },
    /// Refused by the system.
    #[error("{address} cannot be listened on: {cause}{}", if address.port() < 1024 { " (ports below 1024 need privileges)" } else { "" })]
    Refused {
        /// In full.
        address: SocketAddr,
        /// Its words.
        cause: std::io::Error,
    },
}

/// An address that is ours, while clients are still refused: they learn by that, and not by waiting, that
/// the server is not up yet.
#[derive(Debug)]
pub struct BoundAddress {
    socket: TcpSocket,
    address: SocketAddr,
}

impl BoundAddress {
    /// Take `host:port`. Of a name's addresses the first IPv4 one is taken, which is what `localhost`
    /// means to most clients.
    ///
    /// # Errors
    /// If the name has no address, or the address cannot be bound.
    pub fn bind(host: &str, port: u16) -> Result<Self, ListenError> {
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let unknown = |cause: String| ListenError::Host { host: host.to_owned(), cause };
        let addresses: Vec<_> = (name, port).to_socket_addrs().map_err(|cause| unknown(cause.to_string()))?.collect();
        let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        let address = *address.ok_or_else(|| unknown("the name has no address".into()))?;
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let bound = socket.and_then(|socket| {
            // A server that has just stopped leaves connections behind that must not keep us out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        });
        let socket = bound.map_err(|cause| refused(port, address, cause))?;
        Ok(Self { socket, address })
    }

    /// Let clients in.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn listen(self) -> Result<TcpListener, ListenError> {
        let Self { socket, address } = self;
        socket.listen(BACKLOG).map_err(|cause| refused(address.port(), address, cause))
    }
}

fn refused(port: u16, address: SocketAddr, cause: std::io::Error) -> ListenError {
    match cause.kind() {
        std::io::ErrorKind::AddrInUse => ListenError::Busy { port, address },
        _ => ListenError::Refused { address, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_port_is_named() {
        let first = BoundAddress::bind("127.0.0.1", 0).unwrap().listen().unwrap();
        let port = first.local_addr().unwrap().port();
        let error = BoundAddress::bind("127.0.0.1", port).unwrap_err();
        assert!(matches!(error, ListenError::Busy { port: busy, .. } if busy == port), "{error}");
        assert!(error.to_string().contains(&format!("--port {port}")));
    }

    #[tokio::test]
    async fn clients_are_refused_until_we_listen() {
        // The system chooses the port at bind; nothing else may take it meanwhile.
        let bound = BoundAddress::bind("localhost", 0).unwrap();
        let address = bound.socket.local_addr().unwrap();
        let early = tokio::net::TcpStream::connect(address).await.unwrap_err();
        assert_eq!(early.kind(), std::io::ErrorKind::ConnectionRefused);
        let listener = bound.listen().unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        tokio::net::TcpStream::connect(address).await.unwrap();
    }

    #[tokio::test]
    async fn a_host_that_is_none_is_named() {
        for host in ["not a host", "999.1.1.1"] {
            let error = BoundAddress::bind(host, 0).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--host {host}")), "{error}");
        }
        assert!(BoundAddress::bind("[::1]", 0).is_ok() || BoundAddress::bind("::1", 0).is_err());
    }
}
