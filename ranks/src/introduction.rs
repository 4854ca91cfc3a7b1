//! [`introduce`]: the processes of a launcher tell each other, by MPI, where they are, where node 0 is met, and a key.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use crate::{
    HostRecord, MeetingPlace, Mpi, MpiError, NodeKey,
    address::addresses_of_this_host,
    key::{NONCE, nonce},
    wire::{RecordReader, RecordWriter, WireError},
};

/// Most addresses of node 0 that the others are told.
const MAX_ADDRESSES: usize = 16;

/// What the processes of a launcher have told each other.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// What only they know.
    pub key: NodeKey,
    /// Where node 0 is met.
    pub place: MeetingPlace,
    /// Where each of them is.
    pub hosts: Vec<HostRecord>,
}

/// Tell the other processes where this one is, and hear it of them. Node 0 listens at `address`, as it was typed, or where
/// all reach it: at the loopback address if they are on one machine, else at all of its addresses. Each waits for the
/// others for at most `limit`.
///
/// # Errors
/// If a process is not heard of in time, or node 0 cannot listen.
pub fn introduce(
    mpi: &Arc<Mpi>,
    own: &HostRecord,
    address: Option<&str>,
    limit: Duration,
) -> Result<Introduction, MpiError> {
    let told = mpi.share(&own.write(), limit)?;
    let hosts: Vec<_> = told.iter().map(|record| HostRecord::read(record)).collect::<Result<_, _>>()?;
    if mpi.node().index != 0 {
        let told = mpi.share(&[0; Invitation::BYTES], limit)?;
        let Invitation { secret, addresses } = Invitation::read(&told[0])?;
        return Ok(Introduction { key: NodeKey::new(&secret), place: MeetingPlace::Told(addresses), hosts });
    }
    let refused = |cause| MpiError::Listen { address: address.unwrap_or("any").to_owned(), cause };
    let on_one_machine = hosts.iter().all(|host| host.shares_network(own));
    let (listener, mut addresses) = listen(address, on_one_machine).map_err(refused)?;
    addresses.truncate(MAX_ADDRESSES);
    let invitation = Invitation { secret: nonce()?, addresses };
    mpi.share(&invitation.write(), limit)?;
    let place = MeetingPlace::Open(Arc::new(listener));
    Ok(Introduction { key: NodeKey::new(&invitation.secret), place, hosts })
}

/// Listen where the others can reach this host, and the addresses at which they may.
fn listen(typed: Option<&str>, on_one_machine: bool) -> io::Result<(TcpListener, Vec<SocketAddr>)> {
    let hosts = match typed {
        Some(_) => Vec::new(),
        None if on_one_machine => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        None => addresses_of_this_host(),
    };
    let nowhere = || {
        let cause = "this host has no address that others reach; name one by --dist-init-addr HOST:PORT";
        io::Error::new(io::ErrorKind::AddrNotAvailable, cause)
    };
    let at: Vec<SocketAddr> = match (typed, hosts.as_slice()) {
        (Some(address), _) => address.to_socket_addrs()?.collect(),
        (None, []) => return Err(nowhere()),
        (None, [only]) => vec![(*only, 0).into()],
        (None, several) if several.iter().any(IpAddr::is_ipv4) => vec![(Ipv4Addr::UNSPECIFIED, 0).into()],
        (None, _) => vec![(Ipv6Addr::UNSPECIFIED, 0).into()],
    };
    let listener = TcpListener::bind(&at[..])?;
    let address = listener.local_addr()?;
    let reached = match address.ip().is_unspecified() {
        // Those that were typed stand for all addresses of this host.
        true if hosts.is_empty() => addresses_of_this_host(),
        true => hosts,
        false => vec![address.ip()],
    };
    let reached = reached.into_iter().filter(|host| host.is_ipv4() || address.is_ipv6());
    let reached: Vec<_> = reached.map(|host| SocketAddr::new(host, address.port())).collect();
    if reached.is_empty() { Err(nowhere()) } else { Ok((listener, reached)) }
}

/// What node 0 tells the others, always as many bytes.
struct Invitation {
    secret: [u8; NONCE],
    /// At most [`MAX_ADDRESSES`], all with one port.
    addresses: Vec<SocketAddr>,
}

impl Invitation {
    const BYTES: usize = NONCE + 4 + 4 + MAX_ADDRESSES * 16;

    fn write(&self) -> Vec<u8> {
        let mut record = RecordWriter::default();
        let port = self.addresses.first().map_or(0, SocketAddr::port);
        record.bytes(&self.secret).u32(port.into()).count(self.addresses.len());
        for at in 0..MAX_ADDRESSES {
            let octets = match self.addresses.get(at).map(SocketAddr::ip) {
                Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
                Some(IpAddr::V6(v6)) => v6.octets(),
                None => [0; 16],
            };
            record.bytes(&octets);
        }
        record.finish()
    }

    fn read(record: &[u8]) -> Result<Self, WireError> {
        let mut fields = RecordReader::new(record);
        let secret = fields.array("secret")?;
        let port = fields.count("port", u16::MAX.into())? as u16;
        let count = fields.count("addresses", MAX_ADDRESSES)?;
        if count == 0 {
            return Err(WireError::new("addresses", "none, and node 0 has one at least"));
        }
        let mut addresses = Vec::with_capacity(count);
        for at in 0..MAX_ADDRESSES {
            let host = IpAddr::from(fields.array::<16>("address")?).to_canonical();
            addresses.extend((at < count).then_some(SocketAddr::new(host, port)));
        }
        fields.end()?;
        Ok(Self { secret, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_survives_the_way_and_no_part_of_it_is_one() {
        let addresses: Vec<SocketAddr> = vec!["10.0.0.1:7".parse().unwrap(), "[fd00::1]:7".parse().unwrap()];
        let record = Invitation { secret: [3; NONCE], addresses: addresses.clone() }.write();
        assert_eq!(record.len(), Invitation::BYTES);
        let read = Invitation::read(&record).unwrap();
        assert_eq!((read.secret, read.addresses), ([3; NONCE], addresses));
        for length in 0..record.len() {
            assert!(Invitation::read(&record[..length]).is_err(), "{length}");
        }
        let many = [&record[..NONCE + 4], &200_u32.to_le_bytes(), &record[NONCE + 8..]].concat();
        assert_eq!(Invitation::read(&many).err().unwrap().to_string(), "addresses: 200, at most 16");
    }

    #[test]
    fn node_0_listens_where_the_others_reach_it() {
        let (listener, told) = listen(None, true).unwrap();
        assert_eq!(told, [listener.local_addr().unwrap()]);
        assert!(told[0].ip().is_loopback(), "nobody else sees it: {told:?}");
        let (listener, told) = listen(Some("127.0.0.1:0"), false).unwrap();
        assert_eq!(told, [listener.local_addr().unwrap()]);
        assert!(listen(Some("203.0.113.7:0"), false).is_err());
    }
}
