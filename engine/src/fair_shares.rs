//! [`FairShares`]: how much of the engine's work each tenant has had, and who is to be served next.
//!
//! Start-time fair queueing over tokens: every token that is computed for a tenant is charged to it, and the one that has
//! been charged least goes first. A tenant that comes back after a pause is set to what the least served of the others
//! has had, less a credit: it may be served ahead for so many tokens, and no pause earns more than that. One that is
//! always busy has no credit, so that a flood waits for those who ask now and then, and not the other way round.

use std::collections::BTreeMap;

use crate::tenant::Tenant;

/// Idle tenants that are remembered; what they were charged matters only until the others have had as much.
const MAX_IDLE: usize = 1024;

/// Tokens charged to tenants, and how many requests of theirs are alive and run.
#[derive(Debug)]
pub(crate) struct FairShares {
    credit: u64,
    tenants: BTreeMap<Tenant, TenantShare>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TenantShare {
    alive: usize,
    /// Those of them that run.
    places: usize,
    charged: u64,
}

impl FairShares {
    /// Nobody has been served. After a pause a tenant may be ahead by `credit` tokens.
    pub(crate) fn new(credit: u64) -> Self {
        Self { credit, tenants: BTreeMap::new() }
    }

    /// A request of the tenant begins to live.
    pub(crate) fn begin(&mut self, tenant: &Tenant) {
        let active = self.tenants.values().filter(|share| share.alive > 0);
        // Where nobody else is active, all begin anew.
        let floor = active.map(|share| share.charged).min();
        if floor.is_none() {
            self.tenants.clear();
        }
        let least = floor.map_or(self.credit, |floor| floor.saturating_sub(self.credit));
        if self.tenants.len() >= MAX_IDLE {
            self.tenants.retain(|_, share| share.alive > 0 || share.charged > least);
        }
        let share = self.tenants.entry(tenant.clone()).or_default();
        if share.alive == 0 {
            share.charged = share.charged.max(least);
        }
        share.alive += 1;
    }

    /// One has ended.
    pub(crate) fn end(&mut self, tenant: &Tenant) {
        let share = self.tenants.get_mut(tenant).expect("a tenant that has begun is known");
        share.alive -= 1;
    }

    /// One begins to run.
    pub(crate) fn take_place(&mut self, tenant: &Tenant) {
        self.tenants.get_mut(tenant).expect("a tenant that has begun is known").places += 1;
    }

    /// One runs no more.
    pub(crate) fn leave_place(&mut self, tenant: &Tenant) {
        self.tenants.get_mut(tenant).expect("a tenant that has begun is known").places -= 1;
    }

    /// Requests of the tenant that are alive.
    pub(crate) fn alive(&self, tenant: &Tenant) -> usize {
        self.tenants.get(tenant).map_or(0, |share| share.alive)
    }

    /// Requests of the tenant that run.
    pub(crate) fn places(&self, tenant: &Tenant) -> usize {
        self.tenants.get(tenant).map_or(0, |share| share.places)
    }

    /// So many tokens are computed for the tenant.
    pub(crate) fn charge(&mut self, tenant: &Tenant, tokens: usize) {
        let share = self.tenants.get_mut(tenant).expect("a tenant that is served is known");
        share.charged += tokens as u64;
    }

    /// The tenants that have requests, the least served first.
    pub(crate) fn in_order(&self) -> Vec<Tenant> {
        let active = self.tenants.iter().filter(|(_, share)| share.alive > 0);
        let mut order: Vec<_> = active.map(|(tenant, share)| (share.charged, tenant)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, tenant)| tenant.clone()).collect()
    }

    /// Requests that are alive, of all tenants.
    pub(crate) fn num_alive(&self) -> usize {
        self.tenants.values().map(|share| share.alive).sum()
    }

    /// Requests that run, of all tenants.
    pub(crate) fn num_running(&self) -> usize {
        self.tenants.values().map(|share| share.places).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_goes_first_for_a_while_and_nobody_saves_up() {
        let [flood, guest] = ["flood", "guest"].map(Tenant::new);
        let mut shares = FairShares::new(100);
        shares.begin(&flood);
        shares.charge(&flood, 10_000);
        shares.begin(&guest);
        assert_eq!(shares.in_order(), [guest.clone(), flood.clone()]);
        shares.charge(&guest, 101);
        assert_eq!(shares.in_order(), [flood.clone(), guest.clone()], "its credit is spent");
        shares.end(&guest);
        shares.begin(&guest);
        assert_eq!(shares.in_order(), [flood.clone(), guest.clone()], "a new request is no new credit");
        shares.charge(&flood, 50);
        assert_eq!(shares.in_order(), [guest, flood]);
    }

    #[test]
    fn idle_tenants_are_forgotten_once_it_makes_no_difference() {
        let mut shares = FairShares::new(10);
        let busy = Tenant::new("busy");
        shares.begin(&busy);
        for visitor in 0..3000 {
            let visitor = Tenant::new(format!("visitor {visitor}"));
            shares.charge(&busy, 5);
            shares.begin(&visitor);
            shares.charge(&visitor, 1);
            shares.end(&visitor);
        }
        assert!(shares.tenants.len() <= MAX_IDLE + 1, "{}", shares.tenants.len());
        assert_eq!(shares.num_alive(), 1);
    }
}
