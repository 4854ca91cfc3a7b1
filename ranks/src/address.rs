//! Addresses: [`is_private`], those that only hosts of one's own network reach, and [`addresses_of_this_host`].

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

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
/// say (Linux).
pub(crate) fn addresses_of_this_host() -> Vec<IpAddr> {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let mut addresses = in_fib_trie(&read("/proc/net/fib_trie"));
    addresses.extend(in_if_inet6(&read("/proc/net/if_inet6")));
    addresses.sort_by_key(|address| !is_private(*address));
    addresses
}

/// This host's own addresses in the kernel's table of IPv4 routes, without the loopback ones. There the second of two lines
/// says what the address in the first one is:
///
/// ```text
///  |-- 10.0.0.1
///     /32 host LOCAL
/// ```
fn in_fib_trie(table: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (line, next) in table.lines().zip(table.lines().skip(1)) {
        let address = line.trim_start().strip_prefix("|-- ").and_then(|text| text.trim().parse::<Ipv4Addr>().ok());
        if let Some(address) = address.filter(|_| next.trim() == "/32 host LOCAL")
            && !address.is_loopback()
            && !found.contains(&IpAddr::V4(address))
        {
            found.push(IpAddr::V4(address));
        }
    }
    found
}

/// The IPv6 addresses of this host in the kernel's list of them, without those of one link or of the loopback.
fn in_if_inet6(list: &str) -> Vec<IpAddr> {
    let digits = list.lines().filter_map(|line| line.split_whitespace().next());
    let addresses = digits.filter_map(|digits| Some(Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?)));
    addresses.filter(|v6| !v6.is_loopback() && !v6.is_unicast_link_local()).map(IpAddr::V6).collect()
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

    #[test]
    fn addresses_of_this_host_are_those_that_the_kernel_lists() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n           |-- 127.0.0.1\n\
            \x20             /32 host LOCAL\n           |-- 10.0.0.0\n              /24 link UNICAST\n           |-- 10.0.0.7\n\
            \x20             /32 host LOCAL\nLocal:\n           |-- 10.0.0.7\n              /32 host LOCAL\n";
        assert_eq!(in_fib_trie(table), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        let list = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
            00000000000000000000000000000001 01 80 10 80       lo\n\
            fd000000000000000000000000000002 04 40 00 82     eth0\n";
        assert_eq!(in_if_inet6(list), ["fd00::2".parse::<IpAddr>().unwrap()]);
        assert!(addresses_of_this_host().iter().all(|address| !address.is_loopback()));
    }
}
