//! Addresses: [`is_private`], those that only hosts of one's own network reach, and [`addresses_of_this_host`].

use std::net::{IpAddr, Ipv4Addr};

/// Whether `address` is this host's own or one of a private network (RFC 1918, 3927, 4193, 6598).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared(v4),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local(),
    }
}

/// Whether it is one of those that providers keep for their own networks, as overlay networks use them too.
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 64
}

/// The addresses at which other hosts may reach this one, those of private networks first; none where the system does not
/// say. Those of one link need a name of it, which other hosts do not know.
pub(crate) fn addresses_of_this_host() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let reached = interfaces.into_iter().filter(|interface| !interface.is_loopback() && !interface.is_link_local());
    let mut addresses: Vec<_> = reached.map(|interface| interface.ip()).collect();
    addresses.sort_by_key(|address| !is_private(*address));
    addresses
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn private_networks_are_told_from_the_rest() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("10.77.0.1", true),
            ("192.168.1.9", true),
            ("100.64.0.3", true),
            ("100.128.0.3", false),
            ("0.0.0.0", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd00::7", true),
            ("2001:db8::1", false),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_address_that_packets_leave_from_is_one_of_this_hosts() {
        let found = addresses_of_this_host();
        assert!(found.iter().all(|address| !address.is_loopback()), "{found:?}");
        // Nothing is sent: the system says where it would go.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let leaves_from = socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| socket.local_addr());
        // A host without a route has none.
        let Ok(address) = leaves_from.map(|address| address.ip()) else { return };
        assert!(address.is_loopback() || found.contains(&address), "{address} of {found:?}");
    }
}
