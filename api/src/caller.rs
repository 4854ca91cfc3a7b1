//! [`Caller`]: who asks. What is one caller's own, no other sees: cached prefixes, stored answers, requests.

use std::{net::IpAddr, sync::Arc};

use axum::extract::Request;
use quern_engine::Tenant;

/// Digits of a key's digest that name its caller.
const DIGITS: usize = 16;

/// Who asks: the holder of a key, or, where no keys are asked for, the client at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Whom the engine's work is shared between.
    tenant: Tenant,
    /// The holder of a key. Without keys everything is shared.
    owner: Owner,
    is_admin: bool,
}

/// Whose stored answers, ids and cached prefixes are meant: a key's holder's, or everybody's where there are no keys.
pub type Owner = Option<Arc<str>>;

impl Caller {
    /// The holder of the key with this digest.
    pub fn of_key(digest: &[u8; 32]) -> Self {
        let name: String = digest[..DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect();
        let name: Arc<str> = format!("key:{name}").into();
        Self { tenant: Tenant::new(Arc::clone(&name)), owner: Some(name), is_admin: false }
    }

    /// The holder of `--admin-api-key`.
    pub fn administrator() -> Self {
        Self { is_admin: true, ..Self::default() }
    }

    /// The client at this address. Of IPv6, the network of 64 bits that one subscriber has.
    pub fn at(address: IpAddr) -> Self {
        let name = match address.to_canonical() {
            IpAddr::V4(address) => format!("address:{address}"),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("address:{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        };
        Self { tenant: Tenant::new(name), ..Self::default() }
    }

    /// The client at the other end of a connection, where that is known.
    pub fn at_peer(address: Option<IpAddr>) -> Self {
        address.map(Self::at).unwrap_or_default()
    }

    /// Who has sent `request`, as the check of its key found out.
    pub fn of(request: &Request) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// Whom the engine's work is shared between.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Whose things it may see.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether it has brought the administrator's key.
    pub fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// The namespace of its prefixes, of which `salted` is what the request asked for itself. `shared`: one cache for
    /// all keys.
    pub fn namespace(&self, salted: Option<Arc<str>>, shared: bool) -> Option<Arc<str>> {
        match (self.owner.as_ref().filter(|_| !shared), salted) {
            (None, salted) => salted,
            (Some(owner), None) => Some(Arc::clone(owner)),
            // A name's length is fixed: no two pairs make one namespace.
            (Some(owner), Some(salted)) => Some(format!("{owner}:{salted}").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_a_keys_own_unless_they_are_shared() {
        let [red, blue] = [[1; 32], [2; 32]].map(|digest| Caller::of_key(&digest));
        let salt: Arc<str> = "1:x".into();
        let mut seen = std::collections::HashSet::new();
        for caller in [&red, &blue, &Caller::default()] {
            for salted in [None, Some(Arc::clone(&salt))] {
                assert!(seen.insert(caller.namespace(salted.clone(), false)));
                assert_eq!(caller.namespace(salted.clone(), true), salted);
            }
        }
        assert_eq!(Caller::at([127, 0, 0, 1].into()).namespace(None, false), None, "without keys one cache for all");
    }

    #[test]
    fn an_address_is_a_share_and_owns_nothing() {
        let at = |address: &str| Caller::at(address.parse().unwrap());
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("10.0.0.1").owner(), &None);
    }
}
