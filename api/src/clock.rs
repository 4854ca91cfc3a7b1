//! [`WallClock`]: the time as answers carry it, which operators and time servers set: nothing waits by it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A server's clock: the machine's, unless it is pinned.
#[derive(Debug, Default)]
pub struct WallClock {
    /// Seconds since 1970 that it shows; 0: those of the machine.
    pinned: AtomicU64,
}

impl WallClock {
    /// What it shows.
    pub fn now(&self) -> SystemTime {
        match self.pinned.load(Ordering::Relaxed) {
            0 => SystemTime::now(),
            seconds => UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    /// Have it show so many seconds since 1970 and stand still: for simulations, which set it forwards and back.
    pub fn pin(&self, seconds: u64) {
        self.pinned.store(seconds, Ordering::Relaxed);
    }

    /// Time since 1970.
    pub fn since_1970(&self) -> Duration {
        since_1970(self.now())
    }

    /// Seconds since 1970.
    pub fn unix_seconds(&self) -> u64 {
        self.since_1970().as_secs()
    }
}

/// Time from 1970 to `time`.
pub fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
