//! [`is_private`]: addresses that only hosts of one's own network reach.

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

#[cfg(test)]
mod tests {
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
}
