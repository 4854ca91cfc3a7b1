//! [`LiveIds`]: the ids of the requests that are alive, each of them once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{caller::Owner, protocol::ApiError};

/// The ids of the requests that are alive.
#[derive(Debug, Default)]
pub struct LiveIds(Mutex<HashSet<(Owner, String)>>);

/// Ids that are given back when dropped.
pub struct ClaimedIds {
    live: Arc<LiveIds>,
    claimed: Vec<(Owner, String)>,
}

impl ClaimedIds {
    /// Claim `ids`, all or none; one of the same owner that is alive already is refused.
    ///
    /// # Errors
    /// If one of them is alive.
    pub fn claim(live: &Arc<LiveIds>, ids: impl Iterator<Item = (Owner, String)>) -> Result<Self, ApiError> {
        let mut this = Self { live: Arc::clone(live), claimed: Vec::new() };
        for id in ids {
            if !live.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
                let (_, id) = id;
                return Err(ApiError::invalid(format!("Duplicate request ID detected: {id}")).about("rid"));
            }
            this.claimed.push(id);
        }
        Ok(this)
    }
}

impl Drop for ClaimedIds {
    fn drop(&mut self) {
        let mut live = self.live.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &self.claimed {
            live.remove(id);
        }
    }
}
