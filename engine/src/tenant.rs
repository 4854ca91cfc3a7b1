//! [`Tenant`]: who a request belongs to. Tenants share the engine fairly, and see nothing of one another.

use std::sync::Arc;

/// Who a request belongs to: a key, or an address where there are no keys. The default is nobody in particular, such
/// as the server's own requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Option<Arc<str>>);

impl Tenant {
    /// The tenant of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Some(name.into()))
    }
}

/// Which requests are to be aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbortScope {
    /// Every tenant's whose id begins so; the empty prefix means all.
    Prefix(String),
    /// A tenant's own of exactly this id, or the outputs `id_0`, `id_1`, … of one request; `None` means all its own.
    Own(Tenant, Option<String>),
}

impl AbortScope {
    /// Whether the request `id` of `tenant` is meant.
    pub fn contains(&self, tenant: &Tenant, id: &str) -> bool {
        match self {
            Self::Prefix(prefix) => id.starts_with(prefix),
            Self::Own(own, wanted) => own == tenant && wanted.as_ref().is_none_or(|wanted| is_output_of(wanted, id)),
        }
    }
}

/// Whether `id` is `request` itself or one of its numbered outputs.
fn is_output_of(request: &str, id: &str) -> bool {
    let Some(rest) = id.strip_prefix(request) else { return false };
    let number = rest.strip_prefix('_').unwrap_or_default();
    rest.is_empty() || (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_aborts_its_own_by_whole_ids() {
        let (red, blue) = (Tenant::new("red"), Tenant::new("blue"));
        let own = AbortScope::Own(red.clone(), Some("a".into()));
        for (id, meant) in
            [("a", true), ("a_0", true), ("a_12", true), ("ab", false), ("a_", false), ("a_x", false), ("", false)]
        {
            assert_eq!(own.contains(&red, id), meant, "{id}");
            assert!(!own.contains(&blue, id));
        }
        let all = AbortScope::Own(red.clone(), None);
        assert!(all.contains(&red, "b") && !all.contains(&blue, "b") && !all.contains(&Tenant::default(), "b"));
        assert!(AbortScope::Prefix("a".into()).contains(&blue, "ab"));
    }
}
